//! Commands in a node, and beside it, by `nsenter`.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::family::Family;

/// How often an end is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What a command in a node did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code; 128 + N after signal N.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A program that runs in a node. It is killed when it is dropped.
#[derive(Debug)]
pub struct Running {
    process: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

/// `ARGUMENTS` in every namespace of the process `leader`, with the environment of a login.
pub(crate) fn command(leader: u32, arguments: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--target={leader}"))
        .args(["--all", "--"])
        .args(arguments);
    log_in(&mut command);
    command
}

/// `wanted` on this machine, but with the network of the process `leader`; it dies with the process `keeper`, the first
/// of its namespace of processes.
pub(crate) fn beside(keeper: u32, leader: u32, wanted: &Command) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--target={keeper}"))
        .args(["--pid", &format!("--net=/proc/{leader}/ns/net"), "--"])
        .arg(wanted.get_program())
        .args(wanted.get_args());
    log_in(&mut command);
    for (name, value) in wanted.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(folder) = wanted.get_current_dir() {
        command.current_dir(folder);
    }
    command
}

/// The environment of a login, and nothing to read.
fn log_in(command: &mut Command) {
    command
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", concat!("/", "root"))
        .stdin(Stdio::null());
}

impl Running {
    /// # Panics
    /// When `nsenter` cannot be started.
    pub(crate) fn start(mut command: Command) -> Self {
        let started = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut process = started.unwrap_or_else(|error| panic!("cannot run nsenter: {error}"));
        let stdout = process.stdout.take().map(read);
        let stderr = process.stderr.take().map(read);
        Self {
            process,
            stdout,
            stderr,
        }
    }

    /// Its process id on this machine; `None` before it runs and after it has ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        // nsenter waits for the one that it forked into the node's namespace of processes.
        Family::of(self.process.id()).pids().next()
    }

    /// Sends it a signal, if it still runs.
    pub fn signal(&self, signal: Signal) {
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Waits for its end; `None` when it runs for longer than this.
    #[must_use]
    pub fn wait(mut self, limit: Duration) -> Option<Ran> {
        let begun = Instant::now();
        let status = loop {
            match self.process.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if begun.elapsed() < limit => std::thread::sleep(LOOK_EVERY),
                _ => return None,
            }
        };
        Some(Ran {
            code: code(status),
            stdout: text(self.stdout.take()),
            stderr: text(self.stderr.take()),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.runs() {
            self.signal(Signal::KILL);
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// As a shell says it: nsenter ends by the signal that ended its child.
fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .or(status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}

fn read(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn text(reader: Option<JoinHandle<String>>) -> String {
    reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
}
