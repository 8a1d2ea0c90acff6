mod backlog;
mod notices;
mod stage;

use super::*;
use crate::metrics::window::DropReason;
use crate::publish::fate::{Class, Failure, Fate};
use crate::publish::spool::Spool;
use stage::{MINUTE, Play, Stage, failed, now, settled, window};

#[tokio::test(start_paused = true)]
async fn c03_what_failed_arrives_once_with_its_own_timestamp() {
    let failures = [
        failed(Class::ServerError),
        failed(Class::Unreachable),
        failed(Class::TimedOut),
    ];
    let mut stage = Stage::new(Pacing::CLOUDWATCH, failures);
    let start = now() - 3600;
    stage.store.push(window(start, 3));
    stage.until(|status| status.windows == 1).await;
    stage.balance(3);
    let status = stage.status.borrow().clone();
    assert_eq!(
        (status.attempts, status.requests, status.samples, status.datums),
        (4, 4, 3, 3)
    );
    assert_eq!((status.failing_since, status.next_attempt), (None, None));
    assert_eq!(status.last_error.unwrap().in_a_row, 3);
    assert_eq!(stage.starts(), [start; 4]);
    let (fake, outcome, _) = stage.end().await;
    outcome.unwrap();
    assert_eq!(fake.0.lock().unwrap().accepted.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn c06_unnamed_poison_is_isolated_counted_and_blocks_nothing() {
    let mut stage = Stage::with(Pacing::CLOUDWATCH, settled(), Spool::in_memory(60), |service| {
        service.poison = vec!["/333".into()];
    });
    stage.store.push(window(now() - 120, 1000));
    stage.until(|status| status.windows == 1).await;
    stage.balance(1000);
    let tally = stage.store.tally();
    assert_eq!((tally.accepted, tally.dropped[&DropReason::Refused]), (999, 1));
    let status = stage.status.borrow().clone();
    assert!(status.requests <= 12, "{} requests", status.requests);
    assert!(status.last_refusal.unwrap().contains("path=\"/333\""));
    assert_eq!(status.failing_since, None);
    stage.store.push(window(now() - 60, 1));
    stage.until(|status| status.windows == 2).await;
}

#[tokio::test(start_paused = true)]
async fn c06_named_poison_takes_two_requests() {
    let poison = Play::Answer(Fate::Poison {
        members: vec![19],
        what: "MetricData.member.19.Timestamp".into(),
        blames_time: false,
    });
    let mut stage = Stage::new(Pacing::CLOUDWATCH, [poison]);
    stage.store.push(window(now() - 120, 1000));
    stage.until(|status| status.windows == 1).await;
    assert_eq!(stage.status.borrow().requests, 2);
    assert_eq!(stage.store.tally().accepted, 999);
    stage.balance(1000);
}

#[tokio::test(start_paused = true)]
async fn a_window_that_failed_half_way_is_gone_on_with_where_it_stopped() {
    let script = [
        Play::Answer(Fate::Accepted),
        failed(Class::Unreachable),
        Play::Answer(Fate::Accepted),
    ];
    let mut stage = Stage::new(Pacing::CLOUDWATCH, script);
    stage.store.push(window(now() - 600, 1500));
    stage.until(|status| status.failing_since.is_some()).await;
    assert_eq!(
        (stage.store.tally().accepted, stage.store.tally().samples),
        (1000, 500)
    );
    stage.store.push(window(now() - 540, 1));
    stage.until(|status| status.windows == 2).await;
    let service = stage.fake.0.lock().unwrap();
    let sizes: Vec<usize> = service
        .requests
        .iter()
        .map(|(_, _, labels)| labels.len())
        .collect();
    assert_eq!(
        sizes,
        [1000, 500, 1, 500],
        "live first, then the rest, nothing twice"
    );
    drop(service);
    stage.balance(1501);
}

#[tokio::test(start_paused = true)]
async fn c08_a_batch_that_is_too_large_is_halved() {
    let mut stage = Stage::new(Pacing::CLOUDWATCH, [Play::Answer(Fate::TooLarge(None))]);
    stage.store.push(window(now() - 120, 10));
    stage.until(|status| status.windows == 1).await;
    assert_eq!(
        (stage.store.tally().accepted, stage.status.borrow().requests),
        (10, 3)
    );
}

#[tokio::test(start_paused = true)]
async fn c08_a_proxy_that_finds_everything_too_large_costs_no_datum() {
    let refusal = Fate::TooLarge(Some(Failure {
        class: Class::NotCloudWatch,
        what: "HTTP 413".into(),
        mend: "look at the proxy".into(),
    }));
    let start = now() - 60;
    let mut stage = Stage::with(Pacing::CLOUDWATCH, settled(), Spool::in_memory(60), |service| {
        service.stubborn = vec![(start, refusal)];
    });
    stage.store.push(window(start, 64));
    stage
        .until(|status| {
            status
                .last_error
                .as_ref()
                .is_some_and(|error| error.in_a_row >= 3)
        })
        .await;
    let requests = stage.starts().len();
    assert!(requests <= 10, "{requests} requests");
    assert_eq!(stage.store.tally().samples, 64);
    stage.fake.0.lock().unwrap().stubborn.clear();
    stage.until(|status| status.windows == 1).await;
    assert_eq!(stage.store.tally().accepted, 64);
}

#[tokio::test(start_paused = true)]
async fn c09_data_that_is_too_old_is_given_up_and_younger_data_delivered() {
    let mut stage = Stage::with(
        Pacing::CLOUDWATCH,
        IdentityStatus::default(),
        Spool::in_memory(60),
        |service| service.skew = Some(0.0),
    );
    stage.store.push(window(now() - 20 * 24 * 3600, 2));
    stage.store.push(window(now() - 24 * 3600, 3));
    stage.identity.send_replace(settled());
    stage.until(|status| status.windows == 1).await;
    while stage.store.tally().windows > 0 {
        sleep(Duration::from_secs(1)).await;
    }
    let tally = stage.store.tally();
    assert_eq!((tally.accepted, tally.dropped[&DropReason::TooOld]), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn c10_the_skew_is_shown_and_decides_what_is_old() {
    let mut stage = Stage::with(Pacing::CLOUDWATCH, settled(), Spool::in_memory(60), |service| {
        // Our clock is a month ahead: what it calls too old is of today.
        service.skew = Some(-30.0 * 24.0 * 3600.0);
    });
    stage.store.push(window(now(), 1));
    stage.until(|status| status.windows == 1).await;
    stage.store.push(window(now() - 20 * 24 * 3600, 1));
    stage.until(|status| status.windows == 2).await;
    assert_eq!(
        stage.status.borrow().clock_skew_seconds,
        Some(-30.0 * 24.0 * 3600.0)
    );
}

fn wrong_time() -> Fate {
    Fate::Poison {
        members: vec![1],
        what: "played".into(),
        blames_time: true,
    }
}

#[tokio::test(start_paused = true)]
async fn c10_what_a_fast_clock_has_stamped_waits_until_cloudwatch_takes_it() {
    let start = now() - 60;
    let mut stage = Stage::with(Pacing::CLOUDWATCH, settled(), Spool::in_memory(60), |service| {
        service.skew = Some(-3.0 * 3600.0);
        service.stubborn = vec![(start, wrong_time())];
    });
    stage.store.push(window(start, 5));
    stage.until(|status| status.failing_since.is_some()).await;
    assert_eq!(stage.store.tally().samples, 5);
    stage.fake.0.lock().unwrap().stubborn.clear();
    stage.until(|status| status.windows == 1).await;
    stage.balance(5);
}

#[tokio::test(start_paused = true)]
async fn c10_what_a_fast_clock_has_stamped_waits_after_it_was_set_right_too() {
    let ahead = now() + 3 * 3600;
    let mut stage = Stage::with(Pacing::CLOUDWATCH, settled(), Spool::in_memory(60), |service| {
        service.skew = Some(0.0);
        service.stubborn = vec![(ahead, wrong_time())];
    });
    stage.store.push(window(ahead, 5));
    stage.until(|status| status.failing_since.is_some()).await;
    // Sampled with the right time.
    stage.store.push(window(now() - 60, 3));
    stage.until(|status| status.windows == 1).await;
    sleep(MINUTE * 10).await;
    assert_eq!(
        (stage.store.tally().samples, stage.store.tally().dropped_total()),
        (5, 0)
    );
    stage.fake.0.lock().unwrap().stubborn.clear();
    stage.until(|status| status.windows == 2).await;
    stage.balance(8);
}

#[tokio::test(start_paused = true)]
async fn c04_two_windows_that_fail_in_turn_get_their_pauses() {
    let mut stage = Stage::new(Pacing::CLOUDWATCH, (0..20).map(|_| failed(Class::ServerError)));
    stage.store.push(window(now() - 180, 1));
    stage.store.push(window(now() - 120, 1));
    stage.until(|status| status.windows == 2).await;
    let requests = stage.fake.0.lock().unwrap().requests.clone();
    for pair in requests.windows(2).take(20) {
        let pause = pair[1].0 - pair[0].0;
        assert!(pause >= Duration::from_millis(100), "{pause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn c10_what_a_slow_clock_has_stamped_is_given_up_and_a_clock_set_right_loses_no_more() {
    let day = 24 * 3600;
    let start = now() - 60;
    let mut stage = Stage::with(Pacing::CLOUDWATCH, settled(), Spool::in_memory(60), |service| {
        service.skew = Some(20.0 * day as f64);
        service.stubborn = vec![(start, wrong_time())];
    });
    stage.store.push(window(start, 5));
    while stage.store.tally().windows > 0 {
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(stage.store.tally().dropped[&DropReason::TooOld], 5);
    // The clock was set, and the last answer is from before.
    stage.store.push(window(now() + 20 * day, 3));
    stage.until(|status| status.windows == 1).await;
    stage.balance(8);
}

#[tokio::test(start_paused = true)]
async fn c06_a_window_that_always_fails_blocks_no_other() {
    let stuck = now() - 600;
    let mut stage = Stage::with(Pacing::CLOUDWATCH, settled(), Spool::in_memory(60), |service| {
        let Play::Answer(unknown) = failed(Class::Unknown) else {
            unreachable!("that is what it plays");
        };
        service.stubborn = vec![(stuck, unknown)];
    });
    for n in 0..10 {
        stage.store.push(window(stuck - 600 + n * 60, 1));
    }
    stage.store.push(window(stuck, 1));
    let begun = Instant::now();
    stage.until(|status| status.windows == 10).await;
    assert!(begun.elapsed() < MINUTE * 3, "{:?}", begun.elapsed());
    assert_eq!(stage.store.tally().samples, 1);
    stage.store.push(window(now() - 60, 1));
    stage.until(|status| status.windows == 11).await;
    stage.balance(12);
}

#[tokio::test(start_paused = true)]
async fn what_cloudwatch_refuses_ends_an_outage_too() {
    let mut stage = Stage::with(Pacing::CLOUDWATCH, settled(), Spool::in_memory(60), |service| {
        service.script = [failed(Class::Unreachable)].into();
        service.poison = vec!["/0".into()];
    });
    stage.store.push(window(now() - 60, 1));
    stage.until(|status| status.failing_since.is_some()).await;
    stage.until(|status| status.last_refusal.is_some()).await;
    let status = stage.status.borrow().clone();
    assert_eq!((status.failing_since, status.next_attempt), (None, None));
    assert!(status.last_refusal.unwrap().contains("InvalidParameterValue"));
    stage.balance(1);
}

#[tokio::test(start_paused = true)]
async fn c11_nothing_is_published_or_lost_before_the_node_knows_who_it_is() {
    let unsettled = IdentityStatus {
        waiting_for: Some("the instance metadata service".into()),
        ..IdentityStatus::default()
    };
    let mut stage = Stage::with(Pacing::CLOUDWATCH, unsettled, Spool::in_memory(60), |_| {});
    stage.store.push(window(now() - 300, 2));
    sleep(MINUTE * 5).await;
    assert_eq!((stage.starts().len(), stage.store.tally().samples), (0, 2));
    stage.identity.send_replace(settled());
    stage.until(|status| status.windows == 1).await;
    // A dimension that comes later would make every series a new one.
    let mut late = settled();
    late.identity.image_id = Some("ami-1".into());
    stage.identity.send_replace(late);
    stage.store.push(window(now() - 240, 1));
    stage.until(|status| status.windows == 2).await;
    stage.balance(3);
}

#[tokio::test(start_paused = true)]
async fn c13_a_missing_permission_is_tried_again_slowly_and_mended_without_a_restart() {
    let denials = std::iter::repeat_n(failed(Class::Denied), 20);
    let mut stage = Stage::new(Pacing::CLOUDWATCH, denials);
    stage.store.push(window(now() - 300, 1));
    let begun = Instant::now();
    stage.until(|status| status.failing_since.is_some()).await;
    let status = stage.status.borrow().clone();
    assert!(status.next_attempt.is_some());
    assert_eq!(status.last_error.unwrap().mend, "wait");
    stage.until(|status| status.windows == 1).await;
    assert!(begun.elapsed() > MINUTE * 20, "{:?}", begun.elapsed());
    let service = stage.fake.0.lock().unwrap();
    for pair in service.requests.windows(2) {
        assert!(pair[1].0 - pair[0].0 <= MINUTE * 5);
    }
}

#[tokio::test(start_paused = true)]
async fn c16_shutdown_sends_what_is_left_newest_first_without_waiting() {
    let stage = Stage::with(Pacing::CLOUDWATCH, settled(), Spool::in_memory(60), |service| {
        service.script = [failed(Class::Denied)].into();
    });
    let mut stage = stage;
    let base = now() - 600;
    stage.store.push(window(base, 1));
    stage.until(|status| status.failing_since.is_some()).await;
    stage.store.push(window(base + 60, 1));
    stage.store.push(window(base + 120, 1));
    let (fake, outcome, took) = stage.end().await;
    outcome.unwrap();
    assert!(took < Duration::from_secs(1), "{took:?}");
    let accepted: Vec<u64> = fake
        .0
        .lock()
        .unwrap()
        .accepted
        .iter()
        .map(|(start, _)| start - base)
        .collect();
    assert_eq!(accepted, [120, 60, 0]);
}

#[tokio::test(start_paused = true)]
async fn c16_an_endpoint_that_hangs_does_not_hold_up_the_stop_and_the_loss_is_named() {
    let stage = Stage::new(Pacing::CLOUDWATCH, std::iter::repeat_n(Play::Hang, 100));
    stage.store.push(window(now() - 120, 7));
    while stage.starts().is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    stage.store.push(window(now() - 60, 5));
    let (_, outcome, took) = stage.end().await;
    assert!(
        took <= IN_FLIGHT_GRACE + Pacing::CLOUDWATCH.stop_limit.unwrap(),
        "{took:?}"
    );
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("12 samples are lost"), "{error}");
    assert!(error.contains("does not answer"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn c16_a_stop_before_the_node_is_known_names_what_was_missing() {
    let unsettled = IdentityStatus {
        waiting_for: Some("the instance metadata service".into()),
        ..IdentityStatus::default()
    };
    let stage = Stage::with(Pacing::CLOUDWATCH, unsettled, Spool::in_memory(60), |_| {});
    stage.store.push(window(now() - 60, 2));
    let (fake, outcome, _) = stage.end().await;
    let error = outcome.unwrap_err().to_string();
    assert!(
        error.contains("2 samples are lost: the node was still waiting for the instance metadata service")
    );
    assert_eq!(fake.0.lock().unwrap().requests.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn c19_the_ledger_balances_when_the_queue_overflows_during_an_outage() {
    let mut stage = Stage::with(Pacing::CLOUDWATCH, settled(), Spool::in_memory(5), |service| {
        service.script = std::iter::repeat_n(failed(Class::Unreachable), 5).collect();
    });
    let mut pushed = 0;
    for n in 0..20 {
        stage.store.push(window(now() - 3600 + n * 60, 2));
        pushed += 2;
        stage.balance(pushed);
        sleep(Duration::from_secs(2)).await;
    }
    stage
        .until(|status| status.samples > 0 && status.failing_since.is_none())
        .await;
    while stage.store.tally().windows > 0 {
        sleep(Duration::from_secs(1)).await;
        stage.balance(pushed);
    }
}

#[tokio::test(start_paused = true)]
async fn lines_on_a_pipe_keep_their_order_and_are_not_spaced() {
    let mut stage = Stage::with(
        Pacing::STDOUT,
        IdentityStatus::default(),
        Spool::in_memory(60),
        |_| {},
    );
    let base = now();
    for n in 0..5 {
        stage.store.push(window(base + n * 60, 1));
    }
    let begun = Instant::now();
    stage.identity.send_replace(settled());
    stage.until(|status| status.windows == 5).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let starts: Vec<u64> = stage.starts().iter().map(|start| (start - base) / 60).collect();
    assert_eq!(starts, [0, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn the_live_window_waits_for_the_nodes_own_offset() {
    let mut stage = Stage::new(Pacing::CLOUDWATCH, []);
    let begun = Instant::now();
    // A window that ends now.
    stage.store.push(window(now() - 60, 1));
    stage.until(|status| status.windows == 1).await;
    let expected = retry::offset(retry::seed("i-1"), MINUTE);
    let waited = begun.elapsed();
    // `now` is cut to the second, and the second may turn meanwhile.
    let tolerated = Duration::from_secs(2);
    assert!(expected > tolerated, "{expected:?}");
    assert!(
        waited <= expected && waited + tolerated >= expected,
        "{waited:?} of {expected:?}"
    );
}
