//! `CloudWatch` cannot be reached, does not answer or fails, for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, UNIX_EPOCH};

use fake_cloudwatch::{FakeCloudWatch, Fate, Rule, Script};
use gpushare::publish::fate::Class;

use super::scene::{assert_told_truly, assert_whole, open_window, wait_for_all, wait_for_backlog, windows};
use crate::publish::scene::{node_with_gpu, stopped, wait_failure};

/// So many windows long is a long outage; what a day takes is shown by a benchmark.
const LONG: usize = 10;

/// Plays an outage from the start on, ends it after `windows` windows, and compares what arrives with what was sampled.
#[track_caller]
fn outage(script: impl Into<Script>, class: Class, windows: usize) {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play(script);
    let (node, epoch_us) = node_with_gpu(&fake);
    let agent = node.start();
    wait_failure(&agent, class);
    let first = open_window(&agent.status().unwrap()) + 1;
    let waiting = wait_for_backlog(&agent, windows);
    assert_eq!(fake.accepted(), []);
    fake.play([]);
    let last = open_window(&waiting);
    agent.wait("live data arrives", |status| {
        status.publish.done.last_window > Some(last)
    });
    let after = wait_for_all(&agent);
    assert_told_truly(&after, &fake);
    stopped(agent);
    assert_whole(&fake.accepted(), epoch_us, first..=last);
}

#[test]
fn c01_an_endpoint_that_refuses_connections_for_long_costs_nothing() {
    let refused = Script {
        rules: Vec::new(),
        refuse: vec![(Duration::ZERO, None)],
    };
    outage(refused, Class::Unreachable, LONG);
}

#[test]
fn c01_an_endpoint_that_never_answers_for_long_costs_nothing() {
    outage([Rule::always(Fate::Hang)], Class::TimedOut, LONG);
}

#[test]
fn c01_an_endpoint_that_fails_for_long_costs_nothing() {
    let down = Fate::ServerError {
        status: 503,
        body: false,
    };
    outage([Rule::always(down)], Class::ServerError, LONG);
}

#[test]
fn c01_an_endpoint_that_fails_for_a_moment_costs_nothing() {
    let down = Fate::ServerError {
        status: 500,
        body: true,
    };
    outage([Rule::always(down)], Class::ServerError, 1);
}

#[test]
fn c01_a_name_that_cannot_be_resolved_costs_nothing() {
    let fake = FakeCloudWatch::start().unwrap();
    let (node, epoch_us) = node_with_gpu(&fake);
    let node = node.with("publish.endpoint_url", "\"http://cloudwatch.invalid\"");
    let agent = node.start();
    wait_failure(&agent, Class::Unreachable);
    let first = open_window(&agent.status().unwrap()) + 1;
    let waiting = wait_for_backlog(&agent, 3);
    stopped(agent);

    let node = node.with("publish.endpoint_url", &format!("{:?}", fake.url()));
    let agent = node.start();
    let after = wait_for_all(&agent);
    assert_told_truly(&after, &fake);
    stopped(agent);
    assert_whole(&fake.accepted(), epoch_us, first..=open_window(&waiting) - 1);
}

#[test]
fn c05_live_windows_go_first_and_alone_and_the_backlog_follows_several_at_a_time() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play(Script {
        rules: Vec::new(),
        refuse: vec![(Duration::ZERO, None)],
    });
    let (node, _) = node_with_gpu(&fake);
    let agent = node.start();
    let waiting = wait_for_backlog(&agent, 12);
    fake.play([]);
    let after = wait_for_all(&agent);
    assert_told_truly(&after, &fake);
    stopped(agent);

    let accepted = fake.accepted();
    let mut requests = BTreeMap::<u64, BTreeSet<u64>>::new();
    for datum in &accepted {
        let start = datum.key.timestamp.duration_since(UNIX_EPOCH).unwrap();
        requests.entry(datum.attempt).or_default().insert(start.as_secs());
    }
    let ended_at = open_window(&waiting);
    let is_backlog = |starts: &BTreeSet<u64>| starts.last().is_some_and(|start| *start < ended_at);
    let (backlog, live): (Vec<_>, Vec<_>) = requests.into_values().partition(is_backlog);
    assert!(live.iter().all(|starts| starts.len() == 1), "{live:?}");
    assert!(!live.is_empty());
    assert!(backlog.len() <= 4, "12 windows in {backlog:?}");
    let newest: Vec<&u64> = backlog.iter().filter_map(BTreeSet::last).collect();
    assert!(newest.is_sorted_by(|a, b| a > b), "the newest first: {newest:?}");
    // From the end of the outage on each live window is there within the interval after its own.
    for (start, _) in windows(&accepted).range(ended_at + 2..) {
        let datum = accepted
            .iter()
            .find(|datum| datum.key.timestamp == UNIX_EPOCH + Duration::from_secs(*start));
        let end = UNIX_EPOCH + Duration::from_secs(start + 1);
        let late = datum.unwrap().arrived.duration_since(end).unwrap();
        assert!(late < Duration::from_secs(2), "{start}: {late:?}");
    }
}
