//! The files of `CUDA_MPS_PIPE_DIRECTORY`, with their modes.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fs_err::{File, OpenOptions};
use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, fcntl_lock, mknodat, open};

use crate::wire;

/// The real daemon's default, which its users are told never to use.
const DEFAULT: &str = "/tmp/nvidia-mps";

/// Why a daemon cannot have the directory.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The directory cannot be made or entered.
    NoAccess,
    /// Another daemon holds the lock.
    Running,
    /// Silent, exit code 1: a path too long for a socket, for one.
    Other,
}

/// The paths.
#[derive(Debug, Clone)]
pub(crate) struct PipeDir(PathBuf);

/// The files that the daemon holds.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) control: OwnedFd,
    pub(crate) privileged: OwnedFd,
    pub(crate) fifo: OwnedFd,
    /// Closing any descriptor of it would give the lock up.
    _lock: File,
}

impl PipeDir {
    pub(crate) fn from_env() -> Self {
        Self(std::env::var_os("CUDA_MPS_PIPE_DIRECTORY").map_or_else(|| DEFAULT.into(), Into::into))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.0.join("control")
    }

    pub(crate) fn privileged(&self) -> PathBuf {
        self.0.join("control_privileged")
    }

    pub(crate) fn fifo(&self) -> PathBuf {
        self.0.join("log")
    }

    fn pid_file(&self) -> PathBuf {
        self.0.join("nvidia-cuda-mps-control.pid")
    }

    /// Takes the lock, before anything else is touched.
    pub(crate) fn lock(&self) -> Result<File, Refused> {
        make_dir(&self.0, 0o777).map_err(|_| Refused::NoAccess)?;
        let path = self.0.join("control_lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|_| Refused::NoAccess)?;
        fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| Refused::Running)?;
        // Whoever owns the file may have set another mode; the real daemon opens it once and never looks again.
        if lock.metadata().is_ok_and(|meta| meta.len() == 0) {
            let _ = mode(&path, 0o666);
        }
        Ok(lock)
    }

    /// Makes the FIFO and the sockets, over whatever an earlier daemon left.
    pub(crate) fn hold(&self, lock: File, pid_file: bool) -> Result<Held, Refused> {
        self.make(lock, pid_file).map_err(|_| Refused::Other)
    }

    fn make(&self, lock: File, pid_file: bool) -> io::Result<Held> {
        let fifo = self.fifo();
        let _ = fs_err::remove_file(&fifo);
        mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o777), 0)?;
        mode(&fifo, 0o777)?;
        let control = wire::listen(&self.control())?;
        mode(&self.control(), 0o666)?;
        let privileged = wire::listen(&self.privileged())?;
        mode(&self.privileged(), 0o755)?;
        if pid_file {
            fs_err::write(self.pid_file(), std::process::id().to_string())?;
            mode(&self.pid_file(), 0o666)?;
        }
        // Both ends, so that the last server to close it does not end the reading.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(Held {
            control,
            privileged,
            fifo: open(&fifo, flags, Mode::empty())?,
            _lock: lock,
        })
    }

    /// What a daemon that was told to quit takes away; the sockets and the lock file stay.
    pub(crate) fn tidy(&self) {
        let _ = fs_err::remove_file(self.fifo());
        let _ = fs_err::remove_file(self.pid_file());
    }
}

/// Makes the last component of a path, and not its parents.
pub(crate) fn make_dir(path: &Path, bits: u32) -> io::Result<()> {
    match fs_err::create_dir(path) {
        Ok(()) => mode(path, bits),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn mode(path: &Path, bits: u32) -> io::Result<()> {
    fs_err::set_permissions(path, PermissionsExt::from_mode(bits))
}
