//! `CloudWatch` comes and goes, again and again: nothing of it may stay behind in the agent.

use std::collections::BTreeMap;
use std::time::Duration;

use fake_cloudwatch::{FakeCloudWatch, Fate, Rule, Script};

use super::scene::{assert_told_truly, assert_whole, open_window};
use crate::harness::{Agent, wait_for};
use crate::publish::scene::{node_with_gpu, stopped};

/// Ways to be away. The one that hangs goes on for the ten seconds of an attempt.
fn ways() -> [Script; 5] {
    let always = |fate| Script::from([Rule::always(fate)]);
    [
        Script {
            rules: Vec::new(),
            refuse: vec![(Duration::ZERO, None)],
        },
        always(Fate::ServerError {
            status: 503,
            body: false,
        }),
        always(Fate::ResetBeforeBody),
        always(Fate::Hang),
        always(Fate::Throttle),
    ]
}

/// What the agent and its NVML process have open, by kind, and their threads, by name.
type Holdings = BTreeMap<String, usize>;

fn holdings(agent: &Agent) -> Holdings {
    let mut found = Holdings::new();
    for pid in family(agent.pid()) {
        for file in names(&format!("/proc/{pid}/fd")) {
            // Gone, or open for the microseconds of a reading.
            let Ok(target) = fs_err::read_link(file) else {
                continue;
            };
            let target = target.to_string_lossy().into_owned();
            if !target.starts_with("/proc/") && !target.starts_with("/sys/") {
                // `socket:[123]`, and paths as they are.
                let kind = target.split(":[").next().unwrap_or(&target).to_owned();
                *found.entry(kind).or_default() += 1;
            }
        }
        for thread in names(&format!("/proc/{pid}/task")) {
            let name = fs_err::read_to_string(format!("{thread}/comm")).unwrap_or_default();
            *found.entry(format!("thread {}", name.trim())).or_default() += 1;
        }
    }
    found
}

fn family(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    for thread in names(&format!("/proc/{pid}/task")) {
        let children = fs_err::read_to_string(format!("{thread}/children")).unwrap_or_default();
        found.extend(children.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
    }
    found
}

fn names(dir: &str) -> Vec<String> {
    let files = fs_err::read_dir(dir).unwrap();
    files
        .map(|file| file.unwrap().path().display().to_string())
        .collect()
}

/// Takes `CloudWatch` away until two windows wait, and gives it back until none does. Returns the start of the window
/// that was open at the end.
fn away_and_back(fake: &FakeCloudWatch, agent: &Agent, way: Script) -> u64 {
    fake.play(way);
    let away = agent.wait("windows wait", |status| {
        status.publish.done.failing_since.is_some() && status.publish.pending_windows >= 2
    });
    fake.play([]);
    let last = open_window(&away);
    let back = agent.wait("everything is sent", |status| {
        status.publish.done.last_window >= Some(last) && status.publish.pending_windows == 0
    });
    open_window(&back)
}

#[test]
fn c20_an_endpoint_that_comes_and_goes_leaves_no_file_and_no_thread_behind() {
    let fake = FakeCloudWatch::start().unwrap();
    let (node, epoch_us) = node_with_gpu(&fake);
    let agent = node.start();
    let begun = agent.wait("something is sent", |status| status.publish.done.windows >= 2);
    let first = open_window(&begun);
    let [way, ..] = ways();
    // Whatever is opened once and kept is open after the first time.
    away_and_back(&fake, &agent, way);
    let before = holdings(&agent);
    assert!(before["socket"] >= 2, "{before:#?}");
    assert!(before["thread spool"] == 1, "{before:#?}");

    let mut end = first;
    for way in ways() {
        end = away_and_back(&fake, &agent, way);
    }

    // The runtime's helper threads end after ten idle seconds: before may have one that is gone by now.
    let mut last = Holdings::new();
    let has_grown = |(kind, count): (&String, &usize)| *count > before.get(kind).copied().unwrap_or(0);
    let is_as_before = wait_for(|| {
        last = holdings(&agent);
        (!last.iter().any(has_grown)).then_some(())
    });
    assert!(is_as_before.is_some(), "before: {before:#?}\nafter: {last:#?}");
    assert_told_truly(&agent.status().unwrap(), &fake);
    stopped(agent);
    assert_whole(&fake.accepted(), epoch_us, first..=end - 1);
}
