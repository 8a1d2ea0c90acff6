//! The process that keeps a GPU's daemon, `gpushare mps run`: found by the lock that it holds, ended by its pidfd.
//!
//! Its process id stands in the locked file, and is believed only where the kernel says that this process holds the
//! lock (`/proc/locks`): as long as it does, no other process can have the number. Looking does not touch the lock, so
//! that it is in nobody's way who wants to take it.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A pid and a line break are shorter.
const MAX_LOCK_BYTES: u64 = 32;

/// Every lock of the node, with its holder.
const LOCKS: &str = "/proc/locks";

/// The unit that keeps a daemon, up to its instance.
const UNIT_PREFIX: &str = "gpushare-mps@";

/// A `gpushare mps run` that is alive.
#[derive(Debug)]
pub struct Supervisor {
    pid: u32,
    process: OwnedFd,
    unit: Option<String>,
}

/// Whether somebody supervises the GPU cannot be seen, or it cannot be ended.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The lock cannot be looked at.
    #[error("it cannot be seen who supervises MPS")]
    Look(#[source] io::Error),
    /// It cannot be sent a signal.
    #[error("process {pid}, which supervises MPS, cannot be ended")]
    Signal {
        /// Its process id.
        pid: u32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Supervisor {
    /// Who holds `lock`; `None` where nobody does.
    pub fn find(lock: &Path) -> Result<Option<Self>, SupervisorError> {
        let Some(pid) = holder(lock)? else {
            return Ok(None);
        };
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => process,
            // It has ended since.
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(SupervisorError::Look(error.into())),
        };
        // Only now the number is tied to a process: it is the right one if the lock is still its.
        if holder(lock)? != Some(pid) {
            return Ok(None);
        }
        let pid = pid.as_raw_nonzero().get().unsigned_abs();
        let cgroup = fs_err::read_to_string(format!("/proc/{pid}/cgroup"));
        let unit = cgroup.ok().and_then(|cgroup| unit_in(&cgroup));
        Ok(Some(Self { pid, process, unit }))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The systemd unit that it runs in, where it is one for MPS.
    #[must_use]
    pub fn unit(&self) -> Option<&str> {
        self.unit.as_deref()
    }

    /// A copy of its pidfd, which can be read from when it has ended.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        self.process.try_clone()
    }

    /// Asks it to end in order, or kills it. That it is gone already is no error.
    pub fn signal(&self, signal: Signal) -> Result<(), SupervisorError> {
        match pidfd_send_signal(&self.process, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(SupervisorError::Signal {
                pid: self.pid,
                source: error.into(),
            }),
        }
    }

    /// Waits until it has ended, and returns whether it has.
    pub fn has_ended(&self, limit: Duration) -> Result<bool, SupervisorError> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(|_| SupervisorError::Look(Errno::INVAL.into()))?;
            match poll(&mut [PollFd::new(&self.process, PollFlags::IN)], Some(&timeout)) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(SupervisorError::Look(error.into())),
            }
        }
    }
}

/// The process that a lock file names, if it holds the lock.
fn holder(lock: &Path) -> Result<Option<Pid>, SupervisorError> {
    let file = match fs_err::File::open(lock) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(SupervisorError::Look(error)),
    };
    let inode = file.metadata().map_err(SupervisorError::Look)?.ino();
    let mut text = String::new();
    let read = file.take(MAX_LOCK_BYTES).read_to_string(&mut text);
    // Whoever has taken the lock just now may not have signed it yet: it is not there yet, then.
    let pid = read.ok().and_then(|_| text.trim().parse().ok());
    let Some(pid) = pid.filter(|pid: &i32| *pid > 0) else {
        return Ok(None);
    };
    let locks = fs_err::read_to_string(LOCKS).map_err(SupervisorError::Look)?;
    Ok(Pid::from_raw(pid).filter(|_| locks.lines().any(|line| is_lock(line, pid, inode))))
}

/// Whether a line of `/proc/locks` is this process's exclusive `flock(2)` of the file with this inode, such as
/// `9: FLOCK  ADVISORY  WRITE 20229 fe:00:5832972 0 EOF`.
///
/// The device is left out: on overlayfs and btrfs the kernel writes another one there than stat(2) tells.
fn is_lock(line: &str, pid: i32, inode: u64) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, "WRITE", holder, file, ..] = words[..] else {
        return false;
    };
    let found = file.rsplit(':').next().and_then(|inode| inode.parse().ok());
    holder.parse() == Ok(pid) && found == Some(inode)
}

