//! Datums that CloudWatch refuses, and requests that are too large for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::SystemTime;

use fake_cloudwatch::{AcceptedDatum, Attempt, FakeCloudWatch, Fate, Key, Rule};
use gpushare::metrics::window::DropReason;
use gpushare::status::Snapshot;

use super::scene::{
    assert_nothing_lost, node, node_with_gpu, once, publishing, status_text, stopped, wait_well,
};
use crate::harness::Node;
use crate::life::scene::assert_adds_up;

/// The metric that is refused, and one that is read together with it.
const REFUSED: &str = "gpu_temperature";
const NEIGHBOUR: &str = "gpu_power_draw";

/// Plays a CloudWatch that refuses [`REFUSED`] to the end.
fn refuse(trouble: Fate) -> FakeCloudWatch {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(trouble)]);
    let (node, _) = node_with_gpu(&fake);
    let agent = node.start();
    let status = agent.wait("three windows of a GPU, none of which waits", |status| {
        let dropped = status.sampler.ledger.dropped.contains_key(&DropReason::Refused);
        dropped && status.publish.done.windows >= 3 && status.publish.pending_windows == 0
    });
    assert_adds_up(&status);
    assert_eq!(
        status.publish.done.failing_since, None,
        "it is no failure of publishing"
    );
    let text = status_text(&node);
    assert!(
        text.contains(REFUSED) && text.contains("HTTP 400 InvalidParameterValue"),
        "{text}"
    );
    stopped(agent);
    assert_nothing_lost(&fake, &status);
    assert_only_the_refused_is_dropped(&fake.accepted(), &status);
    fake
}

/// Asserts that what was dropped is [`REFUSED`], no more and no less: as many samples as its neighbour has.
#[track_caller]
fn assert_only_the_refused_is_dropped(accepted: &[AcceptedDatum], status: &Snapshot) {
    assert!(accepted.iter().all(|datum| datum.key.series.metric != REFUSED));
    assert_eq!(once(accepted).len(), accepted.len(), "nothing was sent twice");
    let mut neighbours = BTreeMap::<SystemTime, f64>::new();
    for datum in accepted {
        let is_neighbour = datum.key.series.metric == NEIGHBOUR;
        let samples = if is_neighbour {
            datum.counts.iter().sum()
        } else {
            0.0
        };
        *neighbours.entry(datum.key.timestamp).or_default() += samples;
    }
    let done = usize::try_from(status.publish.done.windows).unwrap();
    let expected: f64 = neighbours.values().take(done).sum();
    let dropped = &status.sampler.ledger.dropped;
    assert_eq!(dropped.keys().collect::<Vec<_>>(), [&DropReason::Refused]);
    assert_eq!(dropped[&DropReason::Refused] as f64, expected);
}

/// The attempts of each window of which something was refused.
fn refused_windows(fake: &FakeCloudWatch) -> Vec<Vec<Attempt>> {
    let mut last = BTreeMap::<SystemTime, u64>::new();
    for datum in fake.accepted() {
        last.insert(datum.key.timestamp, datum.attempt);
    }
    let attempts = fake.attempts();
    let windows = attempts.chunk_by(|attempt, _| !last.values().any(|last| *last == attempt.number));
    windows
        .filter(|window| window.len() > 1)
        .map(<[Attempt]>::to_vec)
        .collect()
}

#[test]
fn c06_a_datum_that_the_reply_names_takes_two_requests() {
    let fake = refuse(Fate::NamedPoison {
        metric: REFUSED.into(),
    });
    let windows = refused_windows(&fake);
    assert!(windows.len() >= 2, "{windows:#?}");
    for window in &windows {
        let [refused, rest] = &window[..] else {
            panic!("not two requests: {window:#?}");
        };
        assert_eq!(rest.datums.unwrap() + 1, refused.datums.unwrap());
    }
}

#[test]
fn c06_a_datum_that_no_reply_names_is_found_by_halves() {
    let fake = refuse(Fate::UnnamedPoison {
        metric: REFUSED.into(),
    });
    let windows = refused_windows(&fake);
    assert!(windows.len() >= 2, "{windows:#?}");
    for window in windows {
        let datums = window[0].datums.unwrap();
        // The whole, a request for each halving, and the rest.
        let most = 2 + usize::try_from(datums.next_power_of_two().ilog2()).unwrap();
        assert!((3..=most).contains(&window.len()), "{datums} datums: {window:#?}");
        let arrived: usize = window
            .iter()
            .filter(|attempt| attempt.committed)
            .filter_map(|a| a.datums)
            .sum();
        assert_eq!(arrived, datums - 1);
    }
}

