//! The daemon's loop. One thread, as the real one behaves: whatever stops it stops every command.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::UCred;
use rustix::process::{Signal, getpid, kill_process};

use super::Options;
use super::ask::ANSWER;
use super::clients::Pending;
use super::servers::Server;
use super::settings::Settings;
use super::start::own_pid;
use crate::device::{self, Device};
use crate::log::{Log, Records, Speaker};
use crate::pipe_dir::{Held, PipeDir};
use crate::script::Watched;
use crate::wire;

/// How often the script is looked at.
const TICK: Duration = Duration::from_millis(20);

/// A connection to one of the two sockets.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) socket: OwnedFd,
    pub(super) peer: UCred,
    pub(super) kind: Kind,
    /// Whether it came through `control_privileged`: the socket decides what a command may do, not the user.
    pub(super) privileged: bool,
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It has not said so yet.
    New,
    Ui,
    Server,
}

/// What poll found.
#[derive(Debug, Clone, Copy)]
enum Source {
    Control,
    Privileged,
    Fifo,
    Link(usize),
    /// A server ended.
    Exit,
}

/// The daemon was told to quit: it waits for its servers and hears nobody else.
#[derive(Debug)]
pub(super) struct Quit {
    /// When servers are forced; never without `-t`.
    pub(super) force_at: Option<Instant>,
    /// The command line that waits.
    ui: OwnedFd,
}

#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) script: Watched,
    pub(super) dir: PipeDir,
    held: Held,
    log: Log,
    records: Records,
    pub(super) settings: Settings,
    pub(super) devices: Vec<Device>,
    pub(super) multi_user: bool,
    pub(super) protocol_3: bool,
    links: Vec<Option<Link>>,
    pub(super) servers: Vec<Server>,
    pub(super) pending: Vec<Pending>,
    /// Servers started in a row for clients that wait, none of which became ready.
    pub(super) retries: u32,
    commands: u64,
    pub(super) quit: Option<Quit>,
    /// The exit code: that of the last server that failed.
    pub(super) status: u8,
    storm_since: Instant,
}

impl Daemon {
    pub(super) fn new(
        mut script: Watched,
        options: &Options,
        dir: PipeDir,
        held: Held,
        log: Log,
        settings: Settings,
    ) -> Self {
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        let devices = device::visible(&script.get().device, visible.as_deref());
        Self {
            script,
            dir,
            held,
            log,
            records: Records::default(),
            settings,
            devices,
            multi_user: options.multi_user,
            protocol_3: options.protocol_3,
            links: Vec::new(),
            servers: Vec::new(),
            pending: Vec::new(),
            retries: 0,
            commands: 0,
            quit: None,
            status: 0,
            storm_since: Instant::now(),
        }
    }

    pub(super) fn run(mut self) -> ExitCode {
        loop {
            if self.script.get().control.wedged {
                thread::sleep(TICK);
                continue;
            }
            for source in self.wait() {
                self.serve(source);
            }
            self.links.retain(Option::is_some);
            self.reap();
            self.force_quit();
            self.storm();
            if self.quit.is_some() && self.servers.is_empty() {
                return self.finish();
            }
        }
    }

    pub(super) fn log(&mut self, text: &str) {
        self.log_of(Speaker::Control, own_pid(), text);
    }

    pub(super) fn log_of(&mut self, speaker: Speaker, pid: i32, text: &str) {
        self.log.write(speaker, pid, text);
    }

