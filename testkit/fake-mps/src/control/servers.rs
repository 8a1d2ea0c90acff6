//! The servers that the daemon started: one at a time, of one user, unless it serves all users.

use std::fmt::Write as _;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::daemon::{Daemon, Link};
use super::start::{BACKGROUND, own_pid};
use crate::log::Speaker;
use crate::program::{LAUNCHER, SERVER};
use crate::wire;

/// What the status command says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Initializing,
    Active,
    Fault,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Initializing => "INITIALIZING",
            Self::Active => "ACTIVE",
            Self::Fault => "FAULT",
        }
    }
}

/// A client as its server reported it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) pid: i32,
    pub(super) context: u32,
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) pid: i32,
    pub(super) uid: u32,
    child: Child,
    /// Readable once it has ended.
    pub(super) exit: OwnedFd,
    pub(super) state: State,
    pub(super) percentage: f64,
    pub(super) clients: Vec<Listed>,
    /// It was told to shut down and takes no clients.
    pub(super) stopping: bool,
}

impl Server {
    /// One that was told to go is called faulty from then on (measured on one that did not go).
    pub(super) fn status(&self) -> &'static str {
        if self.stopping {
            State::Fault.name()
        } else {
            self.state.name()
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.state != State::Initializing
    }
}

/// In the place of the child between fork and `execlp`: the search in `PATH` is that of the new user.
pub(crate) fn launch(args: &[String]) -> ExitCode {
    let _never = Command::new(SERVER).args(args).env_remove(BACKGROUND).exec();
    ExitCode::FAILURE
}

impl Daemon {
    /// The user whose server a client of `uid` gets.
    pub(super) fn server_uid(&self, uid: u32) -> u32 {
        if self.multi_user { 0 } else { uid }
    }

    pub(super) fn server(&self, pid: i32) -> Option<&Server> {
        self.servers.iter().find(|server| server.pid == pid)
    }

    /// Whether there is a process; whether it lives is seen later.
    pub(super) fn start_server(&mut self, uid: u32) -> bool {
        let server = match spawn(uid, self.multi_user, self.settings.percentage) {
            Ok(server) => server,
            Err(error) => {
                self.status = 1;
                self.log(&format!("Failed to start server using uid {uid}, error: {error}"));
                return false;
            }
        };
        let pid = server.pid;
        // The real one says it between fork and exec, as the new process.
        self.log_of(
            Speaker::Control,
            pid,
            &format!("Starting new server {pid} for user {uid}"),
        );
        self.servers.push(server);
        true
    }

    /// A server has connected: it is told the defaults.
    pub(super) fn greet(&mut self, link: &Link) {
        let uuids: Vec<&str> = self.devices.iter().map(|device| device.uuid.as_str()).collect();
        let mut message = self.settings.message(&uuids);
        for (ordinal, device) in self.devices.iter().enumerate() {
            let _ = write!(message, "\ndevice {ordinal} {}", device.name);
        }
        let _ = wire::send(&link.socket, &message);
        let pid = link.peer.pid.as_raw_nonzero().get();
        if self.server(pid).is_some_and(|server| server.stopping) {
            let _ = wire::send(&link.socket, "SHUTDOWN");
        }
    }

    pub(super) fn server_says(&mut self, pid: i32, word: &str, rest: &str) {
        let Some(server) = self.servers.iter_mut().find(|server| server.pid == pid) else {
            return;
        };
        let listed = || {
            let (pid, context) = rest.split_once(' ')?;
            Some(Listed {
                pid: pid.parse().ok()?,
                context: context.parse().ok()?,
            })
        };
        match word {
            "READY" => {
                server.state = State::Active;
                self.retries = 0;
                self.log(&format!("NEW SERVER {pid}: Ready"));
            }
            "ACTIVE" => server.state = State::Active,
            "FAULT" => server.state = State::Fault,
            "CLIENT" => server.clients.extend(listed()),
            "GONE" => server.clients.retain(|client| Some(*client) != listed()),
            "FATAL" => self.log("Server encountered a fatal exception. Shutting down"),
            "BUSY" => self.log_busy(pid, rest),
            _ => {}
        }
        self.place_pending();
    }

