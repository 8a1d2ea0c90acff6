//! The control daemon as a child: found, started, ended, and everything that it leaves behind.
//!
//! The daemon must not outlive us: a helper (`gpushare mps exec`) asks the kernel to kill it when we end, then becomes
//! it. What the daemon leaves when it ends is ours: this process adopts the orphans of its children.

use std::ffi::OsString;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open};

use super::{EXEC_FAILED, leftovers};
use crate::gpu::GpuUuid;
use crate::mps::control::{self, ControlError, SERVER};
use crate::mps::directories::Directories;

/// The running binary, even after a package upgrade replaced the file.
const SELF: &str = "/proc/self/exe";

/// Where programs are where `PATH` does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long the orphans of a daemon may take to be gone: a new daemon is to answer within two seconds.
pub(super) const REAP_LIMIT: Duration = Duration::from_secs(1);

/// How often it is looked whether they are.
const REAP_PAUSE: Duration = Duration::from_millis(5);

/// Where to look for programs: beside the control daemon first, for its server, then where we were told to.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    /// NVIDIA's control daemon.
    pub(super) control: PathBuf,
    /// `PATH` of the daemon.
    pub(super) path: OsString,
    /// Whether the server is there as well.
    pub(super) server: bool,
}

impl Programs {
    /// Looks for the programs: `control` is an absolute path, or a name that is looked up in `PATH`.
    ///
    /// Every time anew: at boot the driver may be mounted after us.
    pub(super) fn find(control: &Path) -> Result<Self, ControlError> {
        let control = control::resolve(control)?;
        let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        Ok(Self::beside(control, path))
    }

    fn beside(control: PathBuf, path: OsString) -> Self {
        let directory = control.parent().unwrap_or(Path::new("/")).to_owned();
        let directories = std::iter::once(directory).chain(std::env::split_paths(&path));
        // A directory with a colon in its name cannot be in a PATH.
        let path = std::env::join_paths(directories).unwrap_or(path);
        let server = std::env::split_paths(&path).any(|directory| directory.join(SERVER).is_file());
        Self {
            control,
            path,
            server,
        }
    }
}

/// What the daemon is started with.
pub(super) struct Launch<'a> {
    pub(super) programs: &'a Programs,
    pub(super) directories: &'a Directories,
    pub(super) gpu: &'a GpuUuid,
    pub(super) multi_user: bool,
}

/// The running daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    process: OwnedFd,
}

