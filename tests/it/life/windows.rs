//! What is in the windows, and that no sample is lost or counted twice.

use std::collections::BTreeSet;
use std::time::Duration;

use gpushare::config::Group;
use gpushare::metrics::clock::wall_now;
use gpushare::metrics::window::DropReason;
use gpushare::metrics::{Metric, Scope};
use gpushare::status::Snapshot;
use serde_json::Value;

use super::scene::{NO_GPUS, ONE_GPU, assert_adds_up, data_of, windows};
use crate::harness::{Datum, Node, datums};

#[test]
fn a_whole_window_holds_every_sample_and_is_stamped_with_its_start() {
    // Four samples a second: a loaded machine is late by less than a quarter of a second, most of the time.
    // In a container the root file system is of a type that is left out by default.
    let node = Node::new(ONE_GPU)
        .with("sample.interval", "\"250ms\"")
        .with("host.exclude_fs_types", "[]");
    let agent = node.start();
    let exact = agent.wait_batches(
        "three windows in a row with four samples of everything",
        |batches| {
            let windows: Vec<_> = windows(batches).into_iter().collect();
            let in_a_row = |three: &&[(u64, Vec<Datum>)]| {
                three.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1)
                    && three.iter().all(|(_, data)| data.iter().all(samples_of_four))
            };
            windows.windows(3).find(in_a_row).map(<[_]>::to_vec)
        },
    );
    let metrics: BTreeSet<&str> = exact[0].1.iter().map(|datum| datum.metric.as_str()).collect();
    for metric in [
        "cpu_usage_active",
        "mem_used_percent",
        "disk_used_percent",
        "gpu_power_draw",
        "gpu_healthy",
    ] {
        assert!(metrics.contains(metric), "{metric} is missing: {metrics:?}");
    }
    for (_, data) in &exact {
        let labels: BTreeSet<_> = data.iter().map(|datum| (&datum.metric, &datum.label)).collect();
        assert_eq!(labels.len(), data.len(), "one datum per series");
    }
}

/// Whether a datum holds what one second at four samples a second yields: six of the driver's ring, four of the rest.
fn samples_of_four(datum: &Datum) -> bool {
    let expected = if datum.metric == "gpu_utilization" {
        6.0
    } else {
        4.0
    };
    (datum.samples() - expected).abs() < f64::EPSILON
}

#[test]
fn windows_of_several_seconds_start_on_multiples_of_them() {
    let node = Node::new(NO_GPUS).with("publish.interval", "\"2s\"");
    let begun = wall_now().as_secs();
    let agent = node.start();
    let starts = agent.wait_batches("two windows", |batches| {
        let starts: Vec<u64> = windows(batches).into_keys().collect();
        (starts.len() >= 2).then_some(starts)
    });
    assert!(starts.iter().all(|start| start % 2 == 0), "{starts:?}");
    let (ends_after_begin, now) = (starts[0] + 2 > begun, wall_now().as_secs());
    assert!(ends_after_begin, "{starts:?} began before the agent at {begun}");
    assert!(
        starts[1] + 2 <= now,
        "{starts:?} was printed before its end, at {now}"
    );
}

#[test]
fn all_that_is_printed_is_in_the_catalogue_and_fit_for_cloudwatch() {
    let node = Node::new(ONE_GPU)
        .with("node.image_id", "\"ami-1\"")
        .with("node.instance_type", "\"g5.xlarge\"")
        .with("host.exclude_fs_types", "[]")
        .with(
            "publish.groups",
            "[\"host\", \"gpu\", \"health\", \"mps\", \"agent\"]",
        );
    let agent = node.start();
    agent.wait("three windows are out", |status| status.publish.done.windows >= 3);
    let batches = agent.terminate().batches;
    let data: Vec<&Value> = batches.iter().flat_map(data_of).collect();
    for datum in &data {
        assert_fit_for_cloudwatch(datum);
    }
    let printed: BTreeSet<&str> = data
        .iter()
        .map(|datum| datum["MetricName"].as_str().unwrap())
        .collect();
    // Swap and physical disks are the machine's own affair, nobody tells the time who only prints, and there is no
    // MPS on this node (`metrics::mps` tests its own); all others must be there.
    let elsewhere = |name: &str| {
        ["swap_", "diskio_", "clock_", "mps_", "gpu_memory_mps_"]
            .iter()
            .any(|start| name.starts_with(start))
    };
    let due = Metric::ALL.iter().map(|metric| metric.name());
    let due: BTreeSet<&str> = due.filter(|name| !elsewhere(name)).collect();
    assert_eq!(due.difference(&printed).collect::<Vec<_>>(), Vec::<&&str>::new());
}

