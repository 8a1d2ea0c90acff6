//! Which windows must have arrived, and with which values.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::{SystemTime, UNIX_EPOCH};

use fake_cloudwatch::{AcceptedDatum, FakeCloudWatch, Key, Series};
use gpushare::config::Group;
use gpushare::metrics::Metric;
use gpushare::status::Snapshot;

use crate::gpu::scene::ring;
use crate::harness::Agent;

/// Every datum that arrived, once however often it was sent. Two that differ are two parts of one window.
fn distinct(accepted: &[AcceptedDatum]) -> Vec<&AcceptedDatum> {
    let mut known = BTreeMap::<&Key, Vec<&AcceptedDatum>>::new();
    for datum in accepted {
        let parts = known.entry(&datum.key).or_default();
        let is_known = |part: &&AcceptedDatum| (&part.values, &part.counts) == (&datum.values, &datum.counts);
        if !parts.iter().any(is_known) {
            parts.push(datum);
        }
    }
    known.into_values().flatten().collect()
}

/// The windows that arrived: their series with all values in ascending order, by their start in Unix seconds.
pub(super) fn windows(accepted: &[AcceptedDatum]) -> BTreeMap<u64, BTreeMap<Series, Vec<f64>>> {
    let mut windows = BTreeMap::<_, BTreeMap<_, Vec<f64>>>::new();
    for datum in distinct(accepted) {
        let start = unix_seconds(datum.key.timestamp);
        let window = windows.entry(start).or_default();
        let values = window.entry(datum.key.series.clone()).or_default();
        values.extend(&datum.values);
        values.sort_by(f64::total_cmp);
    }
    windows
}

/// Whole seconds.
pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Whether a series is there at every tick. What the agent says about itself comes and goes with `CloudWatch`'s answers.
fn is_steady(series: &Series) -> bool {
    let metric = Metric::ALL.iter().find(|metric| metric.name() == series.metric);
    !matches!(metric.unwrap().entry().group, Group::Agent | Group::Health)
}

/// Asserts that each of these windows has arrived: with the same series as all others, and with exactly those samples of
/// the driver's ring that were taken in it.
#[track_caller]
pub(super) fn assert_whole(accepted: &[AcceptedDatum], epoch_us: u64, starts: RangeInclusive<u64>) {
    let windows = windows(accepted);
    let missing: Vec<u64> = starts
        .clone()
        .filter(|start| !windows.contains_key(start))
        .collect();
    assert_eq!(missing, [0; 0], "of {starts:?}");
    let of = |start: u64| -> BTreeSet<&Series> {
        windows[&start]
            .keys()
            .filter(|series| is_steady(series))
            .collect()
    };
    let expected = of(*starts.start());
    assert!(expected.len() > 10, "{expected:?}");
    for start in starts {
        assert_eq!(of(start), expected, "the series of {start}");
        let arrived = windows[&start]
            .iter()
            .find(|(series, _)| series.metric == "gpu_utilization");
        let (from, until) = (start * 1_000_000, (start + 1) * 1_000_000);
        let mut taken = ring(epoch_us, from, until);
        taken.sort_by(f64::total_cmp);
        assert_eq!(*arrived.unwrap().1, taken, "the samples of {start}");
    }
}

/// The start of the window that was open at this look at the status.
pub(super) fn open_window(status: &Snapshot) -> u64 {
    status.sampler.open_window.unwrap().0
}

/// Waits until this many windows wait, all of them on the disk, and none was ever sent.
pub(super) fn wait_for_backlog(agent: &Agent, windows: usize) -> Snapshot {
    agent.wait("windows wait", |status| {
        status.publish.pending_windows >= windows && status.publish.done.windows == 0
    })
}

/// Waits until nothing waits, after something arrived.
pub(super) fn wait_for_all(agent: &Agent) -> Snapshot {
    agent.wait("everything is sent", |status| {
        status.publish.done.windows > 0 && status.publish.pending_windows == 0
    })
}

/// Asserts that the ledger of all runs balances, and that what it calls published is what arrived.
#[track_caller]
pub(super) fn assert_told_truly(status: &Snapshot, fake: &FakeCloudWatch) {
    crate::life::scene::assert_adds_up(status);
    let arrived: f64 = distinct(&fake.accepted())
        .iter()
        .flat_map(|datum| &datum.counts)
        .sum();
    assert!(
        arrived >= status.publish.done.samples as f64,
        "{arrived} arrived, {} were called published",
        status.publish.done.samples
    );
    assert_eq!(status.sampler.ledger.dropped_total(), 0, "{status:#?}");
}
