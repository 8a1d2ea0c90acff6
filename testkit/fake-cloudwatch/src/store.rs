//! What the fake knows: the accepted datums and the log, and a way to wait for either.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_stub::{Exchange, lock};

use crate::attempt::Attempt;
use crate::datum::AcceptedDatum;

/// Shared between the connections, which write, and the tests, which read and wait.
#[derive(Default)]
pub(crate) struct Store {
    contents: Mutex<Contents>,
    changed: Condvar,
}

/// Both grow until they are taken.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) accepted: Vec<AcceptedDatum>,
    pub(crate) attempts: Vec<Attempt>,
    /// Attempts that arrived so far, those that were taken included.
    arrived: u64,
}

impl Store {
    /// Opens the log entry of a request and returns its number.
    pub(crate) fn begin(&self, exchange: &Exchange<'_>) -> u64 {
        self.change(|contents| {
            let number = contents.arrived;
            contents.arrived += 1;
            contents.attempts.push(Attempt::of(number, exchange));
            number
        })
    }

    /// Changes a log entry, unless it was taken meanwhile.
    pub(crate) fn note(&self, number: u64, note: impl FnOnce(&mut Attempt)) {
        self.change(|contents| {
            let entry = contents
                .attempts
                .iter_mut()
                .rfind(|attempt| attempt.number == number);
            if let Some(attempt) = entry {
                note(attempt);
            }
        });
    }

    pub(crate) fn accept(&self, number: u64, mut datums: Vec<AcceptedDatum>) {
        self.note(number, |attempt| attempt.committed = true);
        self.change(|contents| contents.accepted.append(&mut datums));
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Contents) -> T) -> T {
        read(&lock(&self.contents))
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Contents) -> T) -> T {
        let changed = change(&mut lock(&self.contents));
        self.changed.notify_all();
        changed
    }

    /// Whether the condition held within the time.
    pub(crate) fn wait(&self, timeout: Duration, holds: impl Fn(&Contents) -> bool) -> bool {
        let end = Instant::now() + timeout;
        let mut contents = lock(&self.contents);
        while !holds(&contents) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(contents, left);
            contents = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}
