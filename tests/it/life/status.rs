//! What the agent answers, and to whom; what `gpushare check` finds.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use gpushare::status::Snapshot;
use serde_json::Value;

use super::scene::{NO_GPUS, ONE_GPU, STOP};
use crate::harness::{Node, PATIENCE, output, wait_for};

#[test]
fn status_answers_people_and_programs() {
    let node = Node::new(ONE_GPU);
    let agent = node.start();
    agent.wait("all is well and a window is out", |status| {
        status.gpu.gpus.iter().any(|gpu| gpu.newest.is_some())
            && status.publish.done.windows >= 1
            && status.problems.is_empty()
    });
    let (code, text, stderr) = output(node.command(&["status"]));
    assert_eq!((code, stderr.as_str()), (0, ""));
    let first = text.lines().next().unwrap();
    let name = format!(
        "gpushare {} on i-0test, pid {}, up ",
        env!("CARGO_PKG_VERSION"),
        agent.pid()
    );
    assert!(first.starts_with(&name), "{first}");
    assert!(
        text.contains("driver 580.95.05") && text.contains("NVIDIA A10G"),
        "{text}"
    );
    assert!(text.ends_with("\nNo problems.\n"), "{text}");

    let (code, text, stderr) = output(node.command(&["status", "--json"]));
    assert_eq!((code, stderr.as_str()), (0, ""));
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["version"], 1);
    let snapshot: Snapshot = serde_json::from_str(&text).unwrap();
    assert_eq!(snapshot.node.instance_id.as_deref(), Some("i-0test"));
    assert_eq!(snapshot.agent.pid, agent.pid());
    assert_eq!(
        serde_json::to_value(&snapshot).unwrap(),
        json,
        "nothing is lost on the way"
    );
}

#[test]
fn the_socket_is_for_owner_and_group_and_goes_with_the_agent() {
    let node = Node::new(NO_GPUS);
    let agent = node.start();
    let socket = node.path("status.sock");
    let mode = fs_err::symlink_metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o660, "{mode:o}");
    assert_eq!(agent.terminate().status.code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn clients_that_say_nothing_hold_up_neither_the_others_nor_the_end() {
    let node = Node::new(NO_GPUS);
    let agent = node.start();
    let silent = |clients: usize| -> Vec<UnixStream> {
        (0..clients)
            .map(|_| UnixStream::connect(node.path("status.sock")).unwrap())
            .collect()
    };
    let few = silent(20);
    let begun = Instant::now();
    assert!(agent.status().is_some());
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "it waited for the silent ones: {:?}",
        begun.elapsed()
    );

    // More than it serves at a time: one of them waits for a place when the end comes.
    let many = silent(100);
    let ended = agent.terminate();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(ended.took < STOP, "{:?}", ended.took);
    drop((few, many));
}

#[test]
fn a_client_that_says_nothing_is_cut_off() {
    let node = Node::new(NO_GPUS);
    let _agent = node.start();
    let mut client = UnixStream::connect(node.path("status.sock")).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = String::new();
    client
        .read_to_string(&mut answer)
        .expect("the agent closes the connection");
    assert_eq!(answer, "");
}

#[test]
fn twenty_clients_at_once_all_get_an_answer() {
    let node = Node::new(ONE_GPU);
    let agent = node.start();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..20).map(|_| scope.spawn(|| agent.status())).collect();
        for client in clients {
            let snapshot = client.join().unwrap().expect("an answer");
            assert_eq!((snapshot.version, snapshot.agent.pid), (1, agent.pid()));
        }
    });
}

