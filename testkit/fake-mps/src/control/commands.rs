//! What each command answers. Every error is text, and the exit code of the command line stays 0.

use super::daemon::{Daemon, Link};
use super::servers::{Server, State};
use super::settings::{NoSubject, Subject, limit, percentage, show_limit, subject};
use super::table::{self, Row};
use crate::version::Version;

/// The spelling is the real one's.
const OWNER_ONLY: &str =
    "Control deamon settings can only be modified by the user started it or by the root user.";
const ROOT_ONLY: &str = "Only the root user may start server for another user.";

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
    fn say(&mut self, text: impl Into<String>) {
        self.0.push(Line::Said(text.into()));
    }

    fn log(&mut self, text: impl Into<String>) {
        self.0.push(Line::Logged(text.into()));
    }

    fn print(&mut self, text: impl Into<String>) {
        self.0.push(Line::Printed(text.into()));
    }
}

/// A command, taken apart.
struct Asked<'a> {
    name: &'a str,
    args: Vec<&'a str>,
    link: &'a Link,
}

impl Asked<'_> {
    fn arg(&self, index: usize) -> &str {
        self.args.get(index).copied().unwrap_or_default()
    }

    /// What is no number is 0, as `sscanf` leaves it.
    fn pid(&self, index: usize) -> i32 {
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

    fn version(&mut self) -> Version {
        self.script.get().version
    }

    fn list_servers(&self, answer: &mut Answer) {
        for server in &self.servers {
            answer.say(server.pid.to_string());
        }
    }

    fn server_status(&self, asked: &Asked<'_>, answer: &mut Answer) {
        if asked.args.is_empty() {
            return answer.say("A server PID is required");
        }
        match self.server(asked.pid(0)) {
            Some(server) => answer.say(server.state.name()),
            None => answer.say(not_found(asked.pid(0))),
        }
    }

    /// The server that a command names, once it has finished its start.
    fn ready(&self, pid: i32, answer: &mut Answer) -> Option<&Server> {
        let server = self.server(pid);
        match server {
            None => answer.say(not_found(pid)),
            Some(server) if server.state == State::Initializing => answer.log(busy(pid)),
            Some(_) => return server,
        }
        None
    }

    /// What a server lists: its clients, and those of the script that are none.
    fn clients(&mut self, pid: i32) -> Vec<(i32, u32, String)> {
        let ghosts = self.script.get().ghost.clone();
        let live = self.server(pid).into_iter().flat_map(|server| &server.clients);
        live.map(|client| (client.pid, client.context, command_of(client.pid)))
            .chain(ghosts.into_iter().map(|ghost| (ghost.pid, 0, ghost.command)))
            .collect()
    }

    /// Empty, and without a word in the log, while the server starts.
    fn client_list(&mut self, asked: &Asked<'_>, answer: &mut Answer) {
        let pid = asked.pid(0);
        match self.server(pid).map(|server| server.state) {
            None => answer.say(not_found(pid)),
            Some(State::Initializing) => {}
            Some(_) => {
                for (client, ..) in self.clients(pid) {
                    answer.say(client.to_string());
                }
            }
        }
    }

    fn device_client_list(&mut self, asked: &Asked<'_>, answer: &mut Answer) {
        let asked_for: Vec<i32> = if asked.args.is_empty() {
            self.servers.iter().map(|server| server.pid).collect()
        } else {
            vec![asked.pid(0)]
        };
        let version = self.version();
        for pid in asked_for {
            if self.ready(pid, answer).is_none() {
                continue;
            }
            let clients = self.clients(pid);
            for (ordinal, device) in self.devices.iter().enumerate() {
                answer.say(table::device_line(version, ordinal, device));
                // A client of the fake uses the first device.
                for (client, ..) in clients.iter().filter(|_| ordinal == 0) {
                    answer.say(client.to_string());
                }
            }
        }
    }

    fn ps(&mut self, asked: &Asked<'_>, answer: &mut Answer) {
        let one = (asked.arg(0) == "-p").then(|| asked.pid(1));
        let pids: Vec<i32> = one.map_or_else(
            || self.servers.iter().map(|server| server.pid).collect(),
            |pid| vec![pid],
        );
        let ready: Vec<i32> = pids
            .into_iter()
            .filter(|pid| self.ready(*pid, answer).is_some())
            .collect();
        match (one, ready.is_empty()) {
            (Some(pid), true) => {
                answer.say(not_found(pid));
                answer.print("\n");
            }
            (None, true) => answer.say("Server not found"),
            _ => {
                let rows: Vec<Row> = ready.into_iter().flat_map(|pid| self.rows(pid)).collect();
                for line in table::ps(self.version(), &rows) {
                    answer.say(line);
                }
            }
        }
    }

    fn rows(&mut self, server: i32) -> Vec<Row> {
        let device = self.devices.first();
        let device = device.map_or_else(String::new, |device| {
            table::short_uuid(&device.uuid, &self.devices)
        });
        let row = |(pid, context, command)| Row {
            pid,
            context,
            server,
            device: device.clone(),
            namespace: namespace_of(pid),
            command,
        };
        self.clients(server).into_iter().map(row).collect()
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

    fn subject(&mut self, word: &str, answer: &mut Answer) -> Option<Subject> {
        match subject(word, self.version()) {
            Ok(subject) => Some(subject),
            Err(NoSubject::InvalidOrdinal) => {
                answer.log("Invalid device ordinal!");
                None
            }
            Err(NoSubject::Silent) => None,
        }
    }

    fn default_limit(&mut self, asked: &Asked<'_>, answer: &mut Answer) {
        let invalid = asked.arg(0).parse::<u32>().is_ok_and(|ordinal| ordinal >= 32);
        let subject = self.subject(asked.arg(0), answer);
        match subject.and_then(|subject| self.settings.limits.get(&subject)) {
            Some(bytes) => answer.say(show_limit(*bytes)),
            None if invalid => {}
            None => answer.log("No default pinned memory limit set for the device!"),
        }
    }

    /// Prints nothing, whatever comes of it.
    fn set_default_limit(&mut self, asked: &Asked<'_>, answer: &mut Answer) {
        if let Some(refused) = asked.refused(OWNER_ONLY) {
            return answer.say(refused);
        }
        let subject = self.subject(asked.arg(0), answer);
        if let Some(subject) = subject.filter(|_| !self.script.get().control.ignores_settings) {
            self.settings.set_limit(subject, limit(asked.arg(1)));
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
        match asked.arg(0) {
            "0" => self.settings.priority = 0,
            "1" => self.settings.priority = 1,
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
            .refused(ROOT_ONLY)
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
        if let Some(refused) = asked.refused(OWNER_ONLY) {
            return answer.say(refused);
        }
        let force = asked.args.contains(&"-f");
        self.stop(pid, force);
    }

    fn device_query(&self, asked: &Asked<'_>, answer: &mut Answer) {
        let csv = asked.args.contains(&"--csv");
        let pid = asked.args.iter().find_map(|arg| arg.parse::<i32>().ok());
        match pid {
            Some(pid) if self.server(pid).is_none() => return answer.say("Failed to query devices"),
            _ if csv => {}
            Some(pid) => answer.say(format!("Server {pid}")),
            None => answer.say("Default"),
        }
        for line in table::device_query(&self.devices, csv) {
            answer.say(line);
        }
    }

    fn tell(&self, server: i32, message: &str) {
        if let Some(link) = self.link_to(server) {
            let _ = crate::wire::send(&link.socket, message);
        }
    }
}

fn not_found(pid: i32) -> String {
    format!("Server {pid} not found")
}

fn busy(pid: i32) -> String {
    format!("Server {pid} is <busy>")
}

/// The client's first argument.
fn command_of(pid: i32) -> String {
    let line = fs_err::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(first).into_owned()
}

/// The inode of its pid namespace, from `pid:[4026531836]`.
fn namespace_of(pid: i32) -> String {
    let link = fs_err::read_link(format!("/proc/{pid}/ns/pid")).unwrap_or_default();
    link.to_string_lossy()
        .chars()
        .filter(char::is_ascii_digit)
        .collect()
}
