//! The configuration of the commands that keep a GPU's MPS, also after the file has become wrong.
//!
//! The agent goes on with the configuration that it has when the file becomes wrong. A daemon that dies meanwhile has to
//! come back all the same, and has to be ended in order: what worked last is kept where no configuration leads, in the
//! `RuntimeDirectory=` of the unit, or in the directory that the agent names with `mps.backend = "process"`. Without
//! such a directory, and before anything was kept, a wrong configuration is an error.

use std::io;
use std::path::{Path, PathBuf};

use crate::cli::Global;
use crate::commands::read_config;
use crate::config::{self, Config, ConfigError, Loaded};
use crate::log::chain;
use crate::mps::Warning;

/// systemd tells a service with it where its `RuntimeDirectory=` is (`systemd.exec(5)`).
pub(super) const DIRECTORY: &str = "RUNTIME_DIRECTORY";

/// One for all GPUs: they have one configuration.
const FILE: &str = "gpushare.config.toml";

/// What the commands use, and what the rules that join two keys take to find it right again.
const KEPT: [&str; 4] = ["mps.", "gpu.", "node.state_dir", "slices.enabled"];

/// The configuration, and where it is from.
pub(super) struct Configured {
    pub(super) config: Config,
    pub(super) origin: Origin,
}

/// Where a configuration is from.
pub(super) struct Origin {
    /// What is wrong with the one of now, where it is the one that worked last.
    pub(super) wrong: Option<Warning>,
    /// What to keep of it.
    text: String,
}

/// The configuration of now or, where that is wrong, the one that worked last.
pub(super) fn load(global: &Global) -> Result<Configured, ConfigError> {
    now(global).or_else(|error| {
        let Some(loaded) = kept() else {
            return Err(error);
        };
        let warning = warning(&error);
        tracing::warn!(
            what = warning.what,
            mend = warning.mend,
            "the configuration is wrong"
        );
        Ok(Configured::of(loaded, Some(warning)))
    })
}

/// The configuration of now.
pub(super) fn now(global: &Global) -> Result<Configured, ConfigError> {
    Ok(Configured::of(read_config(global)?, None))
}

/// For somebody who goes on with the one that worked last.
pub(super) fn warning(error: &ConfigError) -> Warning {
    let problems = chain(error);
    let problems: Vec<&str> = problems.split_whitespace().collect();
    Warning {
        what: format!(
            "MPS uses the configuration that worked last: {}",
            problems.join(" ")
        ),
        mend: "correct it (gpushare check shows what is wrong), then: gpushare reload".into(),
    }
}

impl Configured {
    fn of(loaded: Loaded, wrong: Option<Warning>) -> Self {
        let text = loaded.values.as_toml(&KEPT);
        Self {
            config: loaded.config,
            origin: Origin { wrong, text },
        }
    }
}

impl Origin {
    /// Keeps the configuration, if it is the one of now, for the next time.
    pub(super) fn keep(&self) {
        let (Some(path), None) = (file(), &self.wrong) else {
            return;
        };
        if let Err(error) = replace(&path, &self.text) {
            tracing::warn!(
                error = chain(&error),
                "the configuration is not kept: should it become wrong, MPS would not come back after a crash"
            );
        }
    }
}

/// Whole or not at all. Other GPUs' daemons keep it at the same time.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    if fs_err::read(path).is_ok_and(|kept| kept == text.as_bytes()) {
        return Ok(());
    }
    let fresh = path.with_extension(format!("toml.{}", std::process::id()));
    let replaced = fs_err::write(&fresh, text).and_then(|()| fs_err::rename(&fresh, path));
    replaced.inspect_err(|_| drop(fs_err::remove_file(&fresh)))
}

/// The configuration that worked last. It holds the effective values: environment and `--set` have nothing to add, and may
/// be what is wrong.
pub(super) fn kept() -> Option<Loaded> {
    let path = file()?;
    match read_kept(&path) {
        Ok(kept) => kept,
        Err(error) => {
            tracing::warn!(
                error = chain(error.as_ref()),
                path = %path.display(),
                "the configuration that worked last cannot be used either"
            );
            None
        }
    }
}

fn read_kept(path: &Path) -> Result<Option<Loaded>, Box<dyn std::error::Error>> {
    let text = match fs_err::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    Ok(Some(config::read_kept(&text)?))
}

fn file() -> Option<PathBuf> {
    let directories = std::env::var_os(DIRECTORY)?;
    // A drop-in of the unit may name more of them; ours is the first.
    let directory = std::env::split_paths(&directories).next();
    directory
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(FILE))
}
