//! What waited through an outage: several windows a request, spaced, and never in the way of the live one.

use std::collections::BTreeMap;

use super::stage::{MINUTE, Play, Service, Stage, failed, now, settled, window};
use super::*;
use crate::metrics::window::DropReason;
use crate::publish::bundle::MOST_BYTES;
use crate::publish::fate::{Class, Failure, Fate};
use crate::publish::spool::Spool;

/// A backlog of windows of `disks` series each, the newest of them just closed, in front of a service.
async fn stage(windows: u64, disks: usize, prepare: impl FnOnce(&mut Service, u64)) -> (Stage, u64) {
    let base = now() - windows * 60;
    let stage = Stage::with(
        Pacing::CLOUDWATCH,
        IdentityStatus::default(),
        Spool::in_memory(2000),
        |service| {
            // Tests see each step.
            service.latency = Duration::from_millis(10);
            prepare(service, base);
        },
    );
    for n in 0..windows {
        stage.store.push(window(base + n * 60, disks));
    }
    stage.identity.send_replace(settled());
    tokio::task::yield_now().await;
    (stage, base)
}

/// How often each datum arrived.
fn arrived(stage: &Stage) -> BTreeMap<(u64, String), u32> {
    let service = stage.fake.0.lock().unwrap();
    let mut arrived = BTreeMap::new();
    for datum in &service.accepted {
        *arrived.entry(datum.clone()).or_default() += 1;
    }
    arrived
}

#[track_caller]
fn assert_each_arrived_once(stage: &Stage, base: u64, windows: u64, disks: usize) {
    let all = (0..windows).flat_map(|n| (0..disks).map(move |disk| (base + n * 60, format!("/{disk}"))));
    let expected: BTreeMap<_, _> = all.map(|datum| (datum, 1)).collect();
    assert!(
        arrived(stage) == expected,
        "{} of {} datums",
        arrived(stage).len(),
        expected.len()
    );
}

#[tokio::test(start_paused = true)]
async fn c05_the_newest_window_goes_first_and_the_backlog_a_request_a_second() {
    // Two windows a request.
    let (mut stage, base) = stage(12, 500, |_, _| {}).await;
    stage.until(|status| status.windows >= 4).await;
    stage.store.push(window(base + 12 * 60, 500));
    stage.until(|status| status.windows == 13).await;
    let starts: Vec<u64> = stage.starts().iter().map(|start| (start - base) / 60).collect();
    assert_eq!(starts, [11, 10, 8, 12, 6, 4, 2, 0]);
    let service = stage.fake.0.lock().unwrap();
    let backlog: Vec<Instant> = service
        .requests
        .iter()
        .filter(|(_, start, _)| ![11, 12].contains(&((start - base) / 60)))
        .map(|(at, ..)| *at)
        .collect();
    for pair in backlog.windows(2) {
        assert!(pair[1] - pair[0] >= Duration::from_secs(1));
    }
    drop(service);
    assert_each_arrived_once(&stage, base, 13, 500);
}

#[tokio::test(start_paused = true)]
async fn c05_a_day_takes_few_requests_and_no_live_window_is_late() {
    for latency in [0.2, 2.0, 9.0].map(Duration::from_secs_f32) {
        let windows = 1440;
        let (mut stage, base) = stage(windows, 32, |service, _| service.latency = latency).await;
        stage.until(|status| status.windows >= 1).await;
        let mut live = windows;
        let mut latest = Duration::ZERO;
        while stage.store.tally().windows > 0 {
            sleep(MINUTE).await;
            stage.store.push(window(base + live * 60, 32));
            live += 1;
            let (closed, start) = (Instant::now(), base + (live - 1) * 60);
            stage.until(|status| status.last_window == Some(start)).await;
            latest = latest.max(closed.elapsed());
        }
        assert!(latest < MINUTE, "{latest:?} late, {latency:?} an answer");
        let backlog = stage.starts().len() as u64 - (live - windows);
        assert!(backlog <= windows / 4, "{backlog} requests");
        assert_each_arrived_once(&stage, base, live, 32);
        stage.balance(live * 32);
    }
}

#[tokio::test(start_paused = true)]
async fn c05_throttling_halves_the_rate_of_the_backlog_and_not_that_of_live_windows() {
    let (mut stage, base) = stage(200, 500, |_, _| {}).await;
    stage.until(|status| status.windows > 10).await;
    stage.fake.0.lock().unwrap().script = [failed(Class::Throttled), failed(Class::Throttled)].into();
    let begun = Instant::now();
    let before = stage.starts().len();
    stage.until(|status| status.windows > 30).await;
    let requests = stage.fake.0.lock().unwrap().requests.split_off(before);
    for pair in requests.windows(2).skip(2).take(2) {
        assert!(pair[1].0 - pair[0].0 >= Duration::from_secs(3), "{pair:?}");
    }
    stage.store.push(window(base + 200 * 60, 1));
    let closed = Instant::now();
    stage
        .until(|status| status.last_window == Some(base + 200 * 60))
        .await;
    assert!(
        closed.elapsed() < Duration::from_secs(11),
        "{:?}",
        closed.elapsed()
    );
    assert!(begun.elapsed() < MINUTE * 5);
}

