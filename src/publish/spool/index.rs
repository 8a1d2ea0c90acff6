//! Which windows wait, which of them are on the disk, and what became of all others. Pure: no I/O, time is an argument.
//!
//! A window is pushed into memory, written, handed out from memory or read again, and removed. The disk follows: what
//! it has to do next is a function of what is here ([`work`]), and it says afterwards what it has done.
//!
//! Invariants: pushed + recovered = accepted + waiting + dropped, at every instant. What the disk holds is consistent
//! after every commit: the totals that are written with it count the samples of exactly those windows that are gone.
//! Windows of one another's nodes are never handed out and never counted.

mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::origin::{Origin, Owner};
use super::totals::Totals;
use crate::log;
use crate::metrics::ClosedWindow;
use crate::metrics::window::DropReason;
use crate::publish::store::{Earlier, Next, Tally, Waiting, WindowId};

use work::Removal;
pub(super) use work::{Commit, Found, Put, Work};

/// The first window of a run; what earlier runs left has smaller ids. No id is used twice.
const FIRST: u64 = 1 << 40;

/// A disk that has not answered for so long holds up no window that is in memory too.
const PATIENCE: Duration = Duration::from_secs(2);

/// What may be in memory and not on the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Windows.
    pub(super) windows: usize,
    /// Bytes of all windows together.
    pub(super) bytes: usize,
}

/// How the disk is doing, as far as windows are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    /// It is being opened.
    Opening,
    /// It reads and writes.
    Well,
    /// It may not grow: what is on it can be read and removed.
    NoRoom,
    /// It takes nothing: what is on it can be read.
    ReadOnly,
    /// It is of no use.
    Failing,
}

/// Every window that waits.
#[derive(Debug)]
pub(super) struct Index {
    limits: Limits,
    here: Origin,
    /// When this run began, Unix seconds.
    started: u64,
    /// Who this node is, once that is settled.
    owner: Option<Owner>,
    /// In the order of their ids.
    entries: VecDeque<Entry>,
    /// What other nodes left, or somebody as long as it is not known who this node is.
    others: Vec<Found>,
    /// The id of the next window.
    next: u64,
    /// The smallest id so far.
    first: u64,
    /// The key of the next window on the disk; known when it was opened.
    next_key: Option<u64>,
    disk: Disk,
    /// Since when the disk has been at work, by the caller's clock.
    at_work_since: Option<Duration>,
    /// A window that somebody is waiting for.
    wanted: Option<WindowId>,
    /// The window that was read last.
    last_read: Option<WindowId>,
    /// Records that are to go.
    removals: Vec<Removal>,
    ledger: Ledger,
    lost: LostLog,
}

/// A window that waits.
#[derive(Debug)]
struct Entry {
    id: WindowId,
    /// Its key on the disk, whether it is there or not; absent as long as no disk was opened.
    key: Option<u64>,
    start: u64,
    samples: u64,
    /// Its bytes on the disk; 0 as long as it is not there.
    stored: u32,
    /// A transaction with it has failed, and may be on the disk all the same.
    in_doubt: bool,
    memory: Option<Arc<ClosedWindow>>,
    /// What has already become of some of its samples.
    settled: Option<Box<Settled>>,
}

#[derive(Clone, Debug, Default)]
struct Settled {
    accepted: u64,
    dropped: BTreeMap<DropReason, u64>,
}

/// The counted half of the tally.
#[derive(Debug, Default)]
struct Ledger {
    accepted: u64,
    dropped: BTreeMap<DropReason, u64>,
    /// Of the windows that are gone: what the disk is told.
    gone: Settled,
    /// Samples that never came into a window.
    refused: BTreeMap<DropReason, u64>,
    /// What the disk said about earlier runs of whatever node.
    found: Vec<Totals>,
    /// What it said about this node's.
    earlier: Earlier,
    /// What this run wrote last on the disk that is there now.
    written: Option<Totals>,
    /// The same of disks that were there before.
    left: Vec<Totals>,
}

#[derive(Debug, Default)]
struct LostLog {
    samples: u64,
    repeated: log::Repeated,
}

impl Index {
    /// An empty one on a node of which so much is known; the disk has been being opened since `now`.
    pub(super) fn new(limits: Limits, here: Origin, started: u64, now: Duration) -> Self {
        Self {
            limits,
            here,
            started,
            owner: None,
            entries: VecDeque::new(),
            others: Vec::new(),
            next: FIRST,
            first: FIRST,
            next_key: None,
            disk: Disk::Opening,
            at_work_since: Some(now),
            wanted: None,
            last_read: None,
            removals: Vec::new(),
            ledger: Ledger::default(),
            lost: LostLog::default(),
        }
    }

    /// See [`crate::publish::store::Store::push`].
    pub(super) fn push(&mut self, window: ClosedWindow) {
        self.make_room_in_memory(&window);
        let id = WindowId(self.next);
        self.next += 1;
        let key = self.new_key();
        self.entries.push_back(Entry {
            id,
            key,
            start: window.start,
            samples: window.samples(),
            stored: 0,
            in_doubt: false,
            memory: Some(Arc::new(window)),
            settled: None,
        });
        self.forget_what_can_be_read_again();
    }

