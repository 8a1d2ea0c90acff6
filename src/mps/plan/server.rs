//! The server of one control daemon: whether it serves, and what is done when it does not. Pure.
//!
//! A fault of one client hits all clients of its server, which then takes no new ones until the last of them has ended.
//! They get `mps.grace` to do so; what is left is terminated, then the server is shut down and another one started.
//! The daemons of other GPUs have servers of their own.

use std::collections::VecDeque;
use std::time::Duration;

use super::pause::Pause;
use super::{Decision, Seen, Step, Wish};
use crate::mps::protocol::{Client, Report, Server, ServerStatus};
use crate::mps::{MpsState, Trouble};

/// So many ends of servers within [`LOOP_WINDOW`] are a crash loop: the next one would crash too.
const LOOP_ENDS: usize = 3;

/// See [`LOOP_ENDS`].
const LOOP_WINDOW: Duration = Duration::from_mins(1);

/// How long a server that was told to drop its clients, or to end, may take before the next step.
const TREATMENT: Duration = Duration::from_secs(5);

/// Most processes that are named in one line.
const NAMED: usize = 8;

/// What is remembered of the servers of one daemon.
#[derive(Clone, Debug, Default)]
pub(super) struct Servers {
    /// The server of the newest report, and since when it has been.
    pid: Option<u32>,
    since: Duration,
    /// Servers that came after another one.
    restarts: u64,
    /// Whether the newest report says for certain that there are no clients.
    has_no_clients: bool,
    /// The newest total of ends, and when there were some.
    ended: Option<u64>,
    ends: VecDeque<Duration>,
    /// An end that was ordered and is no crash.
    ordered_end: Option<Duration>,
    starts: Pause,
    fault: Option<Fault>,
    /// Since when there have been clients without processes, and when the server was told.
    gone_since: Option<Duration>,
    reloads: Pause,
}

/// What is being done about a server that takes no clients.
#[derive(Clone, Copy, Debug)]
struct Fault {
    server: u32,
    since: Duration,
    terminated: Option<Duration>,
    shut_down: Option<Duration>,
}

