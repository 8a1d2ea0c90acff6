//! What can go wrong while the host is read, and the log of it.
//!
//! Every part of a sample owns a [`FaultLog`]: a part that fails every second is one line when it starts and
//! one when it ends, never one per tick.

use std::io;
use std::path::PathBuf;

/// Why a part of the sample is absent.
#[derive(Debug, thiserror::Error)]
pub(super) enum HostError {
    /// A file of `/proc` or `/sys` could not be read; the source names the file (`fs_err`).
    #[error("cannot read the kernel's figures")]
    Read(#[source] io::Error),
    /// A line is not in the format that proc(5) documents.
    #[error("{}: line {line} is not in the kernel's format: {text:?}", path.display())]
    Malformed {
        path: PathBuf,
        line: usize,
        text: String,
    },
    /// A file was read but holds no usable figure.
    #[error("{} holds no figure for {what}", path.display())]
    NoFigure { path: PathBuf, what: &'static str },
    /// statvfs(2) failed.
    #[error("statvfs of {} failed", path.display())]
    Statvfs { path: PathBuf, source: io::Error },
    /// The thread that asks for disk space could not be started.
    #[error("cannot start the thread that asks for disk space")]
    Spawn(#[source] io::Error),
}

impl HostError {
    /// `line` counts from 1. The text is cut, because a mount line may be kilobytes long.
    pub(super) fn malformed(path: impl Into<PathBuf>, line: usize, text: &str) -> Self {
        const SHOWN_CHARS: usize = 120;
        Self::Malformed {
            path: path.into(),
            line,
            text: text.chars().take(SHOWN_CHARS).collect(),
        }
    }
}

/// The step that a part of the sample has just taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Failed,
    Recovered,
}

/// Remembers whether one part of the sample works, and logs when that changes.
#[derive(Debug)]
pub(super) struct FaultLog {
    part: &'static str,
    failing: bool,
}

impl FaultLog {
    /// `part` is what the log calls it, such as `disk I/O`. A part counts as working until it fails.
    pub(super) fn new(part: &'static str) -> Self {
        Self { part, failing: false }
    }

    /// Hands on the value; an error is logged if the part worked until now.
    pub(super) fn note<T>(&mut self, result: Result<T, HostError>) -> Option<T> {
        let step = self.step(result.is_ok());
        match (&result, step) {
            (Err(error), Some(Step::Failed)) => {
                tracing::warn!(
                    part = self.part,
                    error = crate::log::chain(error),
                    "a part of the host cannot be read; it is absent until it can"
                );
            }
            (Ok(_), Some(Step::Recovered)) => {
                tracing::info!(part = self.part, "a part of the host can be read again");
            }
            _ => {}
        }
        result.ok()
    }

    /// What the log calls the part, while its newest attempt has failed.
    pub(super) fn failing(&self) -> Option<&'static str> {
        self.failing.then_some(self.part)
    }

    fn step(&mut self, works: bool) -> Option<Step> {
        let step = match (self.failing, works) {
            (false, false) => Some(Step::Failed),
            (true, true) => Some(Step::Recovered),
            _ => None,
        };
        self.failing = !works;
        step
    }

    /// For tests of the parts: whether the newest attempt failed.
    #[cfg(test)]
    pub(super) fn is_failing(&self) -> bool {
        self.failing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_of_state_is_a_step() {
        let mut log = FaultLog::new("test");
        let steps: Vec<_> = [true, false, false, true, true, false]
            .map(|works| log.step(works))
            .into();
        assert_eq!(
            steps,
            [
                None,
                Some(Step::Failed),
                None,
                Some(Step::Recovered),
                None,
                Some(Step::Failed)
            ]
        );
    }

    #[test]
    fn the_chain_names_the_file_and_the_cause_once() {
        let error = HostError::Read(fs_err::read("/nonexistent/stat").unwrap_err());
        let text = crate::log::chain(&error);
        assert!(text.contains("/nonexistent/stat"), "{text}");
        assert_eq!(text.matches("No such file").count(), 1, "{text}");
    }

    #[test]
    fn a_long_line_is_cut() {
        let error = HostError::malformed("/proc/x", 3, &"y".repeat(5000));
        assert!(error.to_string().len() < 200);
        assert!(error.to_string().contains("/proc/x: line 3"));
    }
}