    /// See [`crate::publish::store::Store::newest`].
    pub(super) fn newest(&mut self, except: &BTreeSet<WindowId>, now: Duration) -> Next {
        let readable = self.is_readable(now);
        let found = self
            .entries
            .iter()
            .rev()
            .find(|entry| !except.contains(&entry.id) && (readable || entry.memory.is_some()));
        let id = found.map(|entry| entry.id);
        self.hand_out(id, now)
    }

    /// See [`crate::publish::store::Store::oldest`].
    pub(super) fn oldest(&mut self, now: Duration) -> Next {
        let readable = self.is_readable(now);
        let found = self
            .entries
            .iter()
            .find(|entry| readable || entry.memory.is_some());
        let id = found.map(|entry| entry.id);
        self.hand_out(id, now)
    }

    /// See [`crate::publish::store::Store::oldest_id`].
    pub(super) fn oldest_id(&self) -> Option<WindowId> {
        self.entries.front().map(|entry| entry.id)
    }

    fn hand_out(&mut self, id: Option<WindowId>, now: Duration) -> Next {
        let waits_for_the_disk = self.writes(now);
        let Some(entry) = id.and_then(|id| self.entry(id)) else {
            return Next::Empty;
        };
        match &entry.memory {
            Some(_) if entry.stored == 0 && waits_for_the_disk => Next::Loading,
            Some(window) => Next::Ready(Waiting {
                id: entry.id,
                window: Arc::clone(window),
            }),
            None => {
                self.wanted = id;
                Next::Loading
            }
        }
    }

    /// Whether the disk takes what is pushed, soon.
    fn writes(&self, now: Duration) -> bool {
        matches!(self.disk, Disk::Opening | Disk::Well) && !self.is_stuck(now)
    }

    /// Whether what is on the disk can be read, soon.
    fn is_readable(&self, now: Duration) -> bool {
        matches!(self.disk, Disk::Well | Disk::NoRoom | Disk::ReadOnly) && !self.is_stuck(now)
    }

    /// Whether the disk has been at one task for longer than anybody waits for it.
    fn is_stuck(&self, now: Duration) -> bool {
        self.stuck_since(now).is_some()
    }

    /// Since when, if so.
    pub(super) fn stuck_since(&self, now: Duration) -> Option<Duration> {
        self.at_work_since
            .filter(|since| now.saturating_sub(*since) >= PATIENCE)
    }

    /// See [`crate::publish::store::Store::accept`].
    pub(super) fn accept(&mut self, id: WindowId, samples: u64) {
        if let Some(entry) = self.entry_mut(id) {
            let samples = samples.min(entry.open());
            entry.settled.get_or_insert_default().accepted += samples;
            self.ledger.accepted += samples;
        }
    }

    /// See [`crate::publish::store::Store::give_up`].
    pub(super) fn give_up(&mut self, id: WindowId, reason: DropReason, samples: u64) {
        if let Some(entry) = self.entry_mut(id) {
            let samples = samples.min(entry.open());
            if samples > 0 {
                let settled = entry.settled.get_or_insert_default();
                *settled.dropped.entry(reason).or_default() += samples;
                *self.ledger.dropped.entry(reason).or_default() += samples;
            }
        }
    }

    /// See [`crate::publish::store::Store::finish`].
    pub(super) fn finish(&mut self, id: WindowId, leftover: DropReason) {
        let open = self.entry(id).map_or(0, Entry::open);
        self.give_up(id, leftover, open);
        let Some(entry) = self.position(id).and_then(|at| self.entries.remove(at)) else {
            return;
        };
        if entry.stored > 0 || entry.in_doubt {
            let bytes = entry.stored;
            self.removals.extend(entry.key.map(|key| Removal { key, bytes }));
        }
        self.ledger.gone.add(entry.settled.as_deref());
        if self.wanted == Some(id) {
            self.wanted = None;
        }
    }

    /// See [`crate::publish::store::Store::expire`].
    pub(super) fn expire(&mut self, start: u64) -> u64 {
        let mut expired = 0;
        // One that somebody is sending is settled by him.
        while let Some(oldest) = self
            .entries
            .front()
            .filter(|entry| entry.start < start && !entry.is_held())
        {
            expired += oldest.open();
            self.finish(oldest.id, DropReason::TooOld);
        }
        let (gone, kept) = std::mem::take(&mut self.others)
            .into_iter()
            .partition::<Vec<_>, _>(|other| other.start < start);
        self.others = kept;
        let gone = gone.iter();
        self.removals
            .extend(gone.map(|&Found { key, bytes, .. }| Removal { key, bytes }));
        expired
    }

    /// See [`crate::publish::store::Store::note_refused`].
    pub(super) fn note_refused(&mut self, refused: &BTreeMap<DropReason, u64>) {
        self.ledger.refused.clone_from(refused);
    }

    /// See [`crate::publish::store::Store::claim`].
    pub(super) fn claim(&mut self, instance: Option<&str>) {
        if self.owner.is_none() {
            let was_nameless = self.here.instance.is_none() && instance.is_some();
            self.here.instance = instance.map(Into::into);
            let owner = self.owner.insert(Owner::new(self.here.clone()));
            if was_nameless {
                owner.was_nameless();
            }
            self.sort_out();
        }
    }

