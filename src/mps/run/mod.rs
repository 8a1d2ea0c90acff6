//! `gpushare mps run`: the small parent of one GPU's control daemon. Blocking, and without a runtime: there is one for
//! each GPU.
//!
//! It makes everything ready for the daemon, starts it, reads its log, shows it to pods, says READY, and ends when the
//! daemon ends, which whoever started it notices. In this order, so that nothing is there before what it needs:
//!
//! 1. `place`: the daemon's directory; `lock`: we are the only one; `journal`: what the agent hears; the pods'
//!    directory; `leftovers`: nobody else is on the directory, and nothing of an earlier one is left;
//! 2. `exclusive`: the compute mode, so that nothing goes past MPS;
//! 3. `daemon`: the daemon, through a helper that has the kernel end it with us; `drain`: reads its log;
//! 4. `ready`: it answers, its lock is closed, pods see it (`view`), its server is started ahead; READY;
//! 5. `supervise`: SIGHUP sets compute mode and view again, SIGTERM ends the daemon in order; `captor`: the
//!    directory that captures containers;
//! 6. the daemon ended: its orphans are killed and reaped, `verdict` says what the end means.
//!
//! It must not outlive its daemon, nor its daemon it; and it must not remove a file of the daemon: stale ones are
//! harmless, and the pods' bind mounts keep the directories.

mod attention;
mod captor;
mod daemon;
mod drain;
mod exclusive;
mod journal;
mod leftovers;
mod lock;
mod place;
mod ready;
mod supervise;
mod trouble;
mod verdict;
mod view;

use std::io;

pub(crate) use captor::{DEFAULT_PIPE_DIR, capturing};
pub use daemon::{ExecError, exec};
pub(super) use supervise::STOP_LIMIT;
pub use supervise::command;

use super::Trouble;
use super::argument::GpuArgumentError;
use super::directories::{Directories, PathTooLong};
use crate::config;

/// `EX_UNAVAILABLE` of sysexits.h: also the exit code of a helper that could not become the daemon.
const EXEC_FAILED: u8 = 69;

/// Ends what a killed `gpushare mps run` has left of its daemon and servers.
pub(super) fn clear_leftovers(directories: &Directories) -> Result<(), Trouble> {
    let cleared = leftovers::clear(&directories.daemon, &directories.control_lock());
    cleared.map(drop).map_err(|error| Trouble {
        why: crate::log::chain(&error),
        mend: error.mend(),
    })
}

/// Makes the daemon's directory.
pub(super) fn make_place(directories: &Directories, mps: &config::Mps) -> Result<(), Trouble> {
    place::prepare(directories, mps).map_err(|error| Trouble {
        why: crate::log::chain(&error),
        mend: error.mend(),
    })
}

/// Why `gpushare mps run` ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The argument names no GPU that MPS can run on.
    #[error(transparent)]
    Argument(#[from] GpuArgumentError),
    /// The directories cannot hold a socket.
    #[error(transparent)]
    PathTooLong(#[from] PathTooLong),
    /// Something is missing that an operator, or time, has to bring.
    #[error("{}; mend: {}", .0.why, .0.mend)]
    Unavailable(Trouble),
    /// The daemon failed, and another attempt may help.
    #[error("{}; mend: {}", .0.why, .0.mend)]
    Failed(Trouble),
    /// The system refuses what it never should.
    #[error("cannot {what}")]
    System {
        /// What.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl RunError {
    /// 1 failed, 64 usage, 69 unavailable, 78 configuration.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Argument(error) => error.exit_code(),
            Self::PathTooLong(_) => 78,
            Self::Unavailable(_) => 69,
            Self::Failed(_) | Self::System { .. } => 1,
        }
    }

    /// For the agent.
    fn trouble(&self) -> Trouble {
        match self {
            Self::Unavailable(trouble) | Self::Failed(trouble) => trouble.clone(),
            Self::Argument(_) | Self::PathTooLong(_) | Self::System { .. } => Trouble {
                why: crate::log::chain(self),
                mend: "look at what it has logged before that".into(),
            },
        }
    }

    fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
