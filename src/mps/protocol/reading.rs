//! Answers -> [`Report`]. Pure.

use std::collections::BTreeMap;

use super::{Answer, Client, Command, Report, Script, Server, ServerStatus, shown};

/// The most texts that are kept of what was not understood.
const MAX_NOT_UNDERSTOOD: usize = 8;

/// What is said of a daemon that has other commands. Each of the older ones knows `get_server_list`.
const OTHER_PROTOCOL: &str =
    "the daemon does not speak protocol 2: CUDA_MPS_PROTOCOL_VERSION is 3 where it was started";

/// The most servers that are asked for. There is one for each user without `-multiuser-server`, and one at a time.
const MAX_SERVERS: usize = 4;

/// What has been heard so far in one probe.
#[derive(Debug, Default)]
pub struct Reading {
    listed: Vec<u32>,
    lists_all: bool,
    statuses: BTreeMap<u32, ServerStatus>,
    /// By server, where every line of the answer is understood.
    clients: BTreeMap<u32, Vec<u32>>,
    commands: BTreeMap<u32, String>,
    thread_percentage: Option<f64>,
    memory_limit: Option<String>,
    not_understood: Vec<String>,
}

impl Reading {
    /// Takes the answers to a script.
    pub fn hear(&mut self, script: &Script, answers: &[Answer]) {
        if !answers.is_empty() && answers.iter().all(|answer| matches!(answer, Answer::Mixed(_))) {
            self.note(OTHER_PROTOCOL);
        }
        for (command, answer) in script.0.iter().zip(answers) {
            match answer {
                Answer::Lines(lines) => self.take(command, lines),
                Answer::Mixed(lines) => self.note_all(command, lines),
            }
        }
    }

    /// Servers that the list names and that nobody has asked for yet.
    #[must_use]
    pub fn unasked(&self) -> Vec<u32> {
        let unasked = self.listed.iter().filter(|pid| !self.statuses.contains_key(pid));
        unasked.take(MAX_SERVERS).copied().collect()
    }

    /// The whole of it.
    #[must_use]
    pub fn report(self) -> Report {
        let server = |pid: &u32| Server {
            pid: *pid,
            status: self.statuses.get(pid).copied().unwrap_or(ServerStatus::Unknown),
            clients: self.clients.get(pid).map(|clients| self.named(clients)),
        };
        Report {
            servers: self.listed.iter().map(server).collect(),
            lists_all_servers: self.lists_all,
            default_thread_percentage: self.thread_percentage,
            default_memory_limit: self.memory_limit,
            not_understood: self.not_understood,
        }
    }

    fn named(&self, clients: &[u32]) -> Vec<Client> {
        let client = |pid: &u32| Client {
            pid: *pid,
            command: self.commands.get(pid).cloned(),
        };
        clients.iter().map(client).collect()
    }

    fn take(&mut self, command: &Command, lines: &[String]) {
        match command {
            Command::ServerList if filled(lines).any(|line| line.starts_with("Unknown command")) => {
                self.note(OTHER_PROTOCOL);
            }
            Command::ServerList => (self.listed, self.lists_all) = self.pids(command, lines),
            Command::ServerStatus(server) => {
                let status = self.status(command, lines);
                self.statuses.insert(*server, status);
            }
            // A server that is gone has no clients.
            Command::ClientList(server) if is_not_found(lines) => {
                self.clients.insert(*server, Vec::new());
            }
            Command::ClientList(server) => {
                if let (clients, true) = self.pids(command, lines) {
                    self.clients.insert(*server, clients);
                }
            }
            Command::Ps => self.ps(command, lines),
            Command::DefaultThreadPercentage => self.thread_percentage = self.percentage(command, lines),
            Command::DefaultMemoryLimit => self.memory_limit = self.limit(command, lines),
            // Orders answer nothing that a report is made of.
            _ => {}
        }
    }

    /// One process id a line, and whether each line was one.
    fn pids(&mut self, command: &Command, lines: &[String]) -> (Vec<u32>, bool) {
        let (mut pids, mut is_whole) = (Vec::new(), true);
        for line in filled(lines) {
            if let Ok(pid) = line.trim().parse() {
                pids.push(pid);
            } else {
                is_whole = false;
                self.note_line(command, line);
            }
        }
        (pids, is_whole)
    }