    /// See [`crate::publish::store::Store::tally`].
    pub(super) fn tally(&self) -> Tally {
        let open = |entry: &Entry| entry.open();
        let unsaved = self.entries.iter().filter(|entry| entry.stored == 0);
        Tally {
            windows: self.entries.len(),
            samples: self.entries.iter().map(open).sum(),
            bytes: self.entries.iter().map(Entry::bytes).sum(),
            oldest: self.entries.front().map(|entry| entry.start),
            accepted: self.ledger.accepted,
            dropped: self.ledger.dropped.clone(),
            unsaved: unsaved.map(open).sum(),
            is_busy: self.has_work(),
            earlier: self.ledger.earlier.clone(),
        }
    }

    /// Windows of other nodes on the disk, or of somebody as long as nobody knows who this node is.
    pub(super) fn others(&self) -> &[Found] {
        &self.others
    }

    fn make_room_in_memory(&mut self, window: &ClosedWindow) {
        loop {
            let unsaved = self.entries.iter().filter(|entry| entry.stored == 0);
            let (mut windows, mut bytes) = (0, 0);
            for entry in unsaved {
                windows += 1;
                bytes += entry.memory.as_ref().map_or(0, |window| window.bytes());
            }
            let fits = windows < self.limits.windows && bytes + window.bytes() <= self.limits.bytes;
            if fits
                || self.makes_room_on_disk()
                || !self.let_oldest_go(|entry| entry.stored == 0, DropReason::QueueFull)
            {
                return;
            }
        }
    }

    /// Where the disk is too full for the spool to grow, its oldest window makes room for the newest, which is one too many
    /// in memory until it is written.
    fn makes_room_on_disk(&mut self) -> bool {
        self.disk == Disk::NoRoom
            && self.removals.is_empty()
            && self.let_oldest_go(|entry| entry.stored > 0, DropReason::SpoolFull)
    }

    fn let_oldest_go(&mut self, which: impl Fn(&Entry) -> bool, reason: DropReason) -> bool {
        let found = self.entries.iter().find(|entry| !entry.is_held() && which(entry));
        let Some((id, open)) = found.map(|entry| (entry.id, entry.open())) else {
            return false;
        };
        self.finish(id, reason);
        self.lost.add(open, reason);
        true
    }

    /// What is on the disk and in nobody's hands leaves memory, but for the newest window and the one that was read last.
    fn forget_what_can_be_read_again(&mut self) {
        let newest = self.entries.back().map(|entry| entry.id);
        let last_read = self.last_read;
        let idle = |entry: &&mut Entry| {
            entry.stored > 0 && !entry.is_held() && Some(entry.id) != newest && Some(entry.id) != last_read
        };
        for entry in self.entries.iter_mut().filter(idle) {
            entry.memory = None;
        }
    }

    fn new_key(&mut self) -> Option<u64> {
        let key = self.next_key?;
        self.next_key = Some(key + 1);
        Some(key)
    }

    fn position(&self, id: WindowId) -> Option<usize> {
        self.entries.binary_search_by_key(&id, |entry| entry.id).ok()
    }

    fn entry(&self, id: WindowId) -> Option<&Entry> {
        self.position(id).map(|at| &self.entries[at])
    }

    fn entry_mut(&mut self, id: WindowId) -> Option<&mut Entry> {
        self.position(id).map(|at| &mut self.entries[at])
    }
}

impl Entry {
    /// Samples that have neither arrived nor been given up.
    fn open(&self) -> u64 {
        let settled = self.settled.as_ref();
        let settled = settled.map_or(0, |settled| {
            settled.accepted + settled.dropped.values().sum::<u64>()
        });
        self.samples - settled
    }

    fn bytes(&self) -> u64 {
        match (&self.memory, self.stored) {
            (Some(window), 0) => window.bytes() as u64,
            (_, stored) => u64::from(stored),
        }
    }

    /// Whether it is neither in memory nor on the disk.
    fn is_nowhere(&self) -> bool {
        self.stored == 0 && self.memory.is_none()
    }

    /// Whether somebody is sending it.
    fn is_held(&self) -> bool {
        self.memory
            .as_ref()
            .is_some_and(|window| Arc::strong_count(window) > 1)
    }
}

impl Settled {
    fn add(&mut self, other: Option<&Self>) {
        let Some(other) = other else {
            return;
        };
        self.accepted += other.accepted;
        for (reason, samples) in &other.dropped {
            *self.dropped.entry(*reason).or_default() += samples;
        }
    }
}

impl LostLog {
    /// A line when it begins and every ten minutes while it lasts: each minute of a long outage may lose a window.
    fn add(&mut self, samples: u64, reason: DropReason) {
        self.samples += samples;
        if self.repeated.is_due() {
            tracing::error!(
                samples = self.samples,
                reason = reason.as_str(),
                "windows are lost"
            );
            self.samples = 0;
        }
    }
}

#[cfg(test)]
mod tests;
