use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::*;
use crate::config::Dimension;
use crate::identity::facts::Service;

const DOCUMENT: &str =
    r#"{"instanceId": "i-1", "imageId": "ami-1", "instanceType": "g5.xlarge", "region": "eu-west-1"}"#;
/// Longer than anything takes here; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a question is answered with.
#[derive(Clone)]
enum Answer {
    Say(u16, Vec<u8>),
    /// Declares a length, and sends zeros without end.
    Endless(u64),
    /// Chunks without a length, without end.
    Chunks,
    /// Never.
    Nothing,
}

fn say(status: u16, text: &str) -> Answer {
    Answer::Say(status, text.as_bytes().to_vec())
}

type Script = dyn Fn(&str, usize) -> Answer + Send + Sync;

/// A metadata service on a port of its own. Every question without a token is refused with status 401.
struct Stub {
    port: u16,
    questions: Arc<Mutex<Vec<String>>>,
}

impl Stub {
    /// `script` gets the path and how often it has been asked for before. A token is given unless it says otherwise.
    fn start(script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_on(0, script)
    }

    fn start_on(port: u16, script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let questions = Arc::new(Mutex::new(Vec::new()));
        let (script, asked): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&questions));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, asked) = (Arc::clone(&script), Arc::clone(&asked));
                std::thread::spawn(move || serve(stream, &*script, &asked));
            }
        });
        Self { port, questions }
    }

    /// One that knows its document, and answers the tag so.
    fn with_tag(tag: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(move |path, before| match path {
            "/latest/dynamic/instance-identity/document" => say(200, DOCUMENT),
            "/latest/meta-data/tags/instance/aws:autoscaling:groupName" => tag(before),
            _ => say(404, "<html>404 - Not Found</html>"),
        })
    }

    fn asked(&self, part: &str) -> usize {
        let questions = self.questions.lock().unwrap();
        questions.iter().filter(|path| path.contains(part)).count()
    }
}

fn serve(mut stream: TcpStream, script: &Script, asked: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    for line in BufReader::new(&stream).lines().map_while(Result::ok) {
        if line.is_empty() {
            break;
        }
        head.push(line.to_ascii_lowercase());
    }
    let Some(request) = head.first() else { return };
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    // Tag keys have capitals; the rest of the head does not matter in which case.
    let path = path.replace("groupname", "groupName");
    let before = {
        let mut asked = asked.lock().unwrap();
        asked.push(path.clone());
        asked.iter().filter(|known| **known == path).count() - 1
    };
    let token = head.iter().any(|line| line == "x-aws-ec2-metadata-token: secret");
    let answer = match script(&path, before) {
        Answer::Say(404, _) if path == "/latest/api/token" && request.starts_with("put ") => {
            say(200, "secret")
        }
        _ if path != "/latest/api/token" && !token => say(401, ""),
        answer => answer,
    };
    // Whoever has heard enough closes the connection, and that is no failure of the stub.
    let _ = send(&mut stream, answer);
}

