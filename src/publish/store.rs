//! The contract of what keeps closed windows until they are published.
//!
//! It is the only hand-over between the sampler and the publisher, and the keeper of the second half of the ledger:
//! pushed = accepted + waiting + dropped by reason, at every instant, because one lock guards all of it.
//!
//! No call blocks: the sampler and the publisher share one thread with everything else. A store with a disk under it
//! keeps what these calls need in memory and leaves the disk to a thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use tokio::sync::futures::Notified;

use crate::metrics::ClosedWindow;
use crate::metrics::window::DropReason;

/// Names a window within its store; a later window has a greater one. Starts repeat when the clock is set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WindowId(pub u64);

/// A window that waits to be published.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its name.
    pub id: WindowId,
    /// Its samples, those that were accepted already included.
    pub window: Arc<ClosedWindow>,
}

/// What became of everything that was pushed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Windows that wait.
    pub windows: usize,
    /// Samples that wait.
    pub samples: u64,
    /// Start of the oldest window that waits, Unix seconds.
    pub oldest: Option<u64>,
    /// Samples that arrived.
    pub accepted: u64,
    /// Samples given up, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
}

impl Tally {
    /// Samples given up for any reason.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }
}

/// Keeps closed windows. One writer, one publisher, any number of readers of the tally.
pub trait Store: fmt::Debug + Send + Sync {
    /// Adds the newest window. A full store lets the oldest go and counts it.
    fn push(&self, window: ClosedWindow);

    /// The newest window that waits and is not in `except`. It stays until [`Store::finish`].
    fn newest(&self, except: &BTreeSet<WindowId>) -> Option<Waiting>;

    /// The oldest window that waits. It stays until [`Store::finish`].
    fn oldest(&self) -> Option<Waiting>;

    /// Samples of a window have arrived. Of a window that was let go meanwhile they stay counted as dropped: the
    /// ledger errs on the side of loss.
    fn accept(&self, id: WindowId, samples: u64);

    /// Samples of a window are given up.
    fn give_up(&self, id: WindowId, reason: DropReason, samples: u64);

    /// Removes a window. Samples of it that neither arrived nor were given up are given up for `leftover`.
    fn finish(&self, id: WindowId, leftover: DropReason);

    /// What became of everything so far.
    fn tally(&self) -> Tally;

    /// Ends after the next push, at once if there was one since it was last waited for. Cancel-safe.
    fn pushed(&self) -> Notified<'_>;
}
