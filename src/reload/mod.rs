//! Another configuration for the running agent: `gpushare reload`, and what the agent answers it.
//!
//! The agent loads its configuration anew, from its own command line, environment and file. What is wrong is answered,
//! and the agent goes on as it was. Else its tasks end in order, as at a stop, and start with the new configuration in
//! the same process: no window is lost, MPS and its clients notice nothing. Where they cannot start, the configuration
//! before is used again.
//!
//! * [`plan`]: what a change means;
//! * [`Request`] and [`Answer`]: between the status socket and the agent;
//! * [`command()`]: the operator's end.

mod command;
pub mod plan;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

pub use command::{ReloadError, command};
pub use plan::Change;

/// Somebody wants the configuration to be loaded anew, and waits for the answer.
pub type Request = oneshot::Sender<Answer>;

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Answer {
    /// The configuration is as it was.
    Unchanged,
    /// The agent is on its way to another configuration, or to its end.
    Busy,
    /// It is wrong, or cannot be used now. The agent goes on with the one before.
    Refused(Refusal),
    /// The agent's tasks are started anew with it.
    Accepted {
        /// [`ConfigurationStatus::loads`] once they have been.
        loads: u64,
        /// When the process started that goes on, Unix seconds.
        started_at: f64,
        /// What it means.
        change: Change,
        /// Where the agent will be reached.
        socket: PathBuf,
    },
}

/// Why a configuration is not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Every problem, with its key.
    pub why: String,
    /// What an operator does about it.
    pub mend: String,
}

impl Refusal {
    /// It is wrong, or does not work: it would not at a start either.
    pub(crate) fn of_a_wrong_one(why: String) -> Self {
        Self {
            why,
            mend: "correct it, then: gpushare reload; a restart of the agent would fail".into(),
        }
    }
}

/// Which configuration the agent runs with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigurationStatus {
    /// When it was loaded, Unix seconds.
    pub loaded_at: f64,
    /// How many have been tried since the agent started; 1 at the start.
    pub loads: u64,
    /// Which of them is used.
    pub used: u64,
    /// Why the newest one is not used; absent where it is.
    pub refused: Option<Refusal>,
}
