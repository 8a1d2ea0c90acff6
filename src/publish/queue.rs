//! Closed windows that are not published yet, in memory.
//!
//! The only hand-over between the sampler and the publisher. A window stays in it until it was published. It is
//! bounded, by windows and by the samples in them: when it is full the oldest window goes, and its samples are counted as dropped, because the newest
//! minute is the one that somebody is looking at. One that is being published stays, because it may arrive: no
//! sample is counted both as published and as dropped.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::metrics::ClosedWindow;

/// An hour of one-minute windows.
pub const CAPACITY: usize = 60;

/// Samples in all windows together. A sample whose value is like no other takes 16 bytes: 32 MB at the most, which
/// is reached only where `publish.interval` is long and `sample.interval` short.
const MAX_SAMPLES: u64 = 2_000_000;

/// A bounded queue with one writer and one reader.
#[derive(Debug)]
pub struct Queue {
    capacity: usize,
    max_samples: u64,
    state: Mutex<State>,
    pushed: Notify,
}

#[derive(Debug, Default)]
struct State {
    windows: VecDeque<Arc<ClosedWindow>>,
    dropped_samples: u64,
}

impl State {
    fn samples(&self) -> u64 {
        self.windows.iter().map(|window| window.samples()).sum()
    }

    fn take_oldest_unheld(&mut self) -> Option<Arc<ClosedWindow>> {
        let is_unheld = |window| Arc::strong_count(window) == 1;
        let at = self.windows.iter().position(is_unheld)?;
        self.windows.remove(at)
    }
}

impl Queue {
    /// An empty queue for `capacity` windows.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::bounded(capacity, MAX_SAMPLES)
    }

    fn bounded(capacity: usize, max_samples: u64) -> Self {
        Self {
            capacity: capacity.max(1),
            max_samples,
            state: Mutex::default(),
            pushed: Notify::new(),
        }
    }

    /// Adds the newest window. A full queue lets the oldest go that the reader does not hold, and more of them until
    /// there is room; the newest is taken in any case.
    pub fn push(&self, window: ClosedWindow) {
        let mut state = self.lock();
        while !self.has_room(&state, &window)
            && let Some(lost) = state.take_oldest_unheld()
        {
            tracing::error!(
                start = lost.start,
                samples = lost.samples(),
                "the queue is full: oldest window lost"
            );
            state.dropped_samples += lost.samples();
        }
        state.windows.push_back(Arc::new(window));
        drop(state);
        self.pushed.notify_one();
    }

    /// The oldest window; waits for one. It stays in the queue until [`Queue::published`]. Cancel-safe.
    pub async fn next(&self) -> Arc<ClosedWindow> {
        loop {
            if let Some(window) = self.front() {
                return window;
            }
            self.pushed.notified().await;
        }
    }

    /// The oldest window, if there is one.
    #[must_use]
    pub fn front(&self) -> Option<Arc<ClosedWindow>> {
        self.lock().windows.front().map(Arc::clone)
    }

    /// Removes a window that was published.
    pub fn published(&self, window: &Arc<ClosedWindow>) {
        self.lock().windows.retain(|known| !Arc::ptr_eq(known, window));
    }

    /// Start of the oldest window, in Unix seconds.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.front().map(|window| window.start)
    }

    /// How many windows wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().windows.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Samples in the windows that wait.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.lock().samples()
    }

    /// Samples of windows that a full queue let go.
    #[must_use]
    pub fn dropped_samples(&self) -> u64 {
        self.lock().dropped_samples
    }

    fn has_room(&self, state: &State, window: &ClosedWindow) -> bool {
        state.windows.len() < self.capacity && state.samples() + window.samples() <= self.max_samples
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metric, Series, Windows};
    use std::time::Duration;

    fn window(start: u64) -> ClosedWindow {
        let mut windows = Windows::new(Duration::from_secs(1), 10);
        windows.advance(Duration::from_secs(start));
        windows.record([(Series::plain(Metric::CpuUsageActive), 1.0)], Duration::ZERO);
        windows.close().remove(0)
    }

    #[test]
    fn a_window_stays_until_it_was_published() {
        let queue = Queue::new(2);
        queue.push(window(1));
        let first = queue.front().unwrap();
        assert_eq!(queue.oldest(), Some(1));
        queue.published(&first);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_full_queue_lets_the_oldest_go_and_counts_it() {
        let queue = Queue::new(2);
        for start in 1..=3 {
            queue.push(window(start));
        }
        assert_eq!(
            (queue.oldest(), queue.len(), queue.dropped_samples()),
            (Some(2), 2, 1)
        );
    }

    #[test]
    fn what_is_being_published_is_not_let_go_so_that_it_is_counted_once() {
        let queue = Queue::new(2);
        queue.push(window(1));
        let held = queue.front().unwrap();
        for start in 2..=4 {
            queue.push(window(start));
        }
        assert_eq!(
            (queue.oldest(), queue.len(), queue.dropped_samples()),
            (Some(1), 2, 2)
        );
        queue.published(&held);
        assert_eq!((queue.oldest(), queue.samples()), (Some(4), 1));
    }

    #[test]
    fn samples_fill_a_queue_as_well_as_windows_do() {
        let queue = Queue::bounded(10, 3);
        for start in 1..=5 {
            queue.push(window(start));
        }
        assert_eq!(
            (queue.oldest(), queue.samples(), queue.dropped_samples()),
            (Some(3), 3, 2)
        );
        let held = queue.front().unwrap();
        let mut big = window(6);
        big.series = vec![big.series[0].clone(); 4];
        queue.push(big);
        assert_eq!(
            (queue.len(), queue.samples(), queue.dropped_samples()),
            (2, 5, 4),
            "all have gone but the one in flight, and the newest is there"
        );
        drop(held);
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken() {
        let queue = Arc::new(Queue::new(2));
        let reader = Arc::clone(&queue);
        let waiting = tokio::spawn(async move { reader.next().await.start });
        tokio::task::yield_now().await;
        queue.push(window(9));
        assert_eq!(waiting.await.unwrap(), 9);
    }
}
