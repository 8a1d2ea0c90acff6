//! One run of the agent: what its store is told, what it answers, and what the model says about that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::flaky::{Flaky, FlakyDisk, Stage};
use super::op::Call;
use super::truth::{Fate, OnDisk, Seq, Stored, seq};
use crate::metrics::ClosedWindow;
use crate::metrics::window::DropReason;
use crate::publish::spool::files::Directory;
use crate::publish::spool::index::{Commit, Disk, Index, Limits};
use crate::publish::spool::origin::Origin;
use crate::publish::spool::report::Report;
use crate::publish::spool::room::Bounds;
use crate::publish::spool::shared::Shared;
use crate::publish::spool::task::SpoolTask;
use crate::publish::spool::totals::Totals;
use crate::publish::store::{Earlier, Next, Waiting, WindowId};

/// When everything happens, but for what comes too late.
pub(super) const NOW: Duration = Duration::from_secs(100);

/// Windows that may wait in memory alone.
const IN_MEMORY: usize = 6;

/// One run.
pub(super) struct Run {
    pub(super) here: Origin,
    /// What the node will be told that it is.
    name: Option<String>,
    started: u64,
    pub(super) stage: Stage,
    pub(super) shared: Arc<Shared>,
    pub(super) task: SpoolTask<Flaky>,
    pub(super) disk: Option<FlakyDisk>,
    is_claimed: bool,
    /// Records that are not this node's, or not yet; `None` until the disk was opened.
    pub(super) others: Option<BTreeMap<u64, Stored>>,
    /// The ledgers that were found.
    rows: BTreeMap<Option<String>, Totals>,
    /// Boots of this node in which it did not know its name.
    boots: BTreeSet<String>,
    pub(super) earlier: Earlier,
    /// Samples that an earlier run has left and that are not there.
    pub(super) missing: u64,
    /// Windows that wait.
    pub(super) ids: BTreeMap<WindowId, Seq>,
    /// Those of them that the index believes to be on the disk.
    pub(super) stored: BTreeSet<WindowId>,
    /// What became of every window that this run has had.
    pub(super) fates: BTreeMap<Seq, Fate>,
    /// Those that do not wait any more.
    pub(super) gone: BTreeSet<Seq>,
    pub(super) held: Vec<Waiting>,
    /// Windows that are being written.
    pub(super) in_flight: BTreeSet<WindowId>,
    pub(super) refused: BTreeMap<DropReason, u64>,
    /// What the disk says about itself cannot be relied on.
    pub(super) is_unsure: bool,
    /// It has let go windows that are not its own, or not yet: their ledger does not know.
    pub(super) has_let_others_go: bool,
}

impl Run {
    pub(super) fn new(
        directory: Directory,
        bounds: Bounds,
        here: Origin,
        name: Option<String>,
        started: u64,
    ) -> Self {
        let limits = Limits {
            windows: IN_MEMORY,
            bytes: 1 << 30,
        };
        let index = Index::new(limits, here.clone(), started, NOW);
        let shared = Arc::new(Shared::new(
            index,
            Report::new(PathBuf::from("/spool/file"), bounds.max_bytes),
        ));
        let stage = Stage::default();
        let flaky = Flaky::new(directory, stage.clone());
        Self {
            here,
            name,
            started,
            stage,
            task: SpoolTask::new(flaky, bounds, Arc::clone(&shared)),
            shared,
            disk: None,
            is_claimed: false,
            others: None,
            rows: BTreeMap::new(),
            boots: BTreeSet::new(),
            earlier: Earlier::default(),
            missing: 0,
            ids: BTreeMap::new(),
            stored: BTreeSet::new(),
            fates: BTreeMap::new(),
            gone: BTreeSet::new(),
            held: Vec::new(),
            in_flight: BTreeSet::new(),
            refused: BTreeMap::new(),
            is_unsure: false,
            has_let_others_go: false,
        }
    }

    pub(super) fn index<T>(&self, ask: impl FnOnce(&mut Index) -> T) -> T {
        self.shared.call(ask)
    }

    pub(super) fn state(&self) -> Disk {
        self.index(|index| index.disk())
    }

    fn is_held(&self, id: WindowId) -> bool {
        self.in_flight.contains(&id) || self.held.iter().any(|held| held.id == id)
    }

