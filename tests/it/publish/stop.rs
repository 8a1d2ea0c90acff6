//! The end of the agent: the open window is sent, and nothing holds it up.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fake_cloudwatch::{FakeCloudWatch, Fate, Rule};
use gpushare::publish::fate::Class;
use gpushare::publish::retry::Pace;

use super::scene::{
    STOP, assert_nothing_lost, everything_waits, instance_whose, node, node_with_gpu, once,
    samples_by_window, stopped, wait_failure,
};
use crate::gpu::scene::{ring, unix_us};
use crate::harness::PATIENCE;
use crate::life::scene::assert_adds_up;

/// What a stop may take while CloudWatch answers.
const HEALTHY: Duration = Duration::from_secs(5);

#[test]
fn c16_sigterm_sends_the_open_window_with_its_true_sample_count() {
    let fake = FakeCloudWatch::start().unwrap();
    // A window that never ends by itself, unless the test runs over the full hour.
    let (node, epoch_us) = node_with_gpu(&fake);
    let node = node.with("publish.interval", "\"1h\"");
    let agent = node.start();
    let before = agent.wait("ten ticks, with readings of the GPU", |status| {
        status.sampler.ticks >= 10 && status.gpu.gpus.iter().any(|gpu| gpu.newest.is_some())
    });
    assert_eq!(fake.attempts(), []);
    let ended = stopped(agent);
    assert!(ended.took < HEALTHY, "{:?}", ended.took);
    let accepted = fake.accepted();
    assert_eq!(once(&accepted).len(), accepted.len(), "nothing was sent twice");
    let samples: f64 = accepted.iter().flat_map(|datum| &datum.counts).sum();
    let said = ended
        .log
        .lines()
        .find(|line| line.contains("closed the open window"));
    let number = format!("samples={samples}");
    assert!(
        said.unwrap().split_whitespace().any(|word| word == number),
        "{samples} arrived: {said:?}"
    );
    assert!(samples >= before.sampler.ledger.collected as f64);
    for datum in &accepted {
        let start = datum.key.timestamp.duration_since(UNIX_EPOCH).unwrap();
        assert_eq!(
            start.as_secs() % 3600,
            0,
            "an early end does not change the start"
        );
    }
    let utilization = accepted
        .iter()
        .find(|datum| datum.key.series.metric == "gpu_utilization");
    let arrived = &utilization.unwrap().values;
    let in_ring = ring(epoch_us, epoch_us, unix_us(SystemTime::now()));
    let begin = in_ring.iter().position(|value| *value == arrived[0]).unwrap();
    assert_eq!(*arrived, in_ring[begin..begin + arrived.len()]);
}

#[test]
fn c16_an_endpoint_that_hangs_holds_up_the_end_for_seconds_and_the_next_start_sends_everything() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::Hang)]);
    let node = node(&fake);
    let agent = node.start();
    let before = agent.wait("two windows wait", everything_waits);
    assert_adds_up(&before);
    let ended = stopped(agent);
    assert!(ended.took < STOP, "{:?}", ended.took);
    let said = ended
        .log
        .lines()
        .find(|line| line.contains("the rest is in the spool"));
    let why = "CloudWatch does not answer: nothing in the time that is left while stopping";
    assert!(said.is_some_and(|said| said.contains(why)), "{}", ended.log);
    assert_eq!(fake.accepted(), []);

    fake.play([]);
    let agent = node.start();
    let after = agent.wait("nothing waits", |status| {
        status.publish.earlier.runs == 1
            && status.publish.done.windows > 0
            && status.publish.pending_windows == 0
    });
    assert_adds_up(&after);
    stopped(agent);
    let earlier = after.publish.earlier;
    assert!(
        earlier.collected >= before.sampler.ledger.collected,
        "{earlier:?}"
    );
    assert_eq!(earlier.published, 0);
    let arrived: f64 = samples_by_window(&fake.accepted()).values().sum();
    assert!(arrived >= after.publish.done.samples as f64, "{arrived}");
}

#[test]
fn c16_a_request_under_way_is_waited_for_and_not_sent_again() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::Delay(Duration::from_millis(400)))]);
    let node = node(&fake);
    let agent = node.start();
    assert!(fake.wait_for(PATIENCE, |_, attempts| !attempts.is_empty()));
    let ended = stopped(agent);
    assert!(ended.took < HEALTHY, "{:?}", ended.took);
    let attempts = fake.attempts();
    assert!(
        attempts.len() >= 2,
        "the window under way and the open one: {attempts:?}"
    );
    assert!(attempts.iter().all(|attempt| attempt.committed), "{attempts:?}");
    let accepted = fake.accepted();
    assert_eq!(once(&accepted).len(), accepted.len(), "nothing was sent twice");
}

#[test]
fn c16_what_waited_for_a_permission_is_tried_once_more_at_the_end() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::first(1, Fate::AccessDenied)]);
    // A pause so long that only the end can cut it short.
    let instance = instance_whose(|pauses| pauses.pause(Pace::Slow) > Duration::from_secs(25));
    let node = node(&fake).with("node.instance_id", &format!("{instance:?}"));
    let agent = node.start();
    wait_failure(&agent, Class::Denied);
    let piled = agent.wait("two windows wait", everything_waits);
    let ended = stopped(agent);
    assert!(ended.took < HEALTHY, "{:?}", ended.took);
    assert_nothing_lost(&fake, &piled);
    let arrived: Vec<SystemTime> = fake.accepted().iter().map(|datum| datum.key.timestamp).collect();
    assert!(
        arrived.is_sorted_by(|a, b| a >= b),
        "the newest first: {arrived:?}"
    );
}
