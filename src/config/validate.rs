//! The rules: raw structs in, [`Config`] or problems out. Pure: no file, no clock, no environment.
//!
//! One function per section, then the rules that join two keys; those are skipped where one of the two is wrong
//! already, so that one mistake is reported once.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::num::NonZeroU16;
use std::time::Duration;

use super::check::Checker;
use super::choice::{Dimension, Target};
use super::error::Problem;
use super::raw::{
    Raw, RawGpu, RawHost, RawMps, RawNode, RawPods, RawPrometheus, RawPublish, RawRollup, RawSlices, RawSpool,
};
use super::shape::nearest;
use super::typed::Given;
use super::{Config, Gpu, Host, Mps, Node, Pods, Prometheus, Publish, Rollup, Sample, Slices, Spool, Status};
use crate::metrics::Metric;

/// Below this a sampler costs more than it tells; NVML itself refreshes utilisation about six times a second.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
/// Windows are aligned to whole seconds of the wall clock, because CloudWatch's time stamps are.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);
/// A grace may be as short as one likes, only not zero.
const SHORTEST_GRACE: Duration = Duration::from_millis(1);
/// Dimensions of one metric (`PutMetricData`, `MetricDatum.Dimensions`).
const MOST_DIMENSIONS: usize = 30;
/// Characters of a namespace and of a metric name (`PutMetricData`).
const LONGEST_NAME: usize = 255;
/// Characters of a dimension value (`PutMetricData`, `Dimension.Value`).
const LONGEST_DIMENSION_VALUE: usize = 1024;
/// At $0.30 or less for a metric and month, more than this is nobody's intention.
const MOST_SERIES: u64 = 100_000;
/// `CUDA_MPS_ACTIVE_THREAD_PERCENTAGE` takes whole per cent: with more slices the parts would add up to over 100.
const MOST_SLICES: u64 = 100;

/// Validates what could be read. `problems` holds those of reading and takes those of the rules; the result is of use
/// only when it ends up empty. `complete` says that no layer is missing, so that keys may be compared.
pub(super) fn validate(raw: &Raw, given: &Given, complete: bool, problems: &mut Vec<Problem>) -> Config {
    let mut check = Checker { given, problems };
    let config = Config {
        node: node(&raw.node, &mut check),
        sample: Sample {
            interval: check.duration("sample.interval", &raw.sample.interval, SHORTEST_INTERVAL),
        },
        publish: publish(&raw.publish, &mut check),
        spool: spool(&raw.spool, &mut check),
        host: host(&raw.host, &mut check),
        gpu: gpu(&raw.gpu, &mut check),
        mps: mps(&raw.mps, &mut check),
        slices: slices(&raw.slices, &mut check),
        pods: pods(&raw.pods, &mut check),
        status: Status {
            socket: check.socket("status.socket", &raw.status.socket),
        },
        prometheus: prometheus(&raw.prometheus, &mut check),
    };
    if complete {
        relations(&config, &mut check);
    }
    config
}

fn node(raw: &RawNode, check: &mut Checker<'_>) -> Node {
    let mut identity = |key: &str, text: &Option<String>| {
        text.as_ref()
            .map(|text| check.name(&format!("node.{key}"), text, LONGEST_DIMENSION_VALUE))
    };
    Node {
        instance_id: identity("instance_id", &raw.instance_id),
        image_id: identity("image_id", &raw.image_id),
        instance_type: identity("instance_type", &raw.instance_type),
        region: identity("region", &raw.region),
        auto_scaling_group: identity("auto_scaling_group", &raw.auto_scaling_group),
        cluster: identity("cluster", &raw.cluster),
        nodegroup: identity("nodegroup", &raw.nodegroup),
        state_dir: check.path("node.state_dir", &raw.state_dir),
    }
}

