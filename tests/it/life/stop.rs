//! The end: signals, and readers that do not read.

use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use super::scene::{
    FILLING, NO_GPUS, ONE_GPU, STOP, assert_adds_up, full_pipe, has_ended, samples_in, windows,
};
use crate::harness::{Datum, Node, datums, output, wait_for};

#[test]
fn sigterm_closes_the_open_window_with_its_true_sample_count() {
    // A window that never ends by itself, unless the test runs over the full hour.
    let node = Node::new(ONE_GPU).with("publish.interval", "\"1h\"");
    let begun = Instant::now();
    let agent = node.start();
    let before = agent.wait("ten ticks, with readings of the GPU", |status| {
        status.sampler.ticks >= 10 && status.gpu.driver.is_ready()
    });
    let ended = agent.terminate();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(ended.took < STOP, "{:?}", ended.took);

    for start in windows(&ended.batches).into_keys() {
        assert_eq!(start % 3600, 0, "an early end does not change the start");
    }
    let printed: f64 = ended.batches.iter().map(samples_in).sum();
    assert!(
        printed >= before.sampler.ledger.collected as f64,
        "{printed} of {:?}",
        before.sampler.ledger
    );
    let said = ended
        .log
        .lines()
        .find(|line| line.contains("closed the open window"))
        .unwrap();
    let last = samples_in(ended.batches.last().unwrap());
    let number = format!("samples={last}");
    assert!(
        said.split_whitespace().any(|word| word == number),
        "{last} were printed: {said}"
    );

    let memory: f64 = datums(&ended.batches, "mem_used_percent")
        .iter()
        .map(Datum::samples)
        .sum();
    let upper = begun.elapsed().as_secs_f64() / 0.1 + 1.0;
    // A tick asks the host for a sample unless two are under way, and those two may not have come back.
    let lower = (before.sampler.ticks - before.sampler.host_late) as f64 - 2.0;
    assert!(
        (lower..=upper).contains(&memory),
        "{memory}, from {lower} to {upper}"
    );
}

#[test]
fn sigint_and_sighup_stop_it_like_sigterm() {
    for signal in [Signal::INT, Signal::HUP] {
        let node = Node::new(NO_GPUS).with("publish.interval", "\"1h\"");
        let agent = node.start();
        let before = agent.wait("a host sample", |status| status.sampler.host.is_some());
        agent.signal(signal);
        let ended = agent.ended();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
        assert!(ended.took < STOP, "{:?}", ended.took);
        let printed: f64 = ended.batches.iter().map(samples_in).sum();
        assert!(printed >= before.sampler.ledger.collected as f64);
        assert!(!node.path("status.sock").exists());
    }
}

#[test]
fn sighup_that_was_ignored_at_the_start_stays_ignored() {
    let node = Node::new(NO_GPUS).with("gpu.enabled", "false");
    let run = node.command(&["run"]);
    let mut nohup = Command::new("sh");
    nohup
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
        .arg(run.get_program())
        .args(run.get_args());
    let agent = node.spawn(nohup, Stdio::null());
    let before = agent.wait("the first tick", |status| status.sampler.ticks > 0);
    agent.signal(Signal::HUP);
    agent.wait("it goes on", |status| {
        status.sampler.ticks >= before.sampler.ticks + 3
    });
    let ended = agent.terminate();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(!ended.log.contains("SIGHUP"), "{}", ended.log);
}

#[test]
fn a_reader_that_stops_reading_holds_up_neither_sampling_nor_status_nor_the_end() {
    let node = Node::new(NO_GPUS);
    let (_reader, stdout) = full_pipe();
    let agent = node.start_into(&["run"], stdout);
    let before = agent.wait("two windows wait", |status| status.publish.pending_windows >= 2);
    assert_eq!(before.publish.done.windows, 0, "nothing went into a full pipe");
    assert_adds_up(&before);
    let later = agent.wait("sampling goes on", |status| {
        status.sampler.ticks >= before.sampler.ticks + 5 && status.publish.pending_windows >= 3
    });
    assert_adds_up(&later);

    let ended = agent.terminate();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert!(ended.took < STOP, "{:?}", ended.took);
    let said = ended.log.lines().last().unwrap();
    assert_eq!(
        said,
        "gpushare: stopped before publisher had finished; nothing is lost"
    );
    // It all waits for the next start, and for a reader.
    let status = node
        .start()
        .wait("the spool is open", |status| status.publish.earlier.runs == 1);
    let (_, open) = later.sampler.open_window.unwrap();
    let found = status.publish.earlier.collected;
    assert!(found >= later.publish.pending_samples + open, "{found} in all");
}

