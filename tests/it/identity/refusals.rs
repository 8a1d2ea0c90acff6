//! What is sorted out before it is sent: dimensions that CloudWatch would refuse, too many values, too many series.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use fake_cloudwatch::{AcceptedDatum, merged};
use gpushare::metrics::window::{DropReason, MAX_REFUSED_NAMES};

use super::scene::{Cloud, assert_gapless, problems, write};
use crate::harness::{Node, output};
use crate::publish::scene::stopped;

/// Mounts these paths on devices of their own; the directories are there.
fn mount(node: &Node, paths: &[String]) {
    let mut lines = String::new();
    for (minor, path) in paths.iter().enumerate() {
        fs_err::create_dir_all(node.path("root").join(path.trim_start_matches('/'))).unwrap();
        let escaped = path
            .replace('\\', "\\134")
            .replace(' ', "\\040")
            .replace('\t', "\\011")
            .replace('\n', "\\012");
        writeln!(
            lines,
            "{} 1 259:{minor} / {escaped} rw - xfs /dev/nvme{minor}n1 rw",
            minor + 20
        )
        .unwrap();
    }
    write(node, "proc/self/mountinfo", &lines);
}

/// The mount points that disks were accepted with.
fn paths(accepted: &[AcceptedDatum]) -> BTreeSet<String> {
    let disks = accepted
        .iter()
        .filter_map(|datum| datum.key.series.dimensions.get("path"));
    disks.cloned().collect()
}

#[test]
fn c07_names_that_cloudwatch_would_refuse_are_written_so_that_it_takes_them() {
    let cloud = Cloud::new();
    let node = cloud.node();
    let component = "x".repeat(250);
    let deep = |depth| format!("/{}", vec![component.as_str(); depth].join("/"));
    let (too_long, fits) = (deep(5), deep(4));
    let cut = &too_long[..1024];
    let names = [
        ("/", "/"),
        ("/with space", "/with space"),
        ("/quote\"and\\", "/quote\"and\\"),
        ("/donn\u{e9}es", r"/donn\xc3\xa9es"),
        ("/tab\tand", r"/tab\x09and"),
        ("/new\nline", r"/new\x0aline"),
        (&fits, &fits),
        (&too_long, cut),
    ];
    mount(&node, &names.map(|(path, _)| path.to_owned()));
    let agent = node.start();
    cloud.wait_windows(&agent, 2);
    let status = agent.status().unwrap();
    assert_eq!(status.sampler.ledger.dropped_total(), 0, "nothing is lost");
    stopped(agent);
    let accepted = cloud.cloudwatch.accepted();
    let expected = names.map(|(_, written)| written.to_owned());
    assert_eq!(paths(&accepted), BTreeSet::from(expected));
    assert_gapless(&accepted, status.agent.started_at);
    cloud.assert_well_behaved();
}

#[test]
fn c07_an_override_that_cloudwatch_would_refuse_is_named_at_the_start() {
    let long = format!("\"{}\"", "x".repeat(1025));
    let cases = [
        ("node.instance_id", "\"\""),
        ("node.auto_scaling_group", "\" \\t\""),
        ("node.cluster", "\"grün\""),
        ("node.nodegroup", "\"a\\nb\""),
        ("node.instance_type", &long),
    ];
    for (key, value) in cases {
        let cloud = Cloud::new();
        let node = cloud.node().with(key, value);
        let (code, _, stderr) = output(node.command(&["run"]));
        assert_eq!(code, 78, "{key}: {stderr}");
        assert!(stderr.contains(key), "{key}: {stderr}");
    }
}

#[test]
fn c07_more_than_150_values_in_a_window_are_datums_of_one_timestamp() {
    let cloud = Cloud::new();
    let node = cloud
        .node()
        .with("gpu.enabled", "true")
        .with("publish.groups", "[\"host\", \"gpu\"]")
        .with("publish.interval", "\"2s\"")
        .with(
            "publish.rollup",
            "[{ dimensions = [\"InstanceId\"], metrics = [\"gpu_power_draw\"] }]",
        );
    node.play(&sixteen_gpus());
    let agent = node.start();
    cloud.wait_accepted(&agent, "a rollup of more than 150 values", |accepted| {
        rolled_up(accepted).is_some()
    });
    let status = agent.status().unwrap();
    assert_eq!(status.sampler.ledger.dropped_total(), 0);
    stopped(agent);
    let accepted = cloud.cloudwatch.accepted();
    let start = rolled_up(&accepted).unwrap();
    let at =
        |datum: &&AcceptedDatum| datum.key.timestamp == start && datum.key.series.metric == "gpu_power_draw";
    let (parts, wholes): (Vec<_>, Vec<_>) = accepted
        .iter()
        .filter(at)
        .cloned()
        .partition(|datum| !datum.key.series.dimensions.contains_key("GPUNumber"));
    assert!(parts.len() >= 2 && parts.iter().all(|part| part.values.len() <= 150));
    let samples = |data: &[AcceptedDatum]| data.iter().flat_map(|datum| &datum.counts).sum::<f64>();
    assert!(
        (samples(&parts) - samples(&wholes)).abs() < f64::EPSILON,
        "none lost, none doubled"
    );
    let shown = merged(&parts, Duration::from_secs(2));
    assert_eq!(shown.len(), 1, "CloudWatch merges them into one");
    cloud.assert_well_behaved();
}

