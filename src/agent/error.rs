//! Why the agent did not start, or did not go on.

use std::convert::Infallible;
use std::io;

use tokio::task::JoinError;

use crate::publish::stdout::StdoutError;
use crate::publish::task::PublishError;
use crate::status::server::SocketError;

/// Why the agent did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The status socket, or the lock beside it.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A thread or the runtime could not be started.
    #[error("cannot start {what}")]
    Start {
        /// What.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Batches cannot be printed.
    #[error(transparent)]
    Stdout(#[from] StdoutError),
    /// Samples could not be published before the end.
    #[error("stopped before everything was published; {samples} samples are lost: {why}")]
    Unpublished {
        /// Samples that were not published.
        samples: u64,
        /// What was in the way.
        why: String,
    },
    /// A task that should run for ever ended.
    #[error("the {task} task ended: a bug, please report it")]
    TaskEnded {
        /// Its name.
        task: &'static str,
        /// The panic, if it was one.
        #[source]
        source: Option<JoinError>,
    },
    /// Not everything was done in time.
    #[error("stopped before {tasks} had finished; {} lost", samples_are(*samples))]
    StopLimit {
        /// The tasks that were still running.
        tasks: String,
        /// Samples that were neither published nor in the spool.
        samples: u64,
    },
}

fn samples_are(samples: u64) -> String {
    match samples {
        0 => "nothing is".into(),
        1 => "1 sample is".into(),
        _ => format!("{samples} samples are"),
    }
}

impl<E: Into<Self> + std::error::Error> From<PublishError<E>> for AgentError {
    fn from(error: PublishError<E>) -> Self {
        match error {
            PublishError::Publisher(error) => error.into(),
            PublishError::GaveUp { samples, why } => Self::Unpublished { samples, why },
        }
    }
}

impl From<Infallible> for AgentError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}
