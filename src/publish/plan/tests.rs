use std::time::Duration;

use super::*;
use crate::metrics::Windows;

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
        rollups: Vec::new(),
    }
}

fn rollup(dimensions: &[NodeDimension], metrics: &[&str]) -> BatchSettings {
    BatchSettings {
        rollups: vec![Rollup {
            dimensions: dimensions.to_vec(),
            metrics: metrics.iter().map(|name| (*name).to_owned()).collect(),
        }],
        ..settings()
    }
}

fn window(points: impl IntoIterator<Item = (Series, f64)>) -> ClosedWindow {
    let mut windows = Windows::new(Duration::from_mins(1), 10_000);
    // 2026-01-01T00:00:00Z
    windows.advance(Duration::from_hours(490_896));
    windows.record(points, Duration::ZERO);
    windows.close().remove(0)
}

fn plan(window: &ClosedWindow, settings: &BatchSettings) -> Plan {
    Planner::new(settings, &identity()).plan(window)
}

fn gpu(number: &str) -> Series {
    Series::labelled(Metric::GpuUtilization, &number.into())
}

fn disk(path: &str) -> Series {
    Series::labelled(Metric::DiskUsedPercent, &path.into())
}

fn all_samples(plan: &Plan) -> u64 {
    let everything: Vec<usize> = (0..plan.data.len()).collect();
    plan.samples(&everything) + plan.refused.values().sum::<u64>()
}

#[test]
fn a_batch_has_awss_own_shape() {
    let window = window([(gpu("0"), 50.0), (gpu("0"), 7.0), (gpu("0"), 50.0)]);
    let plan = plan(&window, &settings());
    let json = serde_json::to_value(plan.batch(&plan.batches[0])).unwrap();
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
    let dimensions = &plan(&window, &settings()).data[0].dimensions;
    assert_eq!(dimensions.len(), 1);
    assert_eq!(dimensions[0].name, "InstanceId");
}

#[test]
fn c07_a_distribution_of_many_values_is_several_datums_of_one_timestamp() {
    let cpu = Series::plain(Metric::CpuUsageActive);
    let window = window((0..200_u8).map(|n| (cpu.clone(), f64::from(n))));
    let data = plan(&window, &settings()).data;
    let lengths: Vec<usize> = data.iter().map(|datum| datum.values.len()).collect();
    assert_eq!(lengths, [150, 50]);
    assert_eq!(data[0].timestamp, data[1].timestamp);
    assert_eq!(data[0].dimensions, data[1].dimensions);
    assert_eq!((data[0].samples, data[1].samples), (150, 50));
}

#[test]
fn batches_are_cut_by_number() {
    let window = window((0..2500).map(|n| (disk(&format!("/{n}")), 1.0)));
    let batches = plan(&window, &settings()).batches;
    let sizes: Vec<_> = batches.iter().map(Vec::len).collect();
    assert_eq!(sizes, [1000, 1000, 500]);
}

#[test]
fn c08_batches_are_cut_by_measured_size_and_filled() {
    let points = (0..1000).flat_map(|n| {
        let disk = disk(&format!("/{n}"));
        (0..60_u8).map(move |value| (disk.clone(), f64::from(value) / 7.0))
    });
    let plan = plan(&window(points), &settings());
    assert_eq!(plan.batches.iter().map(Vec::len).sum::<usize>(), 1000);
    let measured = |batch: &Vec<usize>| -> usize {
        let data = batch.iter().map(|member| size::of_datum(&plan.data[*member]));
        size::of_envelope("GPUShare") + data.sum::<usize>()
    };
    let sizes: Vec<usize> = plan.batches.iter().map(measured).collect();
    assert!(sizes.iter().all(|size| *size <= MAX_BYTES), "{sizes:?}");
    // 60 values that each occurred once take some 810 bytes: nothing of the megabyte is given away.
    assert_eq!(sizes.len(), 1, "{sizes:?}");
    let distinct = (0..1000).flat_map(|n| {
        let disk = disk(&format!("/{n}"));
        (0..60_u8).flat_map(move |value| std::iter::repeat_n((disk.clone(), f64::from(value) / 7.0), 2))
    });
    let plan = Planner::new(&settings(), &identity()).plan(&window(distinct));
    assert_eq!(plan.batches.len(), 2, "1.3 MB with counts");
}

#[test]
fn c07_a_datum_that_would_be_refused_is_left_out_and_its_samples_are_counted() {
    let window = window([
        (disk("/données"), 1.0),
        (disk("/données"), 2.0),
        (disk("/data"), 3.0),
    ]);
    let plan = plan(&window, &settings());
    assert_eq!(plan.data.len(), 1);
    assert_eq!(plan.refused, BTreeMap::from([(DropReason::DimensionNotAscii, 2)]));
    assert_eq!(all_samples(&plan), window.samples());
}

#[test]
fn c07_a_dimension_of_the_node_that_would_be_refused_is_left_out_alone() {
    let identity = Identity {
        instance_type: Some("größer".into()),
        ..identity()
    };
    let planner = Planner::new(&settings(), &identity);
    assert_eq!(
        planner.left_out(),
        [("InstanceType".to_owned(), DropReason::DimensionNotAscii)]
    );
    let plan = planner.plan(&window([(gpu("0"), 1.0)]));
    let names: Vec<_> = plan.data[0].dimensions.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["InstanceId", "GPUNumber"]);
}

#[test]
fn a_rollup_is_one_distribution_over_all_labels_and_counts_no_sample_twice() {
    let window = window([
        (gpu("0"), 50.0),
        (gpu("1"), 50.0),
        (gpu("1"), 7.0),
        (disk("/"), 3.0),
    ]);
    let settings = rollup(&[NodeDimension::InstanceType], &["gpu_utilization"]);
    let plan = plan(&window, &settings);
    let rolled = plan.data.last().unwrap();
    assert_eq!(plan.data.len(), 4);
    assert_eq!(
        (rolled.values.clone(), rolled.counts.clone()),
        (vec![7.0, 50.0], vec![1.0, 2.0])
    );
    assert_eq!(rolled.dimensions.len(), 1);
    assert_eq!(rolled.dimensions[0].value, "g5.xlarge");
    assert_eq!(all_samples(&plan), window.samples());
}

#[test]
fn a_rollup_that_would_repeat_a_series_or_lacks_a_dimension_is_left_out() {
    use NodeDimension::{ImageId, InstanceId, InstanceType};
    let window = window([(Series::plain(Metric::CpuUsageActive), 1.0)]);
    for dimensions in [vec![InstanceType, InstanceId], vec![ImageId]] {
        let plan = plan(&window, &rollup(&dimensions, &["cpu_usage_active"]));
        assert_eq!(plan.data.len(), 1, "{dimensions:?}");
    }
}

#[test]
fn a_plan_is_a_function_of_its_window() {
    let window = window((0..1500).map(|n| (disk(&format!("/{n}")), 1.0)));
    let planner = Planner::new(&rollup(&[], &["disk_used_percent"]), &identity());
    let (first, again) = (planner.plan(&window), planner.plan(&window));
    assert_eq!(first.data, again.data);
    assert_eq!(first.batches, again.batches);
}