#[tokio::test(start_paused = true)]
async fn c05_a_backlog_that_fails_holds_up_no_live_window() {
    let (mut stage, base) = stage(50, 64, |service, _| service.latency = Duration::from_secs(1)).await;
    stage.until(|status| status.windows >= 1).await;
    {
        let mut service = stage.fake.0.lock().unwrap();
        let Play::Answer(fate) = failed(Class::Unknown) else {
            unreachable!("that is what it plays");
        };
        service.stubborn = (0..49).map(|n| (base + n * 60, fate.clone())).collect();
    }
    for n in 50..80 {
        stage.store.push(window(base + n * 60, 64));
        let closed = Instant::now();
        stage
            .until(|status| status.last_window == Some(base + n * 60))
            .await;
        assert!(closed.elapsed() < MINUTE, "{:?}", closed.elapsed());
        sleep(MINUTE).await;
    }
    stage.fake.0.lock().unwrap().stubborn.clear();
    stage.until(|status| status.windows == 80).await;
    assert_each_arrived_once(&stage, base, 80, 64);
}

#[tokio::test(start_paused = true)]
async fn c04_live_data_resumes_within_an_interval_of_an_outage() {
    for outage in [1, 30, 600_u64] {
        let (mut stage, base) = stage(1, 1, |service, _| {
            service.script = std::iter::repeat_n(failed(Class::Throttled), 100_000).collect();
        })
        .await;
        for n in 0..outage {
            sleep(MINUTE).await;
            stage.store.push(window(base + (n + 1) * 60, 1));
        }
        stage.fake.0.lock().unwrap().script.clear();
        let well = Instant::now();
        stage
            .until(|status| status.last_window >= Some(base + outage * 60))
            .await;
        assert!(
            well.elapsed() <= MINUTE,
            "{:?} after {outage} minutes",
            well.elapsed()
        );
        while stage.store.tally().windows > 0 {
            sleep(MINUTE).await;
        }
        assert_each_arrived_once(&stage, base, outage + 1, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn c06_named_poison_in_the_backlog_costs_its_window_a_request_and_the_others_nothing() {
    let named = |member| {
        Play::Answer(Fate::Poison {
            members: vec![member],
            what: format!("MetricData.member.{member}.Value"),
            blames_time: false,
        })
    };
    let accepted = Play::Answer(Fate::Accepted);
    // The second window of the bundle, its fifth datum: along with others, then alone.
    let script = [accepted.clone(), named(105), accepted, named(5)];
    let (stage, base) = stage(11, 100, |service, _| service.script = script.into()).await;
    while stage.store.tally().windows > 0 {
        sleep(Duration::from_secs(1)).await;
    }
    let tally = stage.store.tally();
    assert_eq!(
        (tally.accepted, tally.dropped[&DropReason::Refused]),
        (11 * 100 - 1, 1)
    );
    assert_eq!(arrived(&stage).len(), 1099);
    assert!(
        stage
            .status
            .borrow()
            .last_refusal
            .as_ref()
            .unwrap()
            .contains("path=\"/12\"")
    );
    let starts: Vec<u64> = stage.starts().iter().map(|start| (start - base) / 60).collect();
    // The live window, the bundle, its first window, the poison, its rest, the others.
    assert_eq!(starts, [10, 9, 9, 8, 8, 7]);
}

#[tokio::test(start_paused = true)]
async fn c06_poison_without_a_name_is_found_in_the_backlog_too() {
    let poison = Fate::Poison {
        members: Vec::new(),
        what: "InvalidParameterValue".into(),
        blames_time: false,
    };
    // Every datum of one window is refused, whatever it goes with.
    let (stage, _) = stage(11, 100, |service, base| {
        service.stubborn = vec![(base + 5 * 60, poison)];
    })
    .await;
    while stage.store.tally().windows > 0 {
        sleep(Duration::from_secs(1)).await;
    }
    let tally = stage.store.tally();
    assert_eq!(
        (tally.accepted, tally.dropped[&DropReason::Refused]),
        (1000, 100),
        "{tally:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn c08_a_proxy_that_takes_less_than_a_bundle_gets_less() {
    let (mut stage, base) = stage(60, 64, |service, _| service.most_datums = Some(130)).await;
    stage.until(|status| status.windows == 60).await;
    assert_each_arrived_once(&stage, base, 60, 64);
    // Two windows a request, one or three in vain.
    let requests = stage.starts().len();
    assert!(requests <= 70, "{requests} requests");
}

#[tokio::test(start_paused = true)]
async fn c09_what_is_too_old_is_not_sent_along_and_not_lost_to_our_own_clock() {
    let day = 24 * 3600;
    let mut stage = Stage::with(
        Pacing::CLOUDWATCH,
        IdentityStatus::default(),
        Spool::in_memory(60),
        |service| {
            // Our clock is a month ahead, and no answer has said so before.
            service.skew = Some(-30.0 * day as f64);
        },
    );
    let servers_now = now() - 30 * day;
    for n in 0..10 {
        stage.store.push(window(servers_now - 15 * day + n * 6 * 3600, 1));
    }
    stage.identity.send_replace(settled());
    while stage.store.tally().windows > 0 {
        sleep(Duration::from_secs(1)).await;
    }
    let tally = stage.store.tally();
    // Six hours apart: fifteen days to fourteen are four, and the one at fourteen days is within the hour of margin.
    assert_eq!(
        (tally.accepted, tally.dropped[&DropReason::TooOld]),
        (5, 5),
        "{tally:?}"
    );
    stage.until(|status| status.windows == 5).await;
}

#[tokio::test(start_paused = true)]
async fn c03_a_bundle_whose_answer_was_lost_is_sent_again_as_a_whole() {
    let (mut stage, base) = stage(6, 100, |_, _| {}).await;
    stage.until(|status| status.windows >= 1).await;
    stage.fake.0.lock().unwrap().script = [failed(Class::TimedOut)].into();
    stage.until(|status| status.windows == 6).await;
    assert_each_arrived_once(&stage, base, 6, 100);
}

#[tokio::test(start_paused = true)]
async fn c06_one_window_that_always_fails_is_left_alone_by_the_others() {
    let (mut stage, base) = stage(60, 64, |_, _| {}).await;
    let fate = Fate::Failed(Failure {
        class: Class::ServerError,
        what: "played".into(),
        mend: "wait".into(),
    });
    stage.fake.0.lock().unwrap().stubborn = vec![(base + 30 * 60, fate)];
    let begun = Instant::now();
    stage.until(|status| status.windows == 59).await;
    assert!(begun.elapsed() < MINUTE * 30, "{:?}", begun.elapsed());
    stage.fake.0.lock().unwrap().stubborn.clear();
    stage.until(|status| status.windows == 60).await;
    assert_each_arrived_once(&stage, base, 60, 64);
}

#[tokio::test(start_paused = true)]
async fn c05_no_request_of_several_windows_is_larger_than_is_modest() {
    let (mut stage, _) = stage(40, 200, |_, _| {}).await;
    stage.until(|status| status.windows == 40).await;
    let service = stage.fake.0.lock().unwrap();
    let most = service.requests.iter().map(|(.., labels)| labels.len()).max();
    // A datum of one value takes some 240 bytes.
    assert!(
        most.is_some_and(|most| (600..=MOST_BYTES / 200).contains(&most)),
        "{most:?} datums"
    );
}

#[tokio::test(start_paused = true)]
async fn c16_the_window_that_a_stop_closes_goes_first_and_alone() {
    let (mut stage, base) = stage(100, 64, |service, _| {
        service.latency = Duration::from_millis(50);
        service.script = [failed(Class::Unreachable)].into();
    })
    .await;
    stage.until(|status| status.failing_since.is_some()).await;
    stage.store.push(window(base + 100 * 60, 64));
    let (fake, outcome, _) = stage.end().await;
    outcome.unwrap();
    let service = fake.0.lock().unwrap();
    assert_eq!(service.requests[1].1, base + 100 * 60);
    assert_eq!(service.requests[1].2.len(), 64, "alone");
    assert!(service.requests.len() < 40, "{} requests", service.requests.len());
}

/// In real time: the disk's patience is by the clock of the machine.
#[tokio::test]
async fn c14_a_disk_that_hangs_delays_a_window_by_seconds_and_not_until_the_next_one() {
    let mut stage = Stage::with(Pacing::CLOUDWATCH, settled(), Spool::hanging(), |_| ());
    stage.store.push(window(now() - 120, 1));
    let limit = Duration::from_secs(10);
    let arrived = tokio::time::timeout(limit, stage.until(|status| status.windows == 1)).await;
    assert!(arrived.is_ok(), "{:?}", stage.store.tally());
}

#[tokio::test]
async fn c16_the_last_window_is_sent_although_the_disk_hangs() {
    let stage = Stage::with(Pacing::CLOUDWATCH, settled(), Spool::hanging(), |_| ());
    tokio::task::yield_now().await;
    stage.store.push(window(now() - 60, 1));
    let (fake, outcome, took) = stage.end().await;
    outcome.unwrap();
    assert_eq!(fake.0.lock().unwrap().accepted.len(), 1);
    assert!(took < Duration::from_secs(6), "{took:?}");
}
