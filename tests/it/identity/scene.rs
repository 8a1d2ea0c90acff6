//! The pretended instance: its files, its metadata service, and the CloudWatch that it publishes to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::UNIX_EPOCH;

use fake_cloudwatch::{AcceptedDatum, FakeCloudWatch};
use fake_imds::{FakeImds, TokenUse};
use gpushare::status::Snapshot;

use crate::harness::{Agent, Node, PATIENCE, quoted};

/// The instance that [`FakeImds`] describes from the start.
pub(super) const INSTANCE: &str = "i-0123456789abcdef0";
/// Its dimensions without instance tags.
pub(super) const UNTAGGED: [(&str, &str); 3] = [
    ("ImageId", "ami-0123456789abcdef0"),
    ("InstanceId", INSTANCE),
    ("InstanceType", "g5.12xlarge"),
];
/// The tag that names the Auto Scaling group.
const GROUP: &str = "aws:autoscaling:groupName";
/// One disk, the root's.
const MOUNTS: &str = "21 1 259:1 / / rw - xfs /dev/nvme0n1p1 rw\n";

/// What an instance has around it.
pub(super) struct Cloud {
    pub(super) imds: FakeImds,
    pub(super) cloudwatch: FakeCloudWatch,
}

impl Cloud {
    pub(super) fn new() -> Self {
        Self {
            imds: FakeImds::start().unwrap(),
            cloudwatch: FakeCloudWatch::start().unwrap(),
        }
    }

    /// An EC2 instance without GPUs, whose firmware names [`INSTANCE`] and whose role has the credentials. It publishes
    /// every second.
    pub(super) fn node(&self) -> Node {
        let node = self.bare_node();
        let endpoint = self.imds.url();
        node.with_env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint)
    }

    /// The same, but not told where its metadata service is.
    pub(super) fn bare_node(&self) -> Node {
        let node = Node::new("")
            .without("node.instance_id")
            .with("gpu.enabled", "false")
            .with("publish.target", "\"cloudwatch\"")
            .with("publish.endpoint_url", &format!("{:?}", self.cloudwatch.url()))
            .with("publish.groups", "[\"host\", \"agent\"]")
            .with_env("AWS_EC2_METADATA_DISABLED", "false");
        write(
            &node,
            "sys/class/dmi/id/board_asset_tag",
            &format!("{INSTANCE}\n"),
        );
        write(&node, "sys/class/dmi/id/sys_vendor", "Amazon EC2\n");
        write(&node, "proc/self/mountinfo", MOUNTS);
        write(&node, "proc/stat", "cpu  10 0 0 30 0 0 0 0 0 0\n");
        write(&node, "proc/diskstats", "");
        let root = quoted(&node.path("root"));
        node.with("host.root_dir", &root)
    }

    /// Puts the instance into an Auto Scaling group, and lets its tags be seen.
    pub(super) fn tag(&self, group: &str) {
        let tags = BTreeMap::from([(GROUP.to_owned(), group.to_owned())]);
        self.imds.change(|node| node.tags = Some(tags));
    }

    /// Waits until this many windows of the host's memory have arrived.
    #[track_caller]
    pub(super) fn wait_windows(&self, agent: &Agent, count: usize) {
        self.wait_accepted(agent, "windows", |accepted| {
            windows_of(accepted, "mem_used_percent").len() >= count
        });
    }

    /// Waits until what has arrived is as wanted.
    #[track_caller]
    pub(super) fn wait_accepted(&self, agent: &Agent, what: &str, wanted: impl Fn(&[AcceptedDatum]) -> bool) {
        let arrived = self.cloudwatch.wait_for(PATIENCE, |accepted, _| wanted(accepted));
        assert!(
            arrived,
            "never arrived: {what}\nstatus: {:#?}\nlog:\n{}",
            agent.status(),
            agent.log()
        );
    }

    /// The requests that reached CloudWatch, and the questions to the metadata service, were all in order.
    #[track_caller]
    pub(super) fn assert_well_behaved(&self) {
        for attempt in self.cloudwatch.attempts() {
            assert_eq!(attempt.status, Some(200), "{attempt:?}");
        }
        self.assert_only_version_2();
    }

    /// Nothing but a token was ever asked for without a token: no `IMDSv1`.
    #[track_caller]
    pub(super) fn assert_only_version_2(&self) {
        for request in self.imds.requests() {
            let asks_for_token = request.method == "PUT" && request.path == "/latest/api/token";
            assert!(asks_for_token || request.token != TokenUse::Absent, "{request:?}");
        }
    }
}

/// Writes a file below the node's root directory.
pub(super) fn write(node: &Node, file: &str, text: &str) {
    let path = node.path("root").join(file);
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(path, text).unwrap();
}

/// The windows of one metric with their samples, by their start in Unix seconds. Each has arrived once.
#[track_caller]
pub(super) fn windows_of(accepted: &[AcceptedDatum], metric: &str) -> BTreeMap<u64, f64> {
    let mut windows = BTreeMap::new();
    for datum in accepted.iter().filter(|datum| datum.key.series.metric == metric) {
        let start = datum.key.timestamp.duration_since(UNIX_EPOCH).unwrap();
        assert_eq!(start.subsec_nanos(), 0, "{datum:?}");
        let earlier = windows.insert(start.as_secs(), datum.counts.iter().sum());
        assert_eq!(earlier, None, "doubled: {datum:?}");
    }
    windows
}

/// Every second from the start of the agent on has its window, and none has two.
#[track_caller]
pub(super) fn assert_gapless(accepted: &[AcceptedDatum], started_at: f64) {
    let windows = windows_of(accepted, "mem_used_percent");
    let (first, last) = (*windows.keys().next().unwrap(), *windows.keys().last().unwrap());
    let starts: Vec<u64> = windows.into_keys().collect();
    assert_eq!(starts, (first..=last).collect::<Vec<_>>());
    assert!(
        (first as f64) < started_at + 1.0,
        "the first window is {first}, the agent began at {started_at}"
    );
}

/// The sets of dimensions that the host's memory arrived with, in the order of the windows.
pub(super) fn dimensions_in_time(accepted: &[AcceptedDatum]) -> Vec<BTreeMap<String, String>> {
    let memory = accepted
        .iter()
        .filter(|datum| datum.key.series.metric == "mem_used_percent");
    let by_time: BTreeMap<_, _> = memory
        .map(|datum| (datum.key.timestamp, datum.key.series.dimensions.clone()))
        .collect();
    by_time.into_values().collect()
}

/// All sets of dimensions that the host's memory has arrived with.
pub(super) fn dimensions(accepted: &[AcceptedDatum]) -> BTreeSet<BTreeMap<String, String>> {
    dimensions_in_time(accepted).into_iter().collect()
}

/// The one set of dimensions that is made up of these.
pub(super) fn only(pairs: &[(&str, &str)]) -> BTreeSet<BTreeMap<String, String>> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    BTreeSet::from([pairs.iter().map(owned).collect()])
}

/// Whether the node waits for something that is described in these words.
pub(super) fn waits_for(status: &Snapshot, words: &str) -> bool {
    let waiting = status.node_waiting_for.as_deref();
    waiting.is_some_and(|waiting| waiting.contains(words))
}

/// The problems of a snapshot with their mends, a line each.
pub(super) fn problems(status: &Snapshot) -> String {
    let lines = status
        .problems
        .iter()
        .map(|problem| format!("{} -> {}\n", problem.what, problem.mend));
    lines.collect()
}
