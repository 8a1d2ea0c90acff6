//! The status as a table for people. Pure: the same snapshot, the same text.

mod mps;

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;

use super::table::Table;
use super::{EarlierRuns, Snapshot};
use crate::gpu::inventory::{Health, Newest};
use crate::gpu::{DriverState, GpuState, GpuStatus, KernelLog, Memory};
use crate::host::HostSample;
use crate::metrics::window::Ledger;
use crate::publish::report::PublishStatus;
use crate::publish::spool::{SpoolState, SpoolStatus};

/// A reading older than this many sample intervals is shown with its age.
const STALE_INTERVALS: f64 = 3.0;
/// Absent, as opposed to zero.
const ABSENT: &str = "-";

/// Renders a snapshot.
#[must_use]
pub fn render(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    head(snapshot, &mut text);
    gpus(snapshot, &mut text);
    mps::mps(snapshot, &mut text);
    host(snapshot, &mut text);
    data(snapshot, &mut text);
    problems(snapshot, &mut text);
    text
}

fn head(snapshot: &Snapshot, text: &mut String) {
    let agent = &snapshot.agent;
    let node = &snapshot.node;
    let name = node.instance_id.as_deref().unwrap_or("instance not known");
    let details: Vec<&str> = [&node.instance_type, &node.region, &node.cluster]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let details = if details.is_empty() {
        String::new()
    } else {
        format!(" ({})", details.join(", "))
    };
    let up = duration(agent.taken_at - agent.started_at);
    let _ = writeln!(
        text,
        "gpushare {} on {name}{details}, pid {}, up {up}\n",
        agent.version, agent.pid
    );
}

fn gpus(snapshot: &Snapshot, text: &mut String) {
    let gpu = &snapshot.gpu;
    let _ = writeln!(text, "GPUs    {}", driver(gpu));
    if !gpu.gpus.is_empty() {
        let headings = [
            "GPU",
            "MODEL",
            "UTIL",
            "MEMORY",
            "POWER",
            "TEMP",
            "PROCESSES",
            "HEALTH",
        ];
        let mut table = Table::new("        ", &headings);
        for gpu in &gpu.gpus {
            table.row(gpu_row(gpu, snapshot));
        }
        table.write(text);
    }
    text.push('\n');
}

fn driver(gpu: &GpuStatus) -> String {
    let state = match &gpu.driver {
        DriverState::Off => return "off (gpu.enabled = false)".into(),
        DriverState::Starting => "waiting for NVML".into(),
        DriverState::Ready {
            driver_version,
            cuda_version,
            ..
        } => match cuda_version {
            Some(cuda) => format!("driver {driver_version}, CUDA {cuda}"),
            None => format!("driver {driver_version}"),
        },
        DriverState::Unavailable { fault } => return format!("none, trying again: {fault}"),
        DriverState::Stuck => "the driver does not answer".into(),
    };
    let log = match gpu.kernel_log {
        KernelLog::Reading => "XIDs are read",
        KernelLog::Off | KernelLog::Unreadable { .. } => "XIDs cannot be seen",
    };
    let child = match gpu.child.pid {
        Some(pid) => format!("NVML process {pid}"),
        None => "no NVML process".into(),
    };
    let replaced = match gpu.child.starts {
        0 | 1 => String::new(),
        starts => format!(" (number {starts}, {} killed)", gpu.child.killed),
    };
    format!("{state}; {child}{replaced}; {log}")
}

fn gpu_row(gpu: &GpuState, snapshot: &Snapshot) -> Vec<String> {
    let newest = gpu.newest.as_ref();
    let percent = newest.and_then(|newest| newest.utilization_percent);
    let processes = newest.and_then(|newest| newest.processes.as_ref());
    vec![
        gpu.number.to_string(),
        if gpu.info.model.is_empty() {
            ABSENT.into()
        } else {
            gpu.info.model.clone()
        },
        or_absent(percent, |percent| format!("{percent:.0} %")),
        or_absent(newest.and_then(|newest| newest.memory), memory),
        or_absent(newest.and_then(|newest| newest.power_watts), |watts| {
            format!("{watts:.0} W")
        }),
        or_absent(newest.and_then(|newest| newest.temperature_celsius), |celsius| {
            format!("{celsius:.0} C")
        }),
        or_absent(processes, |processes| processes.len().to_string()),
        health(&gpu.health, newest, snapshot),
    ]
}

