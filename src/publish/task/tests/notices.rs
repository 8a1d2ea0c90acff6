//! EC2 announces that the instance will be gone.

use super::stage::{MINUTE, Stage, failed, now, settled, window};
use super::*;
use crate::interruption::Notice;
use crate::publish::fate::Class;
use crate::publish::spool::Spool;

fn interruption() -> InterruptionStatus {
    InterruptionStatus {
        notice: Some(Notice {
            action: "terminate".into(),
            at: None,
        }),
        rebalance: None,
    }
}

fn recommendation() -> InterruptionStatus {
    InterruptionStatus {
        notice: None,
        rebalance: Some(1),
    }
}

/// So many windows wait that there is one for each of many requests.
fn backlog(windows: u64) -> Stage {
    let stage = Stage::with(Pacing::CLOUDWATCH, settled(), Spool::in_memory(100), |service| {
        service.latency = Duration::from_millis(20);
    });
    for n in 0..windows {
        stage.store.push(window(now() - 36_000 + n * 60, 700));
    }
    stage
}

#[tokio::test(start_paused = true)]
async fn c17_an_interruption_sends_the_backlog_as_fast_as_it_is_accepted() {
    for announced in [interruption(), recommendation()] {
        let mut stage = backlog(30);
        stage.until(|status| status.windows >= 1).await;
        stage.interruption.send_replace(announced);
        let begun = Instant::now();
        stage.until(|status| status.windows == 30).await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn c17_a_window_that_is_closed_early_waits_for_no_offset_and_goes_first() {
    let mut stage = backlog(30);
    stage.until(|status| status.windows >= 1).await;
    stage.interruption.send_replace(interruption());
    let start = now() - 20;
    stage.store.push(window(start, 1));
    let before = stage.starts().len();
    stage.until(|status| status.last_window == Some(start)).await;
    // The request that was under way, and this one.
    assert!(stage.starts().len() <= before + 2);
}

#[tokio::test(start_paused = true)]
async fn c17_an_interruption_ends_long_pauses_and_allows_only_short_ones() {
    let mut stage = Stage::new(Pacing::CLOUDWATCH, std::iter::repeat_n(failed(Class::Denied), 40));
    stage.store.push(window(now() - 600, 1));
    // Pauses of minutes by now.
    while stage.starts().len() < 8 {
        sleep(Duration::from_secs(1)).await;
    }
    stage.interruption.send_replace(interruption());
    let (begun, before) = (Instant::now(), stage.starts().len());
    stage.until(|status| status.windows == 1).await;
    let attempts = stage.starts().len() - before;
    assert!(attempts > 20, "{attempts}");
    assert!(
        begun.elapsed() <= Duration::from_secs(5 * attempts as u64),
        "{:?} for {attempts}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn c17_after_a_recommendation_everything_is_sent_once_and_then_as_usual() {
    let mut stage = backlog(10);
    stage.interruption.send_replace(recommendation());
    stage.until(|status| status.windows == 10).await;
    sleep(MINUTE).await;
    let (begun, offset) = (Instant::now(), retry::offset(retry::seed("i-1"), MINUTE));
    stage.store.push(window(now() - 60, 1));
    stage.until(|status| status.windows == 11).await;
    let tolerated = Duration::from_secs(2);
    assert!(begun.elapsed() + tolerated >= offset, "{:?}", begun.elapsed());
    // An interruption is for good.
    stage.interruption.send_replace(interruption());
    sleep(MINUTE).await;
    let begun = Instant::now();
    stage.store.push(window(now() - 59, 1));
    stage.until(|status| status.windows == 12).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}
