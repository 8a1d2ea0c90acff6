//! Puts the layers together: read each, merge, type, validate, and report whatever went wrong in all of that at once.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use config::Source;

use super::error::{ConfigError, Problem};
use super::layer::{Layer, PREFIX};
use super::raw::Raw;
use super::shape::Shape;
use super::typed::{Given, Typing};
use super::validate::validate;
use super::values::Values;
use super::{Config, file};

/// The file that is read when none is named. It may be missing: the built-in defaults then hold.
pub const DEFAULT_PATH: &str = "/etc/gpushare/config.toml";

/// What is laid over the built-in defaults, in this order.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file named with `--config`, which must exist; without one [`DEFAULT_PATH`], which need not.
    pub file: Option<PathBuf>,
    /// The environment; variables that do not start with `GPUSHARE__` are passed over.
    pub env: Vec<(String, String)>,
    /// The `--set KEY=VALUE` options.
    pub set: Vec<String>,
}

impl Sources {
    /// The configuration among environment variables, for [`Sources::env`]: from `std::env::vars_os()`, because
    /// `std::env::vars()` panics on any variable that is not UTF-8. One of ours that is not UTF-8 becomes a problem.
    pub fn configuring(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<(String, String)> {
        variables
            .into_iter()
            .map(|(name, value)| {
                (
                    name.to_string_lossy().into_owned(),
                    value.to_string_lossy().into_owned(),
                )
            })
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect()
    }
}

/// Reads all sources and validates the result as a whole.
///
/// # Errors
/// Every problem of every source: an unreadable or malformed file, unknown keys, wrong types and wrong values.
pub fn load(sources: &Sources) -> Result<Config, ConfigError> {
    read(sources).map(|loaded| loaded.config)
}

/// A configuration, and the values of its keys by name.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Validated.
    pub config: Config,
    /// For comparing it with another one.
    pub values: Values,
}

/// As [`load()`], with what it takes to compare two of them.
///
/// # Errors
/// Those of [`load()`].
pub fn read(sources: &Sources) -> Result<Loaded, ConfigError> {
    load_with(sources, Path::new(DEFAULT_PATH))
}

/// Reads what [`Values::as_toml`] has written, in this version or another: keys that this one does not know are passed
/// over. No file and no environment is looked at.
///
/// # Errors
/// Values that this version refuses.
pub fn read_kept(text: &str) -> Result<Loaded, ConfigError> {
    let known = Values::of(&Raw::default());
    let is_known = |line: &&str| line.split_once(" = ").is_some_and(|(key, _)| known.has(key));
    let kept = Sources {
        set: text.lines().filter(is_known).map(str::to_owned).collect(),
        ..Sources::default()
    };
    merge(Layer::default(), Vec::new(), &kept)
}

fn load_with(sources: &Sources, default_path: &Path) -> Result<Loaded, ConfigError> {
    let path = sources.file.as_deref().unwrap_or(default_path);
    let (file, problems) = match file::read(path, sources.file.is_some()) {
        Ok(layer) => (layer, Vec::new()),
        Err(problems) => (Layer::default(), problems),
    };
    merge(file, problems, sources)
}

/// Puts environment and options over what a file says, and validates.
fn merge(file: Layer, mut problems: Vec<Problem>, sources: &Sources) -> Result<Loaded, ConfigError> {
    let shape = Shape::of_config();
    let is_complete = problems.is_empty();
    let environment = Layer::of_environment(&sources.env, &shape, &mut problems);
    let settings = Layer::of_settings(&sources.set, &shape, &mut problems);
    let mut verbatim = environment.verbatim.clone();
    verbatim.extend(settings.verbatim.clone());

    // Not through the crate's builder, which reads top-level keys as path expressions (see `Layer::collect_to`).
    let mut merged = config::Value::new(None, config::Map::<String, config::Value>::new());
    for layer in [file, environment, settings] {
        layer
            .collect_to(&mut merged)
            .expect("a layer is read before it is merged: collecting it cannot fail");
    }
    let mut typing = Typing {
        shape: &shape,
        verbatim,
        given: Given::new(),
        problems,
    };
    let raw = typing.raw(merged);
    let Typing {
        given, mut problems, ..
    } = typing;
    let config = validate(&raw, &given, is_complete, &mut problems);
    if problems.is_empty() {
        let values = Values::of(&raw);
        Ok(Loaded { config, values })
    } else {
        Err(ConfigError::new(problems))
    }
}

/// The configuration of a node on which nobody configured anything.
pub(super) fn built_in() -> Config {
    let mut problems: Vec<Problem> = Vec::new();
    let config = validate(&Raw::default(), &Given::new(), true, &mut problems);
    assert!(
        problems.is_empty(),
        "the built-in defaults are valid: {problems:?}"
    );
    config
}

#[cfg(test)]
mod tests;
