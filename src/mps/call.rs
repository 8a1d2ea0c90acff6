//! Calls a program that may hang, and never waits for it longer than a limit. Blocking.
//!
//! * The program is in a process group of its own. When the call is over, whatever the program left in that group is
//!   killed before its leader is reaped: until then the kernel gives the group's number to nobody else.
//! * What it writes is read while it runs, up to a limit. A grandchild that keeps the pipes open is not waited for.
//! * A program that survives SIGKILL (stuck in the driver) is left to a thread that reaps it one day, and counted:
//!   beyond [`MAX_ABANDONED`] no program is started any more.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// The most that is read of each stream. Every answer that makes sense is shorter: 48 clients in `ps` are 6 kB.
pub const MAX_OUTPUT_BYTES: usize = 64 * 1024;

/// The most processes that may survive SIGKILL at a time.
pub const MAX_ABANDONED: u32 = 4;

/// How long a killed program may take to be gone. Only one that is stuck in the kernel takes longer.
pub(super) const KILL_LIMIT: Duration = Duration::from_millis(500);

/// What a program said until it ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no process.
    #[error("cannot start it")]
    Spawn(#[source] io::Error),
    /// It did not end in time, and was killed.
    #[error("it had not ended after {} ms and was killed", after.as_millis())]
    TimedOut {
        /// The limit.
        after: Duration,
    },
    /// It wrote without end, and was killed.
    #[error("it wrote more than {} KiB and was killed", MAX_OUTPUT_BYTES / 1024)]
    Flooded,
    /// Too many processes survive SIGKILL.
    #[error("{0} processes of it survive SIGKILL, so no other is started")]
    Unkillable(u32),
    /// The system refuses to watch it.
    #[error("cannot watch it")]
    Watch(#[source] io::Error),
}

/// Processes that survive SIGKILL. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Abandoned(Arc<AtomicU32>);

impl Abandoned {
    /// How many there are now.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    fn take(&self, mut child: Child) {
        self.0.fetch_add(1, Ordering::Relaxed);
        let count = Self(Arc::clone(&self.0));
        let reap = move || {
            let _ = child.wait();
            count.0.fetch_sub(1, Ordering::Relaxed);
        };
        // Without a thread it stays a zombie, and counted: what is not known to be gone is there.
        let _ = std::thread::Builder::new().name("reaper".into()).spawn(reap);
    }
}

/// Runs a program, gives it `input`, and returns what it said when it has ended.
///
/// `input` must fit into a pipe (64 KiB), because nobody waits for the program to read it.
pub fn call(
    mut command: Command,
    input: &[u8],
    limit: Duration,
    abandoned: &Abandoned,
) -> Result<Finished, CallError> {
    if abandoned.count() >= MAX_ABANDONED {
        return Err(CallError::Unkillable(abandoned.count()));
    }
    let (stdout, their_stdout) = io::pipe().map_err(CallError::Spawn)?;
    let (stderr, their_stderr) = io::pipe().map_err(CallError::Spawn)?;
    let stdin = filled(input).map_err(CallError::Spawn)?;
    command
        .process_group(0)
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(their_stdout))
        .stderr(Stdio::from(their_stderr));
    let child = command.spawn().map_err(CallError::Spawn)?;
    // It holds our copies of the ends that are the child's.
    drop(command);
    let process = Process {
        child: Some(child),
        abandoned,
    };
    let mut streams = [Stream::new(stdout), Stream::new(stderr)];
    process.listen(&mut streams, limit)?;
    let status = process.reap()?;
    let [stdout, stderr] = streams.map(|stream| stream.read);
    Ok(Finished {
        status,
        stdout,
        stderr,
    })
}

/// The reading end of a pipe that holds `input` and ends after it.
fn filled(input: &[u8]) -> io::Result<PipeReader> {
    let (reader, mut writer): (PipeReader, PipeWriter) = io::pipe()?;
    set_nonblocking(&writer)?;
    writer.write_all(input)?;
    Ok(reader)
}

fn set_nonblocking(end: impl AsFd) -> io::Result<()> {
    let flags = fcntl_getfl(end.as_fd())?;
    Ok(fcntl_setfl(end, flags | OFlags::NONBLOCK)?)
}

/// One stream of the program, read as it comes.
struct Stream {
    /// `None` once it has ended.
    end: Option<PipeReader>,
    read: Vec<u8>,
}

