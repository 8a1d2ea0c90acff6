//! The spool: a store that keeps closed windows on the disk, so that neither an outage nor a stop loses any.
//!
//! A window is pushed into memory, written by the spool's thread, handed out to the publisher after that, and removed
//! from the disk when it was dealt with. What earlier runs left is found at the start and published like everything else,
//! the newest first. If the disk is of no use, windows wait in memory, an hour of them and no more than 8 MiB, and are
//! written when it is well again.
//!
//! * `index`: which windows wait, where they are, and what becomes of them; what the disk has to do next; `room`: how
//!   much it may take; `origin`: whose windows they are; `record`: a window as bytes; `totals`: the ledger of all
//!   runs (all pure);
//! * `task`: the thread that has the disk; `shared`: what it shares with the callers;
//! * `disk`: what it needs of a disk; `files`: the directory; `sqlite`: the file in it;
//! * `report`: what the spool says about itself.

mod disk;
mod files;
mod index;
#[cfg(test)]
mod model;
mod origin;
mod record;
mod report;
mod room;
mod shared;
mod sqlite;
mod task;
mod totals;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::futures::Notified;

use self::files::Directory;
use self::index::{Index, Limits};
use self::report::Report;
use self::room::Bounds;
use self::shared::{Shared, State};
use self::task::SpoolTask;
use super::store::{Next, Store, Tally, WindowId};
use crate::metrics::window::DropReason;
use crate::metrics::{ClosedWindow, clock};

pub use disk::SetAside;
pub use origin::Origin;
pub use report::{SpoolState, SpoolStatus};

/// An hour of windows waits in memory if it has to.
const HOUR: Duration = Duration::from_hours(1);

/// However long a window is, so many wait in memory.
const FEWEST: usize = 60;

/// Of all windows that wait in memory. An hour of 8 GPUs, sampled every second, takes about half of it.
const MEMORY_BYTES: usize = 8 * 1024 * 1024;

/// What the spool needs to know.
#[derive(Clone, Debug)]
pub struct SpoolSettings {
    /// `spool.dir`.
    pub dir: PathBuf,
    /// `spool.max_bytes`.
    pub max_bytes: u64,
    /// `spool.min_free_bytes`.
    pub min_free_bytes: u64,
    /// `publish.interval`.
    pub interval: Duration,
    /// Where it is written, as far as that is known at the start.
    pub origin: Origin,
}

/// The store on a disk.
#[derive(Debug)]
pub struct Spool {
    shared: Arc<Shared>,
}

impl Spool {
    /// Starts the thread, which ends after this is dropped. The directory is opened by it, and if that takes for ever,
    /// nobody else waits.
    pub fn start(settings: &SpoolSettings) -> io::Result<(Self, JoinHandle<()>)> {
        let directory = Directory::new(settings.dir.clone());
        let windows = HOUR.as_secs() / settings.interval.as_secs().max(1);
        let limits = Limits {
            windows: usize::try_from(windows).unwrap_or(FEWEST).max(FEWEST),
            bytes: MEMORY_BYTES,
        };
        let index = Index::new(
            limits,
            settings.origin.clone(),
            clock::wall_now().as_secs(),
            clock::boot_now(),
        );
        let report = Report::new(directory.file(), settings.max_bytes);
        let bounds = Bounds {
            max_bytes: settings.max_bytes,
            min_free_bytes: settings.min_free_bytes,
        };
        let shared = Arc::new(Shared::new(index, report));
        let task = SpoolTask::new(directory, bounds, Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name("spool".into())
            .spawn(move || task.run())?;
        Ok((Self { shared }, thread))
    }
}

#[cfg(test)]
impl Spool {
    /// One without a disk, for so many windows.
    pub(crate) fn in_memory(windows: usize) -> Self {
        let limits = Limits {
            windows,
            bytes: MEMORY_BYTES,
        };
        let mut index = Index::new(limits, Origin::default(), 0, clock::boot_now());
        index.failed(index::Disk::Failing);
        Self::of(index)
    }

    /// One whose disk hangs from now on.
    pub(crate) fn hanging() -> Self {
        let limits = Limits {
            windows: FEWEST,
            bytes: MEMORY_BYTES,
        };
        Self::of(Index::new(limits, Origin::default(), 0, clock::boot_now()))
    }

    fn of(index: Index) -> Self {
        let report = Report::new(PathBuf::new(), 0);
        Self {
            shared: Arc::new(Shared::new(index, report)),
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl Store for Spool {
    fn push(&self, window: ClosedWindow) {
        self.shared.call(|index| index.push(window));
        let mut state = self.shared.lock();
        let State { index, report, .. } = &mut *state;
        report.waits(index, clock::boot_now());
        drop(state);
        self.shared.changed.notify_one();
    }

    fn newest(&self, except: &BTreeSet<WindowId>) -> Next {
        self.shared.call(|index| index.newest(except, clock::boot_now()))
    }

    fn oldest(&self) -> Next {
        self.shared.call(|index| index.oldest(clock::boot_now()))
    }

    fn oldest_id(&self) -> Option<WindowId> {
        self.shared.lock().index.oldest_id()
    }

    fn accept(&self, id: WindowId, samples: u64) {
        self.shared.call(|index| index.accept(id, samples));
    }

    fn give_up(&self, id: WindowId, reason: DropReason, samples: u64) {
        self.shared.call(|index| index.give_up(id, reason, samples));
    }

    fn finish(&self, id: WindowId, leftover: DropReason) {
        self.shared.call(|index| index.finish(id, leftover));
    }

    fn claim(&self, instance: Option<&str>) {
        self.shared.call(|index| index.claim(instance));
        self.shared.changed.notify_one();
    }

    fn expire(&self, start: u64) -> u64 {
        self.shared.call(|index| index.expire(start))
    }

    fn note_refused(&self, refused: &BTreeMap<DropReason, u64>) {
        self.shared.call(|index| index.note_refused(refused));
    }

    fn tally(&self) -> Tally {
        self.shared.lock().index.tally()
    }

    fn spool(&self) -> Option<SpoolStatus> {
        let state = self.shared.lock();
        Some(state.report.status(&state.index, clock::boot_now()))
    }

    fn changed(&self) -> Notified<'_> {
        self.shared.changed.notified()
    }
}