/// The longest dimension value that CloudWatch takes.
const LONGEST: usize = 1024;

/// GPUs enough to fill two requests with one window, when every datum carries five of the longest dimensions.
const GPUS: usize = 24;

fn wordy_node(fake: &FakeCloudWatch) -> Node {
    let mut scenario = String::new();
    for gpu in 0..GPUS {
        let _ = writeln!(
            scenario,
            "[[gpu]]\nuuid = \"GPU-{gpu}\"\nname = \"NVIDIA A10G\"\npci = \"00000000:{gpu:02X}:00.0\"\n\
             memory_mib = 24000\nreserved_mib = 4000\nused_mib = 4000\nutilization = 40"
        );
    }
    let dimensions = "[\"InstanceId\", \"ImageId\", \"InstanceType\", \"AutoScalingGroupName\", \"ClusterName\", \"NodegroupName\"]";
    let keys = [
        "image_id",
        "instance_type",
        "auto_scaling_group",
        "cluster",
        "nodegroup",
    ];
    let node = publishing(Node::new(&scenario), fake)
        .with("publish.groups", "[\"gpu\", \"health\"]")
        .with("publish.dimensions", dimensions);
    keys.iter().fold(node, |node, key| {
        let value = key.repeat(LONGEST).chars().take(LONGEST).collect::<String>();
        node.with(&format!("node.{key}"), &format!("{value:?}"))
    })
}

#[test]
fn c08_a_window_too_large_for_one_request_is_split_by_its_bytes() {
    let fake = FakeCloudWatch::start().unwrap();
    let node = wordy_node(&fake);
    let agent = node.start();
    let large = |attempt: &Attempt| attempt.body_bytes.is_some_and(|bytes| bytes > 900_000);
    agent.wait("three requests that are full", |_| {
        fake.attempts().iter().filter(|attempt| large(attempt)).count() >= 3
    });
    let status = wait_well(&agent, 1);
    assert_adds_up(&status);
    stopped(agent);
    assert_nothing_lost(&fake, &status);
    for attempt in fake.attempts() {
        assert_eq!(attempt.status, Some(200), "{attempt:?}");
        assert!(attempt.body_bytes.unwrap() <= 950_000, "{attempt:?}");
        assert!(attempt.datums.unwrap() < 1000, "bytes are what limits it");
    }
    let accepted = fake.accepted();
    assert_eq!(once(&accepted).len(), accepted.len(), "nothing was sent twice");
    let split = windows_by_attempts(&accepted)
        .values()
        .filter(|attempts| attempts.len() == 2)
        .count();
    assert!(split >= 2, "windows that took two requests");
    assert_eq!(gpus_of_widest_window(&accepted), GPUS);
}

fn windows_by_attempts(accepted: &[AcceptedDatum]) -> BTreeMap<SystemTime, BTreeSet<u64>> {
    let mut windows = BTreeMap::<_, BTreeSet<u64>>::new();
    for datum in accepted {
        windows
            .entry(datum.key.timestamp)
            .or_default()
            .insert(datum.attempt);
    }
    windows
}

fn gpus_of_widest_window(accepted: &[AcceptedDatum]) -> usize {
    let mut gpus = BTreeMap::<_, BTreeSet<&String>>::new();
    for Key { series, timestamp } in accepted.iter().map(|datum| &datum.key) {
        gpus.entry(timestamp)
            .or_default()
            .extend(series.dimensions.get("GPUNumber"));
    }
    gpus.values().map(BTreeSet::len).max().unwrap()
}

#[test]
fn c08_a_request_that_is_refused_as_too_large_is_halved() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::first(2, Fate::TooLarge)]);
    let node = node(&fake);
    let agent = node.start();
    let status = wait_well(&agent, 2);
    assert_adds_up(&status);
    stopped(agent);
    assert_nothing_lost(&fake, &status);
    let attempts = fake.attempts();
    let datums: Vec<usize> = attempts.iter().filter_map(|attempt| attempt.datums).collect();
    let whole = datums[0];
    let half = whole.div_ceil(2);
    let quarter = half.div_ceil(2);
    assert_eq!(
        datums[1..5],
        [half, quarter, half - quarter, whole - half],
        "{attempts:#?}"
    );
    let accepted = fake.accepted();
    assert_eq!(once(&accepted).len(), accepted.len(), "nothing was sent twice");
}
