//! The thread that has the disk. It does what the index says, and says what came of it.
//!
//! Everything here may block for ever: a disk that hangs keeps this thread and nobody else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disk::{Disk, DiskError, Medium, Opened, Usage};
use super::index::{self, Commit, Put, Work};
use super::room::{self, Bounds, Room};
use super::shared::Shared;
use super::{record, report};
use crate::log;
use crate::metrics::clock;
use crate::publish::store::WindowId;

/// A disk that is ill is tried again after this time, which doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// And no later than after this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What a record costs in the file beyond its own bytes: the rest of its last page, its place in the tree.
const OVERHEAD: u64 = 4096 + 512;

/// The thread's own.
pub(super) struct SpoolTask<M> {
    medium: M,
    bounds: Bounds,
    shared: Arc<Shared>,
    /// When a disk that is ill is tried again.
    retry: Instant,
    pause: Duration,
}

/// Why a disk is left.
enum Left {
    /// Nobody needs it any more.
    Over,
    /// It has to be opened again.
    Reopen,
}

impl<M: Medium> SpoolTask<M> {
    /// Works on this for those who share.
    pub(super) fn new(medium: M, bounds: Bounds, shared: Arc<Shared>) -> Self {
        Self {
            medium,
            bounds,
            shared,
            retry: Instant::now(),
            pause: FIRST_PAUSE,
        }
    }

    /// Until it is over.
    pub(super) fn run(mut self) {
        loop {
            if let Some(disk) = self.begin()
                && let Left::Over = self.serve(disk)
            {
                return;
            }
            if !self.shared.sleeps_until(self.retry) {
                return;
            }
        }
    }

    /// Opens the disk; `None` if that has to be tried again.
    pub(super) fn begin(&mut self) -> Option<M::Disk> {
        self.shared.answer(|state| state.index.begins(clock::boot_now()));
        match self.open() {
            Ok(disk) => Some(disk),
            Err(error) => {
                let error = self.explained(error);
                self.failed(index::Disk::Failing, &error);
                None
            }
        }
    }

    fn open(&mut self) -> Result<M::Disk, DiskError> {
        let Opened {
            mut disk,
            found,
            totals,
            damaged_ledgers,
            damaged,
            is_another,
            set_aside,
        } = self.medium.open()?;
        if damaged_ledgers > 0 {
            tracing::error!("the spool's ledger of earlier runs is damaged: it begins anew");
        }
        if !damaged.is_empty() {
            tracing::error!(windows = damaged.len(), "windows in the spool are damaged: lost");
            // On a disk that takes nothing they stay until the next start: they are in nobody's way.
            if let Err(error) = disk.commit(&damaged, &[], None) {
                tracing::warn!(
                    error = log::chain(&error),
                    "damaged windows cannot be removed now"
                );
            }
        }
        let usage = disk.usage()?;
        self.shared.answer(|state| {
            if is_another {
                state.index.exchanged(found, totals);
            } else {
                state.index.opened(found, totals);
            }
            if let Some(set_aside) = set_aside {
                state.report.set_aside(set_aside);
            }
            state.report.usage(usage);
            state.report.well();
        });
        Ok(disk)
    }

    /// Works until the disk fails.
    fn serve(&mut self, mut disk: M::Disk) -> Left {
        while let Some(work) = self.shared.next_work(self.retry) {
            if !self.step(&mut disk, work) {
                return Left::Reopen;
            }
        }
        Left::Over
    }

    /// Does one piece of work; false if the disk has to be opened again.
    pub(super) fn step(&mut self, disk: &mut M::Disk, work: Work) -> bool {
        let done = match work {
            Work::Commit(commit) => self.commit(disk, &commit),
            Work::Load(id, key) => self.load(disk, id, key),
        };
        if let Err(error) = &done {
            self.failed(index::Disk::Failing, error);
        }
        done.is_ok()
    }

