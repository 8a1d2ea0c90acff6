//! What the spool says about itself: its part of the status, and a log line per change of state.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::disk::{DiskError, SetAside, Usage};
use super::index::{Disk, Index};
use crate::log;
use crate::metrics::clock;

/// The spool as the status shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpoolStatus {
    /// The file.
    pub file: PathBuf,
    /// How it is doing.
    pub state: SpoolState,
    /// Since when, Unix seconds.
    pub since: f64,
    /// What is wrong; absent while all is well.
    pub what: Option<String>,
    /// What to do about it.
    pub mend: Option<String>,
    /// What the windows in it take, in bytes.
    pub used_bytes: u64,
    /// Size of the file without the log that is written ahead of it, in bytes.
    pub file_bytes: u64,
    /// `spool.max_bytes`.
    pub max_bytes: u64,
    /// The file that had to make way last, since the agent started.
    pub set_aside: Option<SetAside>,
    /// Windows in it that other nodes left, or nobody knows who: they are not published, and go when they are too old
    /// or in the way.
    pub other_windows: usize,
    /// The instances that left them, as far as that is known.
    pub other_instances: Vec<String>,
}

/// How the spool is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpoolState {
    /// It is being opened.
    #[default]
    Opening,
    /// It reads and writes.
    Well,
    /// The disk is too full for it to grow: new windows wait in memory, what is in it is published.
    NoRoom,
    /// It cannot be written: new windows wait in memory, what is in it is published.
    ReadOnly,
    /// It can be neither read nor written: new windows wait in memory.
    Failing,
    /// The disk has not answered for seconds: as failing.
    Stuck,
}

/// Keeps the status up to date.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) status: SpoolStatus,
    /// Whether the log has the trouble that lasts.
    is_logged: bool,
    /// One for each trouble: that the disk was full a minute ago is no reason not to say that it is read-only now.
    logs: BTreeMap<SpoolState, log::Repeated>,
}

/// What there is too little of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lacking {
    /// Of `spool.max_bytes`, for a window of so many bytes.
    Size(u64),
    /// Free space: this much is free, and this much has to be left.
    Disk(u64, u64),
}

impl SpoolState {
    /// For people, after the word spool.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "is being opened",
            Self::Well => "is well",
            Self::NoRoom => "has no room",
            Self::ReadOnly => "cannot be written",
            Self::Failing => "is of no use",
            Self::Stuck => "does not answer",
        }
    }

    /// Whether what is pushed is on the disk soon.
    #[must_use]
    pub fn is_well(self) -> bool {
        matches!(self, Self::Opening | Self::Well)
    }
}

impl Report {
    /// It is being opened.
    pub(super) fn new(file: PathBuf, max_bytes: u64) -> Self {
        Self {
            status: SpoolStatus {
                file,
                max_bytes,
                since: clock::wall_now().as_secs_f64(),
                ..SpoolStatus::default()
            },
            is_logged: false,
            logs: BTreeMap::new(),
        }
    }

    /// The status now.
    pub(super) fn status(&self, index: &Index, now: Duration) -> SpoolStatus {
        let others = index.others();
        let instances: BTreeSet<&String> = others
            .iter()
            .filter_map(|other| other.origin.instance.as_ref())
            .collect();
        let mut status = SpoolStatus {
            other_windows: others.len(),
            other_instances: instances.into_iter().cloned().collect(),
            ..self.status.clone()
        };
        if let Some(since) = index.stuck_since(now) {
            let seconds = now.saturating_sub(since).as_secs_f64();
            let (what, mend) = self.stuck();
            status.state = SpoolState::Stuck;
            status.since = clock::wall_now().as_secs_f64() - seconds;
            (status.what, status.mend) = (Some(what), Some(mend.into()));
        }
        status
    }

    fn stuck(&self) -> (String, &'static str) {
        (
            format!("the disk below {} does not answer", self.dir()),
            "look at the disk: the kernel's log may say more",
        )
    }

    /// A window comes while the disk does not answer: the thread that has it cannot say so.
    pub(super) fn waits(&mut self, index: &Index, now: Duration) {
        if index.stuck_since(now).is_some() {
            let (what, mend) = self.stuck();
            self.log(SpoolState::Stuck, &what, mend);
        }
    }

