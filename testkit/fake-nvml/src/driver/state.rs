//! What the library remembers between calls of one process.
//!
//! Plain data behind the driver's lock; it never waits. A new scenario forgets the hangs and growth of the old one, and
//! keeps what the process did itself: its initialisation and event sets.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::source::{Loaded, Source};
use crate::code::{Answer, Code};
use crate::events::EventSet;
use crate::scenario::{List, Span};

#[derive(Debug, Default)]
pub(super) struct State {
    source: Source,
    initialised: Option<Initialised>,
    /// Hang of the scenario (by place) to how often it was played.
    hung: BTreeMap<usize, u32>,
    grown: BTreeMap<(usize, List), u32>,
    event_sets: BTreeMap<usize, EventSet>,
    last_event_set: usize,
}

#[derive(Debug)]
struct Initialised {
    count: u32,
    since_us: u64,
}

impl State {
    pub(super) fn loaded(&mut self) -> Option<Arc<Loaded>> {
        if self.source.refresh() {
            self.hung.clear();
            self.grown.clear();
        }
        self.source.good()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.source.is_broken()
    }

    /// Only the first of several initialisations reaches the driver; the others count.
    pub(super) fn initialise(&mut self, now_us: u64) {
        self.initialised
            .get_or_insert(Initialised {
                count: 0,
                since_us: now_us,
            })
            .count += 1;
    }

    pub(super) fn shut_down(&mut self) -> Answer<()> {
        let initialised = self.initialised.as_mut().ok_or(Code::UNINITIALIZED)?;
        initialised.count -= 1;
        if initialised.count == 0 {
            self.initialised = None;
            self.event_sets.clear();
        }
        Ok(())
    }

    pub(super) fn initialised_us(&self) -> Option<u64> {
        self.initialised.as_ref().map(|initialised| initialised.since_us)
    }

    /// How long this call hangs, if it does; counts it.
    pub(super) fn hang(&mut self, loaded: &Loaded, function: &str, gpu: Option<usize>) -> Option<Span> {
        let moment = loaded.now();
        for (place, hang) in loaded.scenario.hangs.iter().enumerate() {
            let concerns = hang.function == function && (hang.gpu.is_none() || hang.gpu == gpu);
            let played = self.hung.entry(place).or_default();
            let is_left = hang.times.is_none_or(|times| *played < times);
            if concerns && is_left && moment.within(hang.at_ms, hang.until_ms) {
                *played += 1;
                return Some(hang.ms);
            }
        }
        None
    }

    pub(super) fn grown(&self, gpu: usize, list: List) -> u32 {
        self.grown.get(&(gpu, list)).copied().unwrap_or(0)
    }

    pub(super) fn grow(&mut self, gpu: usize, list: List, by: u32) {
        if by == 0 {
            self.grown.remove(&(gpu, list));
        } else {
            *self.grown.entry((gpu, list)).or_default() += by;
        }
    }

    pub(super) fn create_event_set(&mut self) -> usize {
        self.last_event_set += 1;
        self.event_sets.insert(self.last_event_set, EventSet::default());
        self.last_event_set
    }

    pub(super) fn free_event_set(&mut self, set: usize) -> Answer<()> {
        self.event_sets
            .remove(&set)
            .map(drop)
            .ok_or(Code::INVALID_ARGUMENT)
    }

    pub(super) fn event_set(&mut self, set: usize) -> Answer<&mut EventSet> {
        self.event_sets.get_mut(&set).ok_or(Code::INVALID_ARGUMENT)
    }
}
