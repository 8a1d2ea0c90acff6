//! The commands of the control daemon and what it answers. Pure.
//!
//! Several commands go to the control program at once, one a line, and it prints the answers one after the other
//! without saying where one ends: most are empty or have any number of lines. So every command is followed by one
//! that no daemon knows, `gpushare-<n>`, and the refusal of it (`Unknown command "gpushare-<n>"`) ends the answer.
//!
//! * This is protocol 2, which every driver speaks unless it is told otherwise. Where no separator comes back,
//!   nothing is read out of the text: it may be the opt-in protocol 3 of driver 615, which has other commands.
//! * `ps` is read by the names in its header. Which columns there are, and how wide, differs by driver.
//! * A daemon of an unknown version makes a report with gaps, and no error: what is not understood is said.
//! * `ps` prints names that pods choose, so it is asked last: whatever a name pretends to be, it cannot be taken for
//!   the answer to another question.

#[cfg(test)]
pub(crate) mod made_up;
mod reading;
mod version;

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use reading::Reading;
pub use version::Version;

/// The begin of the words that separate answers.
const SEPARATOR: &str = "gpushare-";

/// A daemon that has its defaults as it was started says so with this.
pub const WHOLE_GPU_PERCENTAGE: f64 = 100.0;

/// What one probe saw: everything that one call of the control program can tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Every server that the daemon lists. One at most with `-multiuser-server`.
    pub servers: Vec<Server>,
    /// Whether these are all: the list was answered, and each line of it is understood.
    pub lists_all_servers: bool,
    /// `get_default_active_thread_percentage`; absent where the answer makes no sense.
    pub default_thread_percentage: Option<f64>,
    /// `get_default_device_pinned_mem_limit 0` as it was answered; `Some("")` = no limit, absent = makes no sense.
    pub default_memory_limit: Option<String>,
    /// What was answered and is not understood: an unknown version degrades, it does not fail.
    pub not_understood: Vec<String>,
}

impl Report {
    /// Whether the defaults are those of a daemon that limits nobody, read back and not believed: every client may
    /// only tighten them.
    #[must_use]
    pub fn limits_nobody(&self) -> bool {
        self.default_thread_percentage == Some(WHOLE_GPU_PERCENTAGE)
            && self.default_memory_limit.as_deref() == Some("")
    }

    /// The server that counts: one that was gone when it was asked for is only listed.
    #[must_use]
    pub fn server(&self) -> Option<&Server> {
        let is_there = |server: &&Server| server.status != ServerStatus::Gone;
        self.servers.iter().find(is_there)
    }

    /// The clients of all servers, as far as they are known.
    pub fn clients(&self) -> impl Iterator<Item = &Client> {
        self.servers.iter().flat_map(Server::known_clients)
    }

    /// Whether it is certain that there are none.
    #[must_use]
    pub fn has_no_clients(&self) -> bool {
        let is_empty = |server: &Server| server.clients.as_ref().is_some_and(Vec::is_empty);
        self.lists_all_servers && self.servers.iter().all(is_empty)
    }
}

/// An MPS server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its process id.
    pub pid: u32,
    /// How it is.
    pub status: ServerStatus,
    /// Its clients; absent where the answer cannot be read, so that nobody takes them for none.
    pub clients: Option<Vec<Client>>,
}

impl Server {
    /// The clients that are known.
    #[must_use]
    pub fn known_clients(&self) -> &[Client] {
        self.clients.as_deref().unwrap_or_default()
    }
}

/// `get_server_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerStatus {
    /// It is creating its context.
    Initializing,
    /// It serves clients.
    Active,
    /// A client's fault has hit every client of it; it takes no new ones.
    Fault,
    /// Listed, and gone when it was asked for.
    Gone,
    /// The daemon cannot tell (driver 535), or says something that is not known.
    Unknown,
}

/// A client of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Its process id on the host; 0 where the daemon cannot see it.
    pub pid: u32,
    /// Its command, where `ps` tells.
    pub command: Option<String>,
}

/// A command of protocol 2.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// The process ids of the servers.
    ServerList,
    /// How a server is. Not in driver 535.
    ServerStatus(u32),
    /// The process ids of a server's clients.
    ClientList(u32),
    /// Every client with its command.
    Ps,
    /// The share of the threads that a client gets at most.
    DefaultThreadPercentage,
    /// Sets it. An invalid value is ignored, and the old one printed.
    SetDefaultThreadPercentage(f64),
    /// The memory that a client gets at most on device 0, the only one that a daemon of ours sees.
    DefaultMemoryLimit,
    /// Takes that limit away. `0G` does it, in every driver; success and failure look alike.
    ClearDefaultMemoryLimit,
    /// Starts a server before a client asks for it. An empty answer proves nothing.
    StartServer {
        /// The user whose clients it serves; in multi-user mode it serves all.
        uid: u32,
    },
    /// Ends a client.
    TerminateClient {
        /// Its server.
        server: u32,
        /// Its process.
        client: u32,
    },
    /// Ends a server.
    ShutdownServer {
        /// Its process.
        server: u32,
        /// Whether its clients are ended with it; otherwise it stays while it has any.
        force: bool,
    },
    /// Ends the daemon: in order within `grace`, by force after it. Never without a time, because then it waits for
    /// the clients for ever, and answers nothing meanwhile.
    Quit {
        /// How long clients are waited for; whole seconds, at least one.
        grace: Duration,
    },
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServerList => f.write_str("get_server_list"),
            Self::ServerStatus(server) => write!(f, "get_server_status {server}"),
            Self::ClientList(server) => write!(f, "get_client_list {server}"),
            Self::Ps => f.write_str("ps"),
            Self::DefaultThreadPercentage => f.write_str("get_default_active_thread_percentage"),
            Self::SetDefaultThreadPercentage(percentage) => {
                write!(f, "set_default_active_thread_percentage {percentage}")
            }
            Self::DefaultMemoryLimit => f.write_str("get_default_device_pinned_mem_limit 0"),
            Self::ClearDefaultMemoryLimit => f.write_str("set_default_device_pinned_mem_limit 0 0G"),
            Self::StartServer { uid } => write!(f, "start_server -uid {uid}"),
            Self::TerminateClient { server, client } => write!(f, "terminate_client {server} {client}"),
            Self::ShutdownServer { server, force } => {
                write!(f, "shutdown_server {server}{}", if *force { " -f" } else { "" })
            }
            Self::Quit { grace } => write!(f, "quit -t {}", grace.as_secs().max(1)),
        }
    }
}

