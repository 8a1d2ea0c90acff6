//! The node that publishes, and how what arrived is compared with what was sampled.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use fake_cloudwatch::{AcceptedDatum, FakeCloudWatch, Key};
use fake_imds::FakeImds;
use gpushare::publish::fate::Class;
use gpushare::publish::retry::{self, Backoff, Pace};
use gpushare::status::Snapshot;

use crate::gpu::scene::{node_on_stairs, ring, unix_us};
use crate::harness::{Agent, Ended, Node, output};
use crate::life::scene::NO_GPUS;

/// What a stop may take at most, even while CloudWatch does not answer.
pub(crate) const STOP: Duration = Duration::from_secs(10);

/// A node without GPUs that publishes to `fake` and tries again within a second after its first two failures.
pub(crate) fn node(fake: &FakeCloudWatch) -> Node {
    let node = Node::new(NO_GPUS).with("gpu.enabled", "false");
    publishing(node, fake)
}

/// The same with a GPU whose every utilisation sample is known; and since when, in microseconds since 1970.
pub(crate) fn node_with_gpu(fake: &FakeCloudWatch) -> (Node, u64) {
    let (node, epoch_us) = node_on_stairs();
    (publishing(node, fake), epoch_us)
}

/// The same without a GPU, with credentials from the role of the instance that `imds` describes.
pub(super) fn node_with_role(fake: &FakeCloudWatch, imds: &FakeImds) -> Node {
    let node = Node::new(NO_GPUS).with("gpu.enabled", "false");
    without_credentials(node, fake)
        .with_env("AWS_EC2_METADATA_DISABLED", "false")
        .with_env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &imds.url())
}

/// A node that publishes to the endpoint of a region.
pub(super) fn node_without_endpoint(region: &str) -> Node {
    let node = Node::new(NO_GPUS).with("gpu.enabled", "false");
    with_credentials(to_cloudwatch(node)).with("node.region", &format!("{region:?}"))
}

/// Makes a node publish to `fake`, with credentials from the environment.
pub(crate) fn publishing(node: Node, fake: &FakeCloudWatch) -> Node {
    with_credentials(without_credentials(node, fake))
}

/// Credentials in the environment.
pub(crate) fn with_credentials(node: Node) -> Node {
    node.with_env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        .with_env("AWS_SECRET_ACCESS_KEY", "secret")
}

fn without_credentials(node: Node, fake: &FakeCloudWatch) -> Node {
    to_cloudwatch(node).with("publish.endpoint_url", &format!("{:?}", fake.url()))
}

fn to_cloudwatch(node: Node) -> Node {
    node.with("publish.target", "\"cloudwatch\"")
        .with("publish.dimensions", "[\"InstanceId\"]")
        .with("node.region", "\"eu-west-1\"")
        .with("node.instance_id", &format!("{:?}", hasty()))
}

/// An instance whose pauses after its first two failures are short, even those for what somebody has to mend.
fn hasty() -> String {
    instance_whose(|pauses| {
        pauses.pause(Pace::Slow) < Duration::from_millis(500)
            && pauses.pause(Pace::Slow) < Duration::from_secs(1)
    })
}

/// `publish.interval` of the nodes here.
const INTERVAL: Duration = Duration::from_secs(1);

/// The first instance id whose pauses are as wanted: they are random, but always the same for the same id.
pub(super) fn instance_whose(wanted: impl Fn(&mut Backoff) -> bool) -> String {
    let mut ids = (0_u64..).map(|number| format!("i-{number:017x}"));
    let pauses = |id: &String| Backoff::new(INTERVAL, fastrand::Rng::with_seed(retry::seed(id)));
    let found = ids.find(|id| wanted(&mut pauses(id)));
    found.unwrap()
}

/// Waits until publishing has failed in this way.
pub(crate) fn wait_failure(agent: &Agent, class: Class) -> Snapshot {
    agent.wait(&format!("a failure: {}", class.as_str()), |status| {
        let error = &status.publish.done.last_error;
        error.as_ref().is_some_and(|error| error.class == class)
    })
}