fn publish(raw: &RawPublish, check: &mut Checker<'_>) -> Publish {
    Publish {
        target: check.choice::<Target>("publish.target", &raw.target),
        interval: window(&raw.interval, check),
        namespace: namespace(&raw.namespace, check),
        endpoint_url: raw.endpoint_url.as_ref().map(|url| endpoint(url, check)),
        groups: check.choices("publish.groups", &raw.groups).into_iter().collect(),
        dimensions: dimensions("publish.dimensions", &raw.dimensions, check),
        max_series: check.count("publish.max_series", raw.max_series, 1..=MOST_SERIES),
        storage_resolution: storage_resolution(raw.storage_resolution, check),
        rollup: raw
            .rollup
            .iter()
            .enumerate()
            .map(|(index, raw)| rollup(index, raw, check))
            .collect(),
    }
}

fn window(text: &str, check: &mut Checker<'_>) -> Duration {
    let interval = check.duration("publish.interval", text, SHORTEST_WINDOW);
    if interval.subsec_nanos() != 0 {
        let whole = interval.as_secs();
        check.refuse(
            "publish.interval",
            "must be a whole number of seconds",
            format!("write \"{whole}s\""),
        );
    }
    interval
}

fn namespace(text: &str, check: &mut Checker<'_>) -> String {
    if text.starts_with(':') {
        check.refuse(
            "publish.namespace",
            "must not start with a colon",
            "remove the colon",
        );
    } else if text.starts_with("AWS/") {
        let mend = "choose another, such as \"GPUShare\"";
        check.refuse(
            "publish.namespace",
            "must not start with AWS/, which is Amazon's own",
            mend,
        );
    }
    check.name("publish.namespace", text, LONGEST_NAME)
}

fn endpoint(url: &str, check: &mut Checker<'_>) -> String {
    if !is_http_url(url) {
        let mend = "write a URL such as \"https://monitoring.eu-west-1.amazonaws.com\"";
        check.refuse("publish.endpoint_url", "is not an http:// or https:// URL", mend);
    }
    url.to_owned()
}

/// Strict, because an HTTP client makes the best of a wrong URL: it takes a port that is none for the default one.
fn is_http_url(url: &str) -> bool {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    let Some(rest) = rest.filter(|rest| rest.bytes().all(|byte| byte.is_ascii_graphic())) else {
        return false;
    };
    let authority = rest.split_once('/').map_or(rest, |(authority, _)| authority);
    if let Some(bracketed) = authority.strip_prefix('[') {
        let parts = bracketed.split_once(']');
        return parts.is_some_and(|(address, port)| {
            address.parse::<Ipv6Addr>().is_ok()
                && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
        });
    }
    let (host, port) = authority.split_once(':').unwrap_or((authority, "443"));
    let is_host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !host.is_empty() && host.bytes().all(is_host_byte) && is_port(port)
}

fn is_port(text: &str) -> bool {
    // The standard parser takes a sign.
    !text.starts_with('+') && text.parse::<NonZeroU16>().is_ok()
}

fn dimensions(key: &str, words: &[String], check: &mut Checker<'_>) -> Vec<Dimension> {
    if words.len() > MOST_DIMENSIONS {
        let message = format!(
            "has {} dimensions, and CloudWatch takes {MOST_DIMENSIONS}",
            words.len()
        );
        check.refuse(key, message, "remove some");
        return Vec::new();
    }
    check.choices(key, words)
}

fn storage_resolution(seconds: u64, check: &mut Checker<'_>) -> u8 {
    match seconds {
        1 => 1,
        60 => 60,
        _ => {
            let mend = "write 60 (standard) or 1 (high resolution)";
            check.refuse(
                "publish.storage_resolution",
                "is not a CloudWatch resolution",
                mend,
            );
            60
        }
    }
}

fn rollup(index: usize, raw: &RawRollup, check: &mut Checker<'_>) -> Rollup {
    let entry = format!("publish.rollup[{index}]");
    let key = format!("{entry}.metrics");
    if raw.metrics.is_empty() {
        check.refuse(
            &entry,
            "names no metric",
            "list at least one in metrics, or remove the rollup",
        );
    }
    for (position, name) in raw.metrics.iter().enumerate() {
        let key = format!("{key}[{position}]");
        check.name(&key, name, LONGEST_NAME);
        if check.is_sound(&key) && !Metric::ALL.iter().any(|metric| metric.name() == name) {
            let known = nearest(name, Metric::ALL.iter().map(|metric| metric.name()));
            let mend = known.map_or_else(
                || "docs/metrics.md lists them".to_owned(),
                |known| format!("did you mean {known}?"),
            );
            check.refuse(&key, "is not a metric of the catalogue", mend);
        }
    }
    Rollup {
        dimensions: dimensions(
            &format!("publish.rollup[{index}].dimensions"),
            &raw.dimensions,
            check,
        ),
        metrics: raw.metrics.clone(),
    }
}