    /// An error is one that asks for the disk to be opened again.
    fn commit(&mut self, disk: &mut M::Disk, commit: &Commit) -> Result<(), DiskError> {
        self.medium.still_there()?;
        let seal = |put: &Put| (put.key, record::seal(put.key, &commit.origin, &put.window));
        let records: Vec<(u64, Vec<u8>)> = commit.puts.iter().map(seal).collect();
        if !records.is_empty() && !self.has_room(disk, commit, &records)? {
            return Ok(());
        }
        let removals: Vec<u64> = commit.removals.iter().map(|removal| removal.key).collect();
        match disk.commit(&removals, &records, commit.totals.as_ref()) {
            Ok(()) => self.committed(commit, &records, disk.usage()?),
            Err(error @ DiskError::Damaged { .. }) => return Err(error),
            Err(error) => {
                let error = self.explained(error);
                self.shared.answer(|state| state.index.in_doubt(commit));
                self.failed(index::Disk::ReadOnly, &error);
            }
        }
        Ok(())
    }

    fn committed(&mut self, commit: &Commit, records: &[(u64, Vec<u8>)], usage: Usage) {
        let stored: Vec<u32> = records
            .iter()
            .map(|(_, record)| u32::try_from(record.len()).unwrap_or(u32::MAX))
            .collect();
        // Where nothing was written, room was made: whatever waits for it is tried now.
        self.retry = Instant::now();
        let is_well = self.shared.answer(|state| {
            state.index.committed(commit, &stored);
            state.report.usage(usage);
            let is_well = state.index.disk() == index::Disk::Well;
            if is_well {
                state.report.well();
            }
            is_well
        });
        if is_well {
            self.pause = FIRST_PAUSE;
        }
    }

    /// Whether what is to be written has room. If not, the index knows what to do first: let the oldest windows go, or
    /// wait.
    fn has_room(
        &mut self,
        disk: &mut M::Disk,
        commit: &Commit,
        records: &[(u64, Vec<u8>)],
    ) -> Result<bool, DiskError> {
        let bytes = records
            .iter()
            .map(|(_, record)| record.len() as u64 + OVERHEAD)
            .sum();
        let going: u64 = commit
            .removals
            .iter()
            .map(|removal| u64::from(removal.bytes))
            .sum();
        let (usage, free) = (disk.usage()?, self.medium.free_bytes()?);
        let after = Usage {
            used: usage.used.saturating_sub(going),
            ..usage
        };
        let lacking = match room::room(bytes, after, self.bounds, free) {
            Room::Enough => return Ok(true),
            Room::After(too_much) if self.shared.answer(|state| state.index.let_go(too_much)) => {
                return Ok(false);
            }
            Room::After(_) => report::Lacking::Size(bytes),
            Room::None => report::Lacking::Disk(free, self.bounds.min_free_bytes),
        };
        self.put_off();
        self.shared.answer(|state| {
            state.index.failed(index::Disk::NoRoom);
            state.report.no_room(lacking);
        });
        Ok(false)
    }

    fn load(&mut self, disk: &mut M::Disk, id: WindowId, key: u64) -> Result<(), DiskError> {
        let record = disk.read(key)?;
        let recorded = record.map(|record| record::open(key, &record));
        self.shared.answer(|state| match recorded {
            Some(Ok(recorded)) => state.index.loaded(id, recorded),
            Some(Err(_)) | None => state.index.damaged(id),
        });
        Ok(())
    }

    /// The operating system knows better than the store what is wrong.
    fn explained(&self, error: DiskError) -> DiskError {
        match error {
            DiskError::Store { .. } => self.medium.probe().err().unwrap_or(error),
            _ => error,
        }
    }

    fn failed(&mut self, disk: index::Disk, error: &DiskError) {
        self.put_off();
        self.shared.answer(|state| {
            state.index.failed(disk);
            state.report.failing(disk, error);
        });
    }

    fn put_off(&mut self) {
        self.retry = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}