impl Stream {
    fn new(end: PipeReader) -> Self {
        Self {
            end: Some(end),
            read: Vec::new(),
        }
    }

    /// Reads what is there, without waiting.
    fn drain(&mut self) -> Result<(), CallError> {
        let mut buffer = [0; 4096];
        while let Some(end) = &mut self.end {
            match end.read(&mut buffer) {
                Ok(0) => self.end = None,
                Ok(length) => self.read.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CallError::Watch(error)),
            }
            if self.read.len() > MAX_OUTPUT_BYTES {
                return Err(CallError::Flooded);
            }
        }
        Ok(())
    }
}

/// A started program. Dropped before it has ended, it is killed with its group.
struct Process<'a> {
    /// `None` once it is reaped or abandoned.
    child: Option<Child>,
    abandoned: &'a Abandoned,
}

impl Process<'_> {
    /// Reads until the program has ended. It is not reaped yet then. The start of a program takes as long as its disk
    /// does, and is none of its own time.
    fn listen(&self, streams: &mut [Stream; 2], limit: Duration) -> Result<(), CallError> {
        let deadline = Instant::now() + limit;
        let ended = self.pidfd().map_err(CallError::Watch)?;
        for stream in streams.iter().filter_map(|stream| stream.end.as_ref()) {
            set_nonblocking(stream).map_err(CallError::Watch)?;
        }
        loop {
            let ends = streams.iter().filter_map(|stream| stream.end.as_ref());
            let fds: Vec<BorrowedFd<'_>> = ends.map(AsFd::as_fd).collect();
            let seen = wait(ended.as_fd(), &fds, deadline).map_err(CallError::Watch)?;
            for stream in streams.iter_mut() {
                stream.drain()?;
            }
            match seen {
                Seen::Ended => return Ok(()),
                Seen::Nothing => return Err(CallError::TimedOut { after: limit }),
                Seen::Output => {}
            }
        }
    }

    fn pid(&self) -> Option<Pid> {
        let id = self.child.as_ref()?.id();
        Pid::from_raw(i32::try_from(id).ok()?)
    }

    fn pidfd(&self) -> io::Result<OwnedFd> {
        let pid = self.pid().ok_or(Errno::SRCH)?;
        Ok(pidfd_open(pid, PidfdFlags::empty())?)
    }

    /// Kills what the program left behind, and takes its exit status.
    fn reap(mut self) -> Result<ExitStatus, CallError> {
        self.kill_group();
        let status = self.child.as_mut().map(Child::wait);
        self.child = None;
        status
            .unwrap_or_else(|| Err(Errno::CHILD.into()))
            .map_err(CallError::Watch)
    }

    fn kill_group(&self) {
        if let Some(pid) = self.pid() {
            // An error means that nobody is left in it.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        self.kill_group();
        let deadline = Instant::now() + KILL_LIMIT;
        let ended = self.pidfd().and_then(|pidfd| wait(pidfd.as_fd(), &[], deadline));
        let Some(mut child) = self.child.take() else {
            return;
        };
        if matches!(ended, Ok(Seen::Ended)) {
            let _ = child.wait();
        } else {
            self.abandoned.take(child);
        }
    }
}

/// What there was to see.
enum Seen {
    /// The process has ended. What it wrote is in the pipes.
    Ended,
    /// A stream has something, or has ended.
    Output,
    /// Nothing until the deadline.
    Nothing,
}