impl Servers {
    pub(super) fn restarts(&self) -> u64 {
        self.restarts
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Also where nobody could count them.
    pub(super) fn may_have_clients(&self) -> bool {
        !self.has_no_clients
    }

    pub(super) fn is_in_treatment(&self) -> bool {
        self.fault.is_some()
    }

    /// Another daemon: its servers are others.
    pub(super) fn forget(&mut self) {
        *self = Self {
            restarts: self.restarts,
            ended: self.ended,
            ..Self::default()
        };
    }

    /// A new report.
    pub(super) fn note(&mut self, report: &Report, ended: u64, now: Duration) {
        let server = report.servers.first();
        if let Some(server) = server {
            if self.pid != Some(server.pid) {
                self.restarts += u64::from(self.pid.is_some());
                self.since = now;
            }
            self.pid = Some(server.pid);
        }
        self.has_no_clients = report.has_no_clients();
        let before = self.ended.replace(ended).unwrap_or(ended);
        let mut new_ends = usize::try_from(ended.saturating_sub(before)).unwrap_or(LOOP_ENDS);
        if new_ends > 0 && self.ordered_end.take().is_some_and(|at| now <= at + LOOP_WINDOW) {
            new_ends -= 1;
        }
        self.ends
            .extend(std::iter::repeat_n(now, new_ends.min(LOOP_ENDS)));
        while self
            .ends
            .front()
            .is_some_and(|at| now.saturating_sub(*at) > LOOP_WINDOW)
        {
            self.ends.pop_front();
        }
    }

    /// How the GPU's MPS is by this report, and what to do about it.
    pub(super) fn judge(
        &mut self,
        report: &Report,
        wish: Wish,
        seen: &Seen<'_>,
        is_young: bool,
        now: Duration,
    ) -> Decision {
        let server = report
            .servers
            .iter()
            .find(|server| server.status != ServerStatus::Gone);
        let faulty = server.filter(|server| server.status == ServerStatus::Fault);
        if self.fault.map(|fault| fault.server) != faulty.map(|server| server.pid) {
            self.fault = None;
        }
        match server {
            _ if self.is_crash_loop() => degraded(self.crash_loop()),
            None => self.without(seen, is_young, now),
            Some(server) => match server.status {
                ServerStatus::Fault => self.treat(server, wish, now),
                ServerStatus::Active => self.serving(server, wish, seen, now),
                _ if is_young => Decision::of(MpsState::Starting),
                ServerStatus::Initializing | ServerStatus::Gone => degraded(initializing(server.pid)),
                ServerStatus::Unknown => degraded(unknown(server.pid, report)),
            },
        }
    }

    fn is_crash_loop(&self) -> bool {
        self.ends.len() >= LOOP_ENDS
    }

    fn crash_loop(&self) -> Trouble {
        Trouble {
            why: format!(
                "its server keeps crashing: {} ends within a minute",
                self.ends.len()
            ),
            mend: "look at: journalctl -u 'gpushare-mps@*'; and dmesg | grep -i nvrm. A new one is started with the \
                   next client, or in a minute"
                .into(),
        }
    }

    fn without(&mut self, seen: &Seen<'_>, is_young: bool, now: Duration) -> Decision {
        let decision = if is_young {
            Decision::of(MpsState::Starting)
        } else {
            degraded(no_server(seen.intruders))
        };
        if !self.starts.is_due(now) {
            return decision;
        }
        self.starts.take(now);
        decision.and(Step::StartServer, "the daemon has no server")
    }

    fn treat(&mut self, server: &Server, wish: Wish, now: Duration) -> Decision {
        let fault = self.fault.get_or_insert(Fault {
            server: server.pid,
            since: now,
            terminated: None,
            shut_down: None,
        });
        let decision = degraded(faulted(server));
        let is_over = |at: Option<Duration>| at.is_some_and(|at| now >= at + TREATMENT);
        let clients: Vec<u32> = server.known_clients().iter().map(|client| client.pid).collect();
        let may_have_some = server.clients.as_ref().is_none_or(|clients| !clients.is_empty());
        if now < fault.since + wish.grace && may_have_some {
            return decision;
        }
        if fault.terminated.is_none() {
            fault.terminated = Some(now);
            if !clients.is_empty() {
                let step = Step::Terminate {
                    server: server.pid,
                    clients,
                };
                return decision.and(step, "they were hit by the fault and have not ended");
            }
            // The last client is gone: the server makes itself a new context. Clients that are not known are ended with it.
            return decision;
        }
        if fault.shut_down.is_none() && is_over(fault.terminated) {
            fault.shut_down = Some(now);
            self.ordered_end = Some(now);
            let step = Step::ShutDownServer { server: server.pid };
            return decision.and(step, "it has not recovered from the fault of a client");
        }
        if is_over(fault.shut_down) {
            self.fault = None;
            return decision.and(Step::Restart, "its server does not end");
        }
        decision
    }

    fn serving(&mut self, server: &Server, wish: Wish, seen: &Seen<'_>, now: Duration) -> Decision {
        self.starts.forgive(self.since, now);
        if wish.exclusive && seen.has_drifted {
            let decision = degraded(drifted(seen.intruders));
            if !self.reloads.is_due(now) {
                return decision;
            }
            self.reloads.take(now);
            return decision.and(Step::Reload, "the compute mode was changed");
        }
        self.reloads = Pause::default();
        self.bury(server, wish, seen, now)
    }

    /// Clients that are gone hold the server's memory, and their place.
    fn bury(&mut self, server: &Server, wish: Wish, seen: &Seen<'_>, now: Duration) -> Decision {
        let ready = Decision::of(MpsState::Ready);
        let listed = server.known_clients().iter().map(|client| client.pid);
        let clients: Vec<u32> = listed.filter(|pid| seen.gone_clients.contains(pid)).collect();
        if clients.is_empty() {
            self.gone_since = None;
            return ready;
        }
        let since = *self.gone_since.get_or_insert(now);
        // It notices the end of most by itself.
        if now < since + wish.grace {
            return ready;
        }
        self.gone_since = Some(now);
        let step = Step::Terminate {
            server: server.pid,
            clients,
        };
        ready.and(step, "their processes are gone")
    }
}

fn degraded(trouble: Trouble) -> Decision {
    Decision::of(MpsState::Degraded(trouble))
}

fn no_server(intruders: &[u32]) -> Trouble {
    let (why, mend) = if intruders.is_empty() {
        (
            "it has no server: none starts".to_owned(),
            "look at: journalctl -u 'gpushare-mps@*'; it is tried again by itself".to_owned(),
        )
    } else {
        (
            format!("it has no server: {} on the GPU past MPS", pids_are(intruders)),
            "end what uses the GPU without MPS".to_owned(),
        )
    };
    Trouble { why, mend }
}

fn initializing(pid: u32) -> Trouble {
    Trouble {
        why: format!("its server {pid} is not ready yet"),
        mend: "wait; with persistence mode (nvidia-persistenced) this takes less time".into(),
    }
}

fn unknown(pid: u32, report: &Report) -> Trouble {
    let said = report.not_understood.join("; ");
    Trouble {
        why: format!("the state of its server {pid} cannot be read ({said})"),
        mend: "use a driver that gpushare knows (see docs/mps.md)".into(),
    }
}

fn faulted(server: &Server) -> Trouble {
    let clients = match server.clients.as_deref() {
        None => "which clients it hit cannot be read".to_owned(),
        Some([]) => "no client is left".to_owned(),
        Some(clients) => format!("hit were {}", clients_are(clients)),
    };
    Trouble {
        why: format!(
            "a client's fault has stopped its server {}: {clients}",
            server.pid
        ),
        mend: "those processes have to be started anew; what does not end is terminated after mps.grace, and the \
               server is replaced"
            .into(),
    }
}

fn drifted(intruders: &[u32]) -> Trouble {
    let who = if intruders.is_empty() {
        String::new()
    } else {
        format!("; {} on it", pids_are(intruders))
    };
    Trouble {
        why: format!(
            "the GPU is not in compute mode EXCLUSIVE_PROCESS any more: it can be used past MPS{who}"
        ),
        mend: "it is set again by itself; find out who changes it, or set mps.exclusive_process = false"
            .into(),
    }
}

fn pids_are(pids: &[u32]) -> String {
    match pids {
        [pid] => format!("process {pid} is"),
        _ => format!("processes {} are", listed(pids)),
    }
}

/// Process ids in one line, however many.
pub(super) fn listed(pids: &[u32]) -> String {
    let named: Vec<String> = pids.iter().take(NAMED).map(u32::to_string).collect();
    and_more(&named, pids.len())
}

/// The clients by process id and command.
fn clients_are(clients: &[Client]) -> String {
    let named: Vec<String> = clients
        .iter()
        .take(NAMED)
        .map(|client| match &client.command {
            Some(command) => format!("{} ({command})", client.pid),
            None => client.pid.to_string(),
        })
        .collect();
    and_more(&named, clients.len())
}

fn and_more(named: &[String], all: usize) -> String {
    match all - named.len() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
