use std::collections::BTreeMap;
use std::path::Path;

use fake_imds::trouble::Fate;
use fake_imds::{FakeImds, Rule, Trouble};
use tempfile::TempDir;

use super::*;
use crate::config::Dimension;
use crate::identity::facts::Service;

const TOKEN: &str = "/latest/api/token";
const DOCUMENT: &str = "/latest/dynamic/instance-identity/document";
const TAGS: &str = "/latest/meta-data/tags/instance";
/// Longer than anything takes here; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// The metadata service of instance i-1, which shows no tags.
fn untagged() -> FakeImds {
    let imds = FakeImds::start().unwrap();
    imds.change(|node| {
        node.instance_id = "i-1".into();
        node.image_id = "ami-1".into();
        node.region = "eu-west-1".into();
    });
    imds
}

/// The same in an Auto Scaling group.
fn tagged(group: &str) -> FakeImds {
    let imds = untagged();
    tag(&imds, group);
    imds
}

fn tag(imds: &FakeImds, group: &str) {
    let tags = BTreeMap::from([("aws:autoscaling:groupName".to_owned(), group.to_owned())]);
    imds.change(|node| node.tags = Some(tags));
}

/// A port that refuses connections, and is nobody else's.
fn nobody() -> FakeImds {
    let imds = untagged();
    imds.vanish(None);
    imds
}

/// How many questions had this in their path.
fn asked(imds: &FakeImds, part: &str) -> usize {
    let requests = imds.requests();
    requests
        .iter()
        .filter(|request| request.path.contains(part))
        .count()
}

fn error(status: u16) -> Fate {
    Fate::Error { status }
}

fn wrong(text: &str) -> Fate {
    Fate::Wrong { text: text.into() }
}

/// A node in a directory.
struct Node {
    root: TempDir,
    settings: IdentitySettings,
}

impl Node {
    fn new(machine: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let dmi = root.path().join("sys/class/dmi/id");
        fs_err::create_dir_all(&dmi).unwrap();
        fs_err::write(dmi.join("board_asset_tag"), machine).unwrap();
        fs_err::write(dmi.join("sys_vendor"), "some vendor").unwrap();
        let short = Duration::from_millis(300);
        let settings = IdentitySettings {
            wishes: Wishes {
                configured: Identity::default(),
                dimensions: vec![
                    Dimension::InstanceId,
                    Dimension::ImageId,
                    Dimension::AutoScalingGroupName,
                ],
                region: true,
                service: Service::Standard,
            },
            root_dir: root.path().into(),
            cache_file: root.path().join("state/identity.json"),
            waits: Waits {
                cached: short,
                elsewhere: short,
                unknown: short,
                disabled: short,
                tags: short,
                no_group: short,
                kubelet: PATIENCE,
                half_written: PATIENCE,
                first_retry: Duration::from_millis(10),
                longest_retry: Duration::from_millis(50),
                late: Duration::from_millis(50),
                beat: Duration::from_millis(10),
                patience: short,
            },
        };
        Self { root, settings }
    }

    fn cache(&self) -> &Path {
        &self.settings.cache_file
    }

    fn start(&self, imds: &FakeImds) -> Running {
        let (publish, status) = watch::channel(IdentityStatus::default());
        let task = IdentityTask::new(self.settings.clone(), Imds::at(&imds.url()), publish);
        let shutdown = CancellationToken::new();
        Running {
            status,
            task: tokio::spawn(task.run(shutdown.clone())),
            shutdown,
        }
    }
}

struct Running {
    status: watch::Receiver<IdentityStatus>,
    task: tokio::task::JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Running {
    async fn until(&mut self, wanted: impl FnMut(&IdentityStatus) -> bool) -> IdentityStatus {
        let status = tokio::time::timeout(PATIENCE, self.status.wait_for(wanted)).await;
        let status = status.map(|status| status.unwrap().clone());
        status.unwrap_or_else(|_| panic!("still {:?}", *self.status.borrow()))
    }

    async fn settled(&mut self) -> Identity {
        let status = self.until(|status| status.settled).await;
        assert_eq!((status.waiting_for, status.mend), (None, None));
        status.identity
    }

    /// A reason to wait that has these words in it.
    async fn waiting_for(&mut self, words: &str) {
        let has = |status: &IdentityStatus| {
            status
                .waiting_for
                .as_ref()
                .is_some_and(|text| text.contains(words))
        };
        let waited = tokio::time::timeout(PATIENCE, self.status.wait_for(|status| has(status)))
            .await
            .map(drop);
        assert!(waited.is_ok(), "{words:?} is not in {:?}", *self.status.borrow());
        assert!(!self.status.borrow().settled);
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(1), self.task)
            .await
            .expect("the task ends at once")
            .unwrap();
    }
}

