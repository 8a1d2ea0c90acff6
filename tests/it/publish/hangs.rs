//! Answers that do not come, or do not end: sampling goes on at its pace, and the attempt is cut.

use std::time::{Duration, Instant};

use fake_cloudwatch::{FakeCloudWatch, Fate, Rule};
use gpushare::publish::fate::Class;

use super::scene::{
    assert_every_ring_sample, assert_nothing_lost, node_with_gpu, once, stopped, wait_failure, wait_well,
};
use crate::harness::{Agent, PATIENCE};
use crate::life::scene::assert_adds_up;

/// One attempt: what the publisher grants it.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Samples a second in these tests.
const PACE: f64 = 10.0;

/// For a status: far below the time of the attempt, which is how long one that waits for the publisher takes.
const AT_ONCE: Duration = Duration::from_secs(2);

/// One that trickles has no whole head in this time.
#[test]
fn c18_an_answer_that_never_comes_is_cut_off_and_sampling_keeps_its_pace() {
    std::thread::scope(|scope| {
        for fate in [Fate::Hang, Fate::Trickle(Duration::from_millis(500))] {
            scope.spawn(move || is_cut_off(&fate));
        }
    });
}

fn is_cut_off(trouble: &Fate) {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::first(1, trouble.clone())]);
    let (node, epoch_us) = node_with_gpu(&fake);
    let agent = node.start();
    assert!(fake.wait_for(PATIENCE, |_, attempts| !attempts.is_empty()));
    let begun = Instant::now();
    assert_pace(&agent, Duration::from_secs(4));
    let waiting = agent.status().unwrap();
    assert!(waiting.publish.pending_windows >= 4, "{:?}", waiting.publish);
    let failed = wait_failure(&agent, Class::TimedOut);
    let cut = begun.elapsed();
    assert!(cut.abs_diff(ATTEMPT) < Duration::from_secs(2), "{cut:?}");
    let what = failed.publish.done.last_error.clone().unwrap().what;
    let host = fake.url().replace("http://", "");
    assert_eq!(
        what,
        format!("CloudWatch does not answer: {host}: nothing within 10s")
    );
    let well = wait_well(&agent, 3);
    assert_adds_up(&well);
    stopped(agent);
    for status in [&waiting, &failed, &well] {
        assert_nothing_lost(&fake, status);
    }
    assert_every_ring_sample(&fake, epoch_us);
    // What was accepted before it was cut off is there once more, and nothing else is.
    let accepted = fake.accepted();
    let cut_off = accepted.iter().filter(|datum| datum.attempt == 0).count();
    assert_eq!(accepted.len() - once(&accepted).len(), cut_off, "{trouble:?}");
}

/// The head of the answer says that the data arrived.
#[test]
fn c18_an_accepting_answer_that_never_ends_holds_up_nothing_and_doubles_nothing() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::first(1, Fate::Endless)]);
    let (node, epoch_us) = node_with_gpu(&fake);
    let agent = node.start();
    assert!(fake.wait_for(PATIENCE, |_, attempts| !attempts.is_empty()));
    assert_pace(&agent, Duration::from_secs(4));
    let well = wait_well(&agent, 3);
    assert_adds_up(&well);
    assert_eq!(well.publish.done.last_error, None);
    stopped(agent);
    assert_nothing_lost(&fake, &well);
    assert_every_ring_sample(&fake, epoch_us);
    let accepted = fake.accepted();
    assert_eq!(once(&accepted).len(), accepted.len());
}

/// Asserts that ticks come at their pace for this long, and that the status answers at once all the while.
#[track_caller]
fn assert_pace(agent: &Agent, span: Duration) {
    let begun = Instant::now();
    let first = agent.status().unwrap().sampler.ticks;
    while begun.elapsed() < span {
        let asked = Instant::now();
        assert_adds_up(&agent.status().unwrap());
        assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
        std::thread::sleep(Duration::from_millis(200));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let ticks = (agent.status().unwrap().sampler.ticks - first) as f64;
    // A sampler that waits for the publisher misses all of them; a machine that is loaded costs a few.
    let due = seconds * PACE;
    assert!(
        (due * 0.75..due + 3.0).contains(&ticks),
        "{ticks} ticks in {seconds} s"
    );
}

#[test]
fn c18_an_answer_that_comes_slowly_but_in_time_is_an_answer() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::first(1, Fate::Trickle(Duration::from_millis(5)))]);
    let (node, epoch_us) = node_with_gpu(&fake);
    let agent = node.start();
    let well = wait_well(&agent, 3);
    assert_eq!(well.publish.done.last_error, None);
    stopped(agent);
    assert_nothing_lost(&fake, &well);
    assert_every_ring_sample(&fake, epoch_us);
    let accepted = fake.accepted();
    assert_eq!(once(&accepted).len(), accepted.len(), "nothing was sent twice");
}