fn assert_fit_for_cloudwatch(datum: &Value) {
    let name = datum["MetricName"].as_str().unwrap();
    let metric = Metric::ALL.iter().find(|metric| metric.name() == name);
    let entry = metric
        .unwrap_or_else(|| panic!("not in the catalogue: {name}"))
        .entry();
    assert_eq!(datum["Unit"], serde_json::to_value(entry.unit).unwrap(), "{name}");
    assert_eq!(datum["StorageResolution"], 60);

    // NaN and infinity would be null in JSON.
    let numbers = |key: &str| -> Vec<f64> {
        let list = datum[key].as_array().unwrap().iter();
        list.map(|number| number.as_f64().unwrap_or_else(|| panic!("no number: {datum}")))
            .collect()
    };
    let (values, counts) = (numbers("Values"), numbers("Counts"));
    assert_eq!(values.len(), counts.len(), "{datum}");
    assert!((1..=150).contains(&values.len()), "{datum}");
    assert!(
        values.windows(2).all(|pair| pair[0] < pair[1]),
        "distinct and ascending: {datum}"
    );
    assert!(
        counts.iter().all(|count| *count >= 1.0 && count.fract() == 0.0),
        "{datum}"
    );

    let dimensions = datum["Dimensions"].as_array().unwrap();
    assert!(dimensions.len() <= 30, "{datum}");
    let names: Vec<&str> = dimensions
        .iter()
        .map(|dimension| dimension["Name"].as_str().unwrap())
        .collect();
    let labels = entry.labels.iter().map(|label| label.as_str());
    let base: &[&str] = match entry.scope {
        Scope::Node => &["InstanceId", "ImageId", "InstanceType"],
        Scope::Instance => &["InstanceId"],
    };
    assert_eq!(
        names,
        base.iter().copied().chain(labels).collect::<Vec<_>>(),
        "{datum}"
    );
    for dimension in dimensions {
        let value = dimension["Value"].as_str().unwrap();
        assert!((1..=1024).contains(&value.len()), "{datum}");
    }
}

#[test]
fn only_the_chosen_groups_are_sampled_and_printed() {
    let node = Node::new(ONE_GPU).with("publish.groups", "[\"gpu\", \"agent\"]");
    let agent = node.start();
    let printed = agent.wait_batches("two windows with GPUs in them", |batches| {
        let with_gpus = windows(batches)
            .into_values()
            .filter(|data| data.iter().any(|d| d.metric == "gpu_healthy"));
        let with_gpus: Vec<_> = with_gpus.flatten().map(|datum| datum.metric).collect();
        (datums(batches, "gpu_utilization").len() >= 2)
            .then(|| with_gpus.into_iter().collect::<BTreeSet<_>>())
    });
    // There is no MPS on this node.
    let chosen = Metric::ALL
        .iter()
        .filter(|metric| **metric != Metric::MpsReady)
        .filter(|metric| [Group::Gpu, Group::Agent].contains(&metric.entry().group));
    assert_eq!(printed, chosen.map(|metric| metric.name().to_owned()).collect());
    // What is not published does not count as collected either: the ledger would never add up.
    assert_adds_up(&agent.status().unwrap());
}

#[test]
fn no_sample_is_ever_in_two_places_or_in_none() {
    // A cap that refuses some series, so that samples are dropped all the time.
    let node = Node::new(ONE_GPU).with("publish.max_series", "8");
    let agent = node.start();
    let mut seen: Vec<Snapshot> = Vec::new();
    while seen.len() < 50 || seen.last().unwrap().publish.done.windows < 2 {
        let snapshot = agent.status().unwrap();
        assert_adds_up(&snapshot);
        seen.push(snapshot);
        // The pace of looking: half a sample, so that windows close and are printed between two looks.
        std::thread::sleep(Duration::from_millis(50));
    }
    let (first, last) = (&seen[0].sampler, &seen.last().unwrap().sampler);
    assert!(last.ledger.dropped_total() > first.ledger.dropped_total());
    let open = seen.iter().filter_map(|snapshot| snapshot.sampler.open_window);
    let fillings: BTreeSet<u64> = open.map(|(_, samples)| samples).collect();
    assert!(
        fillings.len() >= 3,
        "the open window was seen to fill: {fillings:?}"
    );
}

#[test]
fn series_above_the_cap_are_refused_by_name_and_counted() {
    // Without GPUs the first tick is that of the agent's own two series; one of the host's has room.
    let node = Node::new(NO_GPUS)
        .with("gpu.enabled", "false")
        .with("publish.max_series", "3");
    let agent = node.start();
    let status = agent.wait("series are refused and four windows printed", |status| {
        !status.sampler.ledger.refused_series.is_empty() && status.publish.done.windows >= 4
    });
    let refused = status.sampler.ledger.refused_series.clone();
    assert_eq!(status.sampler.series, 3);
    assert!(status.sampler.ledger.dropped[&DropReason::SeriesLimit] > 0);
    let problem = status
        .problems
        .iter()
        .find(|problem| problem.what.starts_with("more than 3 series"));
    let problem = problem.unwrap_or_else(|| panic!("{:?}", status.problems));
    assert!(
        problem.what.contains(&refused[0]) && problem.mend.contains("publish.max_series"),
        "{problem:?}"
    );

    agent.wait("one more tick", |later| {
        later.sampler.ticks > status.sampler.ticks
    });
    let ended = agent.terminate();
    for name in &refused {
        let said = ended
            .log
            .lines()
            .filter(|line| line.contains("series refused") && names(line, name));
        assert_eq!(said.count(), 1, "{name} is named once:\n{}", ended.log);
    }
    let printed: BTreeSet<String> = ended.batches.iter().flat_map(data_of).map(series_of).collect();
    assert_eq!(printed.len(), 3, "{printed:?}");
    let dropped = datums(&ended.batches, "datapoints_dropped");
    let counted: f64 = dropped
        .iter()
        .flat_map(|datum| &datum.values)
        .map(|(value, count)| value * count)
        .sum();
    // What was dropped by one tick is in the next one's count.
    let due = status.sampler.ledger.dropped_total() as f64;
    assert!(counted >= due && due > 0.0, "{counted} of {due}: {dropped:?}");
}

/// Whether a log line names this series; the text format escapes the quotes in it.
fn names(line: &str, series: &str) -> bool {
    line.contains(series) || line.contains(&series.replace('"', "\\\""))
}

/// What CloudWatch tells series apart by.
fn series_of(datum: &Value) -> String {
    format!("{}{}", datum["MetricName"], datum["Dimensions"])
}
