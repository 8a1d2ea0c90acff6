//! What is done with the control program, off the runtime: a probe, or orders.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::gpu::GpuUuid;
use crate::log;
use crate::metrics::clock;
use crate::mps::Trouble;
use crate::mps::control::{Control, ControlError, LIMIT};
use crate::mps::plan::{Blame, Step, Unanswered};
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
        blame: match error {
            ControlError::Binary { .. } | ControlError::Unkillable { .. } => Blame::Program,
            ControlError::NoRoom { .. } => Blame::Node,
            _ => Blame::Daemon,
        },
        trouble: Trouble {
            mend: error.mend(),
            why: log::chain(error),
        },
    }
}

/// When a call of the control program counts as lost: its own limit has had the time to end it twice.
pub(super) const OVERDUE: Duration = LIMIT.saturating_mul(2);

/// What is known of a daemon while the call that asks it does not come back, not even by its limit.
pub(super) fn lost() -> Unanswered {
    Unanswered {
        blame: Blame::Node,
        trouble: Trouble {
            why: format!(
                "the MPS control program was called more than {} s ago, and not even the start of it has come back",
                OVERDUE.as_secs()
            ),
            mend: "the disk that it is on, or the driver, hangs: look at dmesg, reboot the node".into(),
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

/// Kernel ticks in a second, as /proc tells them (`USER_HZ`): the same on every architecture that Linux MPS is for.
const TICKS: u32 = 100;

/// How long ago the process began. Absent where there is none, or it cannot be read.
pub(super) fn age(pid: u32) -> Option<Duration> {
    let stat = fs_err::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).ok()?;
    Some(clock::boot_now().saturating_sub(begun(&stat)?))
}

/// When it began, since the machine was started: the 22nd value, which is the 20th after the command.
fn begun(stat: &str) -> Option<Duration> {
    let value = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?;
    Some(Duration::from_secs(value.parse().ok()?) / TICKS)
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
    fn a_process_is_as_old_as_its_begin_says() {
        let stat = "12 (a) b (c)) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4250 20 21";
        assert_eq!(begun(stat), Some(Duration::from_millis(42_500)));
        assert_eq!(begun("12 (a) R 1"), None);
        assert!(age(std::process::id()).unwrap() < Duration::from_hours(1));
        assert!(age(1).unwrap() >= age(std::process::id()).unwrap());
        assert_eq!(age(u32::MAX / 2), None);
    }

    #[test]
    fn a_zombie_is_told_by_its_state_whatever_its_name() {
        assert_eq!(state("12 (a) Z (b)) R 1 2"), Some('R'));
        assert_eq!(state("12 (train) Z 1 2"), Some('Z'));
        assert_eq!(state("nonsense"), None);
    }
}
