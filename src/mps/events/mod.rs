//! What happened to one GPU's daemon, from `gpushare mps run` to the agent.
//!
//! * this file: the events;
//! * [`line`](mod@line): what a line of the daemon's log means (pure);
//! * [`file`](mod@file): the file of JSON lines between the two processes.
//!
//! The log cannot be trusted: every client of MPS writes into it through the FIFO `log`. An event is something to show
//! and to count, never a reason to kill a process.

pub mod file;
pub mod line;

use serde::{Deserialize, Serialize};

use super::{Trouble, Warning};

/// An event and its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Milliseconds since the Unix epoch, by the clock of `gpushare mps run`.
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// `gpushare mps run` has begun: what an earlier one warned of is over.
    Begun {
        /// Its process id.
        pid: u32,
    },
    /// `gpushare mps run` started the control daemon.
    DaemonStarted {
        /// The daemon's process id.
        pid: u32,
        /// Whether it runs with `-multiuser-server`.
        multi_user: bool,
    },
    /// It answers, and pods can see it.
    DaemonReady {
        /// The daemon's process id.
        pid: u32,
    },
    /// The daemon could not be started, and `gpushare mps run` ends.
    NotStarted(Trouble),
    /// The daemon ended, and so does `gpushare mps run`.
    DaemonEnded(DaemonEnded),
    /// Something is not as it should be and keeps nothing from working.
    Warned(Warning),
    /// What was warned of is over.
    Over {
        /// [`Warning::what`] of it.
        what: String,
    },
    /// The daemon leaves in order: it was told to.
    DaemonLeaves {
        /// The exit code that it announces.
        status: i32,
    },
    /// The daemon starts a server.
    ServerStarting {
        /// The server's process id.
        pid: u32,
        /// For whom.
        uid: u32,
    },
    /// The server takes clients.
    ServerReady {
        /// The server's process id.
        pid: u32,
    },
    /// The server is gone. A status of 0 does not mean that it ended well: one that was killed has it, too.
    ServerExited {
        /// The server's process id.
        pid: u32,
        /// Its exit code as the daemon tells it.
        status: i32,
    },
    /// No server could be started.
    ServerNotStarted {
        /// For whom.
        uid: u32,
        /// The daemon's word for why.
        error: String,
    },
    /// A client's fault hit the server, and every client of it.
    ServerFault,
    /// The daemon ends a server by force.
    ServerForcedOut {
        /// The server's process id.
        pid: u32,
    },
    /// A client waits until a server for its user is there.
    ClientQueued {
        /// The client's process id; 0 where the daemon cannot see it.
        pid: u32,
        /// Its user.
        uid: u32,
    },
}

/// How the daemon ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonEnded {
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What is wrong; absent where it was told to end.
    pub trouble: Option<Trouble>,
}
