//! Where the files of one GPU's daemon are.
//!
//! ```text
//! <mps.dir>/<uuid>/          0700, pods never see it: CUDA_MPS_PIPE_DIRECTORY and CUDA_MPS_LOG_DIRECTORY of the daemon
//!   control control_privileged control_lock log nvidia-cuda-mps-control.pid     NVIDIA's
//!   gpushare.lock            held by `gpushare mps run` as long as it lives; its process id
//!   gpushare.events          what the daemon's log said, for the agent
//!   gpushare.quit            keeps it stopped on purpose, until the node boots again
//!   gpushare.compute-mode    the compute mode that the GPU had before
//!   gpushare.put-back        lets the next `gpushare mps run` put that back, and do nothing else
//! <mps.client_dir>/<uuid>/   0755, what pods see of it: hard links of `control` and `log`
//! ```

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::config;
use crate::gpu::GpuUuid;

/// `sun_path` of `sockaddr_un` less its final NUL.
const LONGEST_SOCKET_PATH: usize = 107;

/// The longest name of a socket in the directory.
const LONGEST_SOCKET: &str = "control_privileged";

/// The directories of one daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// The daemon's own.
    pub daemon: PathBuf,
    /// What pods see.
    pub client: PathBuf,
}

/// The directory cannot hold a socket.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the socket {} would have a path of {length} bytes, and {LONGEST_SOCKET_PATH} is the most: make {key} shorter",
    path.display()
)]
pub struct PathTooLong {
    key: &'static str,
    path: PathBuf,
    length: usize,
}

impl PathTooLong {
    /// The configuration key of the directory.
    #[must_use]
    pub fn key(&self) -> &'static str {
        self.key
    }
}

impl Directories {
    /// Those of this GPU.
    pub fn of(mps: &config::Mps, gpu: &GpuUuid) -> Result<Self, PathTooLong> {
        let directories = Self {
            daemon: mps.dir.join(&*gpu.0),
            client: mps.client_dir.join(&*gpu.0),
        };
        fits("mps.dir", directories.daemon.join(LONGEST_SOCKET))?;
        fits("mps.client_dir", directories.client.join("control"))?;
        Ok(directories)
    }

    /// The socket that clients and other users' programs talk to.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.daemon.join("control")
    }

    /// The FIFO into which servers write their log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.daemon.join("log")
    }

    /// The file that the control daemon holds a POSIX lock on.
    #[must_use]
    pub fn control_lock(&self) -> PathBuf {
        self.daemon.join("control_lock")
    }

    /// The file that `gpushare mps run` holds a lock on.
    #[must_use]
    pub fn supervisor_lock(&self) -> PathBuf {
        self.daemon.join("gpushare.lock")
    }

    /// What the daemon's log said.
    #[must_use]
    pub fn events(&self) -> PathBuf {
        self.daemon.join("gpushare.events")
    }

    /// Keeps the daemon stopped because somebody wished it.
    #[must_use]
    pub fn quit(&self) -> PathBuf {
        self.daemon.join("gpushare.quit")
    }

    /// Lets the daemon's next process put the compute mode back, and end.
    #[must_use]
    pub fn put_back(&self) -> PathBuf {
        self.daemon.join("gpushare.put-back")
    }

    /// The compute mode that the GPU had before MPS.
    #[must_use]
    pub fn compute_mode(&self) -> PathBuf {
        self.daemon.join("gpushare.compute-mode")
    }
}

/// The GPUs that have a directory in `mps.dir`. Blocks on it.
pub fn gpus_in(dir: &Path) -> io::Result<Vec<GpuUuid>> {
    let entries = match fs_err::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut gpus = Vec::new();
    for entry in entries {
        if let Some(name) = entry?.file_name().to_str()
            && name.starts_with("GPU-")
        {
            gpus.push(GpuUuid::from(name));
        }
    }
    Ok(gpus)
}

/// What an operator does about a file in the daemon's directory that cannot be written.
#[must_use]
pub fn mend(daemon: &Path, error: &io::Error) -> String {
    let daemon = daemon.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("make room on the file system of {daemon} (df, df -i)")
        }
        io::ErrorKind::PermissionDenied => "run as root".to_owned(),
        _ => format!("look at the directory {daemon} (mps.dir)"),
    }
}

fn fits(key: &'static str, path: PathBuf) -> Result<(), PathTooLong> {
    let length = socket_length(&path);
    if length <= LONGEST_SOCKET_PATH {
        return Ok(());
    }
    Err(PathTooLong { key, path, length })
}

fn socket_length(path: &Path) -> usize {
    path.as_os_str().as_bytes().len()
}