fn memory(memory: Memory) -> String {
    let allocatable = memory.total_bytes.saturating_sub(memory.reserved_bytes);
    let percent = memory.used_percent().unwrap_or_default();
    format!(
        "{} of {} ({percent:.0} %)",
        bytes(memory.used_bytes),
        bytes(allocatable)
    )
}

fn health(health: &Health, newest: Option<&Newest>, snapshot: &Snapshot) -> String {
    let mut text = if health.reasons.is_empty() {
        "healthy".to_owned()
    } else {
        let reasons: Vec<String> = health.reasons.iter().map(ToString::to_string).collect();
        let since = health
            .since
            .map_or_else(String::new, |since| format!(", since {}", time(since)));
        format!("{}{since}", reasons.join("; "))
    };
    let age = newest.map_or(0.0, |newest| snapshot.agent.taken_at - newest.at);
    if age > STALE_INTERVALS * snapshot.agent.sample_seconds {
        let _ = write!(text, " (values are {} old)", duration(age));
    }
    text
}

fn host(snapshot: &Snapshot, text: &mut String) {
    let Some(host) = &snapshot.sampler.host else {
        text.push_str("Host    no sample yet\n\n");
        return;
    };
    let percent = |value: Option<f64>| or_absent(value, |value| format!("{value:.1} %"));
    let swap = host
        .swap_used_percent
        .map_or_else(|| "none".into(), |value| format!("{value:.1} %"));
    let late = match snapshot.sampler.host_late {
        0 => String::new(),
        ticks => format!("; late {ticks} time(s)"),
    };
    let _ = writeln!(
        text,
        "Host    CPU {}, memory {}, swap {swap}{late}",
        percent(host.cpu_usage_active),
        percent(host.mem_used_percent)
    );
    disks(host, text);
    text.push('\n');
}

fn disks(host: &HostSample, text: &mut String) {
    if !host.disks.is_empty() {
        let mut table = Table::new("        ", &["PATH", "USED", "FREE", "INODES FREE", "DEVICE"]);
        for disk in &host.disks {
            table.row([
                disk.path.display().to_string(),
                format!("{:.1} %", disk.used_percent),
                bytes(disk.available_bytes),
                or_absent(disk.inodes_free, |inodes| inodes.to_string()),
                disk.device.clone(),
            ]);
        }
        table.write(text);
    }
    if !host.disk_io.is_empty() {
        let mut table = Table::new("        ", &["DISK", "READ", "WRITE"]);
        for disk in &host.disk_io {
            table.row([
                disk.name.clone(),
                rate(disk.read_bytes_per_second),
                rate(disk.write_bytes_per_second),
            ]);
        }
        table.write(text);
    }
}

fn data(snapshot: &Snapshot, text: &mut String) {
    let (sampler, publish) = (&snapshot.sampler, &snapshot.publish);
    let last = match (publish.done.last_window, publish.done.last_samples) {
        (Some(start), Some(count)) => format!("last {} with {count} samples", time(start)),
        _ => "none yet".into(),
    };
    let _ = writeln!(
        text,
        "Publish to {} every {}, namespace {}; {} windows, {} datums; {last}",
        publish.target,
        duration(publish.interval_seconds as f64),
        publish.namespace,
        publish.done.windows,
        publish.done.datums
    );
    if publish.done.requests > 0 && publish.target != "stdout" {
        let _ = writeln!(text, "Traffic {}", traffic(&publish.done));
    }
    let in_open = sampler.open_window.map_or(0, |(_, samples)| samples);
    let start = sampler.open_window.map(|(start, _)| time(start));
    let open = start.unwrap_or_else(|| "none".into());
    let series = sampler.series + publish.rollup_series;
    let above = match series.saturating_sub(publish.max_series) {
        0 => "",
        _ => ", the agent's own above that",
    };
    let _ = writeln!(
        text,
        "Window  open: {open} with {in_open} samples; {} series of at most {}{above}",
        series, publish.max_series
    );
    let _ = writeln!(
        text,
        "Ledger  {} samples collected{} = {} published + {in_open} in the open window + {} waiting + {} dropped{}",
        sampler.ledger.collected,
        since(&publish.earlier),
        publish.done.samples,
        publish.pending_samples,
        sampler.ledger.dropped_total(),
        reasons(&sampler.ledger)
    );
    if let Some(spool) = &publish.spool {
        spooled(spool, snapshot, text);
    }
    if let Some(step) = sampler.last_clock_step {
        let _ = writeln!(
            text,
            "Clock   stepped {} time(s), last by {step:+.1} s",
            sampler.clock_steps
        );
    }
    text.push('\n');
}