/// The MPS unit that this process runs in: as its main process, or as one of its `ExecStop=` commands.
#[must_use]
pub fn own_unit() -> Option<String> {
    fs_err::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|cgroup| unit_in(&cgroup))
}

/// The MPS unit in a `/proc/PID/cgroup`: lines `hierarchy:controllers:path`, with the unit as a part of the path.
fn unit_in(cgroup: &str) -> Option<String> {
    let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let is_unit = |part: &&str| part.starts_with(UNIT_PREFIX) && part.ends_with(".service");
    paths
        .flat_map(|path| path.split('/'))
        .find(is_unit)
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A process that holds the lock as `gpushare mps run` does, until it is ended.
    struct Holder(Child);

    impl Holder {
        fn of(lock: &Path) -> Self {
            let script = "echo $$ >\"$0\"; echo held; exec sleep 1000";
            let mut child = Command::new("flock")
                .args(["--nonblock", "--no-fork"])
                .arg(lock)
                .args(["/bin/sh", "-c", script])
                .arg(lock)
                .stdout(Stdio::piped())
                .spawn()
                .expect("flock of util-linux");
            let mut said = [0; 4];
            child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
            assert_eq!(&said, b"held");
            Self(child)
        }
    }

    impl Drop for Holder {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn the_holder_of_the_lock_is_found_and_ended() {
        let root = tempfile::tempdir().unwrap();
        let lock = root.path().join("gpushare.lock");
        assert!(Supervisor::find(&lock).unwrap().is_none(), "there is no file");
        let mut holder = Holder::of(&lock);
        let found = Supervisor::find(&lock).unwrap().unwrap();
        assert_eq!(found.pid(), holder.0.id());
        assert_eq!(found.unit(), None);
        assert!(!found.has_ended(Duration::ZERO).unwrap());
        found.signal(Signal::TERM).unwrap();
        assert!(found.has_ended(PATIENCE).unwrap());
        holder.0.wait().unwrap();
        found.signal(Signal::TERM).unwrap();
        assert!(
            Supervisor::find(&lock).unwrap().is_none(),
            "a file that nobody locks says nothing"
        );
    }

    #[test]
    fn a_file_that_names_somebody_else_names_nobody() {
        let root = tempfile::tempdir().unwrap();
        let lock = root.path().join("gpushare.lock");
        let _holder = Holder::of(&lock);
        let ours = std::process::id().to_string();
        for text in [
            "",
            "root",
            "0",
            "-1",
            "4000000000",
            "1",
            "2000000000",
            "\u{0}",
            &ours,
        ] {
            fs_err::write(&lock, text).unwrap();
            assert!(Supervisor::find(&lock).unwrap().is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_lock_is_recognised_by_kind_holder_and_file() {
        let held = "9: FLOCK  ADVISORY  WRITE 20229 fe:00:5832972 0 EOF";
        assert!(is_lock(held, 20_229, 5_832_972));
        assert!(!is_lock(held, 20_230, 5_832_972));
        assert!(!is_lock(held, 20_229, 5_832_973));
        for other in [
            "9: FLOCK  ADVISORY  READ 20229 fe:00:5832972 0 EOF",
            "9: POSIX  ADVISORY  WRITE 20229 fe:00:5832972 0 EOF",
            "9: -> FLOCK  ADVISORY  WRITE 20229 fe:00:5832972 0 EOF",
            "9: FLOCK",
            "",
        ] {
            assert!(!is_lock(other, 20_229, 5_832_972), "{other}");
        }
    }

    #[test]
    fn a_unit_is_recognised_in_every_hierarchy() {
        let unit = "gpushare-mps@GPU-7f1c9a52-3d08-5b6e-9c41-2e8a60d7b3f4.service";
        for (cgroup, expected) in [
            (
                format!("0::/system.slice/system-gpushare\\x2dmps.slice/{unit}\n"),
                Some(unit),
            ),
            (format!("0::/gpushare.slice/{unit}/.control\n"), Some(unit)),
            (
                format!("12:pids:/x\n1:name=systemd:/system.slice/{unit}\n0::/\n"),
                Some(unit),
            ),
            ("0::/user.slice/user-0.slice/session-1.scope\n".to_owned(), None),
            ("0::/system.slice/gpushare.service\n".to_owned(), None),
            ("0::/kubepods.slice/gpushare-mps@x.slice/pod\n".to_owned(), None),
            ("nonsense".to_owned(), None),
        ] {
            assert_eq!(unit_in(&cgroup).as_deref(), expected, "{cgroup}");
        }
    }
}
