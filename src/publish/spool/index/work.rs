//! What the disk has to do next, and what it says when it has done it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::{Disk, Entry, Index};
use crate::metrics::ClosedWindow;
use crate::metrics::window::DropReason;
use crate::publish::spool::origin::Origin;
use crate::publish::spool::record::Recorded;
use crate::publish::spool::totals::Totals;
use crate::publish::store::WindowId;

/// So many windows are written at once: what piled up in memory while the disk was ill comes in modest pieces.
const MOST_PUTS: usize = 8;

/// A record that was found on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::publish::spool) struct Found {
    /// Its key.
    pub(in crate::publish::spool) key: u64,
    /// Its bytes.
    pub(in crate::publish::spool) bytes: u32,
    /// Start of its window, Unix seconds.
    pub(in crate::publish::spool) start: u64,
    /// Samples in it.
    pub(in crate::publish::spool) samples: u64,
    /// Where it was written; one for all that were written there.
    pub(in crate::publish::spool) origin: Arc<Origin>,
}

/// What the disk has to do.
#[derive(Debug)]
pub(in crate::publish::spool) enum Work {
    /// One transaction.
    Commit(Box<Commit>),
    /// A window that somebody is waiting for.
    Load(WindowId, u64),
}

/// One transaction.
#[derive(Clone, Debug)]
pub(in crate::publish::spool) struct Commit {
    /// Windows to write, the newest first.
    pub(in crate::publish::spool) puts: Vec<Put>,
    /// Records to remove.
    pub(in crate::publish::spool) removals: Vec<Removal>,
    /// The ledger as it is after that; absent as long as it is not known whose it is.
    pub(in crate::publish::spool) totals: Option<Totals>,
    /// What the records say about where they were written.
    pub(in crate::publish::spool) origin: Origin,
}

/// A record to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::publish::spool) struct Removal {
    /// Its key.
    pub(in crate::publish::spool) key: u64,
    /// Its bytes.
    pub(in crate::publish::spool) bytes: u32,
}

/// A window to write.
#[derive(Clone, Debug)]
pub(in crate::publish::spool) struct Put {
    /// Its name.
    pub(in crate::publish::spool) id: WindowId,
    /// Its key.
    pub(in crate::publish::spool) key: u64,
    /// Its content.
    pub(in crate::publish::spool) window: Arc<ClosedWindow>,
}

impl Index {
    /// Whether the disk is at work, or will be as soon as it has seen what there is.
    pub(super) fn has_work(&self) -> bool {
        let waits = || !self.removals.is_empty() || self.entries.iter().any(|entry| entry.stored == 0);
        self.at_work_since.is_some() || (self.disk == Disk::Well && waits())
    }

    /// What the disk, which is open, has to do next; it begins now.
    /// `tries` says whether one that did not take what it was given is tried again.
    pub(in crate::publish::spool) fn work(&mut self, tries: bool, now: Duration) -> Option<Work> {
        let work = self
            .commit(tries)
            .map(|commit| Work::Commit(Box::new(commit)))
            .or_else(|| self.load())?;
        self.at_work_since = Some(now);
        Some(work)
    }

    fn commit(&self, tries: bool) -> Option<Commit> {
        let (removes, most) = match self.disk {
            Disk::Opening | Disk::Failing => return None,
            Disk::Well => (true, MOST_PUTS),
            Disk::NoRoom => (true, usize::from(tries)),
            Disk::ReadOnly => (tries, usize::from(tries)),
        };
        let unsaved = self.entries.iter().rev().filter(|entry| entry.stored == 0);
        let puts: Vec<Put> = unsaved.take(most).filter_map(Self::put).collect();
        if puts.is_empty() && (self.removals.is_empty() || !removes) {
            return None;
        }
        let totals = self.totals(&puts);
        Some(Commit {
            puts,
            removals: self.removals.clone(),
            totals,
            origin: self.here.clone(),
        })
    }

    fn put(entry: &Entry) -> Option<Put> {
        Some(Put {
            id: entry.id,
            key: entry.key?,
            window: Arc::clone(entry.memory.as_ref()?),
        })
    }

    fn load(&self) -> Option<Work> {
        let entry = self.entry(self.wanted?)?;
        Some(Work::Load(entry.id, entry.key?))
    }

    /// The ledger of all runs once what is to go is gone.
    pub(super) fn totals(&self, puts: &[Put]) -> Option<Totals> {
        let owner = self.owner.as_ref()?;
        let put: u64 = puts.iter().map(|put| put.window.samples()).sum();
        let stored = self.entries.iter().filter(|entry| entry.stored > 0);
        let stored: u64 = stored.map(|entry| entry.samples).sum();
        let earlier = &self.ledger.earlier;
        let mut dropped = earlier.dropped.clone();
        for (reason, samples) in self.ledger.gone.dropped.iter().chain(&self.ledger.refused) {
            *dropped.entry(*reason).or_default() += samples;
        }
        Some(Totals {
            instance: self.here.instance.clone(),
            since: earlier.since.unwrap_or(self.started),
            runs: earlier.runs + 1,
            accepted: earlier.accepted + self.ledger.gone.accepted,
            waiting: stored + put,
            dropped,
            boots: owner.nameless().clone(),
        })
    }