    fn status(&mut self, command: &Command, lines: &[String]) -> ServerStatus {
        let line = filled(lines).next().unwrap_or_default();
        match line.trim() {
            "ACTIVE" => ServerStatus::Active,
            "INITIALIZING" => ServerStatus::Initializing,
            "FAULT" => ServerStatus::Fault,
            _ if is_not_found(lines) => ServerStatus::Gone,
            // Driver 535 has no such command, and that is known.
            line if line.starts_with("Unknown command") => ServerStatus::Unknown,
            line => {
                self.note_line(command, line);
                ServerStatus::Unknown
            }
        }
    }

    fn percentage(&mut self, command: &Command, lines: &[String]) -> Option<f64> {
        let line = filled(lines).next().unwrap_or_default();
        let value = line.trim().parse().ok();
        let sound = value.filter(|value: &f64| (0.0..=100.0).contains(value) && lines.len() == 1);
        if sound.is_none() {
            self.note_all(command, lines);
        }
        sound
    }

    /// `2G`, `512M`, or nothing where there is no limit.
    fn limit(&mut self, command: &Command, lines: &[String]) -> Option<String> {
        let text = lines.join("\n");
        let text = text.trim();
        let digits = text.strip_suffix(['K', 'M', 'G', 'T']).unwrap_or(text);
        if digits.bytes().all(|byte| byte.is_ascii_digit()) && (text.is_empty() || !digits.is_empty()) {
            return Some(text.to_owned());
        }
        self.note_line(command, text);
        None
    }

    fn ps(&mut self, command: &Command, lines: &[String]) {
        let mut lines_left = filled(lines);
        let Some(header) = lines_left.next().filter(|_| !is_not_found(lines)) else {
            return;
        };
        let Some(columns) = Columns::of(header) else {
            self.note_line(command, header);
            return;
        };
        for line in lines_left {
            match columns.read(line) {
                Some((pid, name)) => {
                    self.commands.insert(pid, shown(&name));
                }
                None => self.note_line(command, line),
            }
        }
    }

    fn note_all(&mut self, command: &Command, lines: &[String]) {
        match lines {
            [] => self.note_line(command, ""),
            lines => self.note_line(command, &lines.join("; ")),
        }
    }

    fn note_line(&mut self, command: &Command, line: &str) {
        let said = match shown(line) {
            empty if empty.is_empty() => "nothing".to_owned(),
            text => text,
        };
        self.note(&format!("{command}: {said}"));
    }

    fn note(&mut self, text: &str) {
        let is_known = self.not_understood.iter().any(|known| known == text);
        if !is_known && self.not_understood.len() < MAX_NOT_UNDERSTOOD {
            self.not_understood.push(text.to_owned());
        }
    }
}

/// The lines that have something in them.
fn filled(lines: &[String]) -> impl Iterator<Item = &str> {
    lines
        .iter()
        .map(String::as_str)
        .filter(|line| !line.trim().is_empty())
}

/// `Server 999 not found`, or `Server not found` where there is none; some commands say it twice.
fn is_not_found(lines: &[String]) -> bool {
    filled(lines).any(|_| true)
        && filled(lines).all(|line| {
            line.starts_with("Server ") && line.trim_end_matches(['!', ' ']).ends_with("not found")
        })
}

/// Where `ps` has what, by its header.
struct Columns {
    count: usize,
    pid: usize,
    command: usize,
}

impl Columns {
    fn of(header: &str) -> Option<Self> {
        let names: Vec<&str> = header.split_whitespace().collect();
        let position = |wanted| names.iter().position(|name| *name == wanted);
        Some(Self {
            count: names.len(),
            pid: position("PID")?,
            command: position("COMMAND")?,
        })
    }

    /// The process and its command. A command may contain blanks, so that what stands right of it is counted from
    /// the end; a column at the end may be empty.
    fn read(&self, row: &str) -> Option<(u32, String)> {
        let words: Vec<&str> = row.split_whitespace().collect();
        let surplus = words.len().saturating_sub(self.count);
        let at = |column: usize| {
            if column > self.command {
                column + surplus
            } else {
                column
            }
        };
        let pid = words.get(at(self.pid))?.parse().ok()?;
        let command = words.get(self.command..=self.command + surplus)?;
        Some((pid, command.join(" ")))
    }
}