    fn log_busy(&mut self, pid: i32, threads: &str) {
        self.log(&format!(
            "Server {pid} has {threads} active worker threads. Server will not shutdown."
        ));
        self.log(&format!(
            "Control will try shutting down server {pid} again in at most 1000ms"
        ));
    }

    /// Tells a server to go; `force` also with clients.
    pub(super) fn stop(&mut self, pid: i32, force: bool) {
        if let Some(server) = self.servers.iter_mut().find(|server| server.pid == pid) {
            server.stopping = true;
        }
        if force {
            return self.force(pid);
        }
        if let Some(link) = self.link_to(pid) {
            let _ = wire::send(&link.socket, "SHUTDOWN");
        }
    }

    /// One SIGINT, as the real daemon: a server that ignores it, or is stopped, stays.
    fn force(&mut self, pid: i32) {
        self.log(&format!("Force shutting down server {pid}"));
        let process = Pid::from_raw(pid).filter(|_| !self.script.get().server.ignores_force);
        let _ = process.map(|process| kill_process(process, Signal::INT));
    }

    pub(super) fn stop_servers(&mut self) {
        let all: Vec<i32> = self.servers.iter().map(|server| server.pid).collect();
        for pid in all {
            self.stop(pid, false);
        }
    }

    /// The end of `quit -t`.
    pub(super) fn force_quit(&mut self) {
        let Some(quit) = &mut self.quit else { return };
        if quit.force_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        quit.force_at = None;
        let pids: Vec<i32> = self.servers.iter().map(|server| server.pid).collect();
        for pid in pids {
            self.force(pid);
        }
    }

    pub(super) fn reap(&mut self) {
        let ended =
            |server: &mut Server| matches!(server.child.try_wait(), Ok(Some(_))).then_some(server.pid);
        let ended: Vec<i32> = self.servers.iter_mut().filter_map(ended).collect();
        for pid in &ended {
            self.hear_last_words(*pid);
            self.bury(*pid);
        }
        if !ended.is_empty() && self.quit.is_none() {
            self.place_pending();
        }
    }

    /// What an ended server said between poll and its end: nobody else holds its end of the link, so this never waits.
    fn hear_last_words(&mut self, pid: i32) {
        while let Some((message, _)) = self
            .link_to(pid)
            .and_then(|link| wire::receive(&link.socket).ok().flatten())
        {
            let (word, rest) = message.split_once(' ').unwrap_or((&message, ""));
            self.server_says(pid, word, rest);
        }
        self.drain();
    }

    fn bury(&mut self, pid: i32) {
        let Some(index) = self.servers.iter().position(|server| server.pid == pid) else {
            return;
        };
        let mut server = self.servers.remove(index);
        let raw = server
            .child
            .try_wait()
            .ok()
            .flatten()
            .map_or(0, ExitStatusExt::into_raw);
        // The real one logs 0 for whatever ended by a signal.
        let status = u8::try_from(raw >> 8 & 0xff).unwrap_or(0);
        if status != 0 {
            self.status = status;
        }
        self.log(&format!("Server {pid} exited with status {status}"));
        self.log("Removed Shm file at ");
    }
}

fn spawn(uid: u32, multi_user: bool, percentage: f64) -> io::Result<Server> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(LAUNCHER).stdin(Stdio::null());
    if multi_user {
        command.args(["-multiuser-server", "0"]);
    } else if uid != rustix::process::getuid().as_raw() {
        command.uid(uid);
    }
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).unwrap_or(own_pid());
    let exit = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    Ok(Server {
        pid,
        uid,
        child,
        exit: pidfd_open(exit, PidfdFlags::empty())?,
        state: State::Initializing,
        percentage,
        clients: Vec::new(),
        stopping: false,
    })
}
