//! Commands that show something: servers, clients, devices.

use super::commands::{Answer, Asked, not_found};
use super::daemon::Daemon;
use super::servers::{Server, State};
use super::table::{self, Row};

impl Daemon {
    pub(super) fn list_servers(&self, answer: &mut Answer) {
        for server in &self.servers {
            answer.say(server.pid.to_string());
        }
    }

    pub(super) fn server_status(&self, asked: &Asked<'_>, answer: &mut Answer) {
        let Ok(pid) = asked.arg(0).parse::<i32>() else {
            return answer.say("A server PID is required");
        };
        match self.server(pid) {
            Some(server) => answer.say(server.status()),
            None => answer.say(not_found(pid)),
        }
    }

    /// The server that a command names, once it has finished its start.
    pub(super) fn ready(&self, pid: i32, answer: &mut Answer) -> Option<&Server> {
        let server = self.server(pid);
        match server {
            None => answer.say(not_found(pid)),
            Some(server) if !server.is_up() => answer.log(busy(pid)),
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
    pub(super) fn client_list(&mut self, asked: &Asked<'_>, answer: &mut Answer) {
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

    pub(super) fn device_client_list(&mut self, asked: &Asked<'_>, answer: &mut Answer) {
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

    pub(super) fn ps(&mut self, asked: &Asked<'_>, answer: &mut Answer) {
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

    pub(super) fn device_query(&self, asked: &Asked<'_>, answer: &mut Answer) {
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
