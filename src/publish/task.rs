//! The publisher's loop: a window from the store, its batches to the publisher, the window out of the store.
//!
//! The newest window is the next one, so that the live minute waits for no backlog; the backlog follows one request a
//! second, several windows in each. A window that fails for a reason of its own lets the others pass. An endpoint that hangs or refuses holds up
//! this task and nothing else. It waits for nobody on shutdown: what does not arrive within [`Pacing::stop_limit`] is
//! named and left.

mod answer;
mod drain;
mod request;
mod urgency;

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::bundle::Sharing;
use super::order::Order;
use super::plan::{BatchSettings, Planner};
use super::progress::Progress;
use super::report::{PublishStatus, Report};
use super::retry::{self, Backoff, Pacing, Spacing};
use super::store::{Next, Store, Waiting, WindowId};
use super::{Publisher, limits};
use crate::identity::{Identity, IdentityStatus};
use crate::interruption::InterruptionStatus;
use crate::log;
use crate::metrics::clock;

use urgency::Urgency;

/// A request that is under way when the agent is asked to stop is given this long to be answered; sending it once more
/// could double its samples.
pub const IN_FLIGHT_GRACE: Duration = Duration::from_secs(2);

/// The disk has so long to take what is left.
pub const SAVE_LIMIT: Duration = Duration::from_secs(1);

/// A disk that hangs never says that a window has come: it is looked for again after this time.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What the publisher needs to know.
#[derive(Clone, Debug)]
pub struct PublishSettings {
    /// How windows become batches.
    pub batch: BatchSettings,
    /// `publish.interval`.
    pub interval: Duration,
    /// When they are sent.
    pub pacing: Pacing,
    /// What tells this node from others where no instance id does: the machine id.
    pub machine: String,
}

/// Why the publisher ended.
#[derive(Debug, thiserror::Error)]
pub enum PublishError<E: std::error::Error + 'static> {
    /// The publisher cannot go on.
    #[error(transparent)]
    Publisher(#[from] E),
    /// The agent was stopped and not everything could be sent in time.
    #[error("stopped before everything was published; {samples} samples are lost: {why}")]
    GaveUp {
        /// Samples that were not published.
        samples: u64,
        /// What was in the way.
        why: String,
    },
}

/// Publishes windows until shutdown, then what is left in the store.
pub struct PublishTask<P> {
    publisher: P,
    store: Arc<dyn Store>,
    identity: watch::Receiver<IdentityStatus>,
    interruption: watch::Receiver<InterruptionStatus>,
    settings: PublishSettings,
    report: Report,
}

impl<P: Publisher> PublishTask<P> {
    /// Everything it reads from and writes to.
    #[must_use]
    pub fn new(
        publisher: P,
        store: Arc<dyn Store>,
        identity: watch::Receiver<IdentityStatus>,
        interruption: watch::Receiver<InterruptionStatus>,
        settings: PublishSettings,
        publish_status: watch::Sender<PublishStatus>,
    ) -> Self {
        Self {
            publisher,
            store,
            identity,
            interruption,
            settings,
            report: Report::new(publish_status),
        }
    }

    /// Waits until the node knows who it is, then publishes until `drained` is cancelled, then what is left; or leaves
    /// that to the spool, where another publisher of this process is to go on with it.
    pub async fn run(
        mut self,
        drained: CancellationToken,
        handed_over: CancellationToken,
    ) -> Result<(), PublishError<P::Error>> {
        let known = self.know_the_node(&drained).await;
        // Without an instance id the series of all nodes would be one.
        if !known.settled && known.identity.instance_id.is_none() && self.settings.pacing.needs_identity {
            let waiting = known.waiting_for.unwrap_or_else(|| "its identity".into());
            let why = format!("the node was still waiting for {waiting}");
            return leave(&*self.store, why).await;
        }
        self.store.claim(known.identity.instance_id.as_deref());
        Sending::new(self, &known.identity)
            .run(drained, handed_over)
            .await
    }

    async fn know_the_node(&mut self, drained: &CancellationToken) -> IdentityStatus {
        loop {
            let known = self.identity.borrow_and_update().clone();
            if known.settled {
                return known;
            }
            // Both branches are cancel-safe.
            tokio::select! {
                () = drained.cancelled() => return self.identity.borrow().clone(),
                changed = self.identity.changed() => if changed.is_err() {
                    // Nobody will say more than this.
                    return known;
                },
            }
        }
    }
}

