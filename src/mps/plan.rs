//! What to do about one GPU's MPS, and how it is. Pure: what is seen and the time in, a state and at most one step out.
//!
//! ```text
//! GPU gone ---------------> NoDriver           its daemon is stopped: it cannot work, and holds the driver
//! no process -------------> Starting  (Start; Down with the reason while it keeps failing)
//! process, not probed ----> Starting  (probed fast)
//! probe fails ------------> as before, and Down with the third in a row (Restart, after `mps.grace` with clients)
//! probe answers ----------> Ready, or Degraded with what is wrong and the step that mends it
//! MPS cannot be on it ----> Down               its daemon is stopped: never half
//! ```
//!
//! A daemon that is well is never touched: one that was there before the agent is adopted by probing it. A step is never
//! repeated faster than its back-off, and none that may end somebody's work is taken on an old probe: who has connected
//! since is not in it. A configuration that no container may start with (`Seen::objection`) changes nothing about that:
//! it only keeps `Ready` from being said.

mod pause;
mod seen;
mod server;
mod step;
mod words;

use std::time::Duration;

pub use self::seen::{Blame, Device, Probe, Seen, ServerEnds, Unanswered, Wish};
pub use self::step::{Decision, Step};

use self::pause::Pause;
use self::server::Servers;
use self::words::{failed, quit, stopping, unreadable, wrong_defaults};
use super::backend::Unit;
use super::protocol::Report;
use super::{MpsState, Trouble, Warning};

/// So many probes in a row have to fail before a daemon counts as down: one slow answer is no outage.
pub const STRIKES: u32 = 3;

/// Time between two probes of a daemon that is not `Ready`: pods wait for it.
pub const FAST: Duration = Duration::from_millis(500);

/// How long a daemon is probed fast; afterwards `mps.probe_interval` counts, or [`SLOWED`] if that is longer.
const FAST_FOR: Duration = Duration::from_secs(15);

/// The longest pause between two probes of one that is not `Ready`.
const SLOWED: Duration = Duration::from_secs(5);

/// The oldest probe on which somebody's work is ended: one is looked at as soon as it is there.
const FRESH: Duration = Duration::from_secs(1);

/// What is remembered of one GPU's daemon.
#[derive(Clone, Debug, Default)]
pub struct Daemon {
    state: Option<MpsState>,
    /// The process that was seen running last.
    pid: Option<u32>,
    /// Since when that one has been running.
    running_since: Duration,
    /// Daemons that came after one that had ended.
    restarts: u64,
    /// Starts of the daemon that have failed.
    failed_starts: u64,
    starts: Pause,
    /// Why the daemon did not come up, or was restarted: shown until it is verified.
    why_down: Option<Trouble>,
    /// The newest probe that was judged.
    judged: u64,
    /// Probes without an answer since the last one that had one.
    strikes: u32,
    /// Those of them, the newest in a row, that the daemon itself has not answered, and when the first of these was.
    silent: u32,
    silent_since: Duration,
    /// The server with which the daemon was verified last.
    verified: Option<u32>,
    servers: Servers,
}

