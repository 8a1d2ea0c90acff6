//! A server that is up.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Defaults;
use crate::log::{Recorder, Speaker};
use crate::script::{Fault, Watched};
use crate::wire;

/// How often the script is looked at.
const TICK: Duration = Duration::from_millis(10);

/// A connected client.
#[derive(Debug)]
struct Client {
    /// None once it has ended, and the script has the server not notice.
    socket: Option<OwnedFd>,
    pid: i32,
    context: u32,
}

impl Client {
    fn name(&self) -> String {
        format!("{{PID: {}, Context ID: {}}}", self.pid, self.context)
    }

    fn tell(&self, message: &str) {
        if let Some(socket) = &self.socket {
            let _ = wire::send(socket, message);
        }
    }
}

#[derive(Debug)]
pub(super) struct Session {
    script: Watched,
    recorder: Recorder,
    /// None once the daemon is gone.
    control: Option<OwnedFd>,
    defaults: Defaults,
    clients: Vec<Client>,
    faulty: bool,
    /// The fault that the script now asks for, to see when it changes.
    asked: Fault,
    stopping: bool,
    ready_since: Instant,
}

impl Session {
    pub(super) fn new(script: Watched, recorder: Recorder, control: OwnedFd, defaults: Defaults) -> Self {
        Self {
            script,
            recorder,
            control: Some(control),
            defaults,
            clients: Vec::new(),
            faulty: false,
            asked: Fault::None,
            stopping: false,
            ready_since: Instant::now(),
        }
    }

    pub(super) fn run(mut self) -> ExitCode {
        loop {
            let (control, clients) = self.wait();
            if control {
                self.hear_control();
            }
            for pid_and_context in clients {
                self.hear_client(pid_and_context);
            }
            if self
                .script
                .get()
                .server
                .lives()
                .is_some_and(|lives| self.ready_since.elapsed() >= lives)
            {
                self.tell("FATAL");
                return ExitCode::FAILURE;
            }
            self.forget_dead();
            self.play_fault();
            let stays = self.script.get().server.ignores_shutdown;
            if self.stopping && self.clients.is_empty() && !stays {
                return ExitCode::SUCCESS;
            }
        }
    }