    /// It does what it has to.
    pub(super) fn well(&mut self) {
        self.status.what = None;
        self.status.mend = None;
        if std::mem::take(&mut self.is_logged) {
            let seconds = clock::wall_now().as_secs_f64() - self.status.since;
            tracing::info!(after_seconds = seconds.round(), "the spool is well again");
        }
        self.turn(SpoolState::Well);
    }

    /// It is so large now.
    pub(super) fn usage(&mut self, usage: Usage) {
        self.status.used_bytes = usage.used;
        self.status.file_bytes = usage.file;
    }

    /// It had to begin anew.
    pub(super) fn set_aside(&mut self, set_aside: SetAside) {
        tracing::error!(
            path = %set_aside.path.display(),
            why = set_aside.why,
            saved_windows = set_aside.saved_windows,
            "the spool's file was set aside, and a new one begun"
        );
        self.status.set_aside = Some(set_aside);
    }

    /// It has no room for a window.
    pub(super) fn no_room(&mut self, lacking: Lacking) {
        let dir = self.dir();
        let (what, mend) = match lacking {
            Lacking::Size(bytes) => (
                format!("a window of {} has no room in it", ByteSize(bytes)),
                "raise spool.max_bytes".into(),
            ),
            Lacking::Disk(free, min_free) => (
                format!(
                    "{} are free on the file system of {dir}, and spool.min_free_bytes is {}",
                    ByteSize(free),
                    ByteSize(min_free)
                ),
                format!("free space on the file system of {dir}, or lower spool.min_free_bytes"),
            ),
        };
        self.trouble(SpoolState::NoRoom, what, mend);
    }

    /// It is not doing what it has to.
    pub(super) fn failing(&mut self, disk: Disk, error: &DiskError) {
        let state = if disk == Disk::ReadOnly {
            SpoolState::ReadOnly
        } else {
            SpoolState::Failing
        };
        if let DiskError::Gone { path } = error {
            // Whatever else was wrong lately: this is somebody's doing, and may have cost windows.
            tracing::error!(path = %path.display(), "the spool's file was removed or replaced");
        }
        let mend = self.mend(error);
        self.trouble(state, log::chain(error), mend);
    }

    fn mend(&self, error: &DiskError) -> String {
        let dir = self.dir();
        match error {
            DiskError::Refused(error) => match error.kind() {
                ErrorKind::StorageFull => format!("free space on the file system of {dir}"),
                ErrorKind::QuotaExceeded => {
                    format!("raise the quota for the file system of {dir}, or free space")
                }
                ErrorKind::ReadOnlyFilesystem => {
                    format!("mount the file system of {dir} for writing; the kernel's log says why it is not")
                }
                ErrorKind::PermissionDenied => {
                    format!("let the agent write to {dir} (owner, mode, ReadWritePaths=)")
                }
                ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
                    "remove what is in the way, or set spool.dir to another directory".into()
                }
                _ => format!("look at the disk below {dir}: the kernel's log may say more"),
            },
            DiskError::Gone { .. } => "nothing: what is there now is used, or a new file begun".into(),
            DiskError::InUse { .. } => "end the other process, or set spool.dir to another directory".into(),
            DiskError::Store { .. } | DiskError::Damaged { .. } => {
                format!("look at the disk below {dir}: the kernel's log may say more")
            }
        }
    }

    fn dir(&self) -> String {
        let dir = self.status.file.parent().unwrap_or(&self.status.file);
        dir.display().to_string()
    }

    fn trouble(&mut self, state: SpoolState, what: String, mend: String) {
        self.log(state, &what, &mend);
        self.status.what = Some(what);
        self.status.mend = Some(mend);
        self.turn(state);
    }

    fn log(&mut self, state: SpoolState, error: &str, mend: &str) {
        if self.logs.entry(state).or_default().is_due() {
            self.is_logged = true;
            tracing::error!(error, mend, "the spool is not well: windows wait in memory");
        }
    }

    fn turn(&mut self, state: SpoolState) {
        if self.status.state != state {
            self.status.state = state;
            self.status.since = clock::wall_now().as_secs_f64();
        }
    }
}