impl Daemon {
    /// Starts of daemons and servers that followed an end, since the agent started.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.restarts + self.failed_starts + self.servers.restarts()
    }

    /// What nobody can mend without harm to others.
    #[must_use]
    pub fn warning(&self) -> Option<Warning> {
        self.servers.warning()
    }

    /// What to do at `now` (monotonic). The step counts as done when it is returned.
    pub fn decide(&mut self, wish: Wish, seen: &Seen<'_>, now: Duration) -> Decision {
        self.failed_starts = seen.failed_starts;
        let decision = match seen.device {
            Device::Unknown => self.hold(wish, seen, now),
            Device::NoDriver => Decision::of(MpsState::NoDriver),
            Device::Gone => self.without_gpu(seen, now),
            Device::Here => self.with_gpu(wish, seen, now),
        };
        self.state = Some(decision.state.clone());
        match seen.objection {
            Some(trouble) if decision.state == MpsState::Ready => Decision {
                state: MpsState::Degraded(trouble.clone()),
                ..decision
            },
            _ => decision,
        }
    }

    /// Nothing is started or stopped on a guess. A daemon that runs is probed all the same: it answers without NVML, and
    /// what its server says of a GPU that hangs is worth the more.
    fn hold(&mut self, wish: Wish, seen: &Seen<'_>, now: Duration) -> Decision {
        if let Some(trouble) = seen.refusal {
            return Decision::of(MpsState::Down(trouble.clone()));
        }
        if let Ok(Unit::Running { pid }) = seen.unit {
            let mut after = self.clone();
            let decision = after.running(*pid, wish, seen, now);
            // A step that is not taken has used nothing up: it is due as soon as it can be taken.
            if decision.step.is_none() {
                *self = after;
            }
            return Decision {
                step: None,
                ..decision
            };
        }
        let first = match seen.unit {
            Ok(Unit::Starting) => MpsState::Starting,
            _ => MpsState::NoDriver,
        };
        // What was verified is not there any more.
        let before = self.state.clone().filter(|state| *state != MpsState::Ready);
        Decision::of(before.unwrap_or(first))
    }

    fn without_gpu(&mut self, seen: &Seen<'_>, now: Duration) -> Decision {
        self.why_down = None;
        self.stop(MpsState::NoDriver, "its GPU is gone", seen, now)
    }

    /// A daemon that is of no use is stopped, as often as it runs.
    fn stop(&mut self, state: MpsState, why: &str, seen: &Seen<'_>, now: Duration) -> Decision {
        let decision = Decision::of(state);
        match seen.unit {
            Ok(Unit::Running { .. } | Unit::Starting) if self.starts.is_due(now) => {
                self.starts.take(now);
                decision.and(Step::Stop, why)
            }
            _ => decision,
        }
    }

    fn with_gpu(&mut self, wish: Wish, seen: &Seen<'_>, now: Duration) -> Decision {
        if let Some(trouble) = seen.refusal {
            return self.stop(MpsState::Down(trouble.clone()), &trouble.why, seen, now);
        }
        match seen.unit {
            Err(error) => Decision::of(MpsState::Down(Trouble {
                why: error.what.clone(),
                mend: error.mend.clone(),
            })),
            Ok(Unit::Inactive | Unit::Failed(_)) if seen.is_quit => Decision::of(MpsState::Down(quit())),
            Ok(Unit::Inactive) => self.start("it was not running", now),
            Ok(Unit::Starting) => {
                // systemd starts again what has failed, without a word of its own.
                if let Some(words) = seen.last_words {
                    self.why_down = Some(words.clone());
                }
                Decision::of(self.coming_up())
            }
            // Why it is stopped is worth more than that it is.
            Ok(Unit::Stopping) => {
                Decision::of(MpsState::Down(self.why_down.clone().unwrap_or_else(stopping)))
            }
            Ok(Unit::Failed(ended)) => {
                self.why_down = Some(seen.last_words.cloned().unwrap_or_else(|| failed(ended)));
                self.start("it had ended", now)
            }
            Ok(Unit::Running { pid }) => self.running(*pid, wish, seen, now),
        }
    }

    fn start(&mut self, why: &str, now: Duration) -> Decision {
        let decision = Decision::of(self.coming_up());
        if !self.starts.is_due(now) {
            return decision;
        }
        self.starts.take(now);
        decision.and(Step::Start, why)
    }

    /// `Starting`, unless something is known to be wrong.
    fn coming_up(&self) -> MpsState {
        self.why_down.clone().map_or(MpsState::Starting, MpsState::Down)
    }

    fn running(&mut self, pid: u32, wish: Wish, seen: &Seen<'_>, now: Duration) -> Decision {
        if self.pid != Some(pid) {
            self.meet(pid, now);
        }
        let Some(probe) = seen.probe.filter(|probe| probe.pid == pid) else {
            return Decision {
                probe_at: Some(now),
                ..Decision::of(self.coming_up())
            };
        };
        let mut after = self.clone();
        let decision = after.judge(probe, wish, seen, now);
        let is_fresh = probe.number != self.judged && now.saturating_sub(probe.at) <= FRESH;
        if !is_fresh && decision.step.as_ref().is_some_and(|(step, _)| step.ends_work()) {
            // It is due as soon as a new probe says the same.
            return Decision {
                step: None,
                probe_at: Some(now),
                ..decision
            };
        }
        *self = after;
        decision
    }

    fn judge(&mut self, probe: &Probe, wish: Wish, seen: &Seen<'_>, now: Duration) -> Decision {
        let is_new = std::mem::replace(&mut self.judged, probe.number) != probe.number;
        let decision = match &probe.outcome {
            Ok(report) => self.answered(report, wish, seen, is_new, now),
            Err(unanswered) => self.unanswered(unanswered, wish, is_new, now),
        };
        let pause = self.pause(&decision.state, wish, now);
        Decision {
            probe_at: Some(probe.at + pause),
            ..decision
        }
    }

    /// Another process than before, or the first that is seen.
    fn meet(&mut self, pid: u32, now: Duration) {
        if self.pid.is_some() {
            self.restarts += 1;
        }
        self.pid = Some(pid);
        self.running_since = now;
        self.strikes = 0;
        self.silent = 0;
        self.verified = None;
        self.servers.forget();
    }

    fn pause(&self, state: &MpsState, wish: Wish, now: Duration) -> Duration {
        let is_suspect = self.strikes > 0 || *state != MpsState::Ready;
        if !is_suspect {
            return wish.probe_interval;
        }
        let recent =
            now.saturating_sub(self.running_since) < FAST_FOR || (1..STRIKES).contains(&self.strikes);
        if recent || self.servers.is_in_treatment() {
            FAST.min(wish.probe_interval)
        } else {
            SLOWED.min(wish.probe_interval)
        }
    }

    fn unanswered(&mut self, what: &Unanswered, wish: Wish, is_new: bool, now: Duration) -> Decision {
        if is_new {
            self.strike(what.blame, now);
        }
        if what.blame == Blame::Program {
            return Decision::of(MpsState::Down(what.trouble.clone()));
        }
        if self.strikes < STRIKES {
            let before = self.state.clone().unwrap_or(MpsState::Starting);
            return Decision::of(before);
        }
        self.why_down = Some(what.trouble.clone());
        let decision = Decision::of(MpsState::Down(what.trouble.clone()));
        if self.silent < STRIKES {
            return decision;
        }
        // Clients talk to the server, not to the daemon: they may be at work while it is silent.
        let patience = if self.servers.may_have_clients() {
            wish.grace
        } else {
            Duration::ZERO
        };
        if now < self.silent_since + patience || !self.starts.is_due(now) {
            return decision;
        }
        self.starts.take(now);
        self.strikes = 0;
        self.silent = 0;
        decision.and(Step::Restart, what.trouble.why.clone())
    }

    /// Nobody knows how long a daemon has been silent that could not even be asked meanwhile: its silence begins anew.
    fn strike(&mut self, blame: Blame, now: Duration) {
        if blame != Blame::Program {
            self.strikes = self.strikes.saturating_add(1);
        }
        if blame != Blame::Daemon {
            self.silent = 0;
            return;
        }
        if self.silent == 0 {
            self.silent_since = now;
        }
        self.silent = self.silent.saturating_add(1);
    }

    fn answered(
        &mut self,
        report: &Report,
        wish: Wish,
        seen: &Seen<'_>,
        is_new: bool,
        now: Duration,
    ) -> Decision {
        self.strikes = 0;
        self.silent = 0;
        if is_new {
            self.servers.note(report, seen, now);
        }
        if let Some(trouble) = unreadable(report) {
            return Decision::of(MpsState::Degraded(trouble));
        }
        if !report.limits_nobody() {
            return self.mend_defaults(report, wrong_defaults(report), now);
        }
        let is_young = now.saturating_sub(self.running_since) < FAST_FOR && self.why_down.is_none();
        let decision = self.servers.judge(report, wish, seen, is_young, now);
        if decision.state == MpsState::Ready {
            self.why_down = None;
            self.verified = self.servers.pid();
            self.starts.forgive(self.running_since, now);
        }
        decision
    }

    /// Defaults reach the servers that are started after them. A server that was verified is what it was, whatever has
    /// become of them; of any other nobody knows with which it was started.
    fn mend_defaults(&mut self, report: &Report, trouble: Trouble, now: Duration) -> Decision {
        let decision = Decision::of(MpsState::Degraded(trouble));
        let server = report.server().map(|server| server.pid);
        let was_verified = server.is_some() && server == self.verified;
        if !self.starts.is_due(now) || self.servers.may_have_clients() && !was_verified {
            return decision;
        }
        self.starts.take(now);
        let step = if was_verified {
            Step::RestoreDefaults
        } else {
            Step::Restart
        };
        decision.and(step, "its defaults are not those of a fresh daemon")
    }
}

#[cfg(test)]
mod tests;
