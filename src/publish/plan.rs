//! Which datums make which batch. Pure.
//!
//! The limits are those of `PutMetricData`: 1000 datums and 1 MB (before compression) a request, one namespace a
//! request, 150 distinct values a datum.

use std::time::{Duration, SystemTime};

use super::{Batch, Datum, Dimension};
use crate::config::Dimension as NodeDimension;
use crate::identity::Identity;
use crate::metrics::{ClosedWindow, Scope, Series};

/// Most datums in a request.
pub const MAX_DATUMS: usize = 1000;

/// Most bytes in a request: AWS takes 1 MB; the rest is room for what the batch does not know of.
pub const MAX_BYTES: usize = 950_000;

/// How windows are turned into batches.
#[derive(Clone, Debug)]
pub struct BatchSettings {
    /// `publish.namespace`.
    pub namespace: String,
    /// `publish.dimensions`.
    pub dimensions: Vec<NodeDimension>,
    /// `publish.storage_resolution`.
    pub storage_resolution: u8,
}

/// The batches of one window. No batch is empty, and every sample is in exactly one.
#[must_use]
pub fn batches(window: &ClosedWindow, identity: &Identity, settings: &BatchSettings) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut data = Vec::new();
    let mut bytes = 0;
    for datum in datums(window, identity, settings) {
        let size = size_of(&datum);
        if !data.is_empty() && (data.len() == MAX_DATUMS || bytes + size > MAX_BYTES) {
            batches.push(std::mem::take(&mut data));
            bytes = 0;
        }
        bytes += size;
        data.push(datum);
    }
    if !data.is_empty() {
        batches.push(data);
    }
    let namespace = &settings.namespace;
    batches
        .into_iter()
        .map(|metric_data| Batch {
            namespace: namespace.clone(),
            metric_data,
        })
        .collect()
}

fn datums(
    window: &ClosedWindow,
    identity: &Identity,
    settings: &BatchSettings,
) -> impl Iterator<Item = Datum> {
    let timestamp = rfc3339(window.start);
    let node = identity.dimensions(&settings.dimensions);
    let instance = identity.dimensions(&[NodeDimension::InstanceId]);
    window.series.iter().flat_map(move |(series, distribution)| {
        let base = match series.metric.entry().scope {
            Scope::Node => &node,
            Scope::Instance => &instance,
        };
        let dimensions = with_labels(base, series);
        let timestamp = timestamp.clone();
        distribution
            .datums()
            .map(move |counts| Datum {
                metric_name: series.metric.name(),
                dimensions: dimensions.clone(),
                timestamp: timestamp.clone(),
                values: counts.iter().map(|(value, _)| *value).collect(),
                counts: counts.iter().map(|(_, count)| f64::from(*count)).collect(),
                unit: series.metric.entry().unit,
                storage_resolution: settings.storage_resolution,
            })
            .collect::<Vec<_>>()
    })
}

fn with_labels(base: &[Dimension], series: &Series) -> Vec<Dimension> {
    let labels = series.metric.entry().labels.iter().zip(&series.labels);
    let labels = labels.map(|(label, value)| Dimension {
        name: label.as_str().to_owned(),
        value: value.to_string(),
    });
    base.iter().cloned().chain(labels).collect()
}

/// The datum's length as JSON, with the comma. Longer than any other encoding that is sent.
fn size_of(datum: &Datum) -> usize {
    serde_json::to_vec(datum)
        .expect("a datum of strings and finite numbers is valid JSON")
        .len()
        + 1
}

fn rfc3339(unix_seconds: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_seconds);
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metric, Windows};

    fn identity() -> Identity {
        Identity {
            instance_id: Some("i-1".into()),
            instance_type: Some("g5.xlarge".into()),
            ..Identity::default()
        }
    }

    fn settings() -> BatchSettings {
        use NodeDimension::{ImageId, InstanceId, InstanceType};
        BatchSettings {
            namespace: "GPUShare".into(),
            dimensions: vec![InstanceId, ImageId, InstanceType],
            storage_resolution: 60,
        }
    }

    fn window(points: impl IntoIterator<Item = (Series, f64)>) -> ClosedWindow {
        let mut windows = Windows::new(Duration::from_mins(1), 10_000);
        // 2026-01-01T00:00:00Z
        windows.advance(Duration::from_hours(490_896));
        windows.record(points, Duration::ZERO);
        windows.close().remove(0)
    }

    #[test]
    fn a_batch_has_awss_own_shape() {
        let gpu = Series::labelled(Metric::GpuUtilization, &"0".into());
        let window = window([(gpu.clone(), 50.0), (gpu.clone(), 7.0), (gpu, 50.0)]);
        let batches = batches(&window, &identity(), &settings());
        let json = serde_json::to_value(&batches[0]).unwrap();
        let expected: serde_json::Value = serde_json::from_str(
            r#"{"Namespace": "GPUShare", "MetricData": [{
                "MetricName": "gpu_utilization",
                "Dimensions": [
                    {"Name": "InstanceId", "Value": "i-1"},
                    {"Name": "InstanceType", "Value": "g5.xlarge"},
                    {"Name": "GPUNumber", "Value": "0"}],
                "Timestamp": "2026-01-01T00:00:00Z",
                "Values": [7.0, 50.0], "Counts": [1.0, 2.0],
                "Unit": "Percent", "StorageResolution": 60}]}"#,
        )
        .unwrap();
        assert_eq!(json, expected);
    }

    #[test]
    fn the_agents_own_metrics_carry_the_instance_alone() {
        let window = window([(Series::plain(Metric::DatapointsDropped), 0.0)]);
        let dimensions = &batches(&window, &identity(), &settings())[0].metric_data[0].dimensions;
        assert_eq!(dimensions.len(), 1);
        assert_eq!(dimensions[0].name, "InstanceId");
    }

    #[test]
    fn a_distribution_of_many_values_is_several_datums_of_one_timestamp() {
        let cpu = Series::plain(Metric::CpuUsageActive);
        let window = window((0..200_u8).map(|n| (cpu.clone(), f64::from(n))));
        let data = &batches(&window, &identity(), &settings())[0].metric_data;
        assert_eq!(
            data.iter().map(|datum| datum.values.len()).collect::<Vec<_>>(),
            [150, 50]
        );
        assert_eq!(data[0].timestamp, data[1].timestamp);
        assert_eq!(data[0].dimensions, data[1].dimensions);
    }

    #[test]
    fn batches_are_cut_by_number() {
        let disk = |n: usize| Series::labelled(Metric::DiskUsedPercent, &format!("/{n}").into());
        let window = window((0..2500).map(|n| (disk(n), 1.0)));
        let sizes: Vec<_> = batches(&window, &identity(), &settings())
            .iter()
            .map(|batch| batch.metric_data.len())
            .collect();
        assert_eq!(sizes, [1000, 1000, 500]);
    }

    #[test]
    fn batches_are_cut_by_size() {
        let disk = |n: usize| Series::labelled(Metric::DiskUsedPercent, &format!("/{n}").into());
        let points = (0..900).flat_map(|n| (0..150_u8).map(move |value| (disk(n), f64::from(value) / 7.0)));
        let batches = batches(&window(points), &identity(), &settings());
        assert!(batches.len() > 1);
        assert_eq!(
            batches.iter().map(|batch| batch.metric_data.len()).sum::<usize>(),
            900
        );
        for batch in &batches {
            assert!(serde_json::to_vec(batch).unwrap().len() < MAX_BYTES + 100);
        }
    }
}