/// An empty file with a handful of windows.
const LEAST_SPOOL_BYTES: u64 = 128 * 1024;

fn spool(raw: &RawSpool, check: &mut Checker<'_>) -> Spool {
    Spool {
        dir: check.path("spool.dir", &raw.dir),
        max_bytes: check.size("spool.max_bytes", &raw.max_bytes, LEAST_SPOOL_BYTES),
        min_free_bytes: check.size("spool.min_free_bytes", &raw.min_free_bytes, 0),
    }
}

fn host(raw: &RawHost, check: &mut Checker<'_>) -> Host {
    for (index, mount) in raw.exclude_mounts.iter().enumerate() {
        check.path(&format!("host.exclude_mounts[{index}]"), mount);
    }
    for (index, pattern) in raw.exclude_fs_types.iter().enumerate() {
        let stem = pattern.strip_suffix('*').unwrap_or(pattern);
        if stem.is_empty() || !stem.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*') {
            check.refuse(
                &format!("host.exclude_fs_types[{index}]"),
                "is not a file system type",
                "write a type such as \"nfs4\", or the start of one and a final *",
            );
        }
    }
    Host {
        root_dir: check.path("host.root_dir", &raw.root_dir),
        exclude_mounts: raw.exclude_mounts.clone(),
        exclude_fs_types: raw.exclude_fs_types.clone(),
    }
}

fn gpu(raw: &RawGpu, check: &mut Checker<'_>) -> Gpu {
    Gpu {
        enabled: raw.enabled,
        nvml_library: check.lookup_name("gpu.nvml_library", &raw.nvml_library),
        kmsg: check.path("gpu.kmsg", &raw.kmsg),
    }
}

fn mps(raw: &RawMps, check: &mut Checker<'_>) -> Mps {
    Mps {
        enabled: raw.enabled,
        backend: check.choice("mps.backend", &raw.backend),
        dir: check.path("mps.dir", &raw.dir),
        client_dir: check.path("mps.client_dir", &raw.client_dir),
        control_binary: check.lookup_name("mps.control_binary", &raw.control_binary),
        exclusive_process: raw.exclusive_process,
        multi_user: raw.multi_user,
        probe_interval: check.duration("mps.probe_interval", &raw.probe_interval, SHORTEST_INTERVAL),
        grace: check.duration("mps.grace", &raw.grace, SHORTEST_GRACE),
        client_view: check.choice("mps.client_view", &raw.client_view),
    }
}

fn slices(raw: &RawSlices, check: &mut Checker<'_>) -> Slices {
    if !is_extended_resource(&raw.resource) {
        check.refuse(
            "slices.resource",
            "is not a Kubernetes extended resource",
            "write domain/name such as \"k8s.amazonaws.com/vgpu\", outside kubernetes.io",
        );
    }
    Slices {
        enabled: raw.enabled,
        resource: raw.resource.clone(),
        per_gpu: check.count("slices.per_gpu", raw.per_gpu, 1..=MOST_SLICES),
        kubelet_dir: check.path("slices.kubelet_dir", &raw.kubelet_dir),
        policy: check.choice("slices.policy", &raw.policy),
        injection: check.choice("slices.injection", &raw.injection),
        cdi_dir: check.path("slices.cdi_dir", &raw.cdi_dir),
        threads: check.choice("slices.threads", &raw.threads),
        memory: check.choice("slices.memory", &raw.memory),
        boot_grace: check.duration("slices.boot_grace", &raw.boot_grace, SHORTEST_GRACE),
        conflict: check.choice("slices.conflict", &raw.conflict),
    }
}

