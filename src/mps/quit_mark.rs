//! The mark in a daemon's directory that keeps MPS stopped because somebody wished it, until the node boots again.
//!
//! It holds the id of the boot: `mps.dir` may be on a disk, and outlive it. In memory, as below `/run`, it cannot.

use std::io;
use std::path::Path;

/// Another one after every boot. In a container the agent's unit may see that of its host.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS: u64 = 0x0102_1994;

/// Sets it.
pub(super) fn set(path: &Path) -> io::Result<()> {
    let boot = fs_err::read_to_string(BOOT_ID).unwrap_or_default();
    // Half a mark would be one.
    fs_err::write(path, boot).inspect_err(|_| drop(fs_err::remove_file(path)))
}

/// Whether it was set since the node booted.
pub(super) fn is_set(path: &Path) -> bool {
    let Ok(mark) = fs_err::read_to_string(path) else {
        return false;
    };
    let is_in_memory = rustix::fs::statfs(path).is_ok_and(|found| u64::try_from(found.f_type) == Ok(TMPFS));
    is_in_memory || is_of(&mark, fs_err::read_to_string(BOOT_ID).ok().as_deref())
}

/// An empty one is from a version that did not know which boot it was, or could not.
fn is_of(mark: &str, boot: Option<&str>) -> bool {
    mark.is_empty() || boot.is_none_or(|boot| boot == mark)
}

/// Takes it away. Whether it was set.
pub(super) fn remove(path: &Path) -> io::Result<bool> {
    let was_set = is_set(path);
    match fs_err::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(was_set),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_in_the_boot_in_which_it_was_set() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("gpushare.quit");
        assert!(!is_set(&path));
        set(&path).unwrap();
        assert!(is_set(&path));
        assert!(remove(&path).unwrap() && !remove(&path).unwrap());
        set(&path).unwrap();
        let boot = fs_err::read_to_string(BOOT_ID).unwrap();
        assert_eq!(fs_err::read_to_string(&path).unwrap(), boot);
        let earlier = "00000000-0000-4000-8000-000000000000\n";
        assert!(is_of(&boot, Some(&boot)) && !is_of(earlier, Some(&boot)));
        assert!(
            is_of("", Some(&boot)) && is_of(earlier, None),
            "what is not known counts"
        );
    }

    #[test]
    fn what_could_not_be_written_is_no_mark() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("gpushare.quit");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        assert_eq!(set(&path).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(!is_set(&path) && path.symlink_metadata().is_err());
    }
}