    fn open(&self, pushed: &[ClosedWindow], seq: Seq) -> u64 {
        pushed[seq].samples() - self.fates[&seq].settled()
    }

    /// The disk was opened and holds this.
    pub(super) fn opened(&mut self, disk: &OnDisk, pushed: &[ClosedWindow]) {
        if let Some(others) = &mut self.others {
            others.retain(|key, _| disk.records.contains_key(key));
        } else {
            self.others = Some(disk.records.clone());
            self.rows.clone_from(&disk.rows);
            if self.is_claimed {
                self.take_over(pushed);
            }
        }
    }

    /// What this node's earlier runs have left is its own from now on.
    fn take_over(&mut self, pushed: &[ClosedWindow]) {
        let others = self.others.as_mut().expect("the disk was opened");
        let left = OnDisk {
            records: others.clone(),
            rows: self.rows.clone(),
        };
        let owned = left.owned(&self.here);
        let waiting = self.shared.call(|index| index.waiting());
        let new: Vec<WindowId> = waiting
            .iter()
            .map(|(id, _)| *id)
            .filter(|id| !self.ids.contains_key(id))
            .collect();
        assert_eq!(
            new.len(),
            owned.len(),
            "windows that are this node's own: {others:?}"
        );
        let mut recovered = 0;
        for (id, key) in new.into_iter().zip(owned) {
            let stored = others.remove(&key).expect("it is one of them");
            recovered += pushed[stored.seq].samples();
            if stored.origin.instance.is_none() && self.name.is_some() {
                self.boots.insert(stored.origin.boot);
            }
            self.ids.insert(id, stored.seq);
            self.fates.insert(stored.seq, Fate::default());
        }
        let mut earlier = Earlier::default();
        if let Some(row) = self.rows.get(&self.name) {
            self.missing = row.waiting.saturating_sub(recovered);
            earlier = Earlier {
                since: Some(row.since),
                runs: row.runs,
                collected: 0,
                accepted: row.accepted,
                dropped: row.dropped.clone(),
            };
            if self.missing > 0 {
                *earlier.dropped.entry(DropReason::SpoolDamaged).or_default() += self.missing;
            }
            earlier.collected = earlier.accepted + earlier.dropped.values().sum::<u64>();
        }
        earlier.collected += recovered;
        self.earlier = earlier;
    }

    /// What the ledger on the disk has to say after this.
    pub(super) fn totals(&self, commit: &Commit, pushed: &[ClosedWindow]) -> Option<Totals> {
        if !self.is_claimed {
            return None;
        }
        let mut dropped = self.earlier.dropped.clone();
        let gone = || self.gone.iter().map(|seq| &self.fates[seq]);
        for (reason, samples) in gone().flat_map(|fate| &fate.dropped).chain(&self.refused) {
            *dropped.entry(*reason).or_default() += samples;
        }
        let mut there = self.stored.clone();
        there.extend(commit.puts.iter().map(|put| put.id));
        Some(Totals {
            instance: self.name.clone(),
            since: self.earlier.since.unwrap_or(self.started),
            runs: self.earlier.runs + 1,
            accepted: self.earlier.accepted + gone().map(|fate| fate.accepted).sum::<u64>(),
            waiting: there.iter().map(|id| pushed[self.ids[id]].samples()).sum(),
            dropped,
            boots: self.boots.clone(),
        })
    }