/// Commands that go to the control program at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Script(pub Vec<Command>);

impl Script {
    /// What a probe asks, of the server as well that the probe before has seen.
    #[must_use]
    pub fn probe(server: Option<u32>) -> Self {
        let mut commands = vec![
            Command::ServerList,
            Command::DefaultThreadPercentage,
            Command::DefaultMemoryLimit,
        ];
        commands.extend(server.into_iter().flat_map(about));
        commands.push(Command::Ps);
        Self(commands)
    }

    /// What is asked of servers that the list has named just now.
    #[must_use]
    pub fn servers(servers: &[u32]) -> Self {
        let mut commands: Vec<Command> = servers.iter().flat_map(|server| about(*server)).collect();
        commands.push(Command::Ps);
        Self(commands)
    }

    /// The lines for the control program's standard input.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (index, command) in self.0.iter().enumerate() {
            // Writing into a string never fails.
            let _ = writeln!(text, "{command}\n{}", separator(index));
        }
        text
    }

    /// Whether the last command was answered. Not so where the daemon ended the conversation before.
    #[must_use]
    pub fn is_answered(&self, printed: &[u8]) -> bool {
        let last = separator(self.0.len().saturating_sub(1));
        String::from_utf8_lossy(printed)
            .lines()
            .any(|line| names(line, &last))
    }

    /// The answers in what the control program printed, one for each command.
    ///
    /// Where a separator is missing, the text up to the next one may be the answer to either command, and counts for
    /// neither.
    #[must_use]
    pub fn answers(&self, printed: &[u8]) -> Vec<Answer> {
        let text = String::from_utf8_lossy(printed);
        let lines: Vec<&str> = text.lines().collect();
        let mut rest = &lines[..];
        let mut answers = Vec::with_capacity(self.0.len());
        let mut is_mixed = false;
        for index in 0..self.0.len() {
            let word = separator(index);
            let Some(end) = rest.iter().position(|line| names(line, &word)) else {
                answers.push(Answer::Mixed(Vec::new()));
                is_mixed = true;
                continue;
            };
            let found = rest[..end].iter().map(|line| (*line).to_owned()).collect();
            answers.push(if is_mixed {
                Answer::Mixed(found)
            } else {
                Answer::Lines(found)
            });
            is_mixed = false;
            rest = &rest[end + 1..];
        }
        if is_mixed && let Some(Answer::Mixed(last)) = answers.last_mut() {
            last.extend(rest.iter().map(|line| (*line).to_owned()));
        }
        answers
    }
}

fn about(server: u32) -> [Command; 2] {
    [Command::ServerStatus(server), Command::ClientList(server)]
}

fn separator(index: usize) -> String {
    format!("{SEPARATOR}{}", index + 1)
}

/// Whether a line has the word in it, however the daemon puts its refusal.
fn names(line: &str, word: &str) -> bool {
    line.split(|other: char| !other.is_ascii_alphanumeric() && other != '-')
        .any(|found| found == word)
}

/// What a command was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These lines, maybe none.
    Lines(Vec<String>),
    /// It cannot be told from other answers; these lines may be among them.
    Mixed(Vec<String>),
}

impl Answer {
    /// Why the daemon did not do what it was told, where it says so. That it says nothing proves nothing.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let lines = match self {
            Self::Lines(lines) => lines,
            Self::Mixed(lines) if lines.is_empty() => return Some("no answer".to_owned()),
            Self::Mixed(lines) => return Some(shown(&lines.join("; "))),
        };
        let refuses = |line: &&String| REFUSALS.iter().any(|words| line.contains(words));
        lines.iter().find(refuses).map(|line| shown(line))
    }
}

/// The words of refusals, in 550 to 595.
const REFUSALS: [&str; 5] = [
    "Unknown command",
    "not found",
    "Insufficient privileges",
    "is required",
    "shutting down",
];

/// Characters of a foreign text that are shown.
const SHOWN_CHARACTERS: usize = 120;

/// A foreign text, so that it can be shown to people: in one line, of printable characters, not too long.
fn shown(text: &str) -> String {
    let mut clean: String = text
        .trim()
        .chars()
        .take(SHOWN_CHARACTERS)
        .map(|character| {
            if character.is_control() {
                '\u{fffd}'
            } else {
                character
            }
        })
        .collect();
    if text.trim().chars().count() > SHOWN_CHARACTERS {
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests;