fn wait(ended: BorrowedFd<'_>, streams: &[BorrowedFd<'_>], deadline: Instant) -> io::Result<Seen> {
    let mut fds = vec![PollFd::from_borrowed_fd(ended, PollFlags::IN)];
    fds.extend(
        streams
            .iter()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)),
    );
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(Seen::Nothing),
            Ok(_) if !fds[0].revents().is_empty() => return Ok(Seen::Ended),
            // A stream that never falls silent must not keep the deadline from being seen.
            Ok(_) if left.is_zero() => return Ok(Seen::Nothing),
            Ok(_) => return Ok(Seen::Output),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustix::process::test_kill_process;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(300);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    fn run(script: &str, limit: Duration) -> Result<Finished, CallError> {
        call(shell(script), b"", limit, &Abandoned::default())
    }

    /// The process whose id a script wrote into a file.
    fn written_pid(path: &Path) -> Pid {
        let text = fs_err::read_to_string(path).unwrap();
        Pid::from_raw(text.trim().parse().unwrap()).unwrap()
    }

    /// Waits until a process is gone, or a zombie that only its new parent can reap.
    fn is_gone(pid: Pid) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let stat = fs_err::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
            if test_kill_process(pid).is_err() || stat.is_ok_and(|stat| stat.contains(") Z ")) {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    #[test]
    fn both_streams_and_the_end_are_told() {
        let finished = call(
            shell("cat; echo bad >&2; exit 3"),
            b"good",
            PATIENCE,
            &Abandoned::default(),
        )
        .unwrap();
        assert_eq!(finished.stdout, b"good");
        assert_eq!(finished.stderr, b"bad\n");
        assert_eq!(finished.status.code(), Some(3));
    }

    #[test]
    fn a_program_that_does_not_read_or_has_closed_its_streams_is_no_trouble() {
        let long = vec![b'x'; 60_000];
        let finished = call(
            shell("exec <&- >&- 2>&-; exit 5"),
            &long,
            PATIENCE,
            &Abandoned::default(),
        );
        assert_eq!(finished.unwrap().status.code(), Some(5));
    }

    #[test]
    fn m05_a_program_that_hangs_is_killed_with_its_grandchildren() {
        let root = tempfile::tempdir().unwrap();
        let pids = root.path().join("pid");
        let script = format!("sleep 1000 & echo $! >{}; wait", pids.display());
        // Time enough to write the file on a loaded machine.
        let limit = Duration::from_secs(2);
        let started = Instant::now();
        let error = run(&script, limit).unwrap_err();
        assert!(
            matches!(error, CallError::TimedOut { after } if after == limit),
            "{error}"
        );
        assert!(started.elapsed() >= limit);
        assert!(is_gone(written_pid(&pids)));
    }

    #[test]
    fn m05_a_program_that_is_stopped_is_killed() {
        let abandoned = Abandoned::default();
        let error = call(shell("kill -STOP $$"), b"", SHORT, &abandoned).unwrap_err();
        assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
        assert_eq!(abandoned.count(), 0, "it was reaped");
    }

    #[test]
    fn a_grandchild_that_keeps_the_pipes_open_is_not_waited_for_and_killed() {
        let root = tempfile::tempdir().unwrap();
        let pids = root.path().join("pid");
        let script = format!("echo answer; sleep 1000 & echo $! >{}", pids.display());
        let finished = run(&script, PATIENCE).unwrap();
        assert_eq!(finished.stdout, b"answer\n");
        assert!(is_gone(written_pid(&pids)));
    }

    #[test]
    fn a_program_that_writes_without_end_is_killed() {
        for script in ["yes", "yes >&2"] {
            let error = run(script, PATIENCE).unwrap_err();
            assert!(matches!(error, CallError::Flooded), "{error}");
        }
        // Slower than the limit on bytes, and never silent: the deadline counts.
        let error = run("while :; do echo x; done", SHORT).unwrap_err();
        assert!(
            matches!(error, CallError::TimedOut { .. } | CallError::Flooded),
            "{error}"
        );
    }

    #[test]
    fn as_much_as_an_answer_may_have_is_read_whole() {
        let script = format!("head -c {MAX_OUTPUT_BYTES} /dev/zero");
        assert_eq!(run(&script, PATIENCE).unwrap().stdout.len(), MAX_OUTPUT_BYTES);
    }

    #[test]
    fn a_program_that_is_missing_cannot_be_started() {
        let command = Command::new("/nowhere/at/all");
        let error = call(command, b"", PATIENCE, &Abandoned::default()).unwrap_err();
        assert!(matches!(error, CallError::Spawn(_)), "{error}");
    }

    #[test]
    fn no_program_is_started_beside_too_many_that_cannot_be_killed() {
        let abandoned = Abandoned::default();
        // Nothing that a test can make survives SIGKILL: these are only slow to be reaped.
        let mut ends = Vec::new();
        for _ in 0..MAX_ABANDONED {
            let mut child = shell("read line").stdin(Stdio::piped()).spawn().unwrap();
            ends.push(child.stdin.take().unwrap());
            abandoned.take(child);
        }
        let error = call(shell("true"), b"", PATIENCE, &abandoned).unwrap_err();
        assert!(matches!(error, CallError::Unkillable(MAX_ABANDONED)), "{error}");
        drop(ends);
        let deadline = Instant::now() + PATIENCE;
        while abandoned.count() > 0 && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(call(shell("true"), b"", PATIENCE, &abandoned).is_ok());
    }
}
