//! The real directory behind a disk that fails on demand and writes down what it was told.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::metrics::ClosedWindow;
use crate::publish::spool::disk::{Disk, DiskError, Medium, Opened, SetAside, Usage};
use crate::publish::spool::files::Directory;
use crate::publish::spool::index::Found;
use crate::publish::spool::record;
use crate::publish::spool::sqlite::Sqlite;
use crate::publish::spool::totals::Totals;

/// What goes wrong with the next piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The transaction is refused.
    Refused(io::ErrorKind),
    /// It is applied, and refused all the same: whoever asked cannot know.
    Doubtful(io::ErrorKind),
    /// It is applied, and then the disk does not say how large it is.
    Silent,
    /// Nothing can be read.
    Unreadable,
}

/// A transaction that is on the disk.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) removals: Vec<u64>,
    pub(super) records: Vec<(u64, Vec<u8>)>,
    pub(super) totals: Option<Totals>,
}

/// What the directory held when it was opened.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) records: Vec<(Found, ClosedWindow)>,
    pub(super) totals: Vec<Totals>,
    pub(super) damaged: Vec<u64>,
    pub(super) damaged_ledgers: usize,
    pub(super) set_aside: Option<SetAside>,
}

/// What is to go wrong, and what was done.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) fault: Option<Fault>,
    /// It cannot be opened.
    pub(super) is_away: bool,
    /// The file system has no byte to spare.
    pub(super) is_full: bool,
    pub(super) written: Vec<Written>,
    pub(super) seen: Vec<Seen>,
    /// The directory itself has refused to be opened.
    pub(super) refusals: Vec<String>,
}

/// A script and its readers.
#[derive(Clone, Debug, Default)]
pub(super) struct Stage(Arc<Mutex<Script>>);

impl Stage {
    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) struct Flaky {
    directory: Directory,
    stage: Stage,
}

#[derive(Debug)]
pub(super) struct FlakyDisk {
    sqlite: Sqlite,
    stage: Stage,
}

fn refused(kind: io::ErrorKind) -> DiskError {
    DiskError::refused(kind.into())
}

impl Flaky {
    pub(super) fn new(directory: Directory, stage: Stage) -> Self {
        Self { directory, stage }
    }
}

impl Medium for Flaky {
    type Disk = FlakyDisk;

    fn open(&mut self) -> Result<Opened<FlakyDisk>, DiskError> {
        if self.stage.script().is_away {
            return Err(refused(io::ErrorKind::NotADirectory));
        }
        let opened = self
            .directory
            .open()
            .inspect_err(|error| self.stage.script().refusals.push(crate::log::chain(error)))?;
        let mut disk = FlakyDisk {
            sqlite: opened.disk,
            stage: self.stage.clone(),
        };
        let records = opened.found.iter().map(|found| {
            let record = disk.sqlite.read(found.key).expect("it was read already");
            let record = record.expect("it was found");
            let recorded = record::open(found.key, &record).expect("it was found whole");
            (found.clone(), recorded.window)
        });
        let records = records.collect();
        self.stage.script().seen.push(Seen {
            records,
            totals: opened.totals.clone(),
            damaged: opened.damaged.clone(),
            damaged_ledgers: opened.damaged_ledgers,
            set_aside: opened.set_aside.clone(),
        });
        Ok(Opened {
            disk,
            found: opened.found,
            totals: opened.totals,
            damaged_ledgers: opened.damaged_ledgers,
            is_another: opened.is_another,
            damaged: opened.damaged,
            set_aside: opened.set_aside,
        })
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        Ok(if self.stage.script().is_full { 0 } else { 1 << 40 })
    }

    fn still_there(&self) -> Result<(), DiskError> {
        self.directory.still_there()
    }

    fn probe(&self) -> Result<(), DiskError> {
        self.directory.probe()
    }
}

impl FlakyDisk {
    fn write(
        &mut self,
        removals: &[u64],
        records: &[(u64, Vec<u8>)],
        totals: Option<&Totals>,
    ) -> Result<(), DiskError> {
        self.sqlite.commit(removals, records, totals)?;
        self.stage.script().written.push(Written {
            removals: removals.to_vec(),
            records: records.to_vec(),
            totals: totals.cloned(),
        });
        Ok(())
    }

    /// Takes the fault if it is one of these.
    fn fault(&self, which: impl Fn(Fault) -> bool) -> Option<Fault> {
        let mut script = self.stage.script();
        script.fault.take_if(|fault| which(*fault))
    }
}

impl Disk for FlakyDisk {
    fn commit(
        &mut self,
        removals: &[u64],
        records: &[(u64, Vec<u8>)],
        totals: Option<&Totals>,
    ) -> Result<(), DiskError> {
        let fault = self.fault(|fault| matches!(fault, Fault::Refused(_) | Fault::Doubtful(_)));
        if let Some(Fault::Refused(kind)) = fault {
            return Err(refused(kind));
        }
        self.write(removals, records, totals)?;
        match fault {
            Some(Fault::Doubtful(kind)) => Err(refused(kind)),
            _ => Ok(()),
        }
    }

    fn read(&mut self, key: u64) -> Result<Option<Vec<u8>>, DiskError> {
        if self.fault(|fault| fault == Fault::Unreadable).is_some() {
            return Err(refused(io::ErrorKind::Other));
        }
        self.sqlite.read(key)
    }

    fn usage(&mut self) -> Result<Usage, DiskError> {
        // It is asked before a transaction, too.
        let has_written = !self.stage.script().written.is_empty();
        if has_written && self.fault(|fault| fault == Fault::Silent).is_some() {
            return Err(refused(io::ErrorKind::Other));
        }
        self.sqlite.usage()
    }
}