    fn wait(&self) -> Vec<Source> {
        let mut sources = vec![Source::Fifo];
        let mut polled = vec![PollFd::new(&self.held.fifo, PollFlags::IN)];
        if self.quit.is_none() {
            sources.extend([Source::Control, Source::Privileged]);
            polled.push(PollFd::new(&self.held.control, PollFlags::IN));
            polled.push(PollFd::new(&self.held.privileged, PollFlags::IN));
        }
        for (index, link) in self.links.iter().enumerate() {
            let heard = |link: &&Link| self.quit.is_none() || link.kind == Kind::Server;
            if let Some(link) = link.as_ref().filter(heard) {
                sources.push(Source::Link(index));
                polled.push(PollFd::new(&link.socket, PollFlags::IN));
            }
        }
        for server in &self.servers {
            sources.push(Source::Exit);
            polled.push(PollFd::new(&server.exit, PollFlags::IN));
        }
        let tick = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(TICK.subsec_nanos()),
        };
        if poll(&mut polled, Some(&tick)).is_err() {
            return Vec::new();
        }
        let ready = polled.iter().map(|fd| !fd.revents().is_empty());
        sources
            .into_iter()
            .zip(ready)
            .filter_map(|(source, ready)| ready.then_some(source))
            .collect()
    }

    fn serve(&mut self, source: Source) {
        match source {
            Source::Control => self.accept(false),
            Source::Privileged => self.accept(true),
            Source::Fifo => self.drain(),
            Source::Link(index) => self.hear(index),
            Source::Exit => {}
        }
    }

    fn accept(&mut self, privileged: bool) {
        let listener = if privileged {
            &self.held.privileged
        } else {
            &self.held.control
        };
        let Ok((socket, peer)) = wire::accept(listener) else {
            return;
        };
        self.log("Accepting connection...");
        self.links.push(Some(Link {
            socket,
            peer,
            kind: Kind::New,
            privileged,
        }));
    }

    /// The lines of the servers.
    pub(super) fn drain(&mut self) {
        let mut bytes = [0; 16 * 1024];
        if let Ok(length) = rustix::io::read(&self.held.fifo, &mut bytes) {
            self.records.push(&bytes[..length]);
        }
        while let Some((speaker, pid, text)) = self.records.next() {
            self.log_of(speaker, pid, &text);
        }
    }

    /// One message. The link is put back unless its other end has closed or it is a client's, which a server gets.
    fn hear(&mut self, index: usize) {
        let Some(link) = self.links.get(index).and_then(Option::as_ref) else {
            return;
        };
        let heard = wire::receive(&link.socket).ok().flatten();
        let (kind, peer) = (link.kind, link.peer.pid.as_raw_nonzero().get());
        let (word, rest) = match &heard {
            Some((text, _)) => text.split_once(' ').unwrap_or((text, "")),
            None => ("", ""),
        };
        match kind {
            _ if heard.is_none() => self.hung_up(index),
            Kind::Server => self.server_says(peer, word, rest),
            _ => self.hear_other(index, word, rest),
        }
    }

    fn hear_other(&mut self, index: usize, word: &str, rest: &str) {
        let Some(mut link) = self.links[index].take() else {
            return;
        };
        match (link.kind, word) {
            (Kind::New, "UI") => {
                self.log("NEW UI");
                link.kind = Kind::Ui;
            }
            (Kind::New, "SERVER") => {
                link.kind = Kind::Server;
                self.greet(&link);
            }
            (Kind::New, "CLIENT") => return self.admit(link, rest),
            (Kind::Ui, "CMD") => self.command(&link, rest),
            _ => self.log("Unknown type of connection"),
        }
        self.links[index] = Some(link);
    }

    fn hung_up(&mut self, index: usize) {
        let link = self.links[index].take();
        if link.is_some_and(|link| link.kind == Kind::Ui) {
            self.log("UI closed");
        }
    }

    fn command(&mut self, link: &Link, command: &str) {
        self.log(&format!("Cmd:{command}"));
        self.commands += 1;
        let control = self.script.get().control.clone();
        if control.crash_after.is_some_and(|after| self.commands > after) {
            // As SIGKILL by anybody: no cleanup, nothing in the log.
            let _ = kill_process(getpid(), Signal::KILL);
        }
        thread::sleep(control.answer_delay());
        let name = command.split_whitespace().next().unwrap_or_default();
        let answer = control.answer(name).or_else(|| self.execute(link, command));
        if let Some(answer) = answer {
            let _ = wire::send_bytes(&link.socket, &[&[ANSWER], answer.as_slice()].concat());
        }
    }

    /// From now on only servers are heard. The command line gets its answer at the end.
    pub(super) fn begin_quit(&mut self, link: &Link, timeout: Option<u64>) {
        let Ok(ui) = link.socket.try_clone() else { return };
        let force_at = timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        self.quit = Some(Quit { force_at, ui });
        self.stop_servers();
    }

    fn finish(mut self) -> ExitCode {
        self.drain();
        let status = self.status;
        self.log(&format!("Exit with status {status}"));
        self.dir.tidy();
        // Measured: after a server that ended with 1, the command line that said `quit` ends with 1 too, silently.
        if let Some(quit) = self.quit.as_ref().filter(|_| status != 1) {
            let _ = wire::send_bytes(&quit.ui, &[ANSWER]);
        }
        status.into()
    }

    pub(super) fn link_to(&self, server: i32) -> Option<&Link> {
        let is_its =
            |link: &&Link| link.kind == Kind::Server && link.peer.pid.as_raw_nonzero().get() == server;
        self.links.iter().flatten().find(is_its)
    }

    /// Lines at the script's rate, as a server with a chatty client writes them.
    fn storm(&mut self) {
        let rate = self.script.get().control.log_lines_per_s;
        let due = self.storm_since.elapsed().as_secs_f64() * f64::from(rate);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count of lines in a tick"
        )]
        let due = due as u64;
        if rate > 0 && due == 0 {
            return;
        }
        self.storm_since = Instant::now();
        for number in 0..due {
            let text = format!("Received new client request for {{PID: 0, Context ID: {number}}}");
            self.log_of(Speaker::Server, own_pid(), &text);
        }
    }
}
