//! What each command answers. Every error is text, and the exit code of the command line stays 0.

use super::daemon::{Daemon, Link};
use super::settings::{NoSubject, limit, percentage, show_limit, subject};
use crate::version::Version;

/// The spelling is the real one's.
const OWNER_ONLY: &str =
    "Control deamon settings can only be modified by the user started it or by the root user.";
const ROOT_STARTS: &str = "Only the root user may start server for another user.";
const ROOT_STOPS: &str = "Only the root user may shutdown another user's server.";

/// The lines of one answer.
#[derive(Debug, Default)]
pub(super) struct Answer(Vec<Line>);

#[derive(Debug)]
enum Line {
    /// Printed and logged, as almost everything is.
    Said(String),
    Logged(String),
    Printed(String),
}

impl Answer {
    pub(super) fn say(&mut self, text: impl Into<String>) {
        self.0.push(Line::Said(text.into()));
    }

    pub(super) fn log(&mut self, text: impl Into<String>) {
        self.0.push(Line::Logged(text.into()));
    }

    pub(super) fn print(&mut self, text: impl Into<String>) {
        self.0.push(Line::Printed(text.into()));
    }
}

/// A command, taken apart.
pub(super) struct Asked<'a> {
    name: &'a str,
    pub(super) args: Vec<&'a str>,
    link: &'a Link,
}

impl Asked<'_> {
    pub(super) fn arg(&self, index: usize) -> &str {
        self.args.get(index).copied().unwrap_or_default()
    }

    /// What is no number is 0, as `sscanf` leaves it.
    pub(super) fn pid(&self, index: usize) -> i32 {
        self.arg(index).parse().unwrap_or(0)
    }

    /// The socket decides, not the user: root is refused where it came through `control`.
    fn refused(&self, why: &str) -> Option<String> {
        let uid = self.link.peer.uid.as_raw();
        (!self.link.privileged).then(|| format!("Insufficient privileges for UID {uid}. {why}"))
    }
}

impl Daemon {
    /// The answer, which is also logged; none while the daemon quits, which answers at its end.
    pub(super) fn execute(&mut self, link: &Link, command: &str) -> Option<Vec<u8>> {
        let mut words = command.split_whitespace();
        let asked = Asked {
            name: words.next().unwrap_or_default(),
            args: words.collect(),
            link,
        };
        let mut answer = Answer::default();
        if asked.name == "quit" && !self.protocol_3 {
            if link.privileged {
                self.quit(&asked);
                return None;
            }
            answer.say("Not enough privilege to execute quit command");
        } else {
            self.answer(&asked, &mut answer);
        }
        Some(self.told(answer))
    }

    fn told(&mut self, answer: Answer) -> Vec<u8> {
        let mut text = String::new();
        for line in answer.0 {
            match line {
                Line::Said(line) => {
                    self.log(&line);
                    text.push_str(&line);
                    text.push('\n');
                }
                Line::Logged(line) => self.log(&line),
                Line::Printed(line) => text.push_str(&line),
            }
        }
        text.into_bytes()
    }

    fn quit(&mut self, asked: &Asked<'_>) {
        let timeout = (asked.arg(0) == "-t")
            .then(|| asked.arg(1).parse().ok())
            .flatten();
        if let Some(seconds) = timeout {
            self.log(&format!("quit command issued with timeout of {seconds}"));
        }
        self.begin_quit(asked.link, timeout);
    }

    fn answer(&mut self, asked: &Asked<'_>, answer: &mut Answer) {
        let version = self.version();
        match asked.name {
            "server" if self.protocol_3 && asked.arg(0) == "list" => self.list_servers(answer),
            name if self.protocol_3 => answer.say(format!("Unknown command \"{name}\"")),
            "get_server_list" => self.list_servers(answer),
            "get_server_status" if version.has_server_status() => self.server_status(asked, answer),
            "get_client_list" => self.client_list(asked, answer),
            "get_device_client_list" => self.device_client_list(asked, answer),
            "ps" => self.ps(asked, answer),
            "get_default_active_thread_percentage" => answer.say(format!("{:.1}", self.settings.percentage)),
            "set_default_active_thread_percentage" => self.set_default_percentage(asked, answer),
            "get_active_thread_percentage" | "set_active_thread_percentage" => {
                self.percentage_of(asked, answer);
            }
            "get_default_device_pinned_mem_limit" => self.default_limit(asked, answer),
            "set_default_device_pinned_mem_limit" => self.set_default_limit(asked, answer),
            "get_device_pinned_mem_limit" | "set_device_pinned_mem_limit" => self.limit_of(asked, answer),
            "get_default_client_priority" => answer.say(self.settings.priority.to_string()),
            "set_default_client_priority" => self.set_priority(asked, answer),
            "terminate_client" => self.terminate_client(asked, answer),
            "start_server" => self.ask_for_server(asked, answer),
            "shutdown_server" => self.shutdown_server(asked, answer),
            "device_query" if version.is_cuda_13() => self.device_query(asked, answer),
            "lspart" | "sm_partition" if version.has_partitions() => {
                answer.say("Static partitioning mode is not enabled");
            }
            name => answer.say(format!("Unknown command \"{name}\"")),
        }
    }

    pub(super) fn version(&mut self) -> Version {
        self.script.get().version
    }

    fn set_default_percentage(&mut self, asked: &Asked<'_>, answer: &mut Answer) {
        if let Some(refused) = asked.refused(OWNER_ONLY) {
            return answer.say(refused);
        }
        match percentage(asked.arg(0)) {
            Some(_) if self.script.get().control.ignores_settings => {}
            Some(value) => self.settings.percentage = value,
            None => answer.log("Invalid percentage, expected between (0.0, 100.0]"),
        }
        answer.say(format!("{:.1}", self.settings.percentage));
    }

