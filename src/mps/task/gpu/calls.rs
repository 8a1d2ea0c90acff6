//! Calls of the control program for one GPU: one at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::task::JoinSet;

use super::Supervised;
use crate::metrics::clock::Instants;
use crate::mps::plan::{Probe, Step, Unanswered};
use crate::mps::protocol::Report;
use crate::mps::task::job::{self, Done, Outcome};

impl Supervised {
    /// When the daemon is to be probed next, if it can be probed now.
    pub(in crate::mps::task) fn probe_due(&self) -> Option<Duration> {
        self.probe_at.filter(|_| self.busy_since.is_none())
    }

    /// Probes it if that is due.
    pub(in crate::mps::task) fn probe_if_due(&mut self, jobs: &mut JoinSet<Done>, now: Duration) {
        let Some(pid) = self.running() else {
            return;
        };
        let is_due = self.probe_due().is_some_and(|at| at <= now);
        let known = self.server().map(|server| server.pid);
        if let (true, Ok(place)) = (is_due, &self.place) {
            job::probe(jobs, self.uuid.clone(), place.control.clone(), pid, known);
            self.wants_probe = false;
            self.is_called(now);
        }
    }

    /// Lets the control program carry a step out.
    pub(in crate::mps::task) fn order(&mut self, jobs: &mut JoinSet<Done>, step: &Step, now: Duration) {
        if let Ok(place) = &self.place {
            job::order(jobs, self.uuid.clone(), place.control.clone(), step);
            self.is_called(now);
        }
    }

    /// A call of the control program is under way.
    pub(in crate::mps::task) fn is_called(&mut self, now: Duration) {
        self.busy_since = Some(now);
    }

    /// Whether the call that is under way does not come back: it does not get as far as its own limit, because it waits
    /// for a disk, say. Such a daemon is as silent as one that was asked.
    pub(super) fn is_overdue(&mut self, now: Instants) -> bool {
        let Some(since) = self.overdue_at.or(self.busy_since) else {
            return false;
        };
        if now.monotonic.saturating_sub(since) >= job::OVERDUE
            && let Some(pid) = self.running()
        {
            self.overdue_at = Some(now.monotonic);
            self.on_probe(pid, Err(job::lost()), BTreeSet::new(), now);
        }
        self.overdue_at.is_some()
    }

    /// A call of the control program has ended.
    pub(in crate::mps::task) fn on_done(&mut self, done: Done, now: Instants) {
        self.forget_job();
        match done.outcome {
            Outcome::Probed {
                pid,
                report,
                gone_clients,
            } => self.on_probe(pid, report, gone_clients, now),
            Outcome::Ordered(Ok(())) => self.probe_soon(),
            Outcome::Ordered(Err(error)) => {
                tracing::warn!(gpu = %self.uuid, error, "the MPS control daemon was not told");
                self.probe_soon();
            }
        }
    }

    fn on_probe(
        &mut self,
        pid: u32,
        outcome: Result<Report, Unanswered>,
        gone_clients: BTreeSet<u32>,
        now: Instants,
    ) {
        if let Ok(report) = &outcome {
            self.probed_at = Some(now.wall.as_secs());
            // What the log says of the servers in it goes before.
            self.on_beat(now.monotonic);
            self.queue.on_report(report, job::age, now.monotonic);
            self.gone_clients = gone_clients;
        } else {
            // Who has not answered may have a process that is not there any more.
            self.look_at_unit();
        }
        self.probe = Some(Probe {
            number: self.probe.as_ref().map_or(1, |probe| probe.number + 1),
            pid,
            at: now.monotonic,
            outcome,
        });
    }

    /// Its job came to nothing.
    pub(in crate::mps::task) fn forget_job(&mut self) {
        self.busy_since = None;
        self.overdue_at = None;
    }
}