    /// Somebody begins to open the disk.
    pub(in crate::publish::spool) fn begins(&mut self, now: Duration) {
        self.at_work_since = Some(now);
    }

    /// How the disk is doing.
    pub(in crate::publish::spool) fn disk(&self) -> Disk {
        self.disk
    }

    /// The disk is open, and this is on it. What is in memory alone is written next.
    pub(in crate::publish::spool) fn opened(&mut self, found: Vec<Found>, totals: Vec<Totals>) {
        self.at_work_since = None;
        self.disk = Disk::Well;
        if self.next_key.is_none() {
            self.take_in(found, totals);
        } else {
            self.compare(&found);
        }
        self.sort_out();
    }

    /// The disk is open, and it is another one than before: its file was replaced, or a file system was mounted over
    /// it or taken away. What is on it was left by earlier runs, or by this one before that.
    pub(in crate::publish::spool) fn exchanged(&mut self, found: Vec<Found>, totals: Vec<Totals>) {
        self.at_work_since = None;
        self.disk = Disk::Well;
        for entry in &mut self.entries {
            entry.stored = 0;
        }
        self.removals.clear();
        self.last_read = None;
        self.lose_what_is_nowhere();
        self.take_in(found, totals);
        self.sort_out();
    }

    /// A disk that was not seen before: whose records it has is not known yet, and this run's follow them.
    fn take_in(&mut self, found: Vec<Found>, totals: Vec<Totals>) {
        let last = found.iter().map(|found| found.key).max();
        let mut next_key = last.map_or(0, |last| last + 1);
        for entry in &mut self.entries {
            entry.key = Some(next_key);
            entry.in_doubt = false;
            next_key += 1;
        }
        self.next_key = Some(next_key);
        self.others = found;
        let ledger = &mut self.ledger;
        ledger.left.extend(ledger.written.take());
        let is_news = |totals: &Totals| !ledger.left.contains(totals);
        ledger.found = totals.into_iter().filter(is_news).collect();
    }

    /// The disk was opened again: it may be empty, and it may hold what was thought not to have been written.
    fn compare(&mut self, found: &[Found]) {
        let on_disk: BTreeMap<u64, u32> = found.iter().map(|found| (found.key, found.bytes)).collect();
        for entry in &mut self.entries {
            let stored = entry.key.and_then(|key| on_disk.get(&key));
            entry.stored = stored.copied().unwrap_or(0);
            entry.in_doubt = false;
        }
        self.others.retain(|other| on_disk.contains_key(&other.key));
        let others = self.others.iter().map(|other| Some(other.key));
        let entries = self.entries.iter().map(|entry| entry.key);
        let known: BTreeSet<Option<u64>> = entries.chain(others).collect();
        let unknown = on_disk
            .into_iter()
            .filter(|(key, _)| !known.contains(&Some(*key)));
        self.removals = unknown.map(|(key, bytes)| Removal { key, bytes }).collect();
        self.lose_what_is_nowhere();
    }

    fn lose_what_is_nowhere(&mut self) {
        let missing = self.entries.iter().filter(|entry| entry.is_nowhere());
        let missing: Vec<(WindowId, u64)> = missing.map(|entry| (entry.id, entry.open())).collect();
        if missing.is_empty() {
            return;
        }
        let samples = missing.iter().map(|(_, samples)| samples).sum();
        self.lost.add(samples, DropReason::SpoolDamaged);
        for (id, _) in missing {
            self.finish(id, DropReason::SpoolDamaged);
        }
    }

    /// Takes over what is this node's, once it is known who that is and what is on the disk.
    pub(super) fn sort_out(&mut self) {
        let (Some(owner), Some(_)) = (&mut self.owner, self.next_key) else {
            return;
        };
        for other in &self.others {
            owner.learn(&other.origin);
        }
        for totals in &self.ledger.found {
            if totals.instance.is_some() && totals.instance == self.here.instance {
                owner.learn_boots(&totals.boots);
            }
        }
        let (ours, others) = std::mem::take(&mut self.others)
            .into_iter()
            .partition::<Vec<_>, _>(|found| owner.owns(&found.origin));
        self.others = others;
        for found in &ours {
            owner.took_over(&found.origin);
        }
        let recovered: u64 = ours.iter().map(|found| found.samples).sum();
        if !ours.is_empty() {
            tracing::info!(
                windows = ours.len(),
                samples = recovered,
                "earlier runs left windows in the spool: they are published too"
            );
        }
        // They are in the order of their keys.
        self.first -= ours.len() as u64;
        let entries = (self.first..).zip(&ours).map(|(id, found)| Entry {
            id: WindowId(id),
            key: Some(found.key),
            start: found.start,
            samples: found.samples,
            stored: found.bytes,
            in_doubt: false,
            memory: None,
            settled: None,
        });
        let mut entries: VecDeque<Entry> = entries.collect();
        entries.append(&mut self.entries);
        self.entries = entries;
        self.add_up_earlier(recovered);
    }