/// What to do next.
enum Turn {
    Send(Waiting),
    LookAgain,
    Stop,
}

/// The publisher after the dimensions were frozen.
struct Sending<P> {
    publisher: P,
    store: Arc<dyn Store>,
    progress: Progress,
    order: Order,
    report: Report,
    /// What CloudWatch said about the datums that it refused last.
    refusal: String,
    pacing: Pacing,
    interval: Duration,
    offset: Duration,
    backoff: Backoff,
    spacing: Spacing,
    sharing: Sharing,
    urgency: Urgency,
    expired_log: log::Repeated,
    /// The newest window so far: the live one. Any other is backlog.
    live: Option<WindowId>,
    live_due: Instant,
    backlog_due: Instant,
    retry_due: Instant,
}

impl<P: Publisher> Sending<P> {
    fn new(task: PublishTask<P>, identity: &Identity) -> Self {
        let settings = task.settings;
        let mut report = task.report;
        let planner = Planner::new(&settings.batch, identity);
        let left_out = planner.left_out().iter();
        let left_out: Vec<String> = left_out
            .map(|(dimension, reason)| format!("{dimension}: {}", reason.as_str()))
            .collect();
        if !left_out.is_empty() {
            report.left_out(left_out);
        }
        let node = identity.instance_id.as_deref().unwrap_or(&settings.machine);
        let seed = retry::seed(node);
        let offset = if settings.pacing.is_spread {
            retry::offset(seed, settings.interval)
        } else {
            Duration::ZERO
        };
        let now = Instant::now();
        Self {
            publisher: task.publisher,
            progress: Progress::new(Arc::clone(&task.store), planner),
            store: task.store,
            order: Order::default(),
            report,
            refusal: String::new(),
            pacing: settings.pacing,
            interval: settings.interval,
            offset,
            backoff: Backoff::new(settings.interval, Rng::with_seed(seed)),
            spacing: Spacing::new(Rng::with_seed(!seed)),
            sharing: Sharing::default(),
            urgency: Urgency::new(task.interruption),
            expired_log: log::Repeated::default(),
            live: None,
            live_due: now,
            backlog_due: now,
            retry_due: now,
        }
    }

    async fn run(
        mut self,
        drained: CancellationToken,
        handed_over: CancellationToken,
    ) -> Result<(), PublishError<P::Error>> {
        loop {
            match self.turn(&drained).await {
                Turn::Send(waiting) => self.send(waiting, &drained).await?,
                Turn::LookAgain => {}
                // What the disk does not take can only be sent.
                Turn::Stop if handed_over.is_cancelled() && saved(&*self.store).await => return Ok(()),
                Turn::Stop => return self.drain().await,
            }
        }
    }

    /// Cancel-safe: a window stays in the store until it was dealt with.
    async fn turn(&mut self, drained: &CancellationToken) -> Turn {
        // One that is on its way from the disk is looked for again when it has come.
        let front = self.front();
        if matches!(front, Next::Empty) {
            self.urgency.all_is_sent();
        }
        let due = match &front {
            Next::Ready(waiting) => Some(self.due(waiting)),
            Next::Loading => Some(Instant::now() + LOOK_AGAIN),
            Next::Empty => None,
        };
        let front = front.ready();
        tokio::select! {
            biased;
            () = drained.cancelled() => Turn::Stop,
            () = self.store.changed() => Turn::LookAgain,
            () = self.urgency.grows() => {
                self.hurry();
                Turn::LookAgain
            }
            () = due_or_never(due) => front.map_or(Turn::LookAgain, Turn::Send),
        }
    }

    /// No pause that was made before counts any longer.
    fn hurry(&mut self) {
        let now = Instant::now();
        (self.live_due, self.backlog_due, self.retry_due) = (now, now, now);
    }

