//! What systemd is told.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use fake_cloudwatch::{FakeCloudWatch, Fate, Rule};

use super::scene::{ONE_GPU, STOP, has_ended};
use crate::harness::{Node, PATIENCE, datums, wait_for};
use crate::publish::scene::node;

#[test]
fn systemd_is_told_ready_then_fed_then_told_stopping() {
    let node = Node::new(ONE_GPU);
    let systemd = Systemd::on(&node);
    let limit = Duration::from_secs(2);
    let node = node.with_env("WATCHDOG_USEC", &limit.as_micros().to_string());
    let node = systemd.supervises(node);
    let agent = node.start_unseen();

    let first = systemd.next();
    assert!(first.lines().any(|line| line == "READY=1"), "{first}");
    assert!(first.lines().any(|line| line.starts_with("STATUS=")), "{first}");
    assert_eq!(agent.status().expect("ready to answer").agent.pid, agent.pid());

    // The status line is brought up to date every five seconds: time for a few feeds.
    let mut fed = Vec::new();
    let line = loop {
        let said = systemd.next();
        if said == "WATCHDOG=1" {
            fed.push(Instant::now());
        }
        if said.starts_with("STATUS=1/1 GPUs healthy") && said.contains("last window") {
            break said;
        }
    };
    assert!(line.contains("driver 580.95.05; stdout: last window "), "{line}");
    for pair in fed.windows(2) {
        assert!(pair[1] - pair[0] < limit, "systemd would have killed it: {fed:?}");
    }
    let span = *fed.last().unwrap() - fed[0];
    assert!(fed.len() >= 4, "{} feeds", fed.len());
    let mean = span / u32::try_from(fed.len() - 1).unwrap();
    assert!(
        (0.8..1.2).contains(&(mean.as_secs_f64() / (limit / 2).as_secs_f64())),
        "half of the limit: {mean:?}"
    );

    assert_eq!(agent.terminate().status.code(), Some(0));
    let stopping = systemd.wait("STOPPING=1");
    assert!(stopping.contains("STATUS=stopping"), "{stopping}");
}

#[test]
fn it_is_ready_although_nvml_hangs_and_stops_in_time() {
    let node = Node::new("[init]\nhang_ms = \"forever\"\n");
    let systemd = Systemd::on(&node);
    let node = systemd.supervises(node);
    let agent = node.start_unseen();
    let ready = systemd.next();
    assert!(
        ready.contains("READY=1") && ready.contains("STATUS=waiting for NVML"),
        "{ready}"
    );
    let status = agent.wait("the host is published meanwhile", |status| {
        status.publish.done.windows >= 2
    });
    let nvml = status.gpu.child.pid.expect("it is still trying");
    let ended = agent.terminate();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(ended.took < STOP, "{:?}", ended.took);
    assert!(!datums(&ended.batches, "mem_used_percent").is_empty());
    wait_for(|| has_ended(nvml).then_some(())).expect("the NVML process is gone");
}

#[test]
fn the_status_line_carries_a_ledger_that_adds_up_and_names_what_fails() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::Throttle)]);
    let node = node(&fake);
    let systemd = Systemd::on(&node);
    let node = systemd.supervises(node);
    let agent = node.start_unseen();

    let failing = systemd.status_line(|line| line.contains("throttled"));
    assert!(
        failing.starts_with("GPUs off; cloudwatch: throttled, no window yet, "),
        "{failing}"
    );
    assert!(
        failing.ends_with(": gpushare status"),
        "what to do stands there: {failing}"
    );
    let [_, published, pending, dropped] = ledger(&failing);
    assert!(published == 0 && pending > 0 && dropped == 0, "{failing}");

    fake.play([]);
    let well = systemd.status_line(|line| line.contains("cloudwatch: last window "));
    assert!(!well.contains("throttled"), "{well}");
    let [collected, published, _, dropped] = ledger(&well);
    assert!(
        collected > ledger(&failing)[0] && published > 0 && dropped == 0,
        "{well}"
    );
    assert_eq!(agent.terminate().status.code(), Some(0));
}

/// Collected, published, pending and dropped samples of a status line, which add up.
#[track_caller]
fn ledger(line: &str) -> [u64; 4] {
    let account = line.split("; ").find_map(|part| part.strip_prefix("samples: "));
    let account = account.unwrap_or_else(|| panic!("no ledger: {line}"));
    let words: Vec<&str> = account.split(' ').collect();
    let ["=", "+", "+"] = [words[2], words[5], words[8]] else {
        panic!("no sum: {account}");
    };
    let names = [words[1], words[4], words[7], words[10]];
    assert_eq!(
        names,
        ["collected", "published", "pending", "dropped"],
        "{account}"
    );
    let numbers = [words[0], words[3], words[6], words[9]].map(|word| word.parse().unwrap());
    let [collected, published, pending, dropped] = numbers;
    assert_eq!(collected, published + pending + dropped, "{account}");
    numbers
}

#[test]
fn a_watchdog_of_zero_is_none() {
    let node = Node::new("")
        .with("gpu.enabled", "false")
        .with_env("WATCHDOG_USEC", "0");
    let agent = node.start();
    agent.wait("it samples", |status| status.sampler.ticks >= 2);
    let ended = agent.terminate();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
}

/// The far end of `NOTIFY_SOCKET`.
pub(super) struct Systemd(UnixDatagram);

impl Systemd {
    pub(super) fn on(node: &Node) -> Self {
        let socket = UnixDatagram::bind(node.path("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// The node with an agent that knows of this end.
    pub(super) fn supervises(&self, node: Node) -> Node {
        let path = self.0.local_addr().unwrap().as_pathname().unwrap().to_owned();
        node.with_env("NOTIFY_SOCKET", path.to_str().unwrap())
    }

    pub(super) fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("the agent says something");
        String::from_utf8(buffer[..length].to_vec())
            .unwrap()
            .trim_end()
            .to_owned()
    }

    /// The next status line that is as wanted.
    pub(super) fn status_line(&self, wanted: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let said = self.next();
            let lines = said.lines().filter_map(|line| line.strip_prefix("STATUS="));
            if let Some(line) = lines.into_iter().find(|line| wanted(line)) {
                return line.to_owned();
            }
            assert!(begun.elapsed() < PATIENCE, "last said: {said}");
        }
    }

    /// The next message that holds this line.
    pub(super) fn wait(&self, line: &str) -> String {
        loop {
            let said = self.next();
            if said.lines().any(|known| known == line) {
                return said;
            }
        }
    }
}