    /// A call, and what the model says about the answer.
    pub(super) fn call(&mut self, call: &Call, now: Duration, pushed: &[ClosedWindow], disk: &OnDisk) {
        match *call {
            Call::Push(..) => {
                let seq = pushed.len() - 1;
                self.index(|index| index.push(pushed[seq].clone()));
                let (id, _) = *self.index(|index| index.waiting()).last().expect("it was pushed");
                assert!(
                    self.ids.keys().all(|other| *other < id),
                    "a later window has a greater name"
                );
                self.ids.insert(id, seq);
                self.fates.insert(seq, Fate::default());
            }
            Call::Newest => {
                let except = self.held.iter().map(|held| held.id).collect();
                let next = self.index(|index| index.newest(&except, now));
                let expected = self.ids.keys().rev().find(|id| !except.contains(id)).copied();
                self.handed_out(next, expected, now, pushed, disk);
            }
            Call::Oldest => {
                let next = self.index(|index| index.oldest(now));
                let expected = self.ids.keys().next().copied();
                assert_eq!(self.index(|index| index.oldest_id()), expected);
                self.handed_out(next, expected, now, pushed, disk);
            }
            Call::Accept(which, samples) => self.settle(which, samples, None, pushed),
            Call::GiveUp(which, reason, samples) => self.settle(which, samples, Some(reason), pushed),
            Call::Finish(which, reason) => self.finish(which, reason, pushed),
            Call::Release(which) => {
                if !self.held.is_empty() {
                    self.held.swap_remove(usize::from(which) % self.held.len());
                }
            }
            Call::Claim => self.claim(pushed),
            Call::Expire(windows) => self.expire(windows, pushed),
            Call::Refuse(samples) => {
                *self.refused.entry(DropReason::SeriesLimit).or_default() += u64::from(samples);
                self.index(|index| index.note_refused(&self.refused));
            }
        }
    }

    fn claim(&mut self, pushed: &[ClosedWindow]) {
        self.index(|index| index.claim(self.name.as_deref()));
        if !self.is_claimed {
            self.is_claimed = true;
            if self.here.instance.is_none() && self.name.is_some() {
                self.boots.insert(self.here.boot.clone());
            }
            self.here.instance.clone_from(&self.name);
            if self.others.is_some() {
                self.take_over(pushed);
            }
        }
    }

    fn handed_out(
        &mut self,
        next: Next,
        expected: Option<WindowId>,
        now: Duration,
        pushed: &[ClosedWindow],
        disk: &OnDisk,
    ) {
        let state = self.state();
        let is_slow = now > NOW;
        let is_readable = !is_slow && matches!(state, Disk::Well | Disk::NoRoom | Disk::ReadOnly);
        match next {
            Next::Ready(waiting) => {
                assert!(!is_readable || Some(waiting.id) == expected, "whose turn it is");
                let seq = *self.ids.get(&waiting.id).expect("it waits");
                assert_eq!(*waiting.window, pushed[seq], "what was pushed, and nothing else");
                let is_written = matches!(state, Disk::Opening | Disk::Well) && !is_slow && !self.is_unsure;
                assert!(
                    !is_written || disk.holds(seq),
                    "it is on the disk before it is sent"
                );
                if self.held.iter().all(|held| held.id != waiting.id) {
                    self.held.push(waiting);
                }
            }
            Next::Loading => assert!(expected.is_some(), "there is none to wait for"),
            Next::Empty => assert!(!is_readable || expected.is_none(), "there is one"),
        }
    }

    fn settle(&mut self, which: u8, samples: u8, reason: Option<DropReason>, pushed: &[ClosedWindow]) {
        if self.held.is_empty() {
            return;
        }
        let held = &self.held[usize::from(which) % self.held.len()];
        let (id, seq) = (held.id, seq(&held.window));
        let samples = u64::from(samples);
        let counted = samples.min(self.open(pushed, seq));
        let fate = self.fates.get_mut(&seq).expect("it was handed out");
        if let Some(reason) = reason {
            fate.drop(reason, counted);
            self.index(|index| index.give_up(id, reason, samples));
        } else {
            fate.accepted += counted;
            self.index(|index| index.accept(id, samples));
        }
    }

    fn finish(&mut self, which: u8, leftover: DropReason, pushed: &[ClosedWindow]) {
        if self.held.is_empty() {
            return;
        }
        let held = self.held.swap_remove(usize::from(which) % self.held.len());
        self.index(|index| index.finish(held.id, leftover));
        self.let_go(held.id, leftover, pushed);
    }

    fn expire(&mut self, windows: u8, pushed: &[ClosedWindow]) {
        // Nothing is sent and nothing expires before the node knows who it is.
        let last = self.ids.values().nth(windows.into());
        let Some(before) = last.map(|seq| pushed[*seq].start).filter(|_| self.is_claimed) else {
            return;
        };
        let expired = self.index(|index| index.expire(before));
        let mut expected = 0;
        while let Some((&id, &seq)) = self.ids.first_key_value() {
            if pushed[seq].start >= before || self.is_held(id) {
                break;
            }
            expected += self.open(pushed, seq);
            self.let_go(id, DropReason::TooOld, pushed);
        }
        assert_eq!(expired, expected, "samples that are too old");
        if let Some(others) = &mut self.others {
            let left = others.len();
            others.retain(|_, other| pushed[other.seq].start >= before);
            self.has_let_others_go |= others.len() < left;
        }
    }

