//! The server of one control daemon: whether it serves, and what is done when it does not. Pure.
//!
//! A fault of one client hits all clients of its server, which then takes no new ones until the last of them has ended.
//! They get `mps.grace` to do so; what is left is terminated, then the server is shut down and another one started.
//! The daemons of other GPUs have servers of their own.

mod ends;
mod words;

use std::time::Duration;

use self::ends::Ends;
pub(super) use self::words::listed;
use self::words::{crash_loop, drifted, faulted, initializing, no_server, stubborn, unknown, unlisted};
use super::pause::Pause;
use super::{Decision, Seen, Step, Wish};
use crate::mps::protocol::{Report, Server, ServerStatus};
use crate::mps::{MpsState, Trouble, Warning};

/// How long a server that was told to drop its clients, or to end, may take before the next step.
const TREATMENT: Duration = Duration::from_secs(5);

/// So often a server is told to drop its dead clients before more is done.
const TOLD: u32 = 2;

/// A server may take so long to start, however short `mps.grace` is: clients wait for it, and end with it. CUDA takes tens
/// of seconds to initialize a large GPU without persistence mode (not measured yet).
const START_LIMIT: Duration = Duration::from_secs(30);

/// How often the time that a server may take to start is doubled at most.
const MOST_DOUBLINGS: u32 = 4;

