//! What is wrong with a server, in words.

use std::time::Duration;

use crate::mps::plan::words::LOG;
use crate::mps::protocol::{Client, Report, Server};
use crate::mps::{Trouble, Warning};

/// Most processes that are named in one line.
const NAMED: usize = 8;

pub(super) fn no_server(intruders: &[u32]) -> Trouble {
    let (why, mend) = if intruders.is_empty() {
        (
            "it has no server: none starts".to_owned(),
            format!("look at: {LOG}; it is tried again by itself"),
        )
    } else {
        past_mps("it has no server", intruders)
    };
    Trouble { why, mend }
}

pub(super) fn initializing(pid: u32, waited: Duration, intruders: &[u32]) -> Trouble {
    let so_far = format!("its server {pid} has been starting for {} s", waited.as_secs());
    let (why, mend) = if intruders.is_empty() {
        (
            so_far,
            "wait: it is replaced after mps.grace, 30 s at least, ever more rarely; with persistence mode \
             (nvidia-persistenced) it takes less time"
                .to_owned(),
        )
    } else {
        past_mps(&so_far, intruders)
    };
    Trouble { why, mend }
}

pub(super) fn crash_loop(ends: usize, intruders: &[u32]) -> Trouble {
    let so_far = format!("its server keeps crashing: {ends} ends within a minute");
    let (why, mend) = if intruders.is_empty() {
        (
            so_far,
            format!(
                "look at: {LOG}; and dmesg | grep -i nvrm. A new one is started with the next client, or in a minute"
            ),
        )
    } else {
        past_mps(&so_far, intruders)
    };
    Trouble { why, mend }
}

/// A server cannot have a GPU that another process has for itself.
fn past_mps(so_far: &str, intruders: &[u32]) -> (String, String) {
    (
        format!("{so_far}: {} on the GPU past MPS", pids_are(intruders)),
        "end what uses the GPU without MPS".to_owned(),
    )
}

pub(super) fn stubborn(server: u32, clients: &[u32]) -> Warning {
    Warning {
        what: format!(
            "MPS server {server} keeps clients whose processes are gone, with their memory: {}",
            listed(clients)
        ),
        mend: "it is replaced when no other client is left; at once, with the others: gpushare mps restart GPU --force"
            .into(),
    }
}

pub(super) fn unknown(pid: u32, report: &Report) -> Trouble {
    let said = report.not_understood.join("; ");
    Trouble {
        why: format!("the state of its server {pid} cannot be read ({said})"),
        mend: "use a driver that gpushare knows (see docs/mps.md)".into(),
    }
}

pub(super) fn unlisted(report: &Report) -> Trouble {
    let said = report.not_understood.join("; ");
    Trouble {
        why: format!("its list of servers cannot be read ({said})"),
        mend: "use a driver that gpushare knows (see docs/mps.md)".into(),
    }
}

pub(super) fn faulted(server: &Server) -> Trouble {
    let clients = match server.clients.as_deref() {
        None => "which clients it hit cannot be read".to_owned(),
        Some([]) => "no client is left".to_owned(),
        Some(clients) => format!("hit were {}", clients_are(clients)),
    };
    Trouble {
        why: format!(
            "a client's fault has stopped its server {}: {clients}",
            server.pid
        ),
        mend: "those processes have to be started anew; what does not end is terminated after mps.grace, and the \
               server is replaced"
            .into(),
    }
}

pub(super) fn drifted(intruders: &[u32]) -> Trouble {
    let who = if intruders.is_empty() {
        String::new()
    } else {
        format!("; {} on it", pids_are(intruders))
    };
    Trouble {
        why: format!(
            "the GPU is not in compute mode EXCLUSIVE_PROCESS any more: it can be used past MPS{who}"
        ),
        mend: "it is set again by itself; find out who changes it, or set mps.exclusive_process = false"
            .into(),
    }
}

fn pids_are(pids: &[u32]) -> String {
    match pids {
        [pid] => format!("process {pid} is"),
        _ => format!("processes {} are", listed(pids)),
    }
}

/// Process ids in one line, however many.
pub(in crate::mps::plan) fn listed(pids: &[u32]) -> String {
    let named: Vec<String> = pids.iter().take(NAMED).map(u32::to_string).collect();
    and_more(&named, pids.len())
}

/// The clients by process id and command.
fn clients_are(clients: &[Client]) -> String {
    let named: Vec<String> = clients
        .iter()
        .take(NAMED)
        .map(|client| match &client.command {
            Some(command) => format!("{} ({command})", client.pid),
            None => client.pid.to_string(),
        })
        .collect();
    and_more(&named, clients.len())
}

fn and_more(named: &[String], all: usize) -> String {
    match all - named.len() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
