//! What is on the directory of a daemon before ours is started: nobody, a foreign daemon, or what an earlier
//! `gpushare mps run` left because it was killed.
//!
//! Who holds NVIDIA's lock is the kernel's word. The pid file beside it is anybody's, and is not read. What is ours is
//! told by a mark in the environment that only our daemon and its servers get; a process of another pid namespace, such
//! as a pod's, is never ours. Stale files are no trouble and are left alone: removing a lock that somebody holds would
//! make two daemons on one directory.

use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::{
    Flock, FlockOffsetType, FlockType, Pid, PidfdFlags, Signal, fcntl_getlk, pidfd_open, pidfd_send_signal,
};

/// The variable in the environment of our daemon and its servers: the daemon's directory.
pub(super) const MARK: &str = "GPUSHARE_MPS_DAEMON";

/// How long a killed process may take to be gone. Only one that is stuck in the driver takes longer.
const KILL_LIMIT: Duration = Duration::from_secs(2);

/// The longest environment that is looked at.
const MAX_ENVIRONMENT: u64 = 256 * 1024;

/// The directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeftoverError {
    /// Another daemon runs on it.
    #[error("another MPS daemon uses this directory: {} is held by {holder}", path.display())]
    Foreign {
        /// NVIDIA's lock.
        path: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// A process that an earlier one left does not go.
    #[error("{holder} is left of an earlier start and survives SIGKILL: it is stuck in the driver")]
    Stuck {
        /// Who.
        holder: String,
    },
    /// The lock or `/proc` cannot be read.
    #[error("it cannot be seen whether another MPS daemon holds {}", path.display())]
    Look {
        /// NVIDIA's lock.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl LeftoverError {
    /// What an operator does about it.
    #[must_use]
    pub(super) fn mend(&self) -> String {
        match self {
            Self::Foreign { .. } => "end that process, or set mps.dir to a directory that nothing else uses",
            Self::Stuck { .. } => "look at dmesg, reboot the node",
            Self::Look { .. } => "look at the directory mps.dir",
        }
        .to_owned()
    }
}

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Nobody,
    Process(Pid),
    /// Somebody in another pid namespace.
    Unseen,
}

/// Ends what an earlier one left on the directory, and refuses what is foreign. Returns the processes that were ended.
pub(super) fn clear(daemon_dir: &Path, control_lock: &Path) -> Result<Vec<String>, LeftoverError> {
    let mut ended = Vec::new();
    let look = |source| LeftoverError::Look {
        path: control_lock.to_owned(),
        source,
    };
    match holder(control_lock).map_err(look)? {
        Holder::Nobody => {}
        Holder::Process(pid) if is_ours(pid, daemon_dir) => ended.push(end(pid)?),
        Holder::Process(pid) => return Err(foreign(control_lock, described(pid))),
        Holder::Unseen => {
            let unseen = "a process of another pid namespace, such as a container's";
            return Err(foreign(control_lock, unseen.to_owned()));
        }
    }
    // They hold the GPU, which takes one server only.
    for pid in processes().map_err(look)? {
        if is_ours(pid, daemon_dir) {
            ended.push(end(pid)?);
        }
    }
    Ok(ended)
}

fn foreign(path: &Path, holder: String) -> LeftoverError {
    LeftoverError::Foreign {
        path: path.to_owned(),
        holder,
    }
}

fn holder(control_lock: &Path) -> io::Result<Holder> {
    let mut options = std::fs::OpenOptions::new();
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    options.read(true).custom_flags(flags.bits().cast_signed());
    let file = match fs_err::OpenOptions::from_options(options).open(control_lock) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Holder::Nobody),
        file => file?,
    };
    let question = Flock {
        start: 0,
        length: 0,
        pid: None,
        typ: FlockType::WriteLock,
        offset_type: FlockOffsetType::Set,
    };
    Ok(match fcntl_getlk(&file, &question)? {
        None => Holder::Nobody,
        Some(held) => held.pid.map_or(Holder::Unseen, Holder::Process),
    })
}