    /// Whether control has something to say, and which clients have: their pid and context.
    fn wait(&self) -> (bool, Vec<(i32, u32)>) {
        let sockets = self
            .control
            .iter()
            .chain(self.clients.iter().filter_map(|client| client.socket.as_ref()));
        let mut polled: Vec<_> = sockets.map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
        let tick = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(TICK.subsec_nanos()),
        };
        if poll(&mut polled, Some(&tick)).is_err() {
            return (false, Vec::new());
        }
        let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
        let control = self.control.is_some() && ready.next().unwrap_or(false);
        let live = self.clients.iter().filter(|client| client.socket.is_some());
        let clients = live.zip(ready).filter(|(_, ready)| *ready);
        let clients = clients.map(|(client, _)| (client.pid, client.context));
        (control, clients.collect())
    }

    fn tell(&self, message: &str) {
        if let Some(control) = &self.control {
            let _ = wire::send(control, message);
        }
    }

    fn say(&self, text: &str) {
        self.recorder.write(Speaker::Server, text);
    }

    fn hear_control(&mut self) {
        let Some(control) = &self.control else { return };
        let Ok(Some((message, passed))) = wire::receive(control) else {
            self.control = None;
            return;
        };
        let mut words = message.split(' ');
        match (words.next().unwrap_or_default(), passed) {
            ("CLIENT", Some(socket)) => self.admit(socket, &message),
            ("SHUTDOWN", _) => self.shut_down(),
            ("TERMINATE", _) => self.terminate(words.next().and_then(|pid| pid.parse().ok())),
            ("PERCENTAGE", _) => {
                let value = words.next().and_then(|value| value.parse().ok());
                self.defaults.percentage = value.unwrap_or(self.defaults.percentage);
            }
            ("LIMIT", _) => {
                if let (Some(Ok(ordinal)), Some(Ok(bytes))) =
                    (words.next().map(str::parse), words.next().map(str::parse))
                {
                    self.defaults.limits.insert(ordinal, bytes);
                }
            }
            _ => {}
        }
    }

    /// `CLIENT pid uid percentage limit`.
    fn admit(&mut self, socket: OwnedFd, message: &str) {
        let words: Vec<&str> = message.split(' ').collect();
        let [_, pid, _uid, percentage, limit] = words[..] else {
            return;
        };
        let pid = pid.parse().unwrap_or(0);
        let context = self.clients.iter().filter(|client| client.pid == pid).count();
        let client = Client {
            socket: Some(socket),
            pid,
            context: u32::try_from(context).unwrap_or(0),
        };
        let name = client.name();
        self.say(&format!("Received new client request for {name}"));
        let error = if self.faulty || self.stopping {
            Some(807)
        } else if self.clients.len() >= self.script.get().server.max_clients {
            Some(808)
        } else {
            None
        };
        if let Some(error) = error {
            client.tell(&format!("ERROR {error}"));
            return;
        }
        self.say(&format!("Client {name} connected"));
        self.say(&format!("Creating worker thread for client {name}"));
        let shares = self.shares(percentage, limit);
        client.tell(&format!("CONNECTED {} {shares}", std::process::id()));
        self.tell(&format!("CLIENT {pid} {context}"));
        self.clients.push(client);
    }

    /// The client's own limits, which can only be tighter than those of the server.
    fn shares(&self, percentage: &str, limit: &str) -> String {
        let own = percentage.parse::<f64>().unwrap_or(100.0);
        let percentage = own.min(self.defaults.percentage);
        let default = self.defaults.limits.get(&0).copied();
        let limit = [limit.parse::<u64>().ok(), default].into_iter().flatten().min();
        let limit = limit.map_or_else(|| "none".to_owned(), |bytes| bytes.to_string());
        format!("{percentage:.1} {limit}")
    }

    /// Clients have nothing to say: what is heard is their end.
    fn hear_client(&mut self, (pid, context): (i32, u32)) {
        let is_it = |client: &&mut Client| (client.pid, client.context) == (pid, context);
        let Some(client) = self.clients.iter_mut().find(is_it) else {
            return;
        };
        let says = |socket: &OwnedFd| matches!(wire::receive(socket), Ok(Some(_)));
        client.socket.take_if(|socket| !says(socket));
    }

    fn forget_dead(&mut self) {
        if !self.script.get().server.keeps_dead_clients {
            self.forget(|client| client.socket.is_none());
        }
    }

    fn forget(&mut self, is_gone: impl Fn(&Client) -> bool) {
        let (gone, live) = std::mem::take(&mut self.clients)
            .into_iter()
            .partition::<Vec<_>, _>(is_gone);
        self.clients = live;
        for client in gone {
            self.say("Receive command failed, assuming client exit");
            self.say("Client process disconnected");
            self.tell(&format!("GONE {} {}", client.pid, client.context));
        }
    }

    /// A client that ended unnoticed goes too.
    fn terminate(&mut self, pid: Option<i32>) {
        if self.script.get().server.ignores_terminate {
            return;
        }
        for client in self.clients.iter().filter(|client| Some(client.pid) == pid) {
            client.tell("ERROR 810");
        }
        self.forget(|client| Some(client.pid) == pid);
    }

    fn shut_down(&mut self) {
        self.stopping = true;
        if !self.clients.is_empty() {
            self.tell(&format!("BUSY {}", self.clients.len()));
        }
    }

    fn play_fault(&mut self) {
        let asked = self.script.get().server.fault;
        if asked != self.asked {
            self.asked = asked;
            self.set_faulty(asked != Fault::None);
        }
        if self.faulty && asked == Fault::UntilClientsEnd && self.clients.is_empty() {
            self.set_faulty(false);
        }
    }

    fn set_faulty(&mut self, faulty: bool) {
        if faulty == self.faulty {
            return;
        }
        self.faulty = faulty;
        self.tell(if faulty { "FAULT" } else { "ACTIVE" });
        for client in self.clients.iter().filter(|_| faulty) {
            client.tell("FAULT");
        }
    }
}
