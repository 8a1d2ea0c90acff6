//! What the store's callers and the thread share.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::index::{Index, Work};
use super::report::Report;
use crate::metrics::clock;

/// One lock guards all of it, and nobody holds it while he waits for a disk.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// There may be work.
    wake: Condvar,
    /// A look for a window may find another answer.
    pub(super) changed: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) index: Index,
    pub(super) report: Report,
    /// Nobody needs the thread any more.
    pub(super) is_over: bool,
}

impl Shared {
    pub(super) fn new(index: Index, report: Report) -> Self {
        Self {
            state: Mutex::new(State {
                index,
                report,
                is_over: false,
            }),
            wake: Condvar::new(),
            changed: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A caller's change: the thread may have something to do.
    pub(super) fn call<T>(&self, change: impl FnOnce(&mut Index) -> T) -> T {
        let done = change(&mut self.lock().index);
        self.wake.notify_one();
        done
    }

    /// The thread's change: callers may find something.
    pub(super) fn answer<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let done = change(&mut self.lock());
        self.changed.notify_one();
        done
    }

    /// Ends the thread when it has nothing under way.
    pub(super) fn end(&self) {
        self.lock().is_over = true;
        self.wake.notify_one();
    }

    /// Waits for work. A disk that did not take what it was given is given it again at `retry`. `None` when it is over.
    pub(super) fn next_work(&self, retry: Instant) -> Option<Work> {
        let mut state = self.lock();
        while !state.is_over {
            let left = retry.saturating_duration_since(Instant::now());
            if let Some(work) = state.index.work(left.is_zero(), clock::boot_now()) {
                return Some(work);
            }
            state = self.wait(state, if left.is_zero() { None } else { Some(left) });
        }
        None
    }

    /// Sleeps; false when it is over.
    pub(super) fn sleeps_until(&self, due: Instant) -> bool {
        let mut state = self.lock();
        while !state.is_over {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            state = self.wait(state, Some(left));
        }
        false
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, at_most: Option<Duration>) -> MutexGuard<'a, State> {
        match at_most {
            None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(at_most) => {
                let (state, _) = self
                    .wake
                    .wait_timeout(state, at_most)
                    .unwrap_or_else(PoisonError::into_inner);
                state
            }
        }
    }
}
