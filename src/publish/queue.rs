//! Closed windows in memory: the store without a disk.
//!
//! It is bounded, by windows and by their bytes: when it is full the oldest window goes, and its samples are
//! counted as dropped, because the newest minute is the one that somebody is looking at. One that is being published
//! stays, because it may arrive: no sample is counted both as accepted and as dropped.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::store::{Next, Store, Tally, Waiting, WindowId};
use crate::log;
use crate::metrics::ClosedWindow;
use crate::metrics::window::DropReason;

/// An hour of windows waits.
const HOUR: Duration = Duration::from_hours(1);

/// However long a window is, this many wait.
const FEWEST: usize = 60;

/// Of all windows together. An hour of 8 GPUs, sampled every second, takes about half of it.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// A bounded queue of windows.
#[derive(Debug)]
pub struct Queue {
    capacity: usize,
    max_bytes: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// In the order of their ids.
    entries: VecDeque<Entry>,
    /// Of all entries.
    bytes: usize,
    /// Without what is read off the entries.
    tally: Tally,
    /// Samples lost since that was logged.
    lost: u64,
    lost_log: log::Repeated,
}

#[derive(Debug)]
struct Entry {
    waiting: Waiting,
    /// Samples that have neither arrived nor been given up.
    open: u64,
}

impl Queue {
    /// An empty queue for `capacity` windows.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::bounded(capacity, MAX_BYTES)
    }

    /// An empty queue for an hour of windows of this length.
    #[must_use]
    pub fn for_an_hour(interval: Duration) -> Self {
        let windows = HOUR.as_secs() / interval.as_secs().max(1);
        Self::new(usize::try_from(windows).unwrap_or(FEWEST).max(FEWEST))
    }

    fn bounded(capacity: usize, max_bytes: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            max_bytes,
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn has_room(&self, state: &State, window: &ClosedWindow) -> bool {
        state.entries.len() < self.capacity && state.bytes + window.bytes() <= self.max_bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Queue {
    /// Lets the oldest windows go that the publisher does not hold until there is room; the newest is taken in any
    /// case.
    fn push(&self, window: ClosedWindow) {
        let mut state = self.lock();
        while !self.has_room(&state, &window)
            && let Some(lost) = state.take_oldest_unheld()
        {
            state.bytes -= lost.waiting.window.bytes();
            state.give_up(DropReason::QueueFull, lost.open);
            state.log_lost(lost.open);
        }
        let id = WindowId(state.next);
        state.next += 1;
        let open = window.samples();
        state.tally.samples += open;
        state.bytes += window.bytes();
        state.entries.push_back(Entry {
            waiting: Waiting {
                id,
                window: Arc::new(window),
            },
            open,
        });
        drop(state);
        self.changed.notify_one();
    }

    fn newest(&self, except: &BTreeSet<WindowId>) -> Next {
        let state = self.lock();
        let mut newest_first = state.entries.iter().rev().map(|entry| &entry.waiting);
        newest_first
            .find(|waiting| !except.contains(&waiting.id))
            .cloned()
            .into()
    }

    fn oldest(&self) -> Next {
        let state = self.lock();
        state.entries.front().map(|entry| entry.waiting.clone()).into()
    }

    fn oldest_id(&self) -> Option<WindowId> {
        self.lock().entries.front().map(|entry| entry.waiting.id)
    }

    fn accept(&self, id: WindowId, samples: u64) {
        let mut state = self.lock();
        let settled = state.settle(id, samples);
        state.tally.samples -= settled;
        state.tally.accepted += settled;
    }

    fn give_up(&self, id: WindowId, reason: DropReason, samples: u64) {
        let mut state = self.lock();
        let settled = state.settle(id, samples);
        state.give_up(reason, settled);
    }

    fn finish(&self, id: WindowId, leftover: DropReason) {
        let mut state = self.lock();
        if let Some(at) = state.position(id)
            && let Some(entry) = state.entries.remove(at)
        {
            state.bytes -= entry.waiting.window.bytes();
            state.give_up(leftover, entry.open);
        }
    }

    fn tally(&self) -> Tally {
        let state = self.lock();
        Tally {
            windows: state.entries.len(),
            oldest: state.entries.front().map(|entry| entry.waiting.window.start),
            ..state.tally.clone()
        }
    }

    fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

impl State {
    fn take_oldest_unheld(&mut self) -> Option<Entry> {
        let is_unheld = |entry: &Entry| Arc::strong_count(&entry.waiting.window) == 1;
        let at = self.entries.iter().position(is_unheld)?;
        self.entries.remove(at)
    }

    fn position(&self, id: WindowId) -> Option<usize> {
        self.entries
            .binary_search_by_key(&id, |entry| entry.waiting.id)
            .ok()
    }

    /// Takes samples off what is open of a window; returns how many that were.
    fn settle(&mut self, id: WindowId, samples: u64) -> u64 {
        let Some(at) = self.position(id) else {
            return 0;
        };
        let entry = &mut self.entries[at];
        let settled = samples.min(entry.open);
        entry.open -= settled;
        settled
    }

    /// A line when it begins and every ten minutes while it lasts: each minute of a long outage loses a window.
    fn log_lost(&mut self, samples: u64) {
        self.lost += samples;
        if self.lost_log.is_due() {
            tracing::error!(
                samples = self.lost,
                "the queue is full: the oldest windows are lost"
            );
            self.lost = 0;
        }
    }

    fn give_up(&mut self, reason: DropReason, samples: u64) {
        self.tally.samples -= samples;
        if samples > 0 {
            *self.tally.dropped.entry(reason).or_default() += samples;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metric, Series, Windows};

    fn window(start: u64, samples: u32) -> ClosedWindow {
        let mut windows = Windows::new(Duration::from_secs(1), 10);
        windows.advance(Duration::from_secs(start));
        let points = (0..samples).map(|n| (Series::plain(Metric::CpuUsageActive), f64::from(n)));
        windows.record(points, Duration::ZERO);
        windows.close().remove(0)
    }

    fn balanced(queue: &Queue, pushed: u64) -> Tally {
        let tally = queue.tally();
        let sum = tally.accepted + tally.samples + tally.dropped_total();
        assert_eq!(sum, pushed, "{tally:?}");
        tally
    }

    #[test]
    fn a_window_stays_until_it_is_finished() {
        let queue = Queue::new(2);
        queue.push(window(1, 3));
        let first = queue.oldest().ready().unwrap();
        queue.accept(first.id, 2);
        assert_eq!(balanced(&queue, 3).samples, 1);
        queue.accept(first.id, 1);
        queue.finish(first.id, DropReason::Refused);
        let tally = balanced(&queue, 3);
        assert_eq!((tally.windows, tally.accepted, tally.oldest), (0, 3, None));
        assert!(tally.dropped.is_empty());
    }

    #[test]
    fn what_is_left_of_a_finished_window_is_never_forgotten() {
        let queue = Queue::new(2);
        queue.push(window(1, 5));
        let id = queue.newest(&BTreeSet::new()).ready().unwrap().id;
        queue.accept(id, 1);
        queue.give_up(id, DropReason::Refused, 1);
        queue.finish(id, DropReason::TooOld);
        let dropped = balanced(&queue, 5).dropped;
        assert_eq!(dropped[&DropReason::Refused], 1);
        assert_eq!(dropped[&DropReason::TooOld], 3);
    }

    #[test]
    fn a_full_queue_lets_the_oldest_go_and_counts_what_did_not_arrive() {
        let queue = Queue::new(2);
        queue.push(window(1, 4));
        let first = queue.oldest().ready().unwrap().id;
        queue.accept(first, 1);
        queue.push(window(2, 1));
        queue.push(window(3, 1));
        let tally = balanced(&queue, 6);
        assert_eq!(
            (tally.oldest, tally.windows, tally.dropped[&DropReason::QueueFull]),
            (Some(2), 2, 3)
        );
        queue.accept(first, 3);
        queue.finish(first, DropReason::Refused);
        assert_eq!(
            balanced(&queue, 6).windows,
            2,
            "what was let go is not mistaken for another"
        );
    }

    #[test]
    fn what_is_being_published_is_not_let_go_so_that_it_is_counted_once() {
        let queue = Queue::new(2);
        queue.push(window(1, 1));
        let held = queue.oldest().ready().unwrap();
        for start in 2..=4 {
            queue.push(window(start, 1));
        }
        let tally = balanced(&queue, 4);
        assert_eq!(
            (tally.oldest, tally.windows, tally.dropped[&DropReason::QueueFull]),
            (Some(1), 2, 2)
        );
        queue.accept(held.id, 1);
        queue.finish(held.id, DropReason::Refused);
        let tally = balanced(&queue, 4);
        assert_eq!((tally.oldest, tally.accepted, tally.samples), (Some(4), 1, 1));
    }

    #[test]
    fn bytes_fill_a_queue_as_well_as_windows_do() {
        let queue = Queue::bounded(10, 3 * window(1, 1).bytes());
        for start in 1..=5 {
            queue.push(window(start, 1));
        }
        let tally = balanced(&queue, 5);
        assert_eq!((tally.oldest, tally.samples), (Some(3), 3));
        let held = queue.oldest().ready().unwrap();
        // Distinct values take room, repeated ones do not.
        queue.push(window(6, 100));
        let tally = balanced(&queue, 105);
        assert_eq!(
            (tally.windows, tally.samples),
            (2, 101),
            "all have gone but the one in flight, and the newest is there"
        );
        drop(held);
    }

    #[test]
    fn newest_and_oldest_go_by_the_order_of_pushing() {
        let queue = Queue::new(3);
        queue.push(window(10, 1));
        queue.push(window(5, 1));
        assert_eq!(
            queue.newest(&BTreeSet::new()).ready().unwrap().window.start,
            5,
            "the clock was set back"
        );
        assert_eq!(queue.oldest().ready().unwrap().window.start, 10);
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken_and_no_push_is_missed() {
        let queue = Arc::new(Queue::new(2));
        queue.push(window(8, 1));
        queue.changed().await;
        let reader = Arc::clone(&queue);
        let waiting = tokio::spawn(async move {
            reader.changed().await;
            reader.newest(&BTreeSet::new()).ready().unwrap().window.start
        });
        tokio::task::yield_now().await;
        queue.push(window(9, 1));
        assert_eq!(waiting.await.unwrap(), 9);
    }
}