    fn let_go(&mut self, id: WindowId, reason: DropReason, pushed: &[ClosedWindow]) {
        let seq = self.ids.remove(&id).expect("it waited");
        let open = self.open(pushed, seq);
        self.fates.get_mut(&seq).expect("it waited").drop(reason, open);
        self.gone.insert(seq);
    }

    /// Compares the index with the model. Windows that it has let go on its own must be counted, for a reason that is
    /// one, and in nobody's hands. Returns those reasons.
    pub(super) fn compare(&mut self, pushed: &[ClosedWindow]) -> BTreeSet<DropReason> {
        let waiting = self.index(|index| index.waiting());
        let ids: BTreeSet<WindowId> = waiting.iter().map(|(id, _)| *id).collect();
        let tally = self.index(|index| index.tally());
        let vanished: Vec<WindowId> = self.ids.keys().filter(|id| !ids.contains(id)).copied().collect();
        let mut reasons = BTreeSet::new();
        for id in vanished {
            assert!(!self.is_held(id), "somebody is sending it");
            let open = self.open(pushed, self.ids[&id]);
            let counted = |reason: &DropReason| {
                let known: u64 = self
                    .fates
                    .values()
                    .filter_map(|fate| fate.dropped.get(reason))
                    .sum();
                tally.dropped.get(reason).copied().unwrap_or(0) >= known + open
            };
            let usual = if self.stored.contains(&id) {
                [DropReason::SpoolFull, DropReason::SpoolDamaged]
            } else {
                [DropReason::QueueFull, DropReason::SpoolDamaged]
            };
            let reason = usual
                .into_iter()
                .find(counted)
                .expect("what is let go is counted");
            if open > 0 {
                reasons.insert(reason);
            }
            self.let_go(id, reason, pushed);
        }
        assert_eq!(ids, self.ids.keys().copied().collect(), "windows that wait");
        let stored = waiting.iter().filter(|(_, stored)| *stored);
        self.stored = stored.map(|(id, _)| *id).collect();
        self.compare_tally(pushed);
        self.compare_others();
        reasons
    }

    fn compare_tally(&self, pushed: &[ClosedWindow]) {
        let tally = self.index(|index| index.tally());
        let mut dropped = BTreeMap::new();
        for (reason, samples) in self.fates.values().flat_map(|fate| &fate.dropped) {
            *dropped.entry(*reason).or_default() += samples;
        }
        let open = |seqs: Vec<Seq>| seqs.into_iter().map(|seq| self.open(pushed, seq)).sum::<u64>();
        let unsaved = self.ids.iter().filter(|(id, _)| !self.stored.contains(id));
        assert_eq!(tally.dropped, dropped);
        assert_eq!(
            tally.accepted,
            self.fates.values().map(|fate| fate.accepted).sum::<u64>()
        );
        assert_eq!(tally.samples, open(self.ids.values().copied().collect()));
        assert_eq!(tally.unsaved, open(unsaved.map(|(_, seq)| *seq).collect()));
        assert_eq!(tally.windows, self.ids.len());
        assert_eq!(
            tally.oldest,
            self.ids.values().next().map(|seq| pushed[*seq].start)
        );
        assert_eq!(tally.earlier, self.earlier);
        let (state, now) = (self.shared.lock(), NOW);
        let status = state.report.status(&state.index, now);
        assert_eq!(status.other_windows, state.index.others().len());
    }

    /// Other nodes' records make way for this one's, the oldest first.
    fn compare_others(&mut self) {
        let Some(others) = &mut self.others else {
            return;
        };
        let left: BTreeSet<u64> = self
            .shared
            .call(|index| index.others().iter().map(|other| other.key).collect());
        self.has_let_others_go |= left.len() < others.len();
        let gone = others.keys().copied().filter(|key| !left.contains(key)).max();
        let kept = left.first().copied();
        assert!(
            gone.is_none() || kept.is_none() || gone < kept,
            "the oldest go first"
        );
        others.retain(|key, _| left.contains(key));
        assert_eq!(left, others.keys().copied().collect());
    }
}