    fn percentage_of(&mut self, asked: &Asked<'_>, answer: &mut Answer) {
        let pid = asked.pid(0);
        if self.ready(pid, answer).is_none() {
            return;
        }
        let wanted = asked.name.starts_with("set").then(|| asked.arg(1));
        if let Some(refused) = wanted.and_then(|_| asked.refused(OWNER_ONLY)) {
            return answer.say(refused);
        }
        let accepted = !self.script.get().control.ignores_settings;
        let value = wanted.and_then(percentage).filter(|_| accepted);
        let Some(server) = self.servers.iter_mut().find(|server| server.pid == pid) else {
            return;
        };
        server.percentage = value.unwrap_or(server.percentage);
        answer.say(format!("{:.1}", server.percentage));
        let message = format!("PERCENTAGE {}", server.percentage);
        self.tell(pid, &message);
    }

    fn default_limit(&mut self, asked: &Asked<'_>, answer: &mut Answer) {
        let subject = subject(asked.arg(0), self.version());
        let limit = subject
            .as_ref()
            .ok()
            .and_then(|subject| self.settings.limits.get(subject));
        match limit {
            Some(bytes) => answer.say(show_limit(*bytes)),
            None if subject == Err(NoSubject::InvalidOrdinal) => answer.log("Invalid device ordinal!"),
            None => answer.log("No default pinned memory limit set for the device!"),
        }
    }

    /// Prints nothing, whatever comes of it.
    fn set_default_limit(&mut self, asked: &Asked<'_>, answer: &mut Answer) {
        if let Some(refused) = asked.refused(OWNER_ONLY) {
            return answer.say(refused);
        }
        match subject(asked.arg(0), self.version()) {
            Ok(_) if self.script.get().control.ignores_settings => {}
            Ok(subject) => self.settings.set_limit(subject, limit(asked.arg(1))),
            Err(NoSubject::InvalidOrdinal) => answer.log("Invalid device ordinal!"),
            Err(NoSubject::Silent) => {}
        }
    }

    /// Of a running server: the fake passes it on and does not read it back.
    fn limit_of(&self, asked: &Asked<'_>, answer: &mut Answer) {
        if self.ready(asked.pid(0), answer).is_none() || asked.name.starts_with("get") {
            return;
        }
        if let Some(refused) = asked.refused(OWNER_ONLY) {
            return answer.say(refused);
        }
        let bytes = limit(asked.arg(2)).unwrap_or(0);
        self.tell(asked.pid(0), &format!("LIMIT {} {bytes}", asked.arg(1)));
    }

    fn set_priority(&mut self, asked: &Asked<'_>, answer: &mut Answer) {
        if let Some(refused) = asked.refused(OWNER_ONLY) {
            return answer.say(refused);
        }
        // The number at the start, which is 0 where there is none.
        let word = asked.arg(0);
        let end = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
        match word[..end].parse().unwrap_or(0) {
            _ if self.script.get().control.ignores_settings => {}
            priority @ (0 | 1) => self.settings.priority = priority,
            _ => answer.say("Invalid priority value - must be 0 or 1!"),
        }
    }

    /// The last line is a code. What the real one prints when it succeeds is not known; the fake says 0.
    fn terminate_client(&mut self, asked: &Asked<'_>, answer: &mut Answer) {
        let (pid, client) = (asked.pid(0), asked.pid(1));
        let Some(server) = self.ready(pid, answer) else {
            answer.say(format!("Server {pid} not found!"));
            return answer.say("1");
        };
        if !server.clients.iter().any(|listed| listed.pid == client) {
            answer.say(format!("Invalid process {client}!"));
            return answer.say("1");
        }
        self.tell(pid, &format!("TERMINATE {client}"));
        answer.say("0");
    }

    /// Says nothing of what comes of it.
    fn ask_for_server(&mut self, asked: &Asked<'_>, answer: &mut Answer) {
        let wanted = asked.args.iter().position(|arg| *arg == "-uid");
        let Some(uid) = wanted.and_then(|at| asked.arg(at + 1).parse::<u32>().ok()) else {
            return answer.say("A user id (UID) is required to start a new server");
        };
        let refused = asked
            .refused(ROOT_STARTS)
            .filter(|_| asked.link.peer.uid.as_raw() != uid);
        if let Some(refused) = refused {
            return answer.say(refused);
        }
        let (uid, version) = (self.server_uid(uid), self.version());
        match self.servers.first() {
            None => {
                self.start_server(uid);
            }
            Some(server) if server.uid == uid && version.has_partitions() => {
                answer.say(format!("Server with UID {uid} already exists"));
            }
            Some(_) => {}
        }
    }

    fn shutdown_server(&mut self, asked: &Asked<'_>, answer: &mut Answer) {
        let pid = asked.pid(0);
        if self.server(pid).is_none() {
            return answer.say(not_found(pid));
        }
        if let Some(refused) = asked.refused(ROOT_STOPS) {
            return answer.say(refused);
        }
        let force = asked.args.contains(&"-f");
        self.stop(pid, force);
    }

    fn tell(&self, server: i32, message: &str) {
        if let Some(link) = self.link_to(server) {
            let _ = crate::wire::send(&link.socket, message);
        }
    }
}

pub(super) fn not_found(pid: i32) -> String {
    format!("Server {pid} not found")
}
