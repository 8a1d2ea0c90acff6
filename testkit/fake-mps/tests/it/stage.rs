//! A directory with the programs, and a daemon on it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use fake_mps::kit::{Answer, PATIENCE};
use fake_mps::{Installed, Running};
use rustix::process::getuid;

pub(crate) struct Stage {
    pub(crate) mps: Installed,
    pub(crate) pipe: PathBuf,
    dir: tempfile::TempDir,
}

impl Stage {
    pub(crate) fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        open_to_all(dir.path());
        let mps = Installed::in_dir(dir.path()).unwrap();
        mps.play(script).unwrap();
        let pipe = dir.path().join("pipe");
        Self { mps, pipe, dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `-f`, listening.
    pub(crate) fn daemon(&self, args: &[&str]) -> Running {
        let daemon = Running::start(self.mps.control(&self.pipe).arg("-f").args(args)).unwrap();
        daemon.wait_for("To connect CUDA applications").unwrap();
        daemon
    }

    pub(crate) fn ask(&self, commands: &str) -> Answer {
        self.mps.ask(&self.pipe, commands).unwrap()
    }

    /// The output of commands that succeed, as all commands do.
    pub(crate) fn said(&self, commands: &str) -> String {
        let answer = self.ask(commands);
        assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""), "{commands}");
        answer.stdout
    }

    pub(crate) fn client(&self) -> Running {
        Running::start(&mut self.mps.client(&self.pipe)).unwrap()
    }

    /// A client, and the server that it is connected to.
    pub(crate) fn connected(&self) -> (Running, i32) {
        let client = self.client();
        let server = server_of(&client);
        (client, server)
    }

    /// Asks until the answer is `expected`.
    pub(crate) fn until(&self, command: &str, expected: &str) {
        let mut last = String::new();
        wait_until(
            || {
                last = self.said(command);
                last == expected
            },
            || format!("{command} does not answer {expected:?}"),
        );
    }

    /// Starts a server for this user and waits for this state.
    pub(crate) fn server(&self, state: &str) -> i32 {
        assert_eq!(self.said(&format!("start_server -uid {}", getuid().as_raw())), "");
        let mut pid = String::new();
        wait_until(
            || {
                self.said("get_server_list").trim().clone_into(&mut pid);
                !pid.is_empty() && self.said(&format!("get_server_status {pid}")).trim() == state
            },
            || format!("no server is {state}"),
        );
        pid.parse().unwrap()
    }
}

pub(crate) fn open_to_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
}

pub(crate) fn server_of(client: &Running) -> i32 {
    let line = client.wait_for("connected server=").unwrap();
    let pid = line.split(['=', ' ']).nth(2).unwrap();
    pid.parse().unwrap()
}

pub(crate) fn wait_until(mut holds: impl FnMut() -> bool, otherwise: impl Fn() -> String) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{}", otherwise());
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether there is such a process, other than one that has ended and is not reaped.
pub(crate) fn lives(pid: i32) -> bool {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

/// What a program says on stdout, given this on stdin. It ends well.
pub(crate) fn output(command: &mut Command, stdin: &str) -> String {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{stdin}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn is_root() -> bool {
    getuid().is_root()
}
