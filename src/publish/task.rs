//! The publisher's loop: the oldest window from the queue, its batches to the publisher, the window out of the
//! queue.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::plan::{self, BatchSettings};
use super::queue::Queue;
use super::{Batch, Publisher};
use crate::identity::Identity;
use crate::metrics::ClosedWindow;

/// The publisher as the status shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PublishStatus {
    /// Windows published.
    pub windows: u64,
    /// Batches that made them up.
    pub batches: u64,
    /// Datums in those batches.
    pub datums: u64,
    /// Samples in those datums.
    pub samples: u64,
    /// Start of the window that was published last, Unix seconds.
    pub last_window: Option<u64>,
    /// Samples in it.
    pub last_samples: Option<u64>,
}

/// Publishes windows until shutdown, then what is left in the queue.
pub struct PublishTask<P> {
    publisher: P,
    queue: Arc<Queue>,
    identity: Identity,
    settings: BatchSettings,
    status: PublishStatus,
    publish_status: watch::Sender<PublishStatus>,
}

impl<P: Publisher> PublishTask<P> {
    /// Everything it reads from and writes to.
    #[must_use]
    pub fn new(
        publisher: P,
        queue: Arc<Queue>,
        identity: Identity,
        settings: BatchSettings,
        publish_status: watch::Sender<PublishStatus>,
    ) -> Self {
        Self {
            publisher,
            queue,
            identity,
            settings,
            status: PublishStatus::default(),
            publish_status,
        }
    }

    /// Runs until `drained` is cancelled and the queue is empty. The caller bounds the time of that.
    pub async fn run(mut self, drained: CancellationToken) -> Result<(), P::Error> {
        loop {
            // Cancel-safe: a window stays in the queue until it was published.
            let window = tokio::select! {
                window = self.queue.next() => window,
                () = drained.cancelled() => match self.queue.front() {
                    Some(window) => window,
                    None => return Ok(()),
                },
            };
            let batches = plan::batches(&window, &self.identity, &self.settings);
            for batch in &batches {
                self.publisher.publish(batch).await?;
            }
            self.queue.published(&window);
            self.count(&window, &batches);
        }
    }

    fn count(&mut self, window: &ClosedWindow, batches: &[Batch]) {
        let status = &mut self.status;
        status.windows += 1;
        status.batches += batches.len() as u64;
        status.datums += batches
            .iter()
            .map(|batch| batch.metric_data.len() as u64)
            .sum::<u64>();
        status.samples += window.samples();
        status.last_window = Some(window.start);
        status.last_samples = Some(window.samples());
        self.publish_status.send_replace(status.clone());
    }
}
