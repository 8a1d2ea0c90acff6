//! The end: what is left in the store goes out, the newest first, in the time that there is.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::{LOOK_AGAIN, PublishError, Sending, changed, leave};
use crate::publish::Publisher;
use crate::publish::fate::{Class, Failure};
use crate::publish::store::Next;

/// Longest pause between two attempts during shutdown.
const LAST_PAUSE: Duration = Duration::from_millis(500);

impl<P: Publisher> Sending<P> {
    /// Sends what is left, the newest first, and gives up in time.
    pub(super) async fn drain(mut self) -> Result<(), PublishError<P::Error>> {
        match self.pacing.stop_limit {
            None => self.drain_in_order().await?,
            Some(limit) => self.drain_what_goes(Instant::now() + limit).await?,
        }
        let status = self.report.status();
        let last = status
            .last_error
            .as_ref()
            .filter(|_| status.failing_since.is_some());
        let why = last.map_or_else(|| "the time was up".to_owned(), |error| error.what.clone());
        leave(&*self.store, why).await
    }

    async fn drain_in_order(&mut self) -> Result<(), P::Error> {
        loop {
            let waiting = match self.front() {
                Next::Ready(waiting) => waiting,
                Next::Loading => {
                    changed(&*self.store, Instant::now() + LOOK_AGAIN).await;
                    continue;
                }
                Next::Empty => return Ok(()),
            };
            if let Some(request) = self.request(waiting, std::future::ready(())).await {
                let answer = self.publisher.publish(request.batch()).await?;
                self.absorb(&request, answer);
            }
        }
    }

    /// Until nothing is left, or nothing that is left has a chance.
    async fn drain_what_goes(&mut self, deadline: Instant) -> Result<(), P::Error> {
        self.order.start_over();
        let mut is_worth_another_round = false;
        loop {
            let waiting = match self.store.newest(self.order.back()) {
                Next::Ready(waiting) => waiting,
                Next::Loading if Instant::now() < deadline => {
                    changed(&*self.store, deadline).await;
                    continue;
                }
                Next::Empty if std::mem::take(&mut is_worth_another_round) => {
                    self.order.start_over();
                    continue;
                }
                Next::Loading | Next::Empty => return Ok(()),
            };
            // The window that was just closed goes before all others, and alone.
            self.is_news(waiting.id);
            let Some(request) = self.request(waiting, sleep_until(deadline)).await else {
                continue;
            };
            // No other bound than the deadline: what is sent again because its answer is slow may arrive twice.
            let Ok(answer) = timeout_at(deadline, self.publisher.publish(request.batch())).await else {
                self.report.failed(&unanswered(), Duration::ZERO);
                return Ok(());
            };
            let answer = answer?;
            if let Some((failure, pause)) = self.absorb(&request, answer) {
                self.report.failed(&failure, pause);
                is_worth_another_round |= failure.class.may_pass_at_once();
                if !failure.class.may_pass_at_once() && !failure.class.may_be_of_one_window() {
                    return Ok(());
                }
                sleep_until(deadline.min(Instant::now() + pause.min(LAST_PAUSE))).await;
                if Instant::now() >= deadline {
                    return Ok(());
                }
            }
        }
    }
}

fn unanswered() -> Failure {
    Failure {
        class: Class::TimedOut,
        what: "CloudWatch does not answer: nothing in the time that is left while stopping".into(),
        mend: "look at the network between the node and the endpoint".into(),
    }
}
