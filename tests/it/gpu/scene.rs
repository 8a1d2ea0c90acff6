//! The GPUs that the tests play, and the windows that they look at.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use fake_nvml::calllog::{Call, Outcome};
use fake_nvml::{Scenario, utilization_between};
use gpushare::gpu::inventory::Reason;
use gpushare::gpu::wire::FaultKind;
use gpushare::gpu::{DriverState, GpuState};
use gpushare::status::Snapshot;
use serde_json::Value;

use crate::harness::{Agent, Datum, Node, datums};

/// The call whose answer never comes in the tests about hanging drivers.
pub(super) const HANGING: &str = "nvmlDeviceGetTemperature";

/// A GPU named after a letter (`GPU-a`) with a fifth of its allocatable memory used; `keys` overrides nothing and adds
/// the rest (TOML).
pub(crate) fn gpu(letter: char, keys: &str) -> String {
    format!(
        "[[gpu]]\nuuid = \"GPU-{letter}\"\nname = \"NVIDIA A10G\"\npci = \"00000000:00:1{letter}.0\"\n\
         memory_mib = 24000\nreserved_mib = 4000\nused_mib = 4000\n{keys}\n"
    )
}

/// A curve whose ring samples have values that differ from each other: 0, 1, 2, ... 95, then 0 again.
pub(super) const STAIRS: &str = "utilization = [[0, 0], [16000, 96]]\nperiod_ms = 16000";

/// Ring samples fall 83 ms from the readings on either side, so that the last reading of a window (0.95 s) finds
/// exactly the samples of its second unless it is very late.
pub(crate) fn node_on_stairs() -> (Node, u64) {
    let now = unix_us(SystemTime::now());
    let epoch_us = now - now % 1_000_000 + 33_000;
    let node = Node::new(&gpu('a', STAIRS)).with_env("FAKE_NVML_EPOCH_MS", &(epoch_us / 1000).to_string());
    (node, epoch_us)
}

/// The ring's samples from `from_us` to before `until_us`.
pub(crate) fn ring(epoch_us: u64, from_us: u64, until_us: u64) -> Vec<f64> {
    let scenario = Scenario::parse(&gpu('a', STAIRS)).unwrap();
    let samples = utilization_between(&scenario.gpus[0], epoch_us, from_us - 1, until_us - 1);
    samples.iter().map(|sample| f64::from(sample.value)).collect()
}

/// GPU 0 (`GPU-a`) at 40 % and GPU 1 (`GPU-b`) at 70 %.
pub(super) fn two_gpus() -> String {
    gpu('a', "utilization = 40") + &gpu('b', "utilization = 70")
}

/// Those two, and [`HANGING`] on GPU 1 (on both where `gpu` is `None`) as `keys` say.
pub(super) fn hanging(gpu: Option<usize>, keys: &str) -> String {
    let gpu = gpu.map(|gpu| format!("gpu = {gpu}\n")).unwrap_or_default();
    format!("{}[[hang]]\nfunction = \"{HANGING}\"\n{gpu}{keys}\n", two_gpus())
}

/// Whether NVML works and there are this many GPUs, all of them read and healthy.
pub(super) fn well(snapshot: &Snapshot, gpus: usize) -> bool {
    let all = &snapshot.gpu.gpus;
    let read = |gpu: &GpuState| gpu.is_healthy() && gpu.newest.is_some();
    snapshot.gpu.driver.is_ready() && all.len() == gpus && all.iter().all(read)
}

/// What keeps NVML from working, by class.
pub(super) fn driver_fault(snapshot: &Snapshot) -> Option<FaultKind> {
    match &snapshot.gpu.driver {
        DriverState::Unavailable { fault } => Some(fault.kind),
        _ => None,
    }
}

/// Why the GPU with this place in the status cannot be used.
pub(super) fn reasons(snapshot: &Snapshot, gpu: usize) -> &[Reason] {
    snapshot.gpu.gpus.get(gpu).map_or(&[], |gpu| &gpu.health.reasons)
}

