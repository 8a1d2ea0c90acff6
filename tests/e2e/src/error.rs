//! Why there is no node, or no download.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What a machine lacks, or what went wrong on it. Each says how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Containers are made by root alone.
    #[error("it takes root to boot a node")]
    NotRoot,
    /// A program is not installed.
    #[error("`{program}` is missing: install it (Debian: apt-get install {package})")]
    Missing {
        /// The program.
        program: &'static str,
        /// The package of Debian and Ubuntu that has it.
        package: &'static str,
    },
    /// A file is not there.
    #[error("{} is missing: {mend}", path.display())]
    NoFile {
        /// The file.
        path: PathBuf,
        /// What brings it.
        mend: String,
    },
    /// A program of the operating system did not do its work.
    #[error("cannot {operation}: `{program}` failed ({status}): {said}")]
    Failed {
        /// What was wanted, as in "make the root file system".
        operation: &'static str,
        /// The program.
        program: String,
        /// How it ended.
        status: String,
        /// The end of what it said.
        said: String,
    },
    /// Namespaces or mounts are not permitted, as in most containers.
    #[error("namespaces, mounts and a control group of its own cannot be had here: {0}")]
    NotPermitted(String),
    /// A node did not come to the expected state.
    #[error("the node {node} is not {wanted} after {} s; its console:\n{console}", limit.as_secs())]
    NoState {
        /// Its name.
        node: String,
        /// The state.
        wanted: &'static str,
        /// How long it was waited for.
        limit: Duration,
        /// The end of its console.
        console: String,
    },
    /// A call of the operating system failed.
    #[error("cannot {operation}")]
    Io {
        /// What was wanted.
        operation: &'static str,
        /// Why not; names the file where there is one.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`.
    pub(crate) fn io(operation: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }

    /// The error with everything that caused it, in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