/// Power differs from GPU to GPU and from sample to sample: sixteen times ten values a second.
fn sixteen_gpus() -> String {
    let mut scenario = String::new();
    for n in 0..16 {
        let (low, high) = (50 + 40 * n, 80 + 40 * n);
        let gpu = format!(
            "[[gpu]]\nuuid = \"GPU-{n}\"\nname = \"NVIDIA A10G\"\npci = \"00000000:00:{n:02X}.0\"\n\
             memory_mib = 24000\npower_watts = [[0, {low}], [300000, {high}]]\n"
        );
        scenario.push_str(&gpu);
    }
    scenario
}

/// The start of a window whose rolled-up power came in several datums.
fn rolled_up(accepted: &[AcceptedDatum]) -> Option<SystemTime> {
    let power = accepted.iter().filter(|datum| {
        datum.key.series.metric == "gpu_power_draw" && !datum.key.series.dimensions.contains_key("GPUNumber")
    });
    let starts: Vec<SystemTime> = power.map(|datum| datum.key.timestamp).collect();
    let is_twice = |start: &&SystemTime| starts.iter().filter(|other| other == start).count() >= 2;
    starts.iter().find(is_twice).copied()
}

#[test]
fn c19_five_hundred_bind_mounts_of_one_device_are_one_series() {
    let cloud = Cloud::new();
    let node = cloud.node();
    mount(&node, &["/".to_owned()]);
    let mut lines = "20 1 259:0 / / rw - xfs /dev/nvme0n1 rw\n".to_owned();
    for n in 0..500 {
        writeln!(
            lines,
            "{} 20 259:0 /pods/{n} /srv/{n} rw - xfs /dev/nvme0n1 rw",
            n + 21
        )
        .unwrap();
    }
    write(&node, "proc/self/mountinfo", &lines);
    let agent = node.start();
    cloud.wait_windows(&agent, 2);
    let status = agent.status().unwrap();
    assert_eq!(status.sampler.ledger.dropped_total(), 0);
    stopped(agent);
    assert_eq!(
        paths(&cloud.cloudwatch.accepted()),
        BTreeSet::from(["/".to_owned()])
    );
}

#[test]
fn c19_series_above_the_cap_are_named_and_counted_and_never_sent() {
    let cloud = Cloud::new();
    let node = cloud.node().with("sample.interval", "\"500ms\"");
    let disks: Vec<String> = (0..500).map(|n| format!("/data/{n}")).collect();
    mount(&node, &disks);
    let agent = node.start();
    cloud.wait_windows(&agent, 3);
    let status = agent.wait("series are refused", |status| {
        status.sampler.ledger.refused_series.len() == MAX_REFUSED_NAMES && status.publish.pending_windows <= 1
    });
    assert_eq!(status.publish.max_series, 500);
    assert!(status.sampler.ledger.dropped[&DropReason::SeriesLimit] > 0);
    assert_eq!(status.sampler.ledger.dropped.len(), 1, "nothing else is lost");
    let said = problems(&status);
    assert!(
        said.contains("more than 500 series: at least 32 refused") && said.contains("publish.max_series"),
        "{said}"
    );
    let ended = stopped(agent);

    let accepted = cloud.cloudwatch.accepted();
    let billed: BTreeSet<_> = accepted.iter().map(|datum| &datum.key.series).collect();
    // The agent's own two say what the cap refuses, and are above it.
    assert!((500..=502).contains(&billed.len()), "{} series", billed.len());
    let sent: BTreeSet<String> = billed
        .iter()
        .filter_map(|series| {
            let path = series.dimensions.get("path")?;
            Some(format!("{}{{path={path:?}}}", series.metric))
        })
        .collect();
    let refused: BTreeSet<String> = status.sampler.ledger.refused_series.into_iter().collect();
    assert_eq!(refused.len(), MAX_REFUSED_NAMES);
    for name in &refused {
        assert!(!sent.contains(name), "refused and sent: {name}");
        let said = ended.log.lines().filter(|line| says_refused(line, name)).count();
        assert_eq!(said, 1, "{name} is named once:\n{}", ended.log);
    }
    cloud.assert_well_behaved();
}

/// Whether a line of the log says that this series was refused; the text format escapes the quotes in it.
fn says_refused(line: &str, series: &str) -> bool {
    line.contains("series refused") && line.contains(&series.replace('"', "\\\""))
}