/// Waits until publishing works again, and at least `windows` windows have arrived by then.
pub(crate) fn wait_well(agent: &Agent, windows: u64) -> Snapshot {
    agent.wait("publishing works", |status| {
        let done = &status.publish.done;
        done.failing_since.is_none() && done.windows >= windows
    })
}

/// Whether two windows wait, and none has arrived.
pub(super) fn everything_waits(status: &Snapshot) -> bool {
    status.publish.pending_windows >= 2 && status.publish.done.windows == 0
}

/// Stops an agent that has nothing in its way.
#[track_caller]
pub(crate) fn stopped(agent: Agent) -> Ended {
    let ended = agent.terminate();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(ended.took < STOP, "{:?}\n{}", ended.took, ended.log);
    assert!(!ended.log.contains("panicked at"), "{}", ended.log);
    ended
}

/// What `gpushare status` prints.
pub(crate) fn status_text(node: &Node) -> String {
    let (code, text, stderr) = output(node.command(&["status"]));
    assert_eq!(code, 0, "{stderr}");
    text
}

/// Every datum that arrived, once however often it was sent.
#[track_caller]
pub(crate) fn once(accepted: &[AcceptedDatum]) -> Vec<AcceptedDatum> {
    let mut known = BTreeMap::<&Key, &AcceptedDatum>::new();
    for datum in accepted {
        let first = known.entry(&datum.key).or_insert(datum);
        assert_eq!(
            (&first.values, &first.counts),
            (&datum.values, &datum.counts),
            "two datums in one place are one that was sent again"
        );
    }
    known.into_values().cloned().collect()
}

/// How many samples arrived in each window, by its start.
pub(crate) fn samples_by_window(accepted: &[AcceptedDatum]) -> BTreeMap<SystemTime, f64> {
    let mut windows = BTreeMap::new();
    for datum in once(accepted) {
        *windows.entry(datum.key.timestamp).or_default() += datum.counts.iter().sum::<f64>();
    }
    windows
}

/// Asserts that every window that was closed by the time of this snapshot has arrived, with all of its samples that
/// were not dropped.
#[track_caller]
pub(super) fn assert_nothing_lost(fake: &FakeCloudWatch, status: &Snapshot) {
    let publish = &status.publish;
    let closed = publish.done.windows + publish.pending_windows as u64;
    let samples = publish.done.samples + publish.pending_samples;
    let arrived = samples_by_window(&fake.accepted());
    let first = arrived.values().take(usize::try_from(closed).unwrap());
    assert!(samples > 0, "nothing was closed yet: {publish:?}");
    assert_eq!(
        first.sum::<f64>(),
        samples as f64,
        "{closed} windows: {arrived:?}"
    );
}

/// Asserts that the windows that arrived hold every sample of the driver's ring in turn, from the first one on, each
/// once: a window that is missing would leave its samples out.
#[track_caller]
pub(super) fn assert_every_ring_sample(fake: &FakeCloudWatch, epoch_us: u64) {
    let data = once(&fake.accepted());
    let ring_data = data
        .into_iter()
        .filter(|datum| datum.key.series.metric == "gpu_utilization");
    let windows: BTreeMap<SystemTime, Vec<f64>> = ring_data
        .map(|datum| (datum.key.timestamp, datum.values))
        .collect();
    let first = windows.values().next().unwrap()[0];
    let everything = ring(epoch_us, epoch_us, unix_us(SystemTime::now()));
    let begin = everything.iter().position(|value| *value == first).unwrap();
    let mut rest = everything[begin..].iter();
    for (start, window) in &windows {
        let mut expected: Vec<f64> = rest.by_ref().take(window.len()).copied().collect();
        expected.sort_by(f64::total_cmp);
        assert_eq!(*window, expected, "the window of {start:?} in {windows:?}");
    }
}
