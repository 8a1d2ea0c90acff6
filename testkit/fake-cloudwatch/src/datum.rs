//! What was accepted: the types that tests compare.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

/// Namespace, metric and full dimension set: what `CloudWatch` bills as one metric.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Series {
    /// The namespace.
    pub namespace: String,
    /// The metric's name.
    pub metric: String,
    /// Dimension names and values; their order in the request means nothing.
    pub dimensions: BTreeMap<String, String>,
}

/// A series and an instant: no two datums of a loss-free client share one, and none that was sampled is missing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The series.
    pub series: Series,
    /// The datum's own time stamp, not that of its arrival.
    pub timestamp: SystemTime,
}

/// A datum that was accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct AcceptedDatum {
    /// The series and the instant that it belongs to. Without a `Timestamp` that is the instant of arrival.
    pub key: Key,
    /// When it was accepted, by the fake's clock.
    pub arrived: SystemTime,
    /// The number of the attempt that brought it.
    pub attempt: u64,
    /// `Values`, or the one `Value`. Empty if only statistics were sent.
    pub values: Vec<f64>,
    /// How often each value occurred; 1 each where the request did not say.
    pub counts: Vec<f64>,
    /// `StatisticValues`.
    pub statistics: Option<StatisticSet>,
    /// `Unit`; `None` where the request did not say, which `CloudWatch` treats as the unit "None".
    pub unit: Option<String>,
    /// Seconds: 1 or 60.
    pub storage_resolution: u8,
}

/// `StatisticValues` of a datum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StatisticSet {
    /// Number of samples.
    pub sample_count: f64,
    /// Sum of the samples.
    pub sum: f64,
    /// The least sample.
    pub minimum: f64,
    /// The greatest sample.
    pub maximum: f64,
}

/// Everything that arrived, once: the set to compare with what was sampled.
#[must_use]
pub fn keys(accepted: &[AcceptedDatum]) -> BTreeSet<Key> {
    accepted.iter().map(|datum| datum.key.clone()).collect()
}