/// `domain/name` by Kubernetes' rules for qualified names; `kubernetes.io` domains are native resources, which the
/// kubelet takes from no plugin.
fn is_extended_resource(text: &str) -> bool {
    let is_word = |word: &str, longest: usize, inner: &[u8]| {
        let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = word.as_bytes();
        bytes.len() <= longest
            && ends(bytes.first())
            && ends(bytes.last())
            && bytes
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || inner.contains(byte))
    };
    text.split_once('/').is_some_and(|(domain, name)| {
        domain.len() <= 253
            && domain.split('.').all(|label| is_word(label, 63, b"-"))
            && !domain.bytes().any(|byte| byte.is_ascii_uppercase())
            && !domain.ends_with("kubernetes.io")
            && is_word(name, 63, b"-_.")
    })
}

fn pods(raw: &RawPods, check: &mut Checker<'_>) -> Pods {
    Pods {
        enabled: raw.enabled,
        interval: check.duration("pods.interval", &raw.interval, SHORTEST_INTERVAL),
        identity: check.choice("pods.identity", &raw.identity),
        proc_dir: check.path("pods.proc_dir", &raw.proc_dir),
        container_log_dir: check.path("pods.container_log_dir", &raw.container_log_dir),
    }
}

fn prometheus(raw: &RawPrometheus, check: &mut Checker<'_>) -> Prometheus {
    let listen = raw.listen.parse().ok();
    if listen.is_none() && !raw.listen.is_empty() {
        let mend = "write an IP address and a port such as \"127.0.0.1:9400\", or \"\" for off";
        check.refuse("prometheus.listen", "is not an address to listen on", mend);
    }
    Prometheus { listen }
}

/// The rules that join two keys.
fn relations(config: &Config, check: &mut Checker<'_>) {
    let (sample, window) = (config.sample.interval, config.publish.interval);
    if sample > window && check.is_sound("sample.interval") && check.is_sound("publish.interval") {
        let window = humantime::format_duration(window);
        check.refuse(
            "sample.interval",
            format!("is longer than publish.interval (\"{window}\")"),
            format!("write \"{window}\" or less, or publish less often"),
        );
    }
    let are_sound = check.is_sound("slices.enabled") && check.is_sound("mps.enabled");
    if config.slices.enabled && !config.mps.enabled && are_sound {
        check.refuse(
            "mps.enabled",
            "does not go with slices.enabled = true, because slices are shared through MPS",
            "set slices.enabled = false too, or mps.enabled = true",
        );
    }
    rollup_dimensions(&config.publish, check);
    rollup_series(&config.publish, check);
}

/// Every metric of every rollup is one more series in the bill; the same twice would double its samples.
fn rollup_series(publish: &Publish, check: &mut Checker<'_>) {
    let mut seen = BTreeSet::new();
    for (index, rollup) in publish.rollup.iter().enumerate() {
        let dimensions = rollup.dimensions.iter();
        let set: BTreeSet<&str> = dimensions.map(|dimension| dimension.as_str()).collect();
        for (position, metric) in rollup.metrics.iter().enumerate() {
            if !seen.insert((set.clone(), metric)) {
                check.refuse(
                    &format!("publish.rollup[{index}].metrics[{position}]"),
                    "is rolled up with these dimensions already",
                    "remove it from one of the two",
                );
            }
        }
    }
    if publish.rollup_series() >= publish.max_series && check.is_sound("publish.max_series") {
        check.refuse(
            "publish.max_series",
            format!(
                "leaves nothing beside the {} series of publish.rollup",
                publish.rollup_series()
            ),
            "raise it, or remove rollups",
        );
    }
}

/// A rollup leaves dimensions out; it cannot add one that the series do not have.
fn rollup_dimensions(publish: &Publish, check: &mut Checker<'_>) {
    if !check.is_sound("publish.dimensions") {
        return;
    }
    for (index, rollup) in publish.rollup.iter().enumerate() {
        let key = format!("publish.rollup[{index}].dimensions");
        let strangers: Vec<_> = rollup
            .dimensions
            .iter()
            .filter(|dimension| !publish.dimensions.contains(dimension))
            .collect();
        if let [first, ..] = strangers.as_slice() {
            let mend = format!("add {first} to publish.dimensions, or remove it here");
            check.refuse(
                &key,
                format!("names {first}, which publish.dimensions lacks"),
                mend,
            );
        }
    }
}
