//! What the publisher says about itself: its part of the status, and a log line per change of state.
//!
//! An endpoint that is down for a day is a line when it goes, a line every ten minutes and a line when it is back; one
//! that fails every other request is a line every ten minutes too.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::fate::{Class, Failure};
use super::server_clock::ServerClock;
use super::{Answer, Batch};
use crate::log;
use crate::metrics::ClosedWindow;
use crate::metrics::clock;

/// A clock that is further off puts samples into the wrong minute more often than not.
pub const CLOCK_SKEW_SECONDS: f64 = 30.0;

/// The publisher as the status shows it. Times are Unix seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PublishStatus {
    /// Windows published.
    pub windows: u64,
    /// Batches that made them up.
    pub batches: u64,
    /// Datums in those batches.
    pub datums: u64,
    /// Samples that arrived.
    pub samples: u64,
    /// Start of the window that was published last, backlog left aside.
    pub last_window: Option<u64>,
    /// Samples in it.
    pub last_samples: Option<u64>,
    /// Batches that were tried, whatever came of it.
    pub attempts: u64,
    /// Requests that left the node.
    pub requests: u64,
    /// Bytes of those requests before compression.
    pub bytes: u64,
    /// Bytes of those requests as sent.
    pub wire_bytes: u64,
    /// When a batch was accepted last.
    pub last_success: Option<f64>,
    /// When publishing began to fail; absent while it works.
    pub failing_since: Option<f64>,
    /// What went wrong last. It stays after publishing works again.
    pub last_error: Option<LastError>,
    /// When the next attempt is due; absent while publishing works.
    pub next_attempt: Option<f64>,
    /// What CloudWatch said about the datums that it refused last.
    pub last_refusal: Option<String>,
    /// The server's clock less ours in seconds: above zero, this node is behind. To a second.
    pub clock_skew_seconds: Option<f64>,
    /// What that is reckoned from; ours may be set between two answers.
    #[serde(skip)]
    pub server_clock: ServerClock,
    /// Dimensions of the node that no datum carries, because CloudWatch would refuse their values.
    pub left_out: Vec<String>,
}

/// A failure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastError {
    /// When.
    pub at: f64,
    /// Its kind.
    pub class: Class,
    /// What happened.
    pub what: String,
    /// What to do about it.
    pub mend: String,
    /// Failures since the last success.
    pub in_a_row: u64,
}

/// Keeps the status up to date.
#[derive(Debug)]
pub struct Report {
    status: PublishStatus,
    publish: watch::Sender<PublishStatus>,
    /// By class: an endpoint that flaps does not fill the log.
    failure_logs: BTreeMap<Class, log::Repeated>,
    /// Whether the log has the failure that lasts.
    failure_logged: bool,
    refusal_log: log::Repeated,
    skew_logged: bool,
}

impl PublishStatus {
    /// The server's clock less ours, now.
    #[must_use]
    pub fn skew_now(&self) -> Option<f64> {
        self.server_clock.skew(clock::wall_now(), clock::boot_now())
    }
}

impl Report {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(publish: watch::Sender<PublishStatus>) -> Self {
        let status = publish.borrow().clone();
        Self {
            status,
            publish,
            failure_logs: BTreeMap::new(),
            failure_logged: false,
            refusal_log: log::Repeated::default(),
            skew_logged: false,
        }
    }

    /// The status as it stands.
    #[must_use]
    pub fn status(&self) -> &PublishStatus {
        &self.status
    }

    /// Dimensions that are left out of every datum.
    pub fn left_out(&mut self, dimensions: Vec<String>) {
        for dimension in &dimensions {
            tracing::error!(dimension, "left out of every datum: CloudWatch would refuse it");
        }
        self.status.left_out = dimensions;
        self.show();
    }