/// The texts of all problems that the status names, with their mends.
pub(super) fn problems(snapshot: &Snapshot) -> String {
    let lines = snapshot
        .problems
        .iter()
        .map(|problem| format!("{} -> {}\n", problem.what, problem.mend));
    lines.collect()
}

/// How many lines of a log hold this text.
pub(super) fn lines(log: &str, text: &str) -> usize {
    log.lines().filter(|line| line.contains(text)).count()
}

/// The next `count` windows that begin after this call and are whole: one batch each.
pub(super) fn next_windows(agent: &Agent, count: usize) -> Vec<Value> {
    let now = SystemTime::now();
    agent.wait_batches("whole windows from now on", |batches| {
        let later: Vec<Value> = batches
            .iter()
            .filter(|batch| start_of(batch) > now)
            .cloned()
            .collect();
        (later.len() >= count).then_some(later)
    })
}

/// The start of the window that a batch holds.
pub(super) fn start_of(batch: &Value) -> SystemTime {
    let text = batch["MetricData"][0]["Timestamp"].as_str().unwrap();
    humantime::parse_rfc3339(text).unwrap()
}

/// The data of one metric of the GPU with this `GPUNumber`.
pub(super) fn series(batches: &[Value], metric: &str, gpu: u32) -> Vec<Datum> {
    let label = format!("GPUNumber={gpu}");
    let mut data = datums(batches, metric);
    data.retain(|datum| datum.label == label);
    data
}

/// The distinct values of one metric of one GPU in ascending order, however often each occurs.
pub(super) fn values(batches: &[Value], metric: &str, gpu: u32) -> Vec<f64> {
    let data = series(batches, metric, gpu);
    let mut values: Vec<f64> = data.iter().flat_map(|datum| &datum.values).map(|v| v.0).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    values
}

/// The sum over all samples of one metric of one GPU.
pub(super) fn total(batches: &[Value], metric: &str, gpu: u32) -> f64 {
    let data = series(batches, metric, gpu);
    let counts = data.iter().flat_map(|datum| &datum.values);
    counts.map(|(value, count)| value * count).sum()
}

/// The names of all metrics that one GPU has.
pub(super) fn metrics_of(batches: &[Value], gpu: u32) -> BTreeSet<String> {
    let data = batches
        .iter()
        .flat_map(|batch| batch["MetricData"].as_array().unwrap());
    let names = data.map(|datum| datum["MetricName"].as_str().unwrap().to_owned());
    names
        .filter(|name| !series(batches, name, gpu).is_empty())
        .collect()
}

/// Whether every one of these windows holds samples of the host.
pub(super) fn host_goes_on(batches: &[Value]) -> bool {
    batches
        .iter()
        .all(|batch| !datums(std::slice::from_ref(batch), "cpu_usage_active").is_empty())
}

/// The calls of one function, of all GPUs.
pub(super) fn calls_of<'a>(calls: &'a [Call], function: &str) -> Vec<&'a Call> {
    calls.iter().filter(|call| call.function == function).collect()
}

/// The calls on one GPU from the one that hangs on; the first is that one.
pub(super) fn from_the_hang(calls: &[Call], gpu: usize) -> Vec<&Call> {
    let on_gpu = calls.iter().filter(|call| call.gpu == Some(gpu));
    on_gpu
        .skip_while(|call| call.outcome != Outcome::Entered)
        .collect()
}

/// Seconds from each call to the next.
pub(super) fn gaps(calls: &[&Call]) -> Vec<f64> {
    let micros = |pair: &[&Call]| pair[1].unix_us.saturating_sub(pair[0].unix_us);
    calls.windows(2).map(|pair| micros(pair) as f64 / 1e6).collect()
}

/// Whether there are some calls, and no more than one a second (a tenth early is on time).
pub(super) fn at_most_one_a_second(calls: &[&Call]) -> bool {
    let seconds: f64 = gaps(calls).iter().sum();
    calls.len() > 1 && calls.len() as f64 <= 2.0 + seconds / 0.9
}

/// Microseconds since 1970, as the driver stamps its samples.
pub(crate) fn unix_us(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_micros()).unwrap()
}
