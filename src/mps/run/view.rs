//! What pods see of a daemon: hard links of the two files that a client needs, and nothing that changes a setting.
//!
//! A daemon makes both files anew at every start, so the links are made again. A pod that looks at any moment sees the
//! old file or the new one.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::mps::directories::Directories;

/// The files of the daemon with which root in a pod could set limits, quit it, or keep the next one from starting.
const PRIVILEGED: [&str; 3] = [
    "control_privileged",
    "control_lock",
    "nvidia-cuda-mps-control.pid",
];

/// Pods cannot be shown the daemon.
#[derive(Debug, thiserror::Error)]
pub(super) enum ViewError {
    /// Two file systems.
    #[error("{} cannot be linked to {}, which is on another file system", from.display(), to.display())]
    FileSystems {
        /// The daemon's file.
        from: PathBuf,
        /// The pods' link.
        to: PathBuf,
    },
    /// Another failure.
    #[error("pods cannot be shown the MPS daemon")]
    Files(#[source] io::Error),
}

impl ViewError {
    /// What an operator does about it.
    #[must_use]
    pub(super) fn mend(&self) -> String {
        match self {
            Self::FileSystems { .. } => "set mps.dir and mps.client_dir to directories of one file system",
            Self::Files(_) => "look at the directories mps.dir and mps.client_dir",
        }
        .to_owned()
    }
}

/// Links the daemon's files into the pods' directory, and takes from it what pods must not see.
pub(super) fn link(directories: &Directories) -> Result<(), ViewError> {
    for name in PRIVILEGED {
        remove(&directories.client.join(name)).map_err(ViewError::Files)?;
    }
    for from in [directories.control(), directories.log()] {
        let name = from.file_name().unwrap_or_default();
        replace(&from, &directories.client.join(name))?;
    }
    Ok(())
}

fn replace(from: &Path, to: &Path) -> Result<(), ViewError> {
    if same_file(from, to).map_err(ViewError::Files)? {
        // Renaming one link over another of the same file would do nothing, and leave both.
        return Ok(());
    }
    let fresh = to.with_extension("new");
    remove(&fresh).map_err(ViewError::Files)?;
    fs_err::hard_link(from, &fresh).map_err(|error| match error.kind() {
        io::ErrorKind::CrossesDevices => ViewError::FileSystems {
            from: from.to_owned(),
            to: to.to_owned(),
        },
        _ => ViewError::Files(error),
    })?;
    fs_err::rename(&fresh, to).map_err(ViewError::Files)
}

fn same_file(one: &Path, other: &Path) -> io::Result<bool> {
    let one = fs_err::symlink_metadata(one)?;
    match fs_err::symlink_metadata(other) {
        Ok(other) => Ok((one.dev(), one.ino()) == (other.dev(), other.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs_err::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::chain;

    fn scene() -> (tempfile::TempDir, Directories) {
        let root = tempfile::tempdir().unwrap();
        let directories = Directories {
            daemon: root.path().join("daemon"),
            client: root.path().join("client"),
        };
        for directory in [&directories.daemon, &directories.client] {
            fs_err::create_dir(directory).unwrap();
        }
        start(&directories);
        (root, directories)
    }

    /// What a daemon does at its start.
    fn start(directories: &Directories) {
        for name in ["control", "log", "control_privileged", "control_lock"] {
            let path = directories.daemon.join(name);
            let _ = fs_err::remove_file(&path);
            fs_err::write(path, "").unwrap();
        }
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs_err::read_dir(directory).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn m22_pods_see_two_files_and_those_of_the_daemon_that_runs() {
        let (_root, directories) = scene();
        for _ in 0..2 {
            // Linking twice is what SIGHUP does.
            for _ in 0..2 {
                link(&directories).unwrap();
                assert_eq!(names(&directories.client), ["control", "log"]);
            }
            for name in ["control", "log"] {
                let pair = [&directories.daemon, &directories.client].map(|directory| directory.join(name));
                assert!(same_file(&pair[0], &pair[1]).unwrap());
            }
            start(&directories);
        }
    }

    #[test]
    fn m27_what_gives_power_over_the_daemon_is_taken_out_of_sight() {
        let (_root, directories) = scene();
        for name in PRIVILEGED {
            fs_err::write(directories.client.join(name), "").unwrap();
        }
        fs_err::write(directories.client.join("control.new"), "left over").unwrap();
        link(&directories).unwrap();
        assert_eq!(names(&directories.client), ["control", "log"]);
    }

    #[test]
    fn a_file_that_is_missing_and_a_foreign_file_system_are_named() {
        let (_root, mut directories) = scene();
        fs_err::remove_file(directories.log()).unwrap();
        let text = chain(&link(&directories).unwrap_err());
        assert!(text.contains("daemon/log"), "{text}");
        let other = tempfile::tempdir_in("/dev/shm").unwrap();
        directories.client = other.path().to_owned();
        let text = chain(&link(&directories).unwrap_err());
        assert!(text.contains("on another file system"), "{text}");
    }
}
