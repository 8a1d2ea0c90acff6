//! How far each waiting window has got: plans it, hands out its next batch, settles what came of it with the store.
//!
//! A window of several batches that fails half way is gone on with later where it stopped, also after newer windows
//! were sent in between; only the positions of its open datums are kept, its plan is made again.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bundle::Member;
use super::delivery::Delivery;
use super::plan::{Plan, Planner};
use super::store::{Store, Waiting, WindowId};
use super::{Batch, limits};
use crate::log;
use crate::metrics::window::DropReason;

/// The windows that are being published.
#[derive(Debug)]
pub struct Progress {
    store: Arc<dyn Store>,
    planner: Planner,
    /// Windows that were begun and are not finished.
    deliveries: BTreeMap<WindowId, Delivery>,
    /// The plan of the window that was looked at last.
    current: Option<(WindowId, Plan)>,
    too_old_log: log::Repeated,
}

/// What an answer has settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Samples of the ledger that arrived.
    pub samples: u64,
    /// Datums that were given up.
    pub given_up: usize,
    /// The first of them, for people.
    pub first: Option<String>,
    /// Whether the window is dealt with, at least a part of it having arrived.
    pub published: bool,
}

impl Progress {
    /// Nothing is begun.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, planner: Planner) -> Self {
        Self {
            store,
            planner,
            deliveries: BTreeMap::new(),
            current: None,
            too_old_log: log::Repeated::default(),
        }
    }

    /// The next batch of a window. `None`: nothing of it can be sent, and it is out of the store. `now` is the time
    /// by the server's clock in Unix seconds, if that is known: ours gives nothing up.
    pub fn next_batch(&mut self, waiting: &Waiting, now: Option<u64>) -> Option<Batch> {
        let id = waiting.id;
        if now.is_some_and(|now| limits::is_too_old(waiting.window.start, now)) {
            self.too_old(waiting);
            return None;
        }
        let plan = self.take_plan(waiting);
        let (_, plan) = self.current.insert((id, plan));
        if !self.deliveries.contains_key(&id) {
            for (reason, samples) in &plan.refused {
                self.store.give_up(id, *reason, *samples);
            }
            self.deliveries.insert(id, Delivery::new(&plan.batches));
        }
        let batch = self.deliveries[&id].next().map(|members| plan.batch(members));
        if batch.is_none() {
            self.finish(id, DropReason::Refused);
        }
        self.forget_lost();
        batch
    }

    /// The plan of a window that may go along with others: one that takes one batch, about which nothing was said so far.
    pub fn whole(&mut self, waiting: &Waiting) -> Option<Plan> {
        let known = self.deliveries.get(&waiting.id);
        if known.is_some_and(|delivery| !delivery.is_untouched()) {
            return None;
        }
        let is_begun = known.is_some();
        let mut plan = self.take_plan(waiting);
        if plan.batches.len() != 1 {
            self.keep(waiting.id, plan);
            return None;
        }
        if is_begun {
            // Those were given up when it was tried first.
            plan.refused.clear();
        }
        Some(plan)
    }

    /// The plan is needed again soon.
    pub fn keep(&mut self, id: WindowId, plan: Plan) {
        self.current = Some((id, plan));
    }

    fn take_plan(&mut self, waiting: &Waiting) -> Plan {
        let known = self.current.take_if(|(id, _)| *id == waiting.id);
        known.map_or_else(|| self.planner.plan(&waiting.window), |(_, plan)| plan)
    }

    /// A window arrived, along with others.
    pub fn arrived_whole(&mut self, member: &Member) {
        let id = member.waiting.id;
        for (reason, samples) in &member.refused {
            self.store.give_up(id, *reason, *samples);
        }
        self.store.accept(id, member.samples);
        self.finish(id, DropReason::Refused);
    }

    /// The batch arrived.
    pub fn accepted(&mut self, waiting: &Waiting) -> Step {
        let Some(delivery) = self.deliveries.get_mut(&waiting.id) else {
            return Step::default();
        };
        let settled = delivery.accepted();
        let samples = self.samples(waiting.id, &settled.arrived);
        self.store.accept(waiting.id, samples);
        Step {
            samples,
            ..self.give_up(waiting.id, &settled.given_up)
        }
    }

    /// The batch was refused for the datums in it; `named` are those that the reply blames, counted from 1.
    pub fn refused(&mut self, waiting: &Waiting, named: &[usize]) -> Step {
        let delivery = self.deliveries.get_mut(&waiting.id);
        let given_up = delivery.map_or_else(Vec::new, |delivery| delivery.refused(named));
        self.give_up(waiting.id, &given_up)
    }

    /// The window is too old: what has not arrived of it is given up.
    pub fn too_old(&mut self, waiting: &Waiting) {
        // After a long outage, or with a clock weeks behind, there are many.
        if self.too_old_log.is_due() {
            tracing::warn!(
                start = waiting.window.start,
                "windows are too old for CloudWatch: given up"
            );
        }
        self.finish(waiting.id, DropReason::TooOld);
    }

    /// The batch was too large.
    pub fn too_large(&mut self, waiting: &Waiting) -> Step {
        let delivery = self.deliveries.get_mut(&waiting.id);
        let given_up = delivery.map_or_else(Vec::new, Delivery::too_large);
        self.give_up(waiting.id, &given_up)
    }

    fn give_up(&mut self, id: WindowId, members: &[usize]) -> Step {
        let samples = self.samples(id, members);
        self.store.give_up(id, DropReason::Refused, samples);
        let first = members.first().and_then(|member| self.described(id, *member));
        let delivery = self.deliveries.get(&id);
        let is_done = delivery.is_some_and(|delivery| delivery.next().is_none());
        let published = is_done && delivery.is_some_and(Delivery::has_arrived);
        if is_done {
            self.finish(id, DropReason::Refused);
        }
        Step {
            samples: 0,
            given_up: members.len(),
            first,
            published,
        }
    }

    fn plan(&self, id: WindowId) -> Option<&Plan> {
        let (known, plan) = self.current.as_ref()?;
        (*known == id).then_some(plan)
    }

    fn samples(&self, id: WindowId, members: &[usize]) -> u64 {
        self.plan(id).map_or(0, |plan| plan.samples(members))
    }

    fn described(&self, id: WindowId, member: usize) -> Option<String> {
        let datum = self.plan(id)?.data.get(member)?;
        let dimensions: Vec<String> = datum
            .dimensions
            .iter()
            .map(|dimension| format!("{}={:?}", dimension.name, dimension.value))
            .collect();
        Some(format!("{}{{{}}}", datum.metric_name, dimensions.join(",")))
    }

    fn finish(&mut self, id: WindowId, leftover: DropReason) {
        self.store.finish(id, leftover);
        self.deliveries.remove(&id);
        self.current = None;
    }

    /// Windows that the store let go need no memory of how far they had got.
    fn forget_lost(&mut self) {
        match self.store.oldest_id() {
            Some(oldest) => self.deliveries = self.deliveries.split_off(&oldest),
            None => self.deliveries.clear(),
        }
    }
}
