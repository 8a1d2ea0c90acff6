//! The nodes that these tests run on, and how they look at what was printed.

use std::collections::BTreeMap;
use std::io::{PipeReader, Write};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::time::Duration;

use gpushare::metrics::Metric;
use gpushare::status::Snapshot;
use rustix::fs::OFlags;
use serde_json::Value;

use crate::harness::{Datum, datums};

pub(crate) const ONE_GPU: &str = r#"
[[gpu]]
uuid = "GPU-a"
name = "NVIDIA A10G"
pci = "00000000:00:1B.0"
memory_mib = 24000
reserved_mib = 4000
used_mib = 5000
utilization = [[0, 0], [1000, 100]]
period_ms = 1000
"#;

pub(crate) const NO_GPUS: &str = "";

/// What an operator grants a stop.
pub(crate) const STOP: Duration = Duration::from_secs(2);

/// Every sample is printed, in the open window, waiting or dropped.
#[track_caller]
pub(crate) fn assert_adds_up(snapshot: &Snapshot) {
    let (sampler, publish) = (&snapshot.sampler, &snapshot.publish);
    let (_, open) = sampler.open_window.unwrap_or_default();
    let dropped = sampler.ledger.dropped_total();
    assert_eq!(
        sampler.ledger.collected,
        publish.done.samples + open + publish.pending_samples + dropped,
        "{} published, {open} open, {} waiting, {dropped} dropped",
        publish.done.samples,
        publish.pending_samples
    );
}

pub(crate) fn data_of(batch: &Value) -> &[Value] {
    batch["MetricData"].as_array().unwrap()
}

/// The datums of each window, by its start in Unix seconds.
pub(crate) fn windows(batches: &[Value]) -> BTreeMap<u64, Vec<Datum>> {
    let mut windows = BTreeMap::<u64, Vec<Datum>>::new();
    for metric in Metric::ALL {
        for datum in datums(batches, metric.name()) {
            let start = humantime::parse_rfc3339(&datum.timestamp).unwrap();
            let start = start.duration_since(std::time::UNIX_EPOCH).unwrap();
            assert_eq!(start.subsec_nanos(), 0, "{}", datum.timestamp);
            windows.entry(start.as_secs()).or_default().push(datum);
        }
    }
    windows
}

/// Samples in a batch over all series.
pub(crate) fn samples_in(batch: &Value) -> f64 {
    let counts = data_of(batch)
        .iter()
        .flat_map(|datum| datum["Counts"].as_array().unwrap());
    counts.map(|count| count.as_f64().unwrap()).sum()
}

/// Whether a process is gone, or only waits to be reaped by whoever inherited it.
pub(crate) fn has_ended(pid: u32) -> bool {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('Z'))
    })
}

/// What a full pipe holds before the agent writes into it.
pub(super) const FILLING: char = '#';

/// A pipe that takes nothing more until it is read.
pub(super) fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // The flag belongs to the pipe's end, which the agent inherits: it must be off again.
    rustix::fs::fcntl_setfl(writer.as_fd(), OFlags::NONBLOCK).unwrap();
    let filling = [FILLING as u8; 4096];
    while writer.write(&filling).is_ok() {}
    while writer.write(&filling[..1]).is_ok() {}
    rustix::fs::fcntl_setfl(writer.as_fd(), OFlags::empty()).unwrap();
    (reader, writer.into())
}
