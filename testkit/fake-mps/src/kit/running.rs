//! Programs with deadlines.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// What a test waits for comes in a hundredth of it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a command line said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output; bytes that are no text are replaced.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a command line to its end.
pub(super) fn ask(command: &mut Command, commands: &str) -> io::Result<Answer> {
    let piped = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = piped.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that has ended already has said why.
        let _ = stdin.write_all(commands.as_bytes());
    }
    let stdout = child.stdout.take().map(read_all);
    let stderr = child.stderr.take().map(read_all);
    let status = wait(&mut child, PATIENCE).inspect_err(|_| drop(child.kill()));
    let _ = child.wait();
    let text =
        |reader: Option<JoinHandle<String>>| reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
    let (stdout, stderr) = (text(stdout), text(stderr));
    Ok(Answer {
        code: status?.code(),
        stdout,
        stderr,
    })
}

fn read_all(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, patience: Duration) -> io::Result<ExitStatus> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let end = pidfd_open(pid.ok_or(ErrorKind::NotFound)?, PidfdFlags::empty())?;
    let mut polled = [rustix::event::PollFd::new(&end, rustix::event::PollFlags::IN)];
    let patience = rustix::event::Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(patience.subsec_nanos()),
    };
    if rustix::event::poll(&mut polled, Some(&patience))? == 0 {
        return Err(timed_out(&format!("process {} does not end", child.id())));
    }
    child.wait()
}

fn timed_out(what: &str) -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("{what} within {PATIENCE:?}"))
}

/// The lines of a program, and the news that there are more.
#[derive(Debug, Default)]
struct Lines {
    read: Mutex<(Vec<String>, bool)>,
    more: Condvar,
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, (Vec<String>, bool)> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, from: impl Read) {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            self.lock().0.push(text);
            self.more.notify_all();
            line.clear();
        }
        self.lock().1 = true;
        self.more.notify_all();
    }
}

/// A program that runs until its end is asked for, or until it is dropped. Its stdout is read all the time.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Arc<Lines>,
}

impl Running {
    /// Starts it. Its stdin stays open, its stderr is that of the test.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = Arc::new(Lines::default());
        if let Some(stdout) = child.stdout.take() {
            let lines = Arc::clone(&lines);
            // It ends when the last process that has this stdout ends; nobody waits for it.
            thread::spawn(move || lines.follow(stdout));
        }
        Ok(Self { child, lines })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().0.clone()
    }

    /// Waits until it has said a line that contains `text`, now or earlier, and returns the first such line.
    ///
    /// An error of kind `TimedOut` has all lines, one of kind `UnexpectedEof` if there will be none any more.
    pub fn wait_for(&self, text: &str) -> io::Result<String> {
        let end = Instant::now() + PATIENCE;
        let mut read = self.lines.lock();
        loop {
            if let Some(line) = read.0.iter().find(|line| line.contains(text)) {
                return Ok(line.clone());
            }
            let said = || format!("{text:?} is not said; said was:\n{}", read.0.join("\n"));
            if read.1 {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, said()));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(ErrorKind::TimedOut, said()));
            }
            let woken = self.lines.more.wait_timeout(read, left);
            read = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Writes to its stdin: commands, for a command line that stays.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        let stdin = self.child.stdin.as_mut().ok_or(ErrorKind::BrokenPipe)?;
        stdin.write_all(text.as_bytes())?;
        stdin.flush()
    }

    /// Closes its stdin, which is the end of a client.
    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        Ok(kill_process(pid.ok_or(ErrorKind::NotFound)?, signal)?)
    }

    /// Waits for its end; an error of kind `TimedOut` if it does not come.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        wait(&mut self.child, PATIENCE)
    }

    /// How it ended, if it does so within `patience`: for tests of what does not end.
    pub fn ended_within(&mut self, patience: Duration) -> io::Result<Option<ExitStatus>> {
        match wait(&mut self.child, patience) {
            Err(error) if error.kind() == ErrorKind::TimedOut => Ok(None),
            ended => ended.map(Some),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
