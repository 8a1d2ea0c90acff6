//! EC2 announces that the instance will be gone.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fake_cloudwatch::{FakeCloudWatch, Fate, Rule};
use fake_imds::FakeImds;
use fake_imds::node::SpotAction;

use super::scene::{assert_told_truly, wait_for_backlog};
use crate::harness::{Agent, Node, PATIENCE};
use crate::publish::scene::{node, once, status_text, stopped};

/// A spot instance.
fn spot(fake: &FakeCloudWatch) -> (Node, FakeImds) {
    let imds = FakeImds::start().unwrap();
    imds.change(|node| node.life_cycle = "spot".into());
    let node = node(fake)
        .with_env("AWS_EC2_METADATA_DISABLED", "false")
        .with_env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &imds.url());
    (node, imds)
}

fn interrupt(imds: &FakeImds) {
    imds.change(|node| {
        node.spot_action = Some(SpotAction {
            action: "terminate".into(),
            time: SystemTime::now() + Duration::from_mins(2),
            noticed: UNIX_EPOCH,
        });
    });
}

/// Waits until notices are looked for, and some samples were taken.
fn wait_for_watch(agent: &Agent, imds: &FakeImds) {
    agent.wait("samples are there, and notices are looked for", |status| {
        let is_asked = |part: &str| imds.requests().iter().any(|request| request.path.contains(part));
        status.sampler.ticks >= 10 && is_asked("instance-action") && is_asked("rebalance")
    });
}

#[test]
fn c17_a_notice_sends_the_open_window_long_before_its_end_and_sampling_goes_on() {
    let fake = FakeCloudWatch::start().unwrap();
    let (node, imds) = spot(&fake);
    // A window that does not end by itself, unless the test runs over the full hour.
    let node = node.with("publish.interval", "\"1h\"");
    let agent = node.start();
    wait_for_watch(&agent, &imds);
    assert_eq!(fake.attempts(), []);
    interrupt(&imds);
    assert!(
        fake.wait_for(PATIENCE, |accepted, _| !accepted.is_empty()),
        "{}",
        agent.log()
    );
    let arrived: f64 = fake.accepted().iter().flat_map(|datum| &datum.counts).sum();
    let after = agent.wait("samples are taken", |status| {
        status.sampler.open_window.is_some_and(|(_, samples)| samples > 0)
    });
    assert!(arrived >= 10.0, "{arrived}");
    assert_told_truly(&after, &fake);
    assert!(
        after.problems[0]
            .what
            .starts_with("EC2 takes this spot instance away: terminate at "),
        "{:?}",
        after.problems
    );
    assert!(
        status_text(&node).contains("kubectl drain"),
        "{}",
        status_text(&node)
    );

    // A recommendation on top of it sends what has come since.
    let before = fake.attempts().len();
    imds.change(|node| node.rebalance = Some(SystemTime::now()));
    assert!(fake.wait_for(PATIENCE, |_, attempts| attempts.len() > before));
    let ended = stopped(agent);
    let told = ended.log.matches("EC2 takes this spot instance").count();
    assert_eq!(told, 1, "{}", ended.log);
    let collected = after.sampler.ledger.collected as f64;
    let all: f64 = fake.accepted().iter().flat_map(|datum| &datum.counts).sum();
    assert!(all > collected, "{all} of {collected} and more");
}

#[test]
fn c17_after_a_notice_the_backlog_is_not_spaced() {
    let fake = FakeCloudWatch::start().unwrap();
    let (node, imds) = spot(&fake);
    fake.play([Rule::always(Fate::Throttle)]);
    let agent = node.start();
    wait_for_watch(&agent, &imds);
    let waiting = wait_for_backlog(&agent, 8);
    interrupt(&imds);
    agent.wait("the notice is there", |status| {
        status.interruption.notice.is_some()
    });
    let begun = Instant::now();
    fake.play([]);
    let after = agent.wait("the backlog is sent", |status| {
        status.publish.done.windows > 0 && status.publish.pending_windows == 0
    });
    // A pause of a second at most, and no spacing.
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_told_truly(&after, &fake);
    assert!(once(&fake.accepted()).len() > waiting.publish.pending_windows);
    stopped(agent);
}

#[test]
fn c17_sigterm_sends_what_was_just_sampled_before_the_backlog() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::Throttle)]);
    let node = node(&fake);
    let agent = node.start();
    let waiting = wait_for_backlog(&agent, 5);
    fake.play([]);
    stopped(agent);
    let accepted = fake.accepted();
    let newest = accepted.iter().map(|datum| datum.key.timestamp).max();
    let first = accepted.iter().map(|datum| datum.attempt).min();
    let of_first = accepted.iter().filter(|datum| Some(datum.attempt) == first);
    let starts: Vec<SystemTime> = of_first.map(|datum| datum.key.timestamp).collect();
    // Unless the outage ended in the middle of a retry of what was the live window then.
    let late = newest.unwrap() - Duration::from_secs(1);
    assert!(
        starts.iter().all(|start| *start >= late),
        "{starts:?} of {newest:?}"
    );
    let arrived: f64 = once(&accepted).iter().flat_map(|datum| &datum.counts).sum();
    assert!(
        arrived >= waiting.sampler.ledger.collected as f64,
        "all of it in the end"
    );
}