    /// An attempt is over, whatever came of it.
    pub fn attempted(&mut self, answer: &Answer) {
        let status = &mut self.status;
        status.attempts += 1;
        status.requests += answer.traffic.requests;
        status.bytes += answer.traffic.bytes;
        status.wire_bytes += answer.traffic.wire_bytes;
        if let Some(skew) = answer.clock_skew_seconds {
            status.clock_skew_seconds = Some(skew);
            status
                .server_clock
                .learn(skew, clock::wall_now(), clock::boot_now());
            self.log_skew(skew);
        }
        self.show();
    }

    fn log_skew(&mut self, skew: f64) {
        let is_wrong = skew.abs() >= CLOCK_SKEW_SECONDS;
        if is_wrong && !self.skew_logged {
            tracing::error!(
                seconds_behind = skew.round(),
                mend = "set the clock: chronyc tracking",
                "the clock of this node is wrong: its data stands at the wrong time"
            );
        } else if !is_wrong && self.skew_logged {
            tracing::info!("the clock of this node is right again");
        }
        self.skew_logged = is_wrong;
    }

    /// CloudWatch itself has answered about the data: whatever failed before works again.
    pub fn works(&mut self) {
        let status = &mut self.status;
        let since = status.failing_since.take();
        status.next_attempt = None;
        if let Some(since) = since.filter(|_| std::mem::take(&mut self.failure_logged)) {
            let seconds = clock::wall_now().as_secs_f64() - since;
            tracing::info!(after_seconds = seconds.round(), "publishing works again");
        }
        self.show();
    }

    /// Unix seconds by the server's clock, as far as it is known: ours decides nothing where it is wrong.
    #[must_use]
    pub fn server_now(&self) -> u64 {
        self.status.server_clock.now(clock::wall_now(), clock::boot_now())
    }

    /// Unix seconds by the server's clock, if any answer has told it since the start: what waits is given up by no other.
    #[must_use]
    pub fn known_server_now(&self) -> Option<u64> {
        self.status.server_clock.known_now(clock::boot_now())
    }

    /// A batch arrived, with so many samples that count.
    pub fn accepted(&mut self, batch: &Batch, samples: u64) {
        self.works();
        let status = &mut self.status;
        status.batches += 1;
        status.datums += batch.metric_data.len() as u64;
        status.samples += samples;
        status.last_success = Some(clock::wall_now().as_secs_f64());
        self.show();
    }

    /// A window is dealt with; part of it at least has arrived. A window of the backlog is not the last one.
    pub fn published(&mut self, window: &ClosedWindow, is_live: bool) {
        self.status.windows += 1;
        if is_live || self.status.last_window.is_none() {
            self.status.last_window = Some(window.start);
            self.status.last_samples = Some(window.samples());
        }
        self.show();
    }

    /// A batch did not arrive; the next attempt is due after a pause.
    pub fn failed(&mut self, failure: &Failure, pause: Duration) {
        let now = clock::wall_now().as_secs_f64();
        let status = &mut self.status;
        let in_a_row = match (&status.last_error, status.failing_since) {
            (Some(last), Some(_)) => last.in_a_row + 1,
            _ => 1,
        };
        status.failing_since.get_or_insert(now);
        status.next_attempt = Some(now + pause.as_secs_f64());
        status.last_error = Some(LastError {
            at: now,
            class: failure.class,
            what: failure.what.clone(),
            mend: failure.mend.clone(),
            in_a_row,
        });
        if self.failure_logs.entry(failure.class).or_default().is_due() {
            self.failure_logged = true;
            tracing::warn!(
                class = failure.class.as_str(),
                error = failure.what,
                mend = failure.mend,
                "publishing fails; what was sampled waits"
            );
        }
        self.show();
    }

    /// CloudWatch refused datums for good.
    pub fn refused(&mut self, what: &str, first: &str, datums: usize) {
        self.status.last_refusal = Some(format!("{what} (first datum given up: {first})"));
        if self.refusal_log.is_due() {
            tracing::error!(error = what, first, datums, "CloudWatch refuses datums: given up");
        }
        self.show();
    }

    fn show(&self) {
        self.publish.send_replace(self.status.clone());
    }
}
