//! The call log: which programs were started and what they were told, so that a test can count.
//!
//! One line each, `unix_us pid event`, appended to the file that `FAKE_MPS_CALLS` names by the program itself. Events:
//! `control ARGS`, `ui`, `cmd COMMAND`, `server ARGS`, `client`.

use std::io::{self, Write as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use fs_err::OpenOptions;

/// The environment variable that names the log file.
pub const CALLS: &str = "FAKE_MPS_CALLS";

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// When it was written, in microseconds since 1970.
    pub unix_us: u64,
    /// The process that wrote it.
    pub pid: u32,
    /// What it did.
    pub event: Event,
}

/// What a program did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A control daemon was started, with these arguments.
    Control(String),
    /// A command line was started. One for each process, however many commands follow.
    Ui,
    /// That command line was told this.
    Command(String),
    /// A server was started, with these arguments.
    Server(String),
    /// A client was started.
    Client,
}

/// All calls that the log at `path` holds, in order of writing; none where there is no such file yet.
///
/// A line that is not a call is an error of kind `InvalidData` that quotes it.
pub fn read(path: &Path) -> io::Result<Vec<Call>> {
    let text = match fs_err::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let wrong = |line: &str| io::Error::new(io::ErrorKind::InvalidData, format!("not a call: {line:?}"));
    text.lines()
        .map(|line| parse(line).ok_or_else(|| wrong(line)))
        .collect()
}

fn parse(line: &str) -> Option<Call> {
    let mut words = line.splitn(4, ' ');
    let unix_us = words.next()?.parse().ok()?;
    let pid = words.next()?.parse().ok()?;
    let (event, rest) = (words.next()?, words.next().unwrap_or_default().to_owned());
    let event = match event {
        "control" => Event::Control(rest),
        "ui" => Event::Ui,
        "cmd" => Event::Command(rest),
        "server" => Event::Server(rest),
        "client" => Event::Client,
        _ => return None,
    };
    Some(Call { unix_us, pid, event })
}

/// Appends a line, if there is a log. A log that cannot be written loses it: the program may run as another user.
pub(crate) fn note(event: &Event) {
    let Some(path) = std::env::var_os(CALLS) else {
        return;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let text = match event {
        Event::Control(args) => format!("control {args}"),
        Event::Ui => "ui".to_owned(),
        Event::Command(command) => format!("cmd {command}"),
        Event::Server(args) => format!("server {args}"),
        Event::Client => "client".to_owned(),
    };
    let line = format!("{} {} {text}\n", now.as_micros(), std::process::id());
    if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path) {
        let _ = file.write_all(line.as_bytes());
    }
}
