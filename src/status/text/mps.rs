//! The part of the table that shows MPS.

use std::fmt::Write;

use super::{ABSENT, Table, duration, or_absent, time};
use crate::mps::protocol::{Server, ServerStatus};
use crate::mps::{MpsGpu, MpsState, MpsStatus, Warning};
use crate::status::Snapshot;

pub(super) fn mps(snapshot: &Snapshot, text: &mut String) {
    let mps = &snapshot.mps;
    let _ = writeln!(text, "MPS     {}", headline(mps));
    if mps.enabled && !mps.gpus.is_empty() {
        let headings = [
            "GPU",
            "STATE",
            "SINCE",
            "CLIENTS",
            "SERVER",
            "RESTARTS",
            "LAST STEP",
        ];
        let mut table = Table::new("        ", &headings);
        for gpu in &mps.gpus {
            table.row(row(gpu, snapshot.agent.taken_at));
        }
        table.write(text);
        for warning in notes(mps) {
            let _ = writeln!(text, "        note: {}: {}", warning.what, warning.mend);
        }
    }
    text.push('\n');
}

fn headline(mps: &MpsStatus) -> String {
    if !mps.enabled {
        return "off (mps.enabled = false, or gpu.enabled = false)".into();
    }
    if mps.gpus.is_empty() {
        return format!("waiting for GPUs; daemons are kept by {}", keeper(mps));
    }
    let ready = mps.gpus.iter().filter(|gpu| gpu.state == MpsState::Ready).count();
    format!(
        "{ready} of {} ready; one daemon per GPU, kept by {}",
        mps.gpus.len(),
        keeper(mps)
    )
}

/// Whom an operator asks about a daemon: the backend of plain processes is the agent itself.
fn keeper(mps: &MpsStatus) -> &str {
    match mps.backend.as_str() {
        "process" => "the agent",
        backend => backend,
    }
}

fn row(gpu: &MpsGpu, now: f64) -> Vec<String> {
    let step = gpu.last_step.as_ref();
    vec![
        gpu.number.to_string(),
        gpu.state.as_str().to_owned(),
        format!("{} ago", duration(now - gpu.since as f64)),
        clients(gpu),
        or_absent(gpu.server.as_ref(), server),
        gpu.restarts.to_string(),
        or_absent(step, |step| {
            format!("{} {} ({})", time(step.at), step.step, step.why)
        }),
    ]
}

fn clients(gpu: &MpsGpu) -> String {
    let listed = gpu.server.as_ref().and_then(|server| server.clients.as_ref());
    match (listed, gpu.client_limit) {
        (None, _) => ABSENT.into(),
        (Some(clients), Some(limit)) => format!("{} of {limit}", clients.len()),
        (Some(clients), None) => clients.len().to_string(),
    }
}

fn server(server: &Server) -> String {
    let status = match server.status {
        ServerStatus::Initializing => "initialising",
        ServerStatus::Active => "active",
        ServerStatus::Fault => "fault",
        ServerStatus::Gone => "gone",
        ServerStatus::Unknown => "unknown",
    };
    format!("{} {status}", server.pid)
}

/// Each thing once: GPUs of one model are often told the same.
fn notes(mps: &MpsStatus) -> Vec<&Warning> {
    let mut notes: Vec<&Warning> = Vec::new();
    for warning in mps.gpus.iter().flat_map(|gpu| &gpu.warnings) {
        if !notes.contains(&warning) {
            notes.push(warning);
        }
    }
    notes
}