fn since(earlier: &EarlierRuns) -> String {
    match earlier.since {
        None => String::new(),
        Some(start) => format!(" since {} in {} runs", time(start), earlier.runs + 1),
    }
}

fn spooled(spool: &SpoolStatus, snapshot: &Snapshot, text: &mut String) {
    let publish = &snapshot.publish;
    let oldest = publish.backlog_seconds(snapshot.agent.taken_at);
    let behind = oldest.map_or_else(String::new, |age| format!(", {} behind", duration(age)));
    let state = match spool.state {
        SpoolState::Well => String::new(),
        state => format!("; the spool {}", state.as_str()),
    };
    let _ = writeln!(
        text,
        "Spool   {} windows wait, {}{behind}; {} of {} in {}{state}",
        publish.pending_windows,
        bytes(publish.pending_bytes),
        bytes(spool.file_bytes),
        bytes(spool.max_bytes),
        spool.file.display()
    );
    if spool.other_windows > 0 {
        let whose = match (spool.other_instances.as_slice(), &snapshot.node_waiting_for) {
            (_, Some(_)) => "of earlier runs wait until the node knows who it is".into(),
            ([], None) => "of an unknown node are not published".into(),
            (instances, None) => format!(
                "of {} are not published: this is another node",
                instances.join(", ")
            ),
        };
        let _ = writeln!(text, "        {} windows {whose}", spool.other_windows);
    }
}

fn reasons(ledger: &Ledger) -> String {
    let dropped = ledger.dropped.iter();
    let reasons: Vec<String> = dropped
        .map(|(reason, samples)| format!("{}: {samples}", reason.as_str()))
        .collect();
    match reasons.as_slice() {
        [] => String::new(),
        reasons => format!(" ({})", reasons.join("; ")),
    }
}

fn traffic(done: &PublishStatus) -> String {
    let mut line = format!(
        "{} requests, {} sent as {}",
        done.requests,
        bytes(done.bytes),
        bytes(done.wire_bytes)
    );
    if let Some(at) = done.last_success {
        let _ = write!(line, "; last success {}", instant(at));
    }
    if let Some(error) = &done.last_error {
        let _ = write!(
            line,
            "; last error {} ({})",
            instant(error.at),
            error.class.as_str()
        );
    }
    if let Some(at) = done.next_attempt {
        let _ = write!(line, "; next attempt {}", instant(at));
    }
    match done.clock_skew_seconds {
        // The header tells whole seconds.
        Some(skew) if skew.abs() < 2.0 => line.push_str("; clock right"),
        Some(skew) => {
            let side = if skew > 0.0 { "behind" } else { "ahead" };
            let _ = write!(line, "; clock {:.0} s {side}", skew.abs());
        }
        None => {}
    }
    line
}

fn problems(snapshot: &Snapshot, text: &mut String) {
    if snapshot.problems.is_empty() {
        text.push_str("No problems.\n");
        return;
    }
    text.push_str("Problems\n");
    for problem in &snapshot.problems {
        let _ = writeln!(text, "  ! {}\n    mend: {}", problem.what, problem.mend);
    }
}

fn or_absent<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| ABSENT.into(), show)
}

fn bytes(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

fn rate(bytes_per_second: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rates are positive; display only"
    )]
    let whole = bytes_per_second as u64;
    format!("{}/s", bytes(whole))
}

fn duration(seconds: f64) -> String {
    let whole = Duration::from_secs(Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs());
    humantime::format_duration(whole).to_string()
}

fn instant(unix_seconds: f64) -> String {
    time(
        Duration::try_from_secs_f64(unix_seconds)
            .unwrap_or_default()
            .as_secs(),
    )
}

/// Time of day in UTC, as in the data's own timestamps.
fn time(unix_seconds: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_seconds);
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.split_once('T')
        .map_or(text.clone(), |(_, time)| time.to_owned())
}

#[cfg(test)]
mod tests;
