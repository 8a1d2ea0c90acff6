//! Reads the configuration file: a regular file of sane size, UTF-8, TOML.
//!
//! It never waits (a pipe or a device is refused before it is opened) and never reads more than [`LARGEST`] bytes.

use std::io::{self, ErrorKind, Read};
use std::path::Path;

use fs_err as fs;
use toml::de::DeTable;

use super::error::Problem;
use super::layer::Layer;

/// In bytes; four times the documented example, which holds every key.
const LARGEST: u64 = 64 * 1024;

/// More syntax errors than this are echoes of the first ones.
const SYNTAX_ERRORS: usize = 3;

/// Reads `path` into a layer. A missing file is an empty layer unless it is `required`.
pub(super) fn read(path: &Path, required: bool) -> Result<Layer, Vec<Problem>> {
    match text(path, required) {
        Ok(Some(text)) => parse(path, &text),
        Ok(None) => Ok(Layer::default()),
        Err(problem) => Err(vec![problem]),
    }
}

fn text(path: &Path, required: bool) -> Result<Option<String>, Problem> {
    let name = path.display().to_string();
    let metadata = match fs::metadata(path) {
        // A dangling link is somebody's configuration that went missing, not the absence of one.
        Err(error) if error.kind() == ErrorKind::NotFound && !required && !path.is_symlink() => {
            return Ok(None);
        }
        other => other.map_err(|error| unreadable(&name, &error))?,
    };
    if !metadata.is_file() {
        return Err(Problem::of_source(
            name,
            "is not a regular file",
            "name a TOML file",
        ));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(&name, &error))?;
    if bytes.len() as u64 > LARGEST {
        return Err(Problem::of_source(
            name,
            "is larger than 64 KiB",
            "name a gpushare configuration file",
        ));
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let place = place_of(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        Problem::of_source(
            format!("{name}:{place}"),
            "is not UTF-8",
            "save the file as UTF-8",
        )
    })
}

fn unreadable(name: &str, error: &io::Error) -> Problem {
    let (message, mend) = match error.kind() {
        ErrorKind::NotFound => (
            "does not exist".to_owned(),
            "create it, or leave --config out to use the built-in defaults",
        ),
        ErrorKind::PermissionDenied => (
            "may not be read".to_owned(),
            "let the user that gpushare runs as read it",
        ),
        // The kind alone: the text of fs_err would name the path a second time.
        kind => (format!("cannot be read: {kind}"), "check the path and its links"),
    };
    Problem::of_source(name, message, mend)
}

fn parse(path: &Path, text: &str) -> Result<Layer, Vec<Problem>> {
    let name = path.display();
    let (table, mut errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let lines: Vec<usize> = text.match_indices('\n').map(|(offset, _)| offset).collect();
        let origin_at = |offset| format!("{name}:{}", lines.partition_point(|&end| end < offset) + 1);
        return Ok(Layer::of_file(table.into_inner(), &origin_at));
    }
    errors.sort_by_key(|error| error.span().map(|span| span.start));
    let problems = errors.iter().take(SYNTAX_ERRORS).map(|error| {
        let before = error
            .span()
            .and_then(|span| text.get(..span.start))
            .unwrap_or_default();
        Problem::of_source(
            format!("{name}:{}", place_of(before.as_bytes())),
            format!("is not TOML: {}", error.message().replace('\n', ", ")),
            "check the quotes, brackets and commas there",
        )
    });
    Err(problems.collect())
}

/// `LINE:COLUMN` of the character after `before`, both counted from 1, the column in characters.
fn place_of(before: &[u8]) -> String {
    let before = String::from_utf8_lossy(before);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{line}:{column}")
}
