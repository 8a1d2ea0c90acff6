//! What an answer settles, and the pause that it asks for.

use std::time::Duration;

use super::Sending;
use super::request::Request;
use crate::publish::bundle::Bundle;
use crate::publish::fate::{self, Class, Failure, Fate};
use crate::publish::progress::Step;
use crate::publish::store::{Waiting, WindowId};
use crate::publish::{Answer, Batch, Publisher, limits};

impl<P: Publisher> Sending<P> {
    /// Settles what came of a request. Returns the failure, and the pause that it asks for.
    pub(super) fn absorb(&mut self, request: &Request, answer: Answer) -> Option<(Failure, Duration)> {
        self.report.attempted(&answer);
        match request {
            Request::One(waiting, batch) => self.absorb_one(waiting, batch, answer.fate),
            Request::Many(bundle) => self.absorb_many(bundle, answer.fate),
        }
    }

    fn absorb_one(&mut self, waiting: &Waiting, batch: &Batch, fate: Fate) -> Option<(Failure, Duration)> {
        match fate {
            Fate::Accepted => {
                let step = self.progress.accepted(waiting);
                self.report.accepted(batch, step.samples);
                self.settle(waiting, &step);
                self.accepted();
            }
            Fate::Poison {
                what, blames_time, ..
            } if blames_time && !self.is_in_time(waiting) => {
                if limits::is_too_new(waiting.window.start, self.report.server_now()) {
                    return Some(self.failed([waiting.id], fate::ahead_of_time(&what)));
                }
                self.progress.too_old(waiting);
            }
            Fate::Poison { members, what, .. } => {
                self.report.works();
                self.backoff.reset();
                self.refusal = what;
                let step = self.progress.refused(waiting, &members);
                self.settle(waiting, &step);
            }
            Fate::TooLarge(Some(failure)) if batch.metric_data.len() == 1 => {
                return Some(self.failed([waiting.id], failure));
            }
            Fate::TooLarge(_) => {
                let step = self.progress.too_large(waiting);
                if step.given_up > 0 {
                    "one datum is too large for a request".clone_into(&mut self.refusal);
                }
                self.settle(waiting, &step);
            }
            Fate::Failed(failure) => return Some(self.failed([waiting.id], failure)),
        }
        None
    }

    fn absorb_many(&mut self, bundle: &Bundle, fate: Fate) -> Option<(Failure, Duration)> {
        match fate {
            Fate::Accepted => {
                let samples = bundle.members().iter().map(|member| member.samples).sum();
                self.report.accepted(bundle.batch(), samples);
                for member in bundle.members() {
                    self.progress.arrived_whole(member);
                    self.report.published(&member.waiting.window, false);
                }
                self.accepted();
            }
            // Whoever is at fault is found when it goes alone.
            Fate::Poison { members, .. } => {
                self.report.works();
                self.backoff.reset();
                self.sharing.refused(bundle.blamed(&members));
            }
            Fate::TooLarge(_) => self.sharing.failed(),
            Fate::Failed(failure) => {
                if failure.class.may_be_of_one_window() {
                    self.sharing.failed();
                }
                let members = bundle.members().iter().map(|member| member.waiting.id);
                return Some(self.failed(members, failure));
            }
        }
        None
    }

    fn accepted(&mut self) {
        self.backoff.reset();
        self.spacing.accepted();
        self.sharing.accepted();
        self.order.accepted();
    }

    fn failed(
        &mut self,
        windows: impl IntoIterator<Item = WindowId>,
        failure: Failure,
    ) -> (Failure, Duration) {
        if failure.class == Class::Throttled {
            self.spacing.throttled();
        }
        if failure.class.may_be_of_one_window() {
            windows.into_iter().for_each(|id| self.order.failed(id));
        }
        let pause = self.backoff.pause(failure.class.pace());
        (failure, pause)
    }

    fn settle(&mut self, waiting: &Waiting, step: &Step) {
        if let Some(first) = &step.first {
            self.report.refused(&self.refusal, first, step.given_up);
        }
        if step.published {
            let is_live = !self.pacing.live_first || self.is_live(waiting.id);
            self.report.published(&waiting.window, is_live);
        }
    }

    /// Whether CloudWatch takes the window's time stamp, by its own clock.
    fn is_in_time(&self, waiting: &Waiting) -> bool {
        let (start, now) = (waiting.window.start, self.report.server_now());
        !limits::is_too_old(start, now) && !limits::is_too_new(start, now)
    }
}
