//! Whether everything is to be sent at once, because the instance and its disk may soon be gone.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::interruption::InterruptionStatus;

/// Longest pause after a failure. Of the two minutes that there are it costs no more than it has to.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The sampler closes its window on the same notice, a moment later.
const LAST_WINDOW: Duration = Duration::from_secs(2);

/// Follows what EC2 announces.
#[derive(Debug)]
pub(super) struct Urgency {
    announced: watch::Receiver<InterruptionStatus>,
    known: InterruptionStatus,
    rebalancing: Option<Rebalancing>,
}

/// Everything is sent because of a recommendation.
#[derive(Clone, Copy, Debug)]
struct Rebalancing {
    since: Instant,
    all_is_sent: bool,
}

impl Urgency {
    pub(super) fn new(announced: watch::Receiver<InterruptionStatus>) -> Self {
        Self {
            announced,
            known: InterruptionStatus::default(),
            rebalancing: None,
        }
    }

    /// Ends when something new is announced. Cancel-safe.
    pub(super) async fn grows(&mut self) {
        loop {
            let now = self.announced.borrow_and_update().clone();
            if now != self.known {
                if now.rebalance.is_some() && now.rebalance != self.known.rebalance {
                    self.rebalancing = Some(Rebalancing {
                        since: Instant::now(),
                        all_is_sent: false,
                    });
                }
                self.known = now;
                return;
            }
            if self.announced.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// An interruption is certain as long as it is announced. A recommendation may have no consequence for days: it is
    /// over when everything that there was is sent.
    pub(super) fn is_great(&self) -> bool {
        let is_on = |it: Rebalancing| !it.all_is_sent || it.since.elapsed() < LAST_WINDOW;
        self.known.notice.is_some() || self.rebalancing.is_some_and(is_on)
    }

    /// Nothing is left to be sent.
    pub(super) fn all_is_sent(&mut self) {
        if let Some(rebalancing) = &mut self.rebalancing {
            rebalancing.all_is_sent = true;
        }
    }

    /// The pause after a failure.
    pub(super) fn pause(&self, pause: Duration) -> Duration {
        if self.is_great() {
            pause.min(LONGEST_PAUSE)
        } else {
            pause
        }
    }
}