async fn eventually(what: impl Fn() -> bool) {
    let all = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("it comes about");
}

#[tokio::test]
async fn one_token_and_two_questions_settle_a_node_with_tags() {
    let imds = tagged("gpu nodes");
    let node = Node::new("i-1");
    let mut running = node.start(&imds);
    let identity = running.settled().await;
    assert_eq!(identity.instance_id.as_deref(), Some("i-1"));
    assert_eq!(identity.region.as_deref(), Some("eu-west-1"));
    assert_eq!(identity.auto_scaling_group.as_deref(), Some("gpu nodes"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(
        [TOKEN, DOCUMENT, TAGS].map(|path| asked(&imds, path)),
        [1; 3],
        "a settled node asks nothing"
    );
    eventually(|| cache::read(node.cache(), "i-1").as_ref() == Some(&identity)).await;
    running.stop().await;
}

#[tokio::test]
async fn what_is_configured_needs_nobody() {
    let mut node = Node::new("i-1");
    let all = Some("mine".to_owned());
    node.settings.wishes.configured = Identity {
        instance_id: all.clone(),
        image_id: all.clone(),
        region: all.clone(),
        auto_scaling_group: all,
        ..Identity::default()
    };
    let imds = tagged("gpu");
    let mut running = node.start(&imds);
    assert!(running.status.borrow().settled, "before the task has run at all");
    assert_eq!(running.settled().await, node.settings.wishes.configured);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(imds.requests(), []);
    running.stop().await;
}

#[tokio::test]
async fn c11_a_service_that_comes_up_late_is_found() {
    let node = Node::new("i-1");
    let imds = tagged("gpu");
    imds.vanish(None);
    let mut running = node.start(&imds);
    running.waiting_for("Connection refused").await;
    let status = running.until(|status| status.mend.is_some()).await;
    assert!(status.mend.unwrap().contains("hop limit"));
    imds.play([
        Rule::first(2, Trouble::on(TOKEN, error(503))),
        Rule::first(2, Trouble::on(DOCUMENT, error(500))),
    ]);
    imds.appear();
    running.waiting_for("is answered with status 50").await;
    assert_eq!(running.settled().await.image_id.as_deref(), Some("ami-1"));
    running.stop().await;
}

#[tokio::test]
async fn c11_a_service_that_is_switched_off_holds_nothing_up_and_is_found_when_it_is_switched_on() {
    let imds = tagged("gpu");
    imds.play([Rule::always(Trouble::everywhere(error(403)))]);
    let node = Node::new("i-1");
    let mut running = node.start(&imds);
    running
        .waiting_for("status 403: the service is off for this instance")
        .await;
    let identity = running.settled().await;
    let firmware_only = Identity {
        instance_id: Some("i-1".into()),
        ..Identity::default()
    };
    assert_eq!(identity, firmware_only);

    imds.play([]);
    let image = || cache::read(node.cache(), "i-1").and_then(|found| found.image_id);
    eventually(|| image().as_deref() == Some("ami-1")).await;
    assert_eq!(
        running.status.borrow().identity,
        firmware_only,
        "settled is settled"
    );
    running.stop().await;
}

#[tokio::test]
async fn c11_a_service_that_is_switched_off_is_waited_for_where_nobody_names_the_instance() {
    let imds = tagged("gpu");
    imds.play([Rule::always(Trouble::everywhere(error(403)))]);
    let mut node = Node::new("no tag");
    node.settings.wishes.service = Service::Expected;
    let mut running = node.start(&imds);
    running.waiting_for("InstanceId, ImageId").await;
    tokio::time::sleep(node.settings.waits.disabled * 2).await;
    assert!(!running.status.borrow().settled);
    running.stop().await;
}

#[tokio::test]
async fn c11_the_second_start_needs_no_service() {
    let node = Node::new("i-1");
    let imds = tagged("gpu");
    let mut first = node.start(&imds);
    let identity = first.settled().await;
    eventually(|| node.cache().exists()).await;
    first.stop().await;

    imds.vanish(None);
    let mut second = node.start(&imds);
    assert_eq!(second.settled().await, identity);
    second.stop().await;

    let clone = node.root.path().join("sys/class/dmi/id/board_asset_tag");
    fs_err::write(clone, "i-2").unwrap();
    let mut cloned = node.start(&imds);
    cloned.waiting_for("ImageId").await;
    tokio::time::sleep(node.settings.waits.cached * 2).await;
    let status = cloned.status.borrow().clone();
    assert!(!status.settled, "the cache is of another instance");
    assert_eq!(status.identity.instance_id.as_deref(), Some("i-2"));
    cloned.stop().await;
}

#[tokio::test]
async fn c11_a_stop_before_the_cache_counts_publishes_what_it_says() {
    let mut node = Node::new("i-1");
    node.settings.waits.cached = PATIENCE * 10;
    let cached = Identity {
        instance_id: Some("i-1".into()),
        image_id: Some("ami-1".into()),
        ..Identity::default()
    };
    cache::write(node.cache(), &cached).unwrap();
    let mut running = node.start(&nobody());
    running.waiting_for("ImageId").await;
    running
        .until(|status| status.identity.instance_id.is_some())
        .await;
    assert_eq!(running.status.borrow().identity.image_id, None);
    let mut status = running.status.clone();
    running.stop().await;
    let last = status.borrow_and_update().clone();
    assert_eq!((last.identity, last.settled), (cached, false));
    let waiting_for = last.waiting_for.unwrap();
    assert!(waiting_for.starts_with("the region from"), "{waiting_for}");
}

#[tokio::test]
async fn c11_a_damaged_cache_is_replaced() {
    let node = Node::new("i-1");
    fs_err::create_dir_all(node.cache().parent().unwrap()).unwrap();
    fs_err::write(node.cache(), "{\"instance_id\": \"i-").unwrap();
    let imds = tagged("gpu");
    let mut running = node.start(&imds);
    let identity = running.settled().await;
    eventually(|| cache::read(node.cache(), "i-1").is_some()).await;
    assert_eq!(cache::read(node.cache(), "i-1"), Some(identity));
    running.stop().await;
}

#[tokio::test]
async fn c11_a_cache_that_cannot_be_written_holds_nothing_up() {
    let mut node = Node::new("i-1");
    let file = node.root.path().join("a file");
    fs_err::write(&file, "").unwrap();
    node.settings.cache_file = file.join("identity.json");
    let imds = tagged("gpu");
    let mut running = node.start(&imds);
    running.settled().await;
    running.stop().await;
}

#[tokio::test]
async fn c12_without_tags_the_group_is_left_out_and_a_late_one_waits_for_the_next_start() {
    let imds = untagged();
    let node = Node::new("i-1");
    let mut running = node.start(&imds);
    running.waiting_for("AutoScalingGroupName").await;
    let identity = running.settled().await;
    assert_eq!(identity.auto_scaling_group, None);
    tag(&imds, "late");
    let group = || cache::read(node.cache(), "i-1").and_then(|found| found.auto_scaling_group);
    eventually(|| group().as_deref() == Some("late")).await;
    assert_eq!(running.status.borrow().identity, identity, "settled is settled");
    running.stop().await;

    let mut next = node.start(&imds);
    assert_eq!(next.settled().await.auto_scaling_group.as_deref(), Some("late"));
    next.stop().await;
}

#[tokio::test]
async fn c12_tags_that_fail_are_not_waited_for_without_limit() {
    let imds = tagged("gpu");
    imds.play([Rule::always(Trouble::on(TAGS, error(500)))]);
    let node = Node::new("i-1");
    let mut running = node.start(&imds);
    running
        .waiting_for("AutoScalingGroupName from the instance tags in the metadata service (")
        .await;
    assert_eq!(running.settled().await.auto_scaling_group, None);
    running.stop().await;
}

#[tokio::test]
async fn a_laptop_settles_with_what_it_is_told() {
    let mut node = Node::new("Not Available");
    node.settings.wishes.configured.instance_id = Some("laptop".into());
    let mut running = node.start(&nobody());
    let identity = running.settled().await;
    assert_eq!(identity.instance_id.as_deref(), Some("laptop"));
    assert_eq!(identity.image_id, None);
    assert!(!node.cache().exists());
    running.stop().await;
}

#[tokio::test]
async fn hostile_answers_are_refused_with_a_reason() {
    for (fate, reason) in [
        (Fate::Html { status: 200 }, "it starts with \"<!DOCTYPE"),
        (Fate::NotUtf8, "invalid UTF-8"),
        (Fate::Huge { bytes: 100_000 }, "length limit exceeded"),
        (Fate::Endless, "length limit exceeded"),
        (
            wrong(r#"{"instanceId": "i-1; rm -rf"}"#),
            "the instance id \"i-1; rm -rf\"",
        ),
        (
            wrong(r#"{"instanceId": "i-2"}"#),
            "about instance i-2, but this is instance i-1",
        ),
        (error(403), "status 403: the service is off"),
        (Fate::Html { status: 302 }, "status 302"),
    ] {
        let imds = tagged("gpu");
        imds.play([Rule::always(Trouble::on(DOCUMENT, fate))]);
        let node = Node::new("i-1");
        let mut running = node.start(&imds);
        running.waiting_for(reason).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn hostile_tokens_are_refused_with_a_reason() {
    for (fate, reason) in [
        (error(403), "status 403: the service is off"),
        (error(500), "status 500"),
        (wrong("two\r\nlines"), "invalid token"),
        (Fate::Endless, "length limit exceeded"),
    ] {
        let imds = tagged("gpu");
        imds.play([Rule::always(Trouble::on(TOKEN, fate))]);
        let node = Node::new("i-1");
        let mut running = node.start(&imds);
        running.waiting_for(reason).await;
        assert_eq!(asked(&imds, DOCUMENT), 0, "there is no version 1");
        running.stop().await;
    }
}

#[tokio::test]
async fn a_hanging_service_holds_up_neither_the_reason_nor_the_end() {
    let imds = untagged();
    imds.play([Rule::always(Trouble::everywhere(Fate::Hang))]);
    let node = Node::new("i-1");
    let mut running = node.start(&imds);
    eventually(|| asked(&imds, TOKEN) > 0).await;
    running.waiting_for("timeout").await;
    running.stop().await;
}

#[tokio::test]
async fn a_forgotten_token_is_replaced() {
    let imds = tagged("gpu");
    // The first question that has a token is refused, as after a clock step.
    imds.play([Rule::first(1, Trouble::on(DOCUMENT, error(401)))]);
    let node = Node::new("i-1");
    let mut running = node.start(&imds);
    running.settled().await;
    assert_eq!(asked(&imds, TOKEN), 2);
    running.stop().await;
}

#[tokio::test]
async fn the_kubelets_files_are_found_when_the_bootstrap_has_written_them() {
    let imds = tagged("gpu");
    let mut node = Node::new("i-1");
    node.settings.wishes.dimensions = vec![Dimension::ClusterName, Dimension::NodegroupName];
    let mut running = node.start(&imds);
    running
        .waiting_for("ClusterName, NodegroupName from the kubelet's files")
        .await;
    for (path, text) in [
        ("var/lib/kubelet/kubeconfig", "args: [token, -i"),
        ("etc/eks/kubelet/environment", "NODEADM_KUBELET_ARGS=--node-la"),
    ] {
        let path = node.root.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }
    tokio::time::sleep(node.settings.waits.beat * 10).await;
    assert!(!running.status.borrow().settled, "half a file is no answer");
    for (path, text) in [
        ("var/lib/kubelet/kubeconfig", "args: [token, -i, prod]"),
        (
            "etc/eks/kubelet/environment",
            "NODEADM_KUBELET_ARGS=--node-labels=eks.amazonaws.com/nodegroup=gpu",
        ),
    ] {
        let path = node.root.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }
    let identity = running.settled().await;
    assert_eq!(identity.cluster.as_deref(), Some("prod"));
    assert_eq!(identity.nodegroup.as_deref(), Some("gpu"));
    running.stop().await;
}