    fn front(&mut self) -> Next {
        if !self.pacing.live_first {
            return self.store.oldest();
        }
        self.expire();
        if let Some(oldest) = self.store.oldest_id() {
            self.order.forget_before(oldest);
            self.sharing.forget_before(oldest);
        }
        match self.store.newest(self.order.back()) {
            Next::Empty => {
                self.order.start_over();
                // The live window has its turn again, and no sooner than the one that just failed.
                self.live_due = self.live_due.max(self.backlog_due);
                self.store.newest(self.order.back())
            }
            found => found,
        }
    }

    /// What CloudWatch takes no more need not wait for its turn.
    fn expire(&mut self) {
        let Some(now) = self.report.known_server_now() else {
            return;
        };
        let samples = self.store.expire(limits::oldest_start(now));
        if samples > 0 && self.expired_log.is_due() {
            tracing::warn!(samples, "windows are too old for CloudWatch: given up");
        }
    }

    /// Whether this is a live window that was not seen before.
    fn is_news(&mut self, id: WindowId) -> bool {
        let is_news = self.live.is_none_or(|live| id > live);
        if is_news {
            self.live = Some(id);
        }
        is_news
    }

    fn due(&mut self, waiting: &Waiting) -> Instant {
        if !self.pacing.live_first {
            return self.retry_due;
        }
        if self.is_news(waiting.id) {
            let end = Duration::from_secs(waiting.window.start) + self.interval;
            let left = if self.urgency.is_great() {
                Duration::ZERO
            } else {
                retry::offset_left(self.offset, end, clock::wall_now())
            };
            self.live_due = Instant::now() + left;
        }
        if self.is_live(waiting.id) {
            self.live_due.max(self.retry_due)
        } else {
            self.backlog_due.max(self.retry_due)
        }
    }

    fn is_live(&self, id: WindowId) -> bool {
        self.live == Some(id)
    }

    async fn send(&mut self, waiting: Waiting, drained: &CancellationToken) -> Result<(), P::Error> {
        let is_live = self.is_live(waiting.id);
        let Some(request) = self.request(waiting, drained.cancelled()).await else {
            return Ok(());
        };
        let bound = self.pacing.stop_limit.is_some();
        let answer = tokio::select! {
            answer = self.publisher.publish(request.batch()) => answer?,
            // The windows stay in the store; the last attempts on shutdown take them up again.
            () = after_grace(drained), if bound => return Ok(()),
        };
        if !is_live {
            let spacing = self.spacing.pause();
            let is_spaced = !self.urgency.is_great();
            self.backlog_due = Instant::now() + if is_spaced { spacing } else { Duration::ZERO };
        }
        if let Some((failure, pause)) = self.absorb(&request, answer) {
            let pause = self.urgency.pause(pause);
            self.report.failed(&failure, pause);
            let due = Instant::now() + pause;
            // A failure in the backlog does not delay the next live window.
            if is_live || !self.pacing.live_first {
                self.retry_due = due;
            } else {
                self.backlog_due = self.backlog_due.max(due);
            }
        }
        Ok(())
    }
}

/// Until the store may have another answer, `limit` at the latest.
async fn changed(store: &dyn Store, limit: Instant) {
    // Either is a reason to look again, and no more.
    let _ = timeout_at(limit.min(Instant::now() + LOOK_AGAIN), store.changed()).await;
}

async fn due_or_never(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn after_grace(drained: &CancellationToken) {
    drained.cancelled().await;
    sleep(IN_FLIGHT_GRACE).await;
}

/// Whether the disk has everything, within a moment.
async fn saved(store: &dyn Store) -> bool {
    let limit = Instant::now() + SAVE_LIMIT;
    while store.tally().is_busy && timeout_at(limit, store.changed()).await.is_ok() {}
    store.tally().unsaved == 0
}

/// The end: the disk gets a moment to take what was not published. What it has not taken then is lost.
async fn leave<E: std::error::Error + 'static>(
    store: &dyn Store,
    why: String,
) -> Result<(), PublishError<E>> {
    let is_saved = saved(store).await;
    let tally = store.tally();
    if !is_saved {
        return Err(PublishError::GaveUp {
            samples: tally.unsaved,
            why,
        });
    }
    if tally.samples > 0 {
        tracing::warn!(
            windows = tally.windows,
            samples = tally.samples,
            why,
            "not everything was published: the rest is in the spool, for the next start"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
