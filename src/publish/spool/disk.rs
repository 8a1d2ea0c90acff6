//! What the spool needs of a disk, whatever keeps the records there.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::index::Found;
use super::totals::Totals;

/// A place where a [`Disk`] can be opened, again and again.
pub(super) trait Medium: Send + 'static {
    /// What is opened.
    type Disk: Disk;

    /// Opens it and reads what is there. What cannot be read is set aside, never a reason to fail.
    fn open(&mut self) -> Result<Opened<Self::Disk>, DiskError>;

    /// Bytes that may still be written to its file system by anybody without privileges.
    fn free_bytes(&self) -> Result<u64, DiskError>;

    /// Fails if what was opened is not there any more: somebody has removed or replaced it.
    fn still_there(&self) -> Result<(), DiskError>;

    /// Writes something beside it, to see what the operating system says.
    fn probe(&self) -> Result<(), DiskError>;
}

/// Records under keys, and the ledger beside them.
pub(super) trait Disk {
    /// Removes keys and adds records in one transaction: all of it is there after a crash, or none.
    fn commit(
        &mut self,
        removals: &[u64],
        records: &[(u64, Vec<u8>)],
        totals: Option<&Totals>,
    ) -> Result<(), DiskError>;

    /// The record under a key.
    fn read(&mut self, key: u64) -> Result<Option<Vec<u8>>, DiskError>;

    /// How large it is.
    fn usage(&mut self) -> Result<Usage, DiskError>;
}

/// An open disk and what is on it.
#[derive(Debug)]
pub(super) struct Opened<D> {
    /// The disk.
    pub(super) disk: D,
    /// Every record that is whole, in the order of the keys.
    pub(super) found: Vec<Found>,
    /// The ledgers, by node.
    pub(super) totals: Vec<Totals>,
    /// Ledgers that were not whole.
    pub(super) damaged_ledgers: usize,
    /// Records that were not whole: they are removed.
    pub(super) damaged: Vec<u64>,
    /// Whether it is another one than the last time, not the same again.
    pub(super) is_another: bool,
    /// What had to make way.
    pub(super) set_aside: Option<SetAside>,
}

/// How large the store is, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Of what is in it.
    pub(super) used: u64,
    /// Of its file, of which a part may be free.
    pub(super) file: u64,
}

/// A file that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// Where it is now.
    pub path: PathBuf,
    /// What was wrong with it.
    pub why: String,
    /// Windows that could be saved from it.
    pub saved_windows: usize,
}

/// Why a disk does not do what it has to.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum DiskError {
    /// The operating system refuses it.
    #[error(transparent)]
    Refused(Arc<io::Error>),
    /// The store refuses it.
    #[error("{what} {}", path.display())]
    Store {
        /// What was tried, to be followed by the path.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Another process has it open.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Somebody removed or replaced it.
    #[error("{} was removed or replaced", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// The content makes no sense.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that showed.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

impl DiskError {
    /// An error of the operating system.
    pub(super) fn refused(error: io::Error) -> Self {
        Self::Refused(Arc::new(error))
    }
}