fn send(stream: &mut TcpStream, answer: Answer) -> std::io::Result<()> {
    match answer {
        Answer::Say(status, body) => {
            let length = body.len();
            // As EC2 does: only what is a token has a time to live.
            let life = if status == 200 {
                "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n"
            } else {
                ""
            };
            write!(
                stream,
                "HTTP/1.1 {status} Status\r\n{life}content-length: {length}\r\nconnection: close\r\n\r\n"
            )?;
            stream.write_all(&body)
        }
        Answer::Endless(length) => {
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n")?;
            loop {
                stream.write_all(&[b'0'; 4096])?;
            }
        }
        Answer::Chunks => {
            write!(stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            loop {
                stream.write_all(b"4\r\n0000\r\n")?;
            }
        }
        Answer::Nothing => stream.read(&mut [0]).map(drop),
    }
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

    fn start(&self, port: u16) -> Running {
        let (publish, status) = watch::channel(IdentityStatus::default());
        let task = IdentityTask::new(self.settings.clone(), Imds::at_port(port), publish);
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

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
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
    let stub = Stub::with_tag(|_| say(200, "gpu nodes"));
    let node = Node::new("i-1");
    let mut running = node.start(stub.port);
    let identity = running.settled().await;
    assert_eq!(identity.instance_id.as_deref(), Some("i-1"));
    assert_eq!(identity.region.as_deref(), Some("eu-west-1"));
    assert_eq!(identity.auto_scaling_group.as_deref(), Some("gpu nodes"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(
        (stub.asked("token"), stub.asked("document"), stub.asked("tags")),
        (1, 1, 1),
        "a settled node asks nothing"
    );
    assert_eq!(cache::read(node.cache(), "i-1"), Some(identity));
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
    let stub = Stub::with_tag(|_| say(200, "gpu"));
    let mut running = node.start(stub.port);
    assert!(running.status.borrow().settled, "before the task has run at all");
    assert_eq!(running.settled().await, node.settings.wishes.configured);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(stub.asked(""), 0);
    running.stop().await;
}

#[tokio::test]
async fn c11_a_service_that_comes_up_late_is_found() {
    let node = Node::new("i-1");
    let port = free_port();
    let mut running = node.start(port);
    running.waiting_for("Connection refused").await;
    let status = running.until(|status| status.mend.is_some()).await;
    assert!(status.mend.unwrap().contains("hop limit"));
    let _stub = Stub::start_on(port, |path, before| match path {
        "/latest/api/token" if before < 2 => say(503, "starting"),
        "/latest/dynamic/instance-identity/document" if before < 2 => say(500, "starting"),
        "/latest/dynamic/instance-identity/document" => say(200, DOCUMENT),
        "/latest/meta-data/tags/instance/aws:autoscaling:groupName" => say(200, "gpu"),
        _ => say(404, ""),
    });
    running.waiting_for("is answered with status 50").await;
    assert_eq!(running.settled().await.image_id.as_deref(), Some("ami-1"));
    running.stop().await;
}

#[tokio::test]
async fn c11_a_service_that_is_switched_off_holds_nothing_up_and_is_found_when_it_is_switched_on() {
    let is_on = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&is_on);
    let stub = Stub::start(move |path, _| match path {
        _ if !switch.load(Ordering::SeqCst) => say(403, ""),
        "/latest/dynamic/instance-identity/document" => say(200, DOCUMENT),
        "/latest/meta-data/tags/instance/aws:autoscaling:groupName" => say(200, "gpu"),
        _ => say(404, ""),
    });
    let node = Node::new("i-1");
    let mut running = node.start(stub.port);
    running
        .waiting_for("status 403: the service is off for this instance")
        .await;
    let identity = running.settled().await;
    let firmware_only = Identity {
        instance_id: Some("i-1".into()),
        ..Identity::default()
    };
    assert_eq!(identity, firmware_only);

    is_on.store(true, Ordering::SeqCst);
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
    let stub = Stub::start(|_, _| say(403, ""));
    let mut node = Node::new("no tag");
    node.settings.wishes.service = Service::Expected;
    let mut running = node.start(stub.port);
    running.waiting_for("InstanceId, ImageId").await;
    tokio::time::sleep(node.settings.waits.disabled * 2).await;
    assert!(!running.status.borrow().settled);
    running.stop().await;
}

#[tokio::test]
async fn c11_the_second_start_needs_no_service() {
    let node = Node::new("i-1");
    let stub = Stub::with_tag(|_| say(200, "gpu"));
    let mut first = node.start(stub.port);
    let identity = first.settled().await;
    eventually(|| node.cache().exists()).await;
    first.stop().await;

    let mut second = node.start(free_port());
    assert_eq!(second.settled().await, identity);
    second.stop().await;

    let clone = node.root.path().join("sys/class/dmi/id/board_asset_tag");
    fs_err::write(clone, "i-2").unwrap();
    let mut cloned = node.start(free_port());
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
    let mut running = node.start(free_port());
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
    let stub = Stub::with_tag(|_| say(200, "gpu"));
    let mut running = node.start(stub.port);
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
    let stub = Stub::with_tag(|_| say(200, "gpu"));
    let mut running = node.start(stub.port);
    running.settled().await;
    running.stop().await;
}

#[tokio::test]
async fn c12_without_tags_the_group_is_left_out_and_a_late_one_waits_for_the_next_start() {
    let stub = Stub::with_tag(|before| {
        if before < 3 {
            say(404, "")
        } else {
            say(200, "late")
        }
    });
    let node = Node::new("i-1");
    let mut running = node.start(stub.port);
    running.waiting_for("AutoScalingGroupName").await;
    let identity = running.settled().await;
    assert_eq!(identity.auto_scaling_group, None);
    let group = || cache::read(node.cache(), "i-1").and_then(|found| found.auto_scaling_group);
    eventually(|| group().as_deref() == Some("late")).await;
    assert_eq!(running.status.borrow().identity, identity, "settled is settled");
    running.stop().await;

    let mut next = node.start(stub.port);
    assert_eq!(next.settled().await.auto_scaling_group.as_deref(), Some("late"));
    next.stop().await;
}

#[tokio::test]
async fn c12_tags_that_fail_are_not_waited_for_without_limit() {
    let stub = Stub::with_tag(|_| say(500, ""));
    let node = Node::new("i-1");
    let mut running = node.start(stub.port);
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
    let mut running = node.start(free_port());
    let identity = running.settled().await;
    assert_eq!(identity.instance_id.as_deref(), Some("laptop"));
    assert_eq!(identity.image_id, None);
    assert!(!node.cache().exists());
    running.stop().await;
}

#[tokio::test]
async fn hostile_answers_are_refused_with_a_reason() {
    for (answer, reason) in [
        (
            say(200, "<html><body>Log in</body></html>"),
            "it starts with \"<html>",
        ),
        (Answer::Say(200, b"\xff\xfe\x00".to_vec()), "invalid UTF-8"),
        (say(200, &"0".repeat(100_000)), "length limit exceeded"),
        (Answer::Endless(1 << 40), "length limit exceeded"),
        (Answer::Chunks, "length limit exceeded"),
        (
            say(200, r#"{"instanceId": "i-1; rm -rf"}"#),
            "the instance id \"i-1; rm -rf\"",
        ),
        (
            say(200, r#"{"instanceId": "i-2"}"#),
            "about instance i-2, but this is instance i-1",
        ),
        (say(403, ""), "status 403: the service is off"),
        (say(302, ""), "status 302"),
    ] {
        let stub = Stub::start(move |path, _| match path {
            "/latest/dynamic/instance-identity/document" => answer.clone(),
            _ => say(404, ""),
        });
        let node = Node::new("i-1");
        let mut running = node.start(stub.port);
        running.waiting_for(reason).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn hostile_tokens_are_refused_with_a_reason() {
    for (answer, reason) in [
        (say(403, ""), "status 403: the service is off"),
        (say(500, ""), "status 500"),
        (say(200, "two\r\nlines"), "invalid token"),
        (Answer::Chunks, "length limit exceeded"),
    ] {
        let stub = Stub::start(move |path, _| match path {
            "/latest/api/token" => answer.clone(),
            _ => say(404, ""),
        });
        let node = Node::new("i-1");
        let mut running = node.start(stub.port);
        running.waiting_for(reason).await;
        assert_eq!(stub.asked("document"), 0, "there is no version 1");
        running.stop().await;
    }
}

#[tokio::test]
async fn a_hanging_service_holds_up_neither_the_reason_nor_the_end() {
    let stub = Stub::start(|_, _| Answer::Nothing);
    let node = Node::new("i-1");
    let mut running = node.start(stub.port);
    eventually(|| stub.asked("token") > 0).await;
    running.waiting_for("timeout").await;
    running.stop().await;
}

#[tokio::test]
async fn a_forgotten_token_is_replaced() {
    // The stub refuses what has no token; here it refuses the first question that has one, as after a clock step.
    let stub = Stub::start(|path, before| match path {
        "/latest/dynamic/instance-identity/document" if before == 0 => say(401, ""),
        "/latest/dynamic/instance-identity/document" => say(200, DOCUMENT),
        "/latest/meta-data/tags/instance/aws:autoscaling:groupName" => say(200, "gpu"),
        _ => say(404, ""),
    });
    let node = Node::new("i-1");
    let mut running = node.start(stub.port);
    running.settled().await;
    assert_eq!(stub.asked("token"), 2);
    running.stop().await;
}

#[tokio::test]
async fn the_kubelets_files_are_found_when_the_bootstrap_has_written_them() {
    let stub = Stub::with_tag(|_| say(200, "gpu"));
    let mut node = Node::new("i-1");
    node.settings.wishes.dimensions = vec![Dimension::ClusterName, Dimension::NodegroupName];
    let mut running = node.start(stub.port);
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
