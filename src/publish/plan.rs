//! Which datums make which batch. Pure.
//!
//! A [`Planner`] is made once, when the node knows who it is: the dimensions of every series are frozen with it,
//! because a dimension that came later would make every series a new one. The plan of a window is a function of the
//! window alone, so that a window that was published in part can be planned again and gone on with.
//!
//! Invariants: every sample of a window is in exactly one datum that counts it, or in [`Plan::refused`]; no batch is
//! empty, none exceeds [`MAX_DATUMS`] or [`MAX_BYTES`], all of one plan go into one namespace.

use std::collections::BTreeMap;

use super::limits::{self, MAX_BYTES, MAX_DATUMS};
use super::{Batch, Datum, Dimension, Timestamp, size};
use crate::config::{Dimension as NodeDimension, Rollup};
use crate::identity::Identity;
use crate::metrics::window::{DropReason, MAX_VALUES_PER_DATUM};
use crate::metrics::{ClosedWindow, Metric, Scope, Series};

/// How windows are turned into batches.
#[derive(Clone, Debug)]
pub struct BatchSettings {
    /// `publish.namespace`.
    pub namespace: String,
    /// `publish.dimensions`.
    pub dimensions: Vec<NodeDimension>,
    /// `publish.storage_resolution`.
    pub storage_resolution: u8,
    /// `publish.rollup`.
    pub rollups: Vec<Rollup>,
}

/// Turns windows into batches, always with the same dimensions.
#[derive(Clone, Debug)]
pub struct Planner {
    namespace: String,
    storage_resolution: u8,
    node: Vec<Dimension>,
    instance: Vec<Dimension>,
    rollups: Vec<KnownRollup>,
    left_out: Vec<(String, DropReason)>,
}

/// A rollup whose dimensions are all known.
#[derive(Clone, Debug)]
struct KnownRollup {
    dimensions: Vec<Dimension>,
    metrics: Vec<String>,
}

/// One window as datums and batches of them.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Every datum that is sent.
    pub data: Vec<Datum>,
    /// The batches: positions in `data`.
    pub batches: Vec<Vec<usize>>,
    /// Samples whose datums CloudWatch would refuse, by reason.
    pub refused: BTreeMap<DropReason, u64>,
    namespace: String,
}

impl Planner {
    /// Freezes what is known about the node.
    #[must_use]
    pub fn new(settings: &BatchSettings, identity: &Identity) -> Self {
        let mut left_out = Vec::new();
        let mut valid = |wanted: &[NodeDimension]| {
            let mut dimensions = identity.dimensions(wanted);
            dimensions.retain(|dimension| {
                let refusal = limits::dimension_refusal(&dimension.value);
                left_out.extend(refusal.map(|reason| (dimension.name.clone(), reason)));
                refusal.is_none()
            });
            dimensions
        };
        let node = valid(&settings.dimensions);
        let instance = valid(&[NodeDimension::InstanceId]);
        let rollups = settings.rollups.iter().filter_map(|rollup| {
            let dimensions = valid(&rollup.dimensions);
            // With a dimension missing it would be another, wider rollup.
            (dimensions.len() == rollup.dimensions.len()).then(|| KnownRollup {
                dimensions,
                metrics: rollup.metrics.clone(),
            })
        });
        let rollups = rollups.collect();
        left_out.sort();
        left_out.dedup();
        Self {
            namespace: settings.namespace.clone(),
            storage_resolution: settings.storage_resolution,
            node,
            instance,
            rollups,
            left_out,
        }
    }

    /// Dimensions of the node that CloudWatch would refuse: left out of every datum, so that the data itself
    /// arrives.
    #[must_use]
    pub fn left_out(&self) -> &[(String, DropReason)] {
        &self.left_out
    }

    /// The plan of one window.
    #[must_use]
    pub fn plan(&self, window: &ClosedWindow) -> Plan {
        let mut plan = Plan {
            data: Vec::new(),
            batches: Vec::new(),
            refused: BTreeMap::new(),
            namespace: self.namespace.clone(),
        };
        let mut data = self.originals(window);
        data.extend(self.rolled_up(window));
        for datum in data {
            match limits::refusal(&datum) {
                None => plan.data.push(datum),
                Some(reason) => *plan.refused.entry(reason).or_default() += datum.samples,
            }
        }
        plan.refused.retain(|_, samples| *samples > 0);
        plan.batches = batches(&plan.data, &self.namespace);
        plan
    }