    fn add_up_earlier(&mut self, recovered: u64) {
        let ledger = &mut self.ledger;
        let instance = &self.here.instance;
        let ours = std::mem::take(&mut ledger.found)
            .into_iter()
            .find(|totals| totals.instance == *instance);
        if let Some(mut totals) = ours {
            let missing = totals.waiting.saturating_sub(recovered);
            if missing > 0 {
                *totals.dropped.entry(DropReason::SpoolDamaged).or_default() += missing;
            }
            let earlier = &mut ledger.earlier;
            earlier.since = earlier.since.into_iter().chain([totals.since]).min();
            earlier.runs += totals.runs;
            earlier.collected += totals.accepted + totals.dropped.values().sum::<u64>();
            earlier.accepted += totals.accepted;
            for (reason, samples) in totals.dropped {
                *earlier.dropped.entry(reason).or_default() += samples;
            }
        }
        ledger.earlier.collected += recovered;
    }

    /// A transaction was made: windows by their bytes on the disk.
    pub(in crate::publish::spool) fn committed(&mut self, commit: &Commit, stored: &[u32]) {
        self.at_work_since = None;
        if self.disk == Disk::ReadOnly || !commit.puts.is_empty() {
            self.disk = Disk::Well;
        }
        if commit.totals.is_some() {
            self.ledger.written.clone_from(&commit.totals);
        }
        let removed: BTreeSet<u64> = commit.removals.iter().map(|removal| removal.key).collect();
        self.removals.retain(|removal| !removed.contains(&removal.key));
        for (put, bytes) in commit.puts.iter().zip(stored) {
            match self.entry_mut(put.id) {
                Some(entry) => entry.stored = *bytes,
                // It was sent from memory meanwhile, the disk being slow.
                None => self.removals.push(Removal {
                    key: put.key,
                    bytes: *bytes,
                }),
            }
        }
        self.forget_what_can_be_read_again();
    }

    /// A transaction has failed. What it was to write may be there even so, and must not come back from there once it was
    /// sent from memory.
    pub(in crate::publish::spool) fn in_doubt(&mut self, commit: &Commit) {
        for put in &commit.puts {
            match self.entry_mut(put.id) {
                Some(entry) => entry.in_doubt = true,
                None => self.removals.push(Removal {
                    key: put.key,
                    bytes: 0,
                }),
            }
        }
    }

    /// A window was read.
    pub(in crate::publish::spool) fn loaded(&mut self, id: WindowId, recorded: Recorded) {
        self.at_work_since = None;
        self.wanted = None;
        self.give_up(id, DropReason::UnknownMetric, recorded.unknown);
        if recorded.window.series.is_empty() {
            self.finish(id, DropReason::UnknownMetric);
        } else if let Some(entry) = self.entry_mut(id) {
            entry.memory = Some(Arc::new(recorded.window));
        }
        self.last_read = Some(id);
        self.forget_what_can_be_read_again();
    }

    /// A window cannot be read again.
    pub(in crate::publish::spool) fn damaged(&mut self, id: WindowId) {
        self.at_work_since = None;
        self.wanted = None;
        let open = self.entry(id).map_or(0, Entry::open);
        self.lost.add(open, DropReason::SpoolDamaged);
        self.finish(id, DropReason::SpoolDamaged);
    }

    /// The disk did not do what it had to.
    pub(in crate::publish::spool) fn failed(&mut self, disk: Disk) {
        self.at_work_since = None;
        self.wanted = None;
        self.disk = disk;
    }

    /// Lets the oldest windows on the disk go until `bytes` of them are gone, those of other nodes first. Returns
    /// whether there were so many; if not, none goes.
    pub(in crate::publish::spool) fn let_go(&mut self, bytes: u64) -> bool {
        self.at_work_since = None;
        if self.may_go() < bytes {
            return false;
        }
        let mut freed = 0;
        while freed < bytes {
            // They are in the order of their keys.
            if !self.others.is_empty() {
                let Found { key, bytes, .. } = self.others.remove(0);
                freed += u64::from(bytes);
                self.removals.push(Removal { key, bytes });
                continue;
            }
            let oldest = self
                .entries
                .iter()
                .find(|entry| entry.stored > 0 && !entry.is_held());
            let Some((id, stored)) = oldest.map(|entry| (entry.id, entry.stored)) else {
                return false;
            };
            freed += u64::from(stored);
            let open = self.entry(id).map_or(0, Entry::open);
            self.lost.add(open, DropReason::SpoolFull);
            self.finish(id, DropReason::SpoolFull);
        }
        true
    }

    /// Bytes on the disk that nobody is sending.
    fn may_go(&self) -> u64 {
        let ours = self.entries.iter().filter(|entry| !entry.is_held());
        let ours: u64 = ours.map(|entry| u64::from(entry.stored)).sum();
        let others = self.others.iter().map(|other| u64::from(other.bytes));
        ours + others.sum::<u64>()
    }
}