#[test]
fn a_second_signal_leaves_at_once_even_from_a_blocked_pipe() {
    let node = Node::new(NO_GPUS);
    let (_reader, stdout) = full_pipe();
    let agent = node.start_into(&["run"], stdout);
    agent.wait("a window waits", |status| status.publish.pending_windows >= 1);
    agent.signal(Signal::TERM);
    wait_for(|| agent.log().contains("closed the open window").then_some(())).unwrap();
    agent.signal(Signal::INT);
    let ended = agent.ended();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert!(
        ended.log.contains("second signal: leaving at once"),
        "{}",
        ended.log
    );
    assert!(
        !ended.log.contains("stopped before"),
        "it did not wait for the limit: {}",
        ended.log
    );
}

#[test]
fn a_reader_that_comes_back_gets_every_window() {
    let node = Node::new(NO_GPUS);
    let (mut reader, stdout) = full_pipe();
    let agent = node.start_into(&["run"], stdout);
    agent.wait("two windows wait", |status| status.publish.pending_windows >= 2);
    let reading = std::thread::spawn(move || {
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        text
    });
    let caught_up = agent.wait("all are printed", |status| {
        status.publish.done.windows >= 3 && status.publish.pending_windows == 0
    });
    assert_adds_up(&caught_up);
    let ended = agent.terminate();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    let text = String::from_utf8(reading.join().unwrap()).unwrap();
    let lines = text.trim_start_matches(FILLING).lines();
    let batches: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    let starts: Vec<u64> = windows(&batches).into_keys().collect();
    assert!(
        starts.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "no window is missing: {starts:?}"
    );
    let printed: f64 = batches.iter().map(samples_in).sum();
    assert!(printed >= caught_up.publish.done.samples as f64);
}

#[test]
fn a_reader_that_is_gone_is_a_clear_error() {
    let node = Node::new(ONE_GPU);
    let (reader, stdout) = std::io::pipe().unwrap();
    drop(reader);
    let ended = node.start_into(&["run"], stdout).ended();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    let said = ended.log.lines().last().unwrap();
    assert!(
        said.starts_with("gpushare: cannot write to standard output: Broken pipe"),
        "{said}"
    );
    assert!(!ended.log.contains("panicked at"), "{}", ended.log);
    assert!(!node.path("status.sock").exists());
}

#[test]
fn a_log_that_nobody_reads_does_not_end_the_agent() {
    let node = Node::new(NO_GPUS);
    let (reader, stderr) = std::io::pipe().unwrap();
    drop(reader);
    let mut process = node
        .command(&["run"])
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .unwrap();
    let ask = || gpushare::status::client::request(&node.path("status.sock"), "status").ok();
    let answer = wait_for(|| ask().filter(|answer| !answer.contains("\"last_window\":null")));
    let pid = rustix::process::Pid::from_child(&process);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let status = process.wait().unwrap();
    assert!(answer.is_some(), "no window was printed");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_killed_agent_takes_its_nvml_process_along_and_its_socket_is_replaced() {
    let node = Node::new(ONE_GPU);
    let first = node.start();
    let status = first.wait("NVML is ready", |status| status.gpu.driver.is_ready());
    let nvml = status.gpu.child.pid.unwrap();
    assert!(!has_ended(nvml));
    first.signal(Signal::KILL);
    assert_eq!(first.ended().status.signal(), Some(9));
    wait_for(|| has_ended(nvml).then_some(())).expect("the NVML process ends with its agent");

    let socket = node.path("status.sock");
    assert!(
        fs_err::symlink_metadata(&socket).unwrap().file_type().is_socket(),
        "nobody has cleaned up"
    );
    let (code, _, stderr) = output(node.command(&["status"]));
    assert_eq!(code, 69, "{stderr}");
    assert!(stderr.contains("no agent answers on"), "{stderr}");

    let second = node.start();
    assert_eq!(second.status().unwrap().agent.pid, second.pid());
    assert_eq!(second.terminate().status.code(), Some(0));
}