impl Daemon {
    /// Starts it. What it and its servers print comes out of the pipe.
    pub(super) fn start(launch: &Launch<'_>) -> io::Result<(Self, PipeReader)> {
        let (log, theirs) = io::pipe()?;
        let mut command = Command::new(SELF);
        command.args(["mps", "exec", "--parent", &std::process::id().to_string(), "--"]);
        command.arg(&launch.programs.control).arg("-f");
        if launch.multi_user {
            command.arg("-multiuser-server");
        }
        set_environment(&mut command, launch);
        let child = command
            .stdin(Stdio::null())
            .stdout(theirs.try_clone()?)
            .stderr(theirs)
            .current_dir("/")
            // Ctrl-C in a terminal is for us alone.
            .process_group(0)
            .spawn()?;
        // It holds our copies of the pipe's end.
        drop(command);
        let process = pidfd_open(pid_of(&child), PidfdFlags::empty())?;
        Ok((Self { child, process }, log))
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Readable when it has ended.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    /// Sends SIGKILL. An error means that it has ended.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// How it ended. Blocks until it has.
    pub(super) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

/// Nothing of ours that would change what the daemon does, or that is secret.
fn set_environment(command: &mut Command, launch: &Launch<'_>) {
    let directory = &launch.directories.daemon;
    command
        .env_clear()
        .env("PATH", &launch.programs.path)
        .env("CUDA_MPS_PIPE_DIRECTORY", directory)
        .env("CUDA_MPS_LOG_DIRECTORY", directory)
        .env("CUDA_VISIBLE_DEVICES", &*launch.gpu.0)
        // A driver whose default becomes another protocol still speaks the one that we read.
        .env("CUDA_MPS_PROTOCOL_VERSION", "2")
        .env(leftovers::MARK, directory);
    // Where the driver's libraries are on hosts that keep them in a place of their own.
    if let Some(libraries) = std::env::var_os("LD_LIBRARY_PATH") {
        command.env("LD_LIBRARY_PATH", libraries);
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Makes this process the parent of what its children leave behind.
pub(super) fn adopt_orphans() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(
        rustix::process::getpid(),
    ))?)
}

/// Kills and reaps every child that there is, and theirs. Returns those that did not go in time.
///
/// Only after the daemon was reaped: its exit status is not told here. A process that is setting the compute mode at this
/// time is one of them. Whoever waits for it gets an error and ends with this process; that it kills the group first harms
/// nobody, because the kernel gives a number out again only after all the others.
pub(super) fn end_orphans() -> Vec<Pid> {
    let deadline = Instant::now() + REAP_LIMIT;
    loop {
        // The dead first, so that their children are ours in the next round.
        let none_left = loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        if none_left {
            return Vec::new();
        }
        let left = children();
        for child in &left {
            let _ = kill_process(*child, Signal::KILL);
        }
        if Instant::now() >= deadline {
            return left;
        }
        std::thread::sleep(REAP_PAUSE);
    }
}

/// The processes whose parent we are. Until they are reaped nobody else gets their ids.
fn children() -> Vec<Pid> {
    let own = std::process::id();
    let Ok(entries) = fs_err::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| parent_of(*pid) == Some(own))
        .filter_map(Pid::from_raw)
        .collect()
}

fn parent_of(pid: i32) -> Option<u32> {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // `12 (a name) S 1 …`, where the name may hold brackets and spaces.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// Why the helper did not become the daemon.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Its parent has ended in the meantime, or was never there.
    #[error(
        "`gpushare mps exec` is started by `gpushare mps run` and has no use of its own; see: gpushare mps run"
    )]
    NotAChild,
    /// The kernel does not take the program.
    #[error("{} cannot be executed: install the driver's MPS programs anew (nvidia-driver-cuda)", program.display())]
    Exec {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl ExecError {
    /// 64 usage; what the parent tells from every exit code of the daemon.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotAChild => 64,
            Self::Exec { .. } => EXEC_FAILED,
        }
    }
}

/// `gpushare mps exec`: becomes a program, to be killed by the kernel when its parent ends. Returns only where it
/// cannot. `command`: the program and its arguments.
#[must_use]
pub fn exec(parent: u32, command: &[OsString]) -> ExecError {
    let asked = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // A parent that ended before has no death any more.
    let is_child = rustix::process::getppid().map(raw) == Some(parent);
    let Some((program, arguments)) = command.split_first().filter(|_| asked.is_ok() && is_child) else {
        return ExecError::NotAChild;
    };
    let source = Command::new(program).args(arguments).exec();
    ExecError::Exec {
        program: program.into(),
        source,
    }
}

fn raw(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_looked_for_beside_the_control_daemon_first() {
        let root = tempfile::tempdir().unwrap();
        let control = root.path().join("control");
        let programs = Programs::beside(control.clone(), "/nowhere:/bin".into());
        assert!(!programs.server);
        let directories: Vec<PathBuf> = std::env::split_paths(&programs.path).collect();
        assert_eq!(
            directories,
            [root.path(), Path::new("/nowhere"), Path::new("/bin")]
        );
        fs_err::write(root.path().join(SERVER), "").unwrap();
        assert!(Programs::beside(control, "/bin".into()).server);
    }

    #[test]
    fn the_parent_is_read_past_any_name() {
        let own = std::process::id().cast_signed();
        assert_eq!(parent_of(own), rustix::process::getppid().map(raw));
        assert_eq!(parent_of(i32::MAX), None);
    }
}
