//! What is done with the control program, off the runtime: a probe, or orders.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use tokio::task::JoinSet;

use crate::gpu::GpuUuid;
use crate::log;
use crate::mps::Trouble;
use crate::mps::control::{Control, ControlError, LIMIT};
use crate::mps::plan::{Step, Unanswered};
use crate::mps::protocol::{Command, Report, Script};

/// What has become of a job.
pub(super) struct Done {
    /// The GPU whose daemon was called.
    pub(super) gpu: GpuUuid,
    /// What came of it.
    pub(super) outcome: Outcome,
}

/// See [`Done`].
pub(super) enum Outcome {
    /// A probe of the daemon's process with this id.
    Probed {
        /// The process that the backend named when the probe began.
        pid: u32,
        /// What the daemon said.
        report: Result<Report, Unanswered>,
        /// Clients whose processes are no more, or are zombies.
        gone_clients: BTreeSet<u32>,
    },
    /// Orders were given; whether they were followed is for the next probe to see.
    Ordered(Result<(), String>),
}

/// Asks the daemon everything that one call can tell.
pub(super) fn probe(
    jobs: &mut JoinSet<Done>,
    gpu: GpuUuid,
    control: Control,
    pid: u32,
    known_server: Option<u32>,
) {
    jobs.spawn_blocking(move || {
        let report = control
            .probe(known_server, LIMIT)
            .map_err(|error| unanswered(&error));
        let clients = report.iter().flat_map(Report::clients);
        let gone_clients = clients
            .map(|client| client.pid)
            .filter(|pid| is_gone(*pid))
            .collect();
        Done {
            gpu,
            outcome: Outcome::Probed {
                pid,
                report,
                gone_clients,
            },
        }
    });
}

/// Gives the orders of a step that is the control daemon's to carry out.
pub(super) fn order(jobs: &mut JoinSet<Done>, gpu: GpuUuid, control: Control, step: &Step) {
    let orders = orders(step);
    jobs.spawn_blocking(move || {
        let outcome = match orders {
            Orders::Script(script) => told(&control, &script),
            Orders::Defaults => control.restore_defaults(LIMIT),
        };
        let outcome = outcome.map_err(|error| log::chain(&error));
        Done {
            gpu,
            outcome: Outcome::Ordered(outcome),
        }
    });
}

/// What the control program is called for.
enum Orders {
    /// Commands, one after the other.
    Script(Script),
    /// The defaults of a fresh daemon, read back.
    Defaults,
}

fn orders(step: &Step) -> Orders {
    let commands = match step {
        Step::RestoreDefaults => return Orders::Defaults,
        Step::StartServer => vec![Command::StartServer { uid: 0 }],
        Step::Terminate { server, clients } => clients
            .iter()
            .map(|client| Command::TerminateClient {
                server: *server,
                client: *client,
            })
            .collect(),
        Step::ShutDownServer { server } => vec![Command::ShutdownServer {
            server: *server,
            force: true,
        }],
        Step::Start | Step::Stop | Step::Restart | Step::Reload => Vec::new(),
    };
    Orders::Script(Script(commands))
}

/// One client that is not there any more keeps no other from being dropped: refusals are left to the next probe.
fn told(control: &Control, script: &Script) -> Result<(), ControlError> {
    control.ask(script, LIMIT).map(drop)
}

fn unanswered(error: &ControlError) -> Unanswered {
    Unanswered {
        is_the_daemons: !matches!(
            error,
            ControlError::Binary { .. } | ControlError::Unkillable { .. }
        ),
        trouble: Trouble {
            mend: error.mend(),
            why: log::chain(error),
        },
    }
}

/// Whether the process is no more, or has ended and waits for its parent. One that cannot be seen (0) is not.
pub(super) fn is_gone(pid: u32) -> bool {
    if pid == 0 {
        return false;
    }
    match fs_err::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))) {
        Ok(stat) => matches!(state(&stat), Some('Z' | 'X')),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// The state in `/proc/PID/stat`: it follows the command, which is in parentheses and may contain some.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_there_is_not_gone_and_one_that_is_not_is() {
        assert!(!is_gone(std::process::id()));
        assert!(is_gone(u32::MAX / 2));
        assert!(!is_gone(0), "what the daemon cannot see may well be there");
    }

    #[test]
    fn a_zombie_is_told_by_its_state_whatever_its_name() {
        assert_eq!(state("12 (a) Z (b)) R 1 2"), Some('R'));
        assert_eq!(state("12 (train) Z 1 2"), Some('Z'));
        assert_eq!(state("nonsense"), None);
    }
}
