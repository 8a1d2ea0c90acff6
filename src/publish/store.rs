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

use super::spool::SpoolStatus;
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

/// What a look for a window finds.
#[derive(Clone, Debug)]
pub enum Next {
    /// This one.
    Ready(Waiting),
    /// There is one, and it is on its way to or from the disk: [`Store::changed`] says when it has come. If the disk
    /// hangs, nobody says so: whoever waits looks again after a second or two.
    Loading,
    /// None.
    Empty,
}

impl Next {
    /// The window, if it is at hand.
    #[must_use]
    pub fn ready(self) -> Option<Waiting> {
        match self {
            Self::Ready(waiting) => Some(waiting),
            Self::Loading | Self::Empty => None,
        }
    }
}

impl From<Option<Waiting>> for Next {
    fn from(waiting: Option<Waiting>) -> Self {
        waiting.map_or(Self::Empty, Self::Ready)
    }
}

/// What became of everything that was pushed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Windows that wait.
    pub windows: usize,
    /// Samples that wait.
    pub samples: u64,
    /// What they take, in bytes, on the disk or else in memory.
    pub bytes: u64,
    /// Start of the oldest window that waits, Unix seconds.
    pub oldest: Option<u64>,
    /// Samples that arrived.
    pub accepted: u64,
    /// Samples given up, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
    /// Samples that wait in memory and nowhere else: they are lost when the agent ends.
    pub unsaved: u64,
    /// Whether the disk is not yet where memory is.
    pub is_busy: bool,
    /// What became of everything in earlier runs of the agent on this node. None of it is in the other numbers, save
    /// for what they left waiting.
    pub earlier: Earlier,
}

/// The ledger of the runs before this one: collected = accepted + dropped + what they left waiting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Earlier {
    /// When the first of them began, Unix seconds; absent when this is the first, or nothing is known.
    pub since: Option<u64>,
    /// How many runs.
    pub runs: u64,
    /// Samples taken.
    pub collected: u64,
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
    fn newest(&self, except: &BTreeSet<WindowId>) -> Next;

    /// The oldest window that waits. It stays until [`Store::finish`].
    fn oldest(&self) -> Next;

    /// The name of the oldest window that waits. Every window below it is gone.
    fn oldest_id(&self) -> Option<WindowId>;

    /// Samples of a window have arrived. Of a window that was let go meanwhile they stay counted as dropped: the
    /// ledger errs on the side of loss.
    fn accept(&self, id: WindowId, samples: u64);

    /// Samples of a window are given up.
    fn give_up(&self, id: WindowId, reason: DropReason, samples: u64);

    /// Removes a window. Samples of it that neither arrived nor were given up are given up for `leftover`.
    fn finish(&self, id: WindowId, leftover: DropReason);

    /// The node knows who it is: what its earlier runs left behind is its own, what another node left is not.
    fn claim(&self, instance: Option<&str>);

    /// Lets go of windows that begin before `start`, in Unix seconds; returns how many samples are lost so.
    fn expire(&self, start: u64) -> u64;

    /// Samples that never came into a window, by reason, since the agent started: they belong into the ledger of
    /// all runs.
    fn note_refused(&self, refused: &BTreeMap<DropReason, u64>);

    /// What became of everything so far.
    fn tally(&self) -> Tally;

    /// How the disk is doing, if there is one.
    fn spool(&self) -> Option<SpoolStatus>;

    /// Ends when a look for a window may find another answer, after a push for instance; at once if that happened since it
    /// was last waited for. Cancel-safe, for one waiter.
    fn changed(&self) -> Notified<'_>;
}
