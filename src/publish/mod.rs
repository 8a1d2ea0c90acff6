//! From closed windows to a place where somebody reads them.
//!
//! * [`store`]: the contract of what keeps closed windows until they are published; the publisher takes them from
//!   there and from nowhere else; [`spool`] keeps them on the disk;
//! * [`plan`]: which datums make which batch; [`limits`]: what CloudWatch takes; [`size`]: bytes on the wire (all
//!   pure);
//! * [`delivery`]: what of one window is still to be sent, and how refused datums are found (pure);
//! * [`bundle`]: which windows of the backlog share a request (pure);
//! * [`fate`]: what an answer means; [`retry`]: when to try again (both pure);
//! * [`stdout`]: batches as JSON lines in AWS's own shape; [`cloudwatch`]: `PutMetricData`;
//! * [`progress`]: how far each window has got; [`order`]: whose turn it is; [`server_clock`]: what is too old (the last
//!   two pure);
//! * [`task`]: the loop; [`report`]: what it says about itself.

pub mod bundle;
pub mod cloudwatch;
pub mod delivery;
pub mod fate;
pub mod limits;
pub mod order;
pub mod plan;
pub mod progress;
pub mod report;
pub mod retry;
pub mod server_clock;
pub mod size;
pub mod spool;
pub mod stdout;
pub mod store;
pub mod task;

use std::ops::Add;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use crate::metrics::Unit;
use fate::Fate;

/// A dimension of a datum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Dimension {
    /// At most 255 characters.
    pub name: String,
    /// At most 1024 characters.
    pub value: String,
}

/// The start of a window in Unix seconds; RFC 3339 in UTC where it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(self.0);
        serializer.collect_str(&humantime::format_rfc3339_seconds(time))
    }
}

/// The distribution of one series in one window: CloudWatch's `MetricDatum`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Datum {
    /// The metric's name.
    pub metric_name: &'static str,
    /// The full set of dimensions; with the name it is what CloudWatch bills as a metric.
    pub dimensions: Vec<Dimension>,
    /// Start of the window.
    pub timestamp: Timestamp,
    /// Distinct values, ascending; at most 150.
    pub values: Vec<f64>,
    /// How often each value occurred.
    pub counts: Vec<f64>,
    /// CloudWatch's unit.
    pub unit: Unit,
    /// 60, or 1 for high resolution.
    pub storage_resolution: u8,
    /// How many samples of the ledger it stands for: the sum of its counts, or 0 for a rollup, whose samples are
    /// accounted for by the datums that it sums up.
    #[serde(skip)]
    pub samples: u64,
}

impl Datum {
    /// Whether every value occurred once, which is what CloudWatch takes for granted without `Counts`.
    #[must_use]
    pub fn occurs_once(&self) -> bool {
        // Counts are whole numbers from 1.
        self.counts.iter().all(|count| *count < 1.5)
    }
}

/// What one `PutMetricData` call takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Batch {
    /// One namespace a call.
    pub namespace: String,
    /// At most 1000.
    pub metric_data: Vec<Datum>,
}

/// What came of sending one batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What it means for the batch.
    pub fate: Fate,
    /// What went over the wire for it.
    pub traffic: Traffic,
    /// The receiver's clock less ours, in seconds, where the answer carried a `Date`.
    pub clock_skew_seconds: Option<f64>,
}

/// What went over the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests that left.
    pub requests: u64,
    /// Bytes of their bodies before compression, which is what CloudWatch's limit counts.
    pub bytes: u64,
    /// Bytes of their bodies as sent.
    pub wire_bytes: u64,
}

impl Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            bytes: self.bytes + other.bytes,
            wire_bytes: self.wire_bytes + other.wire_bytes,
        }
    }
}

/// Where batches go.
pub trait Publisher: Send {
    /// What ends the publisher for good; whatever may pass is in the [`Answer`].
    type Error: std::error::Error + 'static;

    /// Hands one batch over, once. Ends within a time that the publisher bounds itself.
    fn publish(&mut self, batch: &Batch) -> impl Future<Output = Result<Answer, Self::Error>> + Send;
}