    fn originals(&self, window: &ClosedWindow) -> Vec<Datum> {
        let mut data = Vec::new();
        for (series, distribution) in &window.series {
            let dimensions = self.dimensions(series);
            let parts = distribution.datums();
            data.extend(parts.map(|counts| {
                let samples = counts.iter().map(|(_, count)| u64::from(*count)).sum();
                self.datum(series.metric, dimensions.clone(), window.start, counts, samples)
            }));
        }
        data
    }

    /// One distribution per rollup and metric, over all labels.
    fn rolled_up(&self, window: &ClosedWindow) -> Vec<Datum> {
        let mut data = Vec::new();
        for rollup in &self.rollups {
            let mut merged: BTreeMap<Metric, Vec<(f64, u32)>> = BTreeMap::new();
            for (series, distribution) in &window.series {
                if rollup.covers(series) && !same_set(&rollup.dimensions, &self.dimensions(series)) {
                    let counts = merged.entry(series.metric).or_default();
                    counts.extend_from_slice(distribution.counts());
                }
            }
            for (metric, counts) in merged {
                let parts = merge_equal(counts);
                data.extend(
                    parts
                        .chunks(MAX_VALUES_PER_DATUM)
                        .map(|part| self.datum(metric, rollup.dimensions.clone(), window.start, part, 0)),
                );
            }
        }
        data
    }

    fn dimensions(&self, series: &Series) -> Vec<Dimension> {
        let entry = series.metric.entry();
        let base = match entry.scope {
            Scope::Node => &self.node,
            Scope::Instance => &self.instance,
        };
        let labels = entry.labels.iter().zip(&series.labels);
        let labels = labels.map(|(label, value)| Dimension {
            name: label.as_str().to_owned(),
            value: value.to_string(),
        });
        base.iter().cloned().chain(labels).collect()
    }

    fn datum(
        &self,
        metric: Metric,
        dimensions: Vec<Dimension>,
        start: u64,
        counts: &[(f64, u32)],
        samples: u64,
    ) -> Datum {
        Datum {
            metric_name: metric.name(),
            dimensions,
            timestamp: Timestamp(start),
            values: counts.iter().map(|(value, _)| *value).collect(),
            counts: counts.iter().map(|(_, count)| f64::from(*count)).collect(),
            unit: metric.entry().unit,
            storage_resolution: self.storage_resolution,
            samples,
        }
    }
}

impl KnownRollup {
    fn covers(&self, series: &Series) -> bool {
        self.metrics.iter().any(|name| name == series.metric.name())
    }
}

impl Plan {
    /// The request of some of the datums.
    #[must_use]
    pub fn batch(&self, members: &[usize]) -> Batch {
        Batch {
            namespace: self.namespace.clone(),
            metric_data: members.iter().map(|member| self.data[*member].clone()).collect(),
        }
    }

    /// Where its batches go.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// How many samples of the ledger some of the datums stand for.
    #[must_use]
    pub fn samples(&self, members: &[usize]) -> u64 {
        members.iter().map(|member| self.data[*member].samples).sum()
    }
}

fn batches(data: &[Datum], namespace: &str) -> Vec<Vec<usize>> {
    let envelope = size::of_envelope(namespace);
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for (position, datum) in data.iter().enumerate() {
        let size = size::of_datum(datum);
        match batches.last_mut() {
            Some(batch) if batch.len() < MAX_DATUMS && bytes + size <= MAX_BYTES => {
                bytes += size;
                batch.push(position);
            }
            _ => {
                bytes = envelope + size;
                batches.push(vec![position]);
            }
        }
    }
    batches
}

/// A rollup with all the dimensions of a series would be that series again, and double its samples.
fn same_set(a: &[Dimension], b: &[Dimension]) -> bool {
    a.len() == b.len() && a.iter().all(|dimension| b.contains(dimension))
}

fn merge_equal(mut counts: Vec<(f64, u32)>) -> Vec<(f64, u32)> {
    counts.sort_by(|a, b| a.0.total_cmp(&b.0));
    counts.dedup_by(|next, kept| {
        let equal = next.0.total_cmp(&kept.0).is_eq();
        if equal {
            kept.1 = kept.1.saturating_add(next.1);
        }
        equal
    });
    counts
}

#[cfg(test)]
mod tests;
