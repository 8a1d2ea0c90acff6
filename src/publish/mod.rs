//! From closed windows to a place where somebody reads them.
//!
//! * [`queue`]: closed windows that are not published yet; the publisher takes them from there and from nowhere
//!   else;
//! * [`plan`]: which datums make which batch (pure);
//! * [`stdout`]: batches as JSON lines in AWS's own shape;
//! * [`task`]: the loop.

pub mod plan;
pub mod queue;
pub mod stdout;
pub mod task;

use serde::Serialize;

use crate::metrics::Unit;

/// A dimension of a datum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Dimension {
    /// At most 255 characters.
    pub name: String,
    /// At most 1024 characters.
    pub value: String,
}

/// The distribution of one series in one window: CloudWatch's `MetricDatum`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Datum {
    /// The metric's name.
    pub metric_name: &'static str,
    /// The full set of dimensions; with the name it is what CloudWatch bills as a metric.
    pub dimensions: Vec<Dimension>,
    /// Start of the window, RFC 3339 in UTC.
    pub timestamp: String,
    /// Distinct values, ascending; at most 150.
    pub values: Vec<f64>,
    /// How often each value occurred.
    pub counts: Vec<f64>,
    /// CloudWatch's unit.
    pub unit: Unit,
    /// 60, or 1 for high resolution.
    pub storage_resolution: u8,
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

/// Where batches go.
pub trait Publisher: Send {
    /// What goes wrong there.
    type Error: std::error::Error;

    /// Hands one batch over; it is published when this returns `Ok`.
    fn publish(&mut self, batch: &Batch) -> impl Future<Output = Result<(), Self::Error>>;
}
