//! The current list of mounts to ask, read again only when the kernel says that it changed.
//!
//! Reading mountinfo with 500 mounts takes more than a millisecond and holds the lock that every mount and
//! unmount of the node needs. poll(2) on the open file reports `POLLPRI` after any change, which costs a
//! microsecond. Files that are not procfs (a copied tree) are read every time, because poll(2) says nothing there.

use std::io::{self, Read, Seek};
use std::path::PathBuf;

use fs_err::File;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{PROC_SUPER_MAGIC, fstatfs};
use rustix::io::retry_on_intr;

use super::HostSettings;
use super::fault::{FaultLog, HostError};
use super::mounts::{Mount, MountFilter, parse, select};

/// `<root_dir>/proc/self/mountinfo`, filtered.
#[derive(Debug)]
pub(super) struct MountTable {
    path: PathBuf,
    filter: MountFilter,
    /// Open only while it can tell about changes.
    watched: Option<File>,
    selected: Vec<Mount>,
    fault: FaultLog,
    odd_line: FaultLog,
}

impl MountTable {
    pub(super) fn new(settings: &HostSettings) -> Self {
        Self {
            path: settings.root_dir.join("proc/self/mountinfo"),
            filter: MountFilter::new(settings),
            watched: None,
            selected: Vec::new(),
            fault: FaultLog::new("mounts"),
            odd_line: FaultLog::new("a line of the mounts"),
        }
    }

    /// The mounts to ask now, one per device; `None` when they cannot be read.
    pub(super) fn current(&mut self) -> Option<&[Mount]> {
        let refreshed = self.refresh();
        self.fault.note(refreshed)?;
        Some(&self.selected)
    }

    /// The names of what cannot be read of it.
    pub(super) fn failing(&self) -> impl Iterator<Item = &'static str> {
        [&self.fault, &self.odd_line]
            .into_iter()
            .filter_map(FaultLog::failing)
    }

    fn refresh(&mut self) -> Result<(), HostError> {
        // Taken out, so that a failed read closes it and the next tick starts afresh.
        let mut file = match self.watched.take() {
            Some(file) if !has_changed(&file).map_err(HostError::Read)? => {
                self.watched = Some(file);
                return Ok(());
            }
            Some(file) => file,
            None => File::open(&self.path).map_err(HostError::Read)?,
        };
        let text = read_from_start(&mut file).map_err(HostError::Read)?;
        self.adopt(&text);
        self.watched = Some(file).filter(tells_changes);
        Ok(())
    }

    fn adopt(&mut self, text: &[u8]) {
        let parsed = parse(text);
        let odd = match parsed.first_odd_line {
            Some((line, text)) => Err(HostError::malformed(&self.path, line, &text)),
            None => Ok(()),
        };
        self.odd_line.note(odd);
        self.selected = select(&parsed.mounts, &self.filter);
    }
}

fn read_from_start(file: &mut File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut text)?;
    Ok(text)
}

/// The kernel compares with the state at the open or at the last poll of this file, so a change between this
/// call and the read that follows is reported by the next call.
fn has_changed(file: &File) -> io::Result<bool> {
    let mut watched = [PollFd::new(file, PollFlags::PRI)];
    retry_on_intr(|| poll(&mut watched, Some(&Timespec::default())))?;
    Ok(watched[0].revents().intersects(PollFlags::PRI | PollFlags::ERR))
}

fn tells_changes(file: &File) -> bool {
    fstatfs(file).is_ok_and(|fs| fs.f_type == PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn settings(root_dir: &Path) -> HostSettings {
        HostSettings {
            root_dir: root_dir.into(),
            exclude_mounts: Vec::new(),
            exclude_fs_types: Vec::new(),
        }
    }

    #[test]
    fn a_copied_tree_is_read_every_time_and_its_loss_is_absent() {
        let root = tempfile::tempdir().unwrap();
        let proc_self = root.path().join("proc/self");
        fs_err::create_dir_all(&proc_self).unwrap();
        let mountinfo = proc_self.join("mountinfo");
        let mut table = MountTable::new(&settings(root.path()));

        assert_eq!(table.current(), None);
        assert!(table.fault.is_failing());
        fs_err::write(&mountinfo, "20 1 259:1 / / rw - ext4 /dev/a rw\n").unwrap();
        assert_eq!(table.current().unwrap().len(), 1);
        fs_err::write(
            &mountinfo,
            "20 1 259:1 / / rw - ext4 /dev/a rw\nodd\n21 1 259:2 / /b rw - ext4 /dev/b rw\n",
        )
        .unwrap();
        assert_eq!(table.current().unwrap().len(), 2);
        assert!(table.odd_line.is_failing());
        fs_err::remove_file(&mountinfo).unwrap();
        assert_eq!(table.current(), None);
    }

    #[test]
    fn the_real_table_is_kept_open_and_gives_the_same_answer_unread() {
        let mut table = MountTable::new(&settings(Path::new("/")));
        let first = table.current().unwrap().to_vec();
        assert!(!first.is_empty());
        assert!(table.watched.is_some(), "procfs tells about changes");
        assert_eq!(table.current().unwrap(), first);
    }
}