/// What is remembered of the servers of one daemon.
#[derive(Clone, Debug, Default)]
pub(super) struct Servers {
    /// The server of the newest report that listed one, and since when it has been.
    pid: Option<u32>,
    since: Duration,
    /// Since when it has been starting.
    starting_since: Option<Duration>,
    /// Whether the newest report says for certain that there are no clients.
    has_no_clients: bool,
    ends: Ends,
    starts: Pause,
    fault: Option<Fault>,
    /// When one that did not come up was told to end.
    given_up: Option<Duration>,
    /// Servers that did not come up, since one did.
    slow_starts: u32,
    dead: Option<Dead>,
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

/// Clients without processes.
#[derive(Clone, Debug)]
struct Dead {
    clients: Vec<u32>,
    /// Since when there have been some, or the server was told last.
    since: Duration,
    /// How often it was.
    told: u32,
    /// Whether it was then told to end.
    shut_down: bool,
}

impl Servers {
    pub(super) fn restarts(&self) -> u64 {
        self.ends.restarts()
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Also where nobody could count them.
    pub(super) fn may_have_clients(&self) -> bool {
        !self.has_no_clients
    }

    pub(super) fn is_in_treatment(&self) -> bool {
        self.fault.is_some() || self.given_up.is_some()
    }

    /// What cannot be mended without harm to others.
    pub(super) fn warning(&self) -> Option<Warning> {
        let dead = self.dead.as_ref().filter(|dead| dead.told >= TOLD)?;
        Some(stubborn(self.pid?, &dead.clients))
    }

    /// Another daemon: its servers are others.
    pub(super) fn forget(&mut self) {
        self.ends.forget();
        *self = Self {
            ends: std::mem::take(&mut self.ends),
            slow_starts: self.slow_starts,
            ..Self::default()
        };
    }

    /// A new report.
    pub(super) fn note(&mut self, report: &Report, seen: &Seen<'_>, now: Duration) {
        self.has_no_clients = report.has_no_clients();
        let Some(server) = report.server() else {
            // A list that cannot be read is not an end.
            if report.lists_all_servers {
                self.dead = None;
                self.given_up = None;
                self.ends.note(None, seen.server_ends, now);
            }
            return;
        };
        if self.pid != Some(server.pid) {
            self.pid = Some(server.pid);
            self.since = now;
            self.dead = None;
            self.starting_since = None;
            self.given_up = None;
        }
        if server.status == ServerStatus::Initializing {
            self.starting_since.get_or_insert(now);
        } else {
            self.starting_since = None;
            self.given_up = None;
        }
        self.ends.note(Some(server.pid), seen.server_ends, now);
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
        let server = report.server();
        let faulty = server.filter(|server| server.status == ServerStatus::Fault);
        if self.fault.map(|fault| fault.server) != faulty.map(|server| server.pid) {
            self.fault = None;
        }
        if let Some(ends) = self.ends.crash_loop() {
            return degraded(crash_loop(ends, seen.intruders));
        }
        match server {
            None if !report.lists_all_servers => degraded(unlisted(report)),
            None => self.without(seen, is_young, now),
            Some(server) => match server.status {
                ServerStatus::Fault => self.treat(server, wish, now),
                ServerStatus::Active => self.serving(server, wish, seen, now),
                _ if is_young => Decision::of(MpsState::Starting),
                ServerStatus::Initializing | ServerStatus::Gone => self.wait_for(server, wish, seen, now),
                ServerStatus::Unknown => degraded(unknown(server.pid, report)),
            },
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
            let step = self.shut_down(server.pid, now);
            return decision.and(step, "it has not recovered from the fault of a client");
        }
        if is_over(fault.shut_down) {
            self.fault = None;
            return decision.and(Step::Restart, "its server does not end");
        }
        decision
    }

    fn shut_down(&mut self, server: u32, now: Duration) -> Step {
        self.ends.order(now);
        Step::ShutDownServer { server }
    }

    /// One that does not come up is replaced, but not so soon the next time: it may only be slow.
    fn wait_for(&mut self, server: &Server, wish: Wish, seen: &Seen<'_>, now: Duration) -> Decision {
        let waited = now.saturating_sub(self.starting_since.unwrap_or(now));
        let decision = degraded(initializing(server.pid, waited, seen.intruders));
        if let Some(at) = self.given_up {
            if now < at + TREATMENT {
                return decision;
            }
            self.given_up = None;
            self.starting_since = Some(now);
            return decision.and(Step::Restart, "its server neither comes up nor ends");
        }
        let patience = wish.grace.max(START_LIMIT) * 2_u32.pow(self.slow_starts.min(MOST_DOUBLINGS));
        if waited < patience || !server.known_clients().is_empty() {
            return decision;
        }
        self.given_up = Some(now);
        self.slow_starts += 1;
        let step = self.shut_down(server.pid, now);
        decision.and(step, "it does not come up")
    }

    fn serving(&mut self, server: &Server, wish: Wish, seen: &Seen<'_>, now: Duration) -> Decision {
        self.starts.forgive(self.since, now);
        self.slow_starts = 0;
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

    /// Clients that are gone hold the server's memory, and their place. It notices the end of most by itself.
    fn bury(&mut self, server: &Server, wish: Wish, seen: &Seen<'_>, now: Duration) -> Decision {
        let ready = Decision::of(MpsState::Ready);
        let listed = server.known_clients();
        let is_gone = |pid: &u32| seen.gone_clients.contains(pid);
        let clients: Vec<u32> = listed.iter().map(|client| client.pid).filter(is_gone).collect();
        if clients.is_empty() {
            self.dead = None;
            return ready;
        }
        let mut dead = Dead::now(self.dead.take(), &clients, now);
        let (server, are_all) = (server.pid, clients.len() == listed.len());
        let decision = if now < dead.since + dead.patience(wish) {
            ready
        } else {
            dead.since = now;
            if dead.told < TOLD || !are_all {
                dead.told += 1;
                ready.and(Step::Terminate { server, clients }, "their processes are gone")
            } else if std::mem::replace(&mut dead.shut_down, true) {
                ready.and(
                    Step::Restart,
                    "its server keeps clients that are gone, and does not end",
                )
            } else {
                let step = self.shut_down(server, now);
                ready.and(step, "it keeps clients that are gone, and has no others")
            }
        };
        self.dead = Some(dead);
        decision
    }
}

impl Dead {
    /// Those that are gone now: another case, where none of them was gone before.
    fn now(before: Option<Self>, clients: &[u32], now: Duration) -> Self {
        let is_left = |dead: &Self| clients.iter().any(|pid| dead.clients.contains(pid));
        let before = before.filter(is_left).unwrap_or(Self {
            clients: Vec::new(),
            since: now,
            told: 0,
            shut_down: false,
        });
        Self {
            clients: clients.to_vec(),
            ..before
        }
    }

    fn patience(&self, wish: Wish) -> Duration {
        if self.shut_down {
            wish.grace.max(TREATMENT)
        } else {
            wish.grace
        }
    }
}

fn degraded(trouble: Trouble) -> Decision {
    Decision::of(MpsState::Degraded(trouble))
}
