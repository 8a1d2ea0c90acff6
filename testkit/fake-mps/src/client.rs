//! `fake-mps-client`: what a CUDA process does with MPS, told on stdout, one line for each state.
//!
//! It runs until stdin ends or a signal ends it. The lines are in the README. Real clients were never measured.

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};

use crate::calls::{self, Event};
use crate::pipe_dir::PipeDir;
use crate::wire;

/// CUDA's own names of its errors.
const ERRORS: [(u16, &str); 7] = [
    (46, "DEVICE_UNAVAILABLE"),
    (805, "MPS_CONNECTION_FAILED"),
    (806, "MPS_RPC_FAILURE"),
    (807, "MPS_SERVER_NOT_READY"),
    (808, "MPS_MAX_CLIENTS_REACHED"),
    (809, "MPS_MAX_CONNECTIONS_REACHED"),
    (810, "MPS_CLIENT_TERMINATED"),
];

pub(crate) fn main(args: &[String]) -> ExitCode {
    calls::note(&Event::Client);
    match play(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => {
            let name = ERRORS
                .iter()
                .find(|(known, _)| *known == code)
                .map_or("UNKNOWN", |(_, name)| name);
            say(&format!("error {code} {name}"));
            ExitCode::FAILURE
        }
    }
}

fn say(line: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// Until stdin ends; an error is the CUDA error that ends it.
fn play(args: &[String]) -> Result<(), u16> {
    say("connecting");
    let Ok(socket) = wire::connect(&PipeDir::from_env().control()) else {
        // As the real one: it runs without MPS, and without limits, unless somebody has the GPU for himself.
        if args.iter().any(|arg| arg == "--gpu-held") {
            return Err(46);
        }
        say("without-mps");
        return until_end(None);
    };
    let percentage = std::env::var("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE").unwrap_or_default();
    let percentage = if percentage.is_empty() { "-" } else { &percentage };
    let limit = own_limit().map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
    wire::send(&socket, &format!("CLIENT {percentage} {limit}")).map_err(|_| 805_u16)?;
    until_end(Some(socket))
}

/// `CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=1G,1=512MB`: that of the first device.
fn own_limit() -> Option<u64> {
    let limits = std::env::var("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT").ok()?;
    let first = limits
        .split(',')
        .find_map(|limit| limit.trim().strip_prefix("0="))?;
    crate::control::pinned_limit(first)
}

fn until_end(mut socket: Option<OwnedFd>) -> Result<(), u16> {
    let mut connected = false;
    loop {
        let stdin = io::stdin();
        let mut polled = vec![PollFd::new(&stdin, PollFlags::IN)];
        polled.extend(socket.iter().map(|socket| PollFd::new(socket, PollFlags::IN)));
        if poll(&mut polled, None).is_err() {
            continue;
        }
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] && io::stdin().read(&mut [0; 64]).map_or(true, |length| length == 0) {
            say("ended");
            return Ok(());
        }
        if ready.get(1) != Some(&true) {
            continue;
        }
        let heard = socket
            .as_ref()
            .and_then(|socket| wire::receive(socket).ok().flatten());
        match heard {
            Some((message, _)) => connected |= hear(&message)?,
            None if connected => {
                say("server-gone");
                socket = None;
            }
            None => return Err(805),
        }
    }
}

/// Whether the message says that the client is connected.
fn hear(message: &str) -> Result<bool, u16> {
    let words: Vec<&str> = message.split(' ').collect();
    match words[..] {
        ["CONNECTED", server, percentage, limit] => {
            say(&format!(
                "connected server={server} percentage={percentage} limit={limit}"
            ));
            return Ok(true);
        }
        ["ERROR", code] => return Err(code.parse().unwrap_or(805)),
        ["PENDING"] => say("pending"),
        ["FAULT"] => say("fault"),
        _ => {}
    }
    Ok(false)
}
