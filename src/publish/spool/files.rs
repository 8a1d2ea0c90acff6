//! The spool's directory: the file that is used, and the one that was set aside.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskError, Medium, Opened, SetAside};
use super::index::Found;
use super::origin::Origin;
use super::record;
use super::sqlite::{Content, FORMAT, Sqlite};
use super::totals::Totals;

/// The file in `spool.dir`. Its name carries the format: another version's file is left alone.
const NAME: &str = "windows-v1.db";

/// Records that are copied at once out of a damaged file.
const COPIED_AT_ONCE: usize = 64;

/// A directory.
#[derive(Debug)]
pub(super) struct Directory {
    dir: PathBuf,
    /// Device and inode of the file that was opened.
    opened: Option<(u64, u64)>,
}

impl Directory {
    /// The directory, which need not exist.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, opened: None }
    }

    /// The file in it.
    pub(super) fn file(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    /// Asks the operating system for what SQLite will ask it for: its errors say what is wrong, SQLite's do not.
    fn prepare(&self) -> io::Result<()> {
        if !self.dir.is_dir() {
            fs_err::create_dir_all(&self.dir)?;
        }
        let file = self.file();
        let is_odd = fs_err::symlink_metadata(&file).is_ok_and(|found| !found.is_file());
        if !is_odd {
            fs_err::OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .open(file)?;
        }
        Ok(())
    }

    fn identity(&self) -> Option<(u64, u64)> {
        let found = fs_err::metadata(self.file()).ok()?;
        Some((found.dev(), found.ino()))
    }

    fn open_file(&self) -> Result<(Sqlite, Survey, Option<SetAside>), DiskError> {
        let file = self.file();
        if fs_err::symlink_metadata(&file).is_ok_and(|found| !found.is_file()) {
            return self.replace("it is no file");
        }
        match Sqlite::open(&file) {
            Ok(Content::Ours(sqlite)) => match Survey::of(&sqlite) {
                Ok(survey) => Ok((sqlite, survey, None)),
                Err(DiskError::Damaged { source, .. }) => self.salvage(Some(sqlite), &source.to_string()),
                Err(error) => Err(error),
            },
            Ok(Content::Format(format)) => self.replace(&format!(
                "it has format {format}, and this version of gpushare has format {FORMAT}"
            )),
            // The operating system has let us open it for writing.
            Ok(Content::ReadOnly(sqlite)) => {
                self.probe()?;
                self.salvage(Some(sqlite), "it says that it must not be written")
            }
            Ok(Content::Foreign) => self.replace("it is not a spool of gpushare"),
            Err(DiskError::Damaged { source, .. }) => self.salvage(None, &source.to_string()),
            Err(error) => Err(error),
        }
    }

    /// Sets the file aside and begins a new one.
    fn replace(&self, why: &str) -> Result<(Sqlite, Survey, Option<SetAside>), DiskError> {
        let set_aside = self.set_aside(why).map_err(DiskError::refused)?;
        let fresh = self.begin()?;
        Ok((fresh, Survey::default(), Some(set_aside)))
    }

    fn begin(&self) -> Result<Sqlite, DiskError> {
        match Sqlite::open(&self.file())? {
            Content::Ours(sqlite) => Ok(sqlite),
            Content::Format(_) | Content::ReadOnly(_) | Content::Foreign => {
                Err(DiskError::InUse { path: self.file() })
            }
        }
    }

    /// Sets a damaged file aside, and takes what can still be read of it into a new one.
    fn salvage(
        &self,
        damaged: Option<Sqlite>,
        why: &str,
    ) -> Result<(Sqlite, Survey, Option<SetAside>), DiskError> {
        let mut set_aside = self.set_aside(why).map_err(DiskError::refused)?;
        let mut fresh = self.begin()?;
        if let Some(damaged) = damaged {
            let (ledgers, _) = damaged.ledgers().unwrap_or_default();
            for totals in ledgers {
                fresh.commit(&[], &[], Some(&totals))?;
            }
            set_aside.saved_windows = copy(&damaged, &mut fresh)?;
        }
        let survey = Survey::of(&fresh)?;
        Ok((fresh, survey, Some(set_aside)))
    }

    /// One file is kept so, the last one: it is for whoever wants to know what happened, and must not fill the disk.
    fn set_aside(&self, why: &str) -> io::Result<SetAside> {
        let from = self.file();
        let path = self.dir.join(format!("{NAME}.set-aside"));
        for (end, is_needed) in [("", true), ("-wal", false), ("-journal", false), ("-shm", false)] {
            let renamed = fs_err::rename(with_end(&from, end), with_end(&path, end));
            match renamed {
                Err(error) if is_needed || error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(SetAside {
            path,
            why: why.to_owned(),
            saved_windows: 0,
        })
    }
}

/// What is in a file.
#[derive(Debug, Default)]
struct Survey {
    found: Vec<Found>,
    /// Records that are not whole.
    damaged: Vec<u64>,
    totals: Vec<Totals>,
    /// Ledgers that are not whole.
    damaged_ledgers: usize,
}

impl Survey {
    /// Looks at every page and every record. An error that names damage is one that no second look mends.
    fn of(disk: &Sqlite) -> Result<Self, DiskError> {
        disk.check()?;
        let mut survey = Self::default();
        let mut origins = BTreeSet::new();
        disk.each(true, |key, record| match look(key, record, &mut origins) {
            Some(record) => survey.found.push(record),
            None => survey.damaged.push(key),
        })?;
        let (totals, damaged) = disk.ledgers()?;
        disk.forget_ledgers(&damaged);
        survey.totals = totals;
        survey.damaged_ledgers = damaged.len();
        Ok(survey)
    }
}

impl Medium for Directory {
    type Disk = Sqlite;

    fn open(&mut self) -> Result<Opened<Sqlite>, DiskError> {
        self.prepare().map_err(DiskError::refused)?;
        // One that was opened is still the same where its content moves into a new file below.
        let is_another = self.opened.is_some() && self.identity() != self.opened;
        let (disk, survey, set_aside) = self.open_file()?;
        self.opened = self.identity();
        Ok(Opened {
            disk,
            found: survey.found,
            totals: survey.totals,
            damaged_ledgers: survey.damaged_ledgers,
            damaged: survey.damaged,
            is_another,
            set_aside,
        })
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        let space = rustix::fs::statvfs(&self.dir).map_err(|errno| DiskError::refused(errno.into()))?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn still_there(&self) -> Result<(), DiskError> {
        if self.identity() == self.opened {
            return Ok(());
        }
        Err(DiskError::Gone { path: self.file() })
    }

    fn probe(&self) -> Result<(), DiskError> {
        let path = self.dir.join("probe");
        let wrote = fs_err::write(&path, [0; 4096]).and_then(|()| fs_err::File::open(&path)?.sync_all());
        let removed = fs_err::remove_file(&path);
        wrote.and(removed).map_err(DiskError::refused)
    }
}

fn look(key: u64, record: &[u8], origins: &mut BTreeSet<Arc<Origin>>) -> Option<Found> {
    let header = record::header(key, record).ok()?;
    let origin = Arc::new(header.origin);
    let origin = origins.get(&origin).cloned().unwrap_or_else(|| {
        origins.insert(Arc::clone(&origin));
        origin
    });
    Some(Found {
        key,
        bytes: u32::try_from(record.len()).unwrap_or(u32::MAX),
        start: header.start,
        samples: header.samples,
        origin,
    })
}

/// Copies the records that are whole. A page in the middle that makes no sense ends the way from either end.
fn copy(damaged: &Sqlite, fresh: &mut Sqlite) -> Result<usize, DiskError> {
    let mut copied = BTreeSet::new();
    for ascending in [true, false] {
        let mut batch = Vec::new();
        let mut failed = None;
        // An error is where the way ends.
        let _ = damaged.each(ascending, |key, bytes| {
            if record::header(key, bytes).is_ok() && copied.insert(key) {
                batch.push((key, bytes.to_vec()));
            }
            if batch.len() >= COPIED_AT_ONCE && failed.is_none() {
                failed = fresh.commit(&[], &std::mem::take(&mut batch), None).err();
            }
        });
        failed.map_or_else(|| fresh.commit(&[], &batch, None), Err)?;
    }
    Ok(copied.len())
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

#[cfg(test)]
mod tests;
