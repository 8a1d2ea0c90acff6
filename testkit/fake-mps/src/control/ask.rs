//! The command line: sends each command to the daemon and prints what comes back.

use std::io::{self, BufRead as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use crate::calls::{self, Event};
use crate::pipe_dir::PipeDir;
use crate::wire;

/// Before each answer. A connection that ends without one is a daemon that died.
pub(super) const ANSWER: u8 = b'+';

/// One command a line, until the end of stdin.
pub(super) fn from_stdin() -> ExitCode {
    with_daemon(|daemon| {
        let mut stdin = io::stdin().lock();
        let mut line = Vec::new();
        while stdin.read_until(b'\n', &mut line)? > 0 {
            exchange(daemon, String::from_utf8_lossy(&line).trim_end_matches('\n'))?;
            line.clear();
        }
        Ok(())
    })
}

pub(super) fn once(command: &str) -> ExitCode {
    with_daemon(|daemon| exchange(daemon, command))
}

/// Errors of commands are answers: only a daemon that is not there, or dies, makes the exit code 1.
fn with_daemon(talk: impl FnOnce(&OwnedFd) -> io::Result<()>) -> ExitCode {
    calls::note(&Event::Ui);
    let Ok(daemon) = reach() else {
        let _ = io::stderr().write_all(b"Cannot find MPS control daemon process\n");
        return ExitCode::FAILURE;
    };
    // The daemon that dies under its command line leaves it without a word.
    talk(&daemon).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

/// The privileged socket where it can be reached, else the other one.
fn reach() -> io::Result<OwnedFd> {
    let dir = PipeDir::from_env();
    let daemon = wire::connect(&dir.privileged()).or_else(|_| wire::connect(&dir.control()))?;
    wire::send(&daemon, "UI")?;
    Ok(daemon)
}

fn exchange(daemon: &OwnedFd, command: &str) -> io::Result<()> {
    calls::note(&Event::Command(command.to_owned()));
    wire::send(daemon, &format!("CMD {command}"))?;
    let answer = wire::receive_bytes(daemon)?;
    let text = answer
        .strip_prefix(&[ANSWER])
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut stdout = io::stdout();
    stdout.write_all(text)?;
    stdout.flush()
}