/// Whether a process carries our mark for this directory.
fn is_ours(pid: Pid, daemon_dir: &Path) -> bool {
    let proc = proc_of(pid);
    in_our_pid_namespace(&proc) && carries(&environment(&proc), daemon_dir)
}

/// The kernel lists a process id for each namespace below the one of `/proc`.
fn in_our_pid_namespace(proc: &Path) -> bool {
    let status = fs_err::read_to_string(proc.join("status")).unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    ids.is_some_and(|ids| ids.split_whitespace().count() == 1)
}

fn environment(proc: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = fs_err::File::open(proc.join("environ")) {
        // A process that is gone by now has none.
        let _ = file.take(MAX_ENVIRONMENT).read_to_end(&mut bytes);
    }
    bytes
}

fn carries(environment: &[u8], daemon_dir: &Path) -> bool {
    let mark = format!("{MARK}={}", daemon_dir.display());
    environment
        .split(|byte| *byte == 0)
        .any(|variable| variable == mark.as_bytes())
}

fn processes() -> io::Result<Vec<Pid>> {
    let entries = fs_err::read_dir("/proc")?;
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(ids.filter_map(Pid::from_raw).collect())
}

/// Kills a process and waits until it is gone.
fn end(pid: Pid) -> Result<String, LeftoverError> {
    let holder = described(pid);
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return Ok(holder);
    };
    // It may have ended by itself.
    let _ = pidfd_send_signal(&process, Signal::KILL);
    let deadline = Instant::now() + KILL_LIMIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).expect("two seconds fit");
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)) {
            Ok(0) => return Err(LeftoverError::Stuck { holder }),
            Err(rustix::io::Errno::INTR) => {}
            _ => return Ok(holder),
        }
    }
}

/// `process 12 (nvidia-cuda-mps)`.
pub(super) fn described(pid: Pid) -> String {
    let name = fs_err::read_to_string(proc_of(pid).join("comm")).unwrap_or_default();
    let name: String = name
        .trim()
        .chars()
        .filter(|letter| !letter.is_control())
        .collect();
    format!("process {} ({name})", pid.as_raw_nonzero())
}

fn proc_of(pid: Pid) -> PathBuf {
    PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_one_whole_variable() {
        let directory = Path::new("/run/gpushare/mps/GPU-a");
        let with = |environment: &str| carries(environment.replace('|', "\0").as_bytes(), directory);
        assert!(with("PATH=/bin|GPUSHARE_MPS_DAEMON=/run/gpushare/mps/GPU-a|"));
        assert!(!with("GPUSHARE_MPS_DAEMON=/run/gpushare/mps/GPU-ab|"));
        assert!(!with("X=GPUSHARE_MPS_DAEMON=/run/gpushare/mps/GPU-a|"));
        assert!(!with("CUDA_MPS_PIPE_DIRECTORY=/run/gpushare/mps/GPU-a|"));
        assert!(!with(""));
    }

    #[test]
    fn m02_files_that_nobody_holds_are_no_trouble_and_stay() {
        let root = tempfile::tempdir().unwrap();
        let lock = root.path().join("control_lock");
        assert!(clear(root.path(), &lock).unwrap().is_empty());
        fs_err::write(&lock, "").unwrap();
        fs_err::write(root.path().join("nvidia-cuda-mps-control.pid"), "1").unwrap();
        assert!(clear(root.path(), &lock).unwrap().is_empty());
        assert!(lock.exists());
    }

    #[test]
    fn a_lock_that_is_a_link_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let lock = root.path().join("control_lock");
        std::os::unix::fs::symlink("/dev/null", &lock).unwrap();
        let error = clear(root.path(), &lock).unwrap_err();
        assert!(matches!(error, LeftoverError::Look { .. }), "{error}");
    }

    #[test]
    fn this_process_is_in_its_own_namespace_and_described_by_its_name() {
        let own = rustix::process::getpid();
        assert!(in_our_pid_namespace(&proc_of(own)));
        assert!(described(own).starts_with(&format!("process {} (", own.as_raw_nonzero())));
        assert!(processes().unwrap().contains(&own));
    }
}
