//! The lock that makes one `gpushare mps run` the only one for its GPU.
//!
//! It is an open file description's, closed at every exec: it ends with this process, whatever the daemon does.

use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

/// Held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: fs_err::File,
}

/// The lock cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    /// Another `gpushare mps run` has it.
    #[error("{holder} supervises this GPU's MPS already: it holds {}", path.display())]
    Held {
        /// The file.
        path: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// The file cannot be used.
    #[error("{} cannot be locked", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl LockError {
    /// What an operator does about it.
    #[must_use]
    pub(super) fn mend(&self) -> String {
        match self {
            Self::Held { .. } => "leave it to that one: gpushare status; or end it: gpushare mps quit GPU",
            Self::File { .. } => "look at the directory mps.dir",
        }
        .to_owned()
    }
}

/// Takes the lock at once or not at all, and writes our process id into its file.
pub(super) fn take(path: &Path) -> Result<Lock, LockError> {
    let failed = |source| LockError::File {
        path: path.to_owned(),
        source,
    };
    let mut options = std::fs::OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let mut file = fs_err::OpenOptions::from_options(options)
        .open(path)
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(LockError::Held {
                path: path.to_owned(),
                holder: named(&mut file),
            });
        }
        Err(error) => return Err(failed(error.into())),
    }
    sign(&mut file).map_err(failed)?;
    Ok(Lock { _file: file })
}

fn named(file: &mut fs_err::File) -> String {
    let mut text = String::new();
    let read = file.take(32).read_to_string(&mut text);
    match read.ok().and_then(|_| text.trim().parse::<u32>().ok()) {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

fn sign(file: &mut fs_err::File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_who_was_first_and_gets_it_afterwards() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("gpushare.lock");
        fs_err::write(&path, "a longer text of an older time\n").unwrap();
        let lock = take(&path).unwrap();
        assert_eq!(
            fs_err::read_to_string(&path).unwrap(),
            format!("{}\n", std::process::id())
        );
        let text = take(&path).unwrap_err().to_string();
        assert!(
            text.contains(&format!("process {} ", std::process::id())),
            "{text}"
        );
        drop(lock);
        take(&path).unwrap();
    }
}