#[test]
fn a_command_that_the_socket_does_not_know_gets_an_error_document() {
    let node = Node::new(NO_GPUS);
    let _agent = node.start();
    for (sent, named) in [
        ("reload --now\n", "reload --now"),
        ("\n", ""),
        ("{\"command\": 1}\n", "command"),
    ] {
        let mut client = UnixStream::connect(node.path("status.sock")).unwrap();
        client.write_all(sent.as_bytes()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let error = answer["error"].as_str().unwrap();
        assert!(
            error.starts_with("unknown command") && error.contains(named),
            "{error}"
        );
    }
}

#[test]
fn check_says_as_json_that_all_is_well() {
    let node = Node::new(ONE_GPU);
    let (code, text, stderr) = output(node.command(&["check", "--json"]));
    assert_eq!((code, stderr.as_str()), (0, ""), "{text}");
    let findings: Vec<BTreeMap<String, String>> = serde_json::from_str(&text).unwrap();
    let subjects: Vec<&str> = findings
        .iter()
        .map(|finding| finding["subject"].as_str())
        .collect();
    assert_eq!(
        subjects,
        [
            "configuration",
            "publish.target",
            "publish.groups",
            "status.socket",
            "node.state_dir",
            "spool.dir",
            "host.root_dir",
            "gpu",
            "gpu.kmsg",
            "mps.enabled"
        ]
    );
    for finding in &findings {
        assert_eq!(
            (finding["level"].as_str(), finding["mend"].as_str()),
            ("ok", ""),
            "{finding:?}"
        );
    }
    assert_eq!(findings[7]["found"], "driver 580.95.05, 1 x NVIDIA A10G");
    assert!(!node.path("state").exists(), "it changes nothing");
}

#[test]
fn check_says_as_json_what_is_wrong_and_how_to_mend_it() {
    let node = Node::new("[init]\nerror = 9\n");
    let agent = node.start();
    let (code, text, stderr) = output(node.command(&["check", "--json", "--set", "gpu.kmsg=/nonexistent"]));
    assert_eq!(
        (code, stderr.as_str()),
        (1, "gpushare: 1 of 10 checks failed\n"),
        "{text}"
    );
    let findings: Vec<BTreeMap<String, String>> = serde_json::from_str(&text).unwrap();
    let of = |subject: &str| {
        findings
            .iter()
            .find(|finding| finding["subject"] == subject)
            .unwrap()
    };
    assert_eq!(of("gpu")["level"], "error");
    assert!(
        of("gpu")["found"].starts_with("NVIDIA driver not loaded"),
        "{text}"
    );
    assert!(of("gpu")["mend"].contains("dmesg"), "{text}");
    assert_eq!(of("gpu.kmsg")["level"], "warning");
    assert!(of("gpu.kmsg")["mend"].contains("CAP_SYSLOG"), "{text}");
    assert!(
        of("status.socket")["found"].starts_with("an agent answers on "),
        "{text}"
    );
    drop(agent);
}

#[test]
fn check_finds_what_would_leave_the_agent_without_data_or_state() {
    let node = Node::new(NO_GPUS)
        .with("gpu.enabled", "false")
        .with("host.root_dir", "\"/nonexistent\"")
        .with("node.state_dir", "\"/proc/gpushare\"")
        .with("spool.dir", "\"/sys/gpushare\"")
        .with("publish.groups", "[]");
    let (code, text, stderr) = output(node.command(&["check"]));
    assert_eq!(
        (code, stderr.as_str()),
        (1, "gpushare: 3 of 9 checks failed\n"),
        "{text}"
    );
    for (level, subject, found) in [
        ("warning", "publish.groups", "nothing will be published"),
        (
            "ERROR",
            "node.state_dir",
            "/proc/gpushare is in a file system of the kernel",
        ),
        (
            "ERROR",
            "spool.dir",
            "/sys/gpushare is in a file system of the kernel",
        ),
        ("ERROR", "host.root_dir", "/nonexistent/proc/stat"),
    ] {
        let said = text
            .lines()
            .find(|line| line.contains(subject))
            .unwrap_or_default();
        assert!(
            said.starts_with(level) && said.contains(found),
            "{subject} in:\n{text}"
        );
    }
}

#[test]
fn a_host_that_cannot_be_read_is_a_problem_part_by_part() {
    let node = Node::new(NO_GPUS)
        .with("gpu.enabled", "false")
        .with("host.root_dir", "\"/nonexistent\"");
    let agent = node.start();
    let status = agent.wait("a host sample", |status| status.sampler.host.is_some());
    for part in ["cpu", "disk I/O", "mounts"] {
        let what = format!("a part of the host cannot be read: {part}");
        assert!(
            status.problems.iter().any(|problem| problem.what == what),
            "{:?}",
            status.problems
        );
    }
}

#[test]
fn a_watched_status_outlives_the_agent_and_ends_with_its_reader() {
    let node = Node::new(NO_GPUS).with("gpu.enabled", "false");
    let mut watch = node.command(&["status", "--watch"]);
    let watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watch = watch.spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut wait = |wanted: &str| {
        let seen = lines.any(|line| line.unwrap().contains(wanted));
        assert!(seen, "it ended before it said: {wanted}");
    };
    wait("no agent answers");
    let agent = node.start();
    wait("on i-0test, pid ");
    agent.terminate();
    wait("no agent answers");
    drop(lines);
    let status = wait_for(|| watch.try_wait().unwrap()).expect("nobody reads: it ends");
    let mut stderr = String::new();
    watch.stderr.unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn an_answer_that_nobody_reads_is_no_failure() {
    let node = Node::new(NO_GPUS).with("gpu.enabled", "false");
    let _agent = node.start();
    for arguments in [&["status"][..], &["status", "--json"], &["check"]] {
        let (reader, stdout) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = node.command(arguments);
        let status = command.stdout(stdout).stderr(Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn check_says_whether_the_spool_has_the_room_that_it_may_take() {
    let node = Node::new(NO_GPUS).with("gpu.enabled", "false");
    for (key, code, level, found) in [
        ("spool.min_free_bytes=4PiB", 1, "ERROR", "windows wait in memory"),
        ("spool.max_bytes=4PiB", 0, "warning", "less than spool.max_bytes"),
    ] {
        let (ended, text, _) = output(node.command(&["check", "--set", key]));
        let said = text
            .lines()
            .find(|line| line.contains("  spool.dir "))
            .unwrap_or_default();
        assert_eq!(ended, code, "{text}");
        assert!(said.starts_with(level) && said.contains(found), "{text}");
    }
    assert!(!node.path("spool").exists(), "it changes nothing");
}
