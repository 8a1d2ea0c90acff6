//! `gpushare reload`.

use std::process::Stdio;

use fake_cloudwatch::{FakeCloudWatch, Fate, Rule};
use rustix::process::Signal;

use super::scene::{NO_GPUS, ONE_GPU, STOP, assert_adds_up, full_pipe};
use super::systemd::Systemd;
use crate::harness::{Agent, Ended, Node, output, quoted, wait_for};
use crate::publish::scene::node;

/// An agent under a systemd, whose request to CloudWatch is under way.
struct Hanging {
    _fake: FakeCloudWatch,
    systemd: Systemd,
    node: Node,
    agent: Agent,
}

/// A request under way gets two seconds for its answer when the agent ends: time for a signal or another reload.
fn hanging() -> Hanging {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::Hang)]);
    let node = node(&fake);
    let systemd = Systemd::on(&node);
    let node = systemd.supervises(node);
    let agent = node.start();
    systemd.wait("READY=1");
    wait_for(|| (!fake.attempts().is_empty()).then_some(())).expect("a request is under way");
    Hanging {
        _fake: fake,
        systemd,
        node,
        agent,
    }
}

/// Every sample is in a window that was printed.
fn assert_nothing_lost(node: &Node, ended: &Ended) {
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(ended.took < STOP, "{:?}", ended.took);
    let next = node.start();
    let ledger = next.wait("the ledger of the runs before", |status| {
        status.publish.earlier.runs > 0 && status.publish.earlier.collected > 0
    });
    let earlier = &ledger.publish.earlier;
    assert_eq!(earlier.collected, earlier.published, "{earlier:?}");
    assert!(earlier.dropped.is_empty(), "{earlier:?}");
}

#[test]
fn what_was_changed_is_used_by_the_same_process_and_no_sample_is_lost() {
    let node = Node::new(ONE_GPU);
    let systemd = Systemd::on(&node);
    let node = systemd.supervises(node);
    let agent = node.start();
    systemd.wait("READY=1");
    let before = agent.wait("windows are printed", |status| status.publish.done.windows >= 2);
    assert_eq!(before.configuration.loads, 1);

    let node = node
        .with("publish.interval", "\"2s\"")
        .with("publish.groups", "[\"gpu\"]");
    let (code, stdout, stderr) = output(node.command(&["reload"]));
    assert_eq!(
        (code, stdout.as_str(), stderr.as_str()),
        (0, "reloaded: publish.groups, publish.interval\n", "")
    );
    assert!(systemd.wait("RELOADING=1").contains("MONOTONIC_USEC="));
    systemd.wait("READY=1");
    let after = agent.wait("windows are printed again", |status| {
        status.publish.done.windows >= 1
    });
    assert_eq!(
        (after.agent.pid, after.agent.started_at),
        (before.agent.pid, before.agent.started_at)
    );
    assert_eq!(
        (after.configuration.loads, after.publish.interval_seconds),
        (2, 2)
    );
    assert_eq!(after.publish.groups, ["gpu"]);
    assert_eq!(after.publish.earlier.runs, 1, "the spool is the same");

    let (code, stdout, _) = output(node.command(&["reload"]));
    assert_eq!((code, stdout.as_str()), (0, "nothing has changed\n"));
    let ended = agent.terminate();
    assert!(
        !ended.log.contains("the spool's disk does not answer"),
        "{}",
        ended.log
    );
    assert_nothing_lost(&node, &ended);
}

#[test]
fn a_wrong_configuration_is_refused_and_the_agent_goes_on() {
    let node = Node::new(ONE_GPU);
    let agent = node.start();
    let node = node.with("publish.intervall", "\"2s\"");
    let (code, stdout, stderr) = output(node.command(&["reload"]));
    assert_eq!((code, stdout.as_str()), (78, ""), "{stderr}");
    assert!(stderr.contains("publish.intervall"), "{stderr}");

    // Wrong for the agent alone: its own command line comes after the file.
    let node = node.without("publish.intervall").with("publish.max_series", "1");
    let (code, _, stderr) = output(node.command(&["reload", "--set", "publish.max_series=500"]));
    assert_eq!(code, 0, "one series is few, not wrong: {stderr}");
    let node = node.with("publish.max_series", "0");
    let (code, _, stderr) = output(node.command(&["reload", "--set", "publish.max_series=500"]));
    assert_eq!(code, 78, "{stderr}");
    assert!(
        stderr.contains("the agent refuses the configuration") && stderr.contains("publish.max_series"),
        "{stderr}"
    );
    let status = agent.wait("the problem is told", |status| {
        status.configuration.refused.is_some()
    });
    let told = |problem: &gpushare::status::problems::Problem| {
        problem.what.contains("publish.max_series") && problem.mend.contains("gpushare reload")
    };
    assert!(status.problems.iter().any(told), "{:?}", status.problems);
    assert_eq!(status.publish.max_series, 1);

    let node = node.with("publish.max_series", "1");
    let (code, stdout, _) = output(node.command(&["reload"]));
    assert_eq!((code, stdout.as_str()), (0, "nothing has changed\n"));
    agent.wait("the problem is over", |status| {
        status.configuration.refused.is_none()
    });
    assert_eq!(agent.terminate().status.code(), Some(0));
}

#[test]
fn a_configuration_that_does_not_work_is_given_up_for_the_one_before() {
    let node = Node::new(ONE_GPU);
    let agent = node.start();
    let pid = agent.pid();
    fs_err::write(node.path("file"), "").unwrap();
    let (old, new) = (node.path("status.sock"), node.path("file/status.sock"));
    let node = node.with("status.socket", &quoted(&new));
    let old = format!("status.socket={}", quoted(&old));
    let (code, _, stderr) = output(node.command(&["reload", "--set", &old]));
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains("goes on with the one before") && stderr.contains("status.socket"),
        "{stderr}"
    );
    let status = agent.wait("it is well", |status| status.publish.done.windows >= 1);
    assert_eq!((status.agent.pid, status.configuration.loads), (pid, 2));
    assert_eq!(agent.terminate().status.code(), Some(0));
}

#[test]
fn a_signal_during_a_reload_stops_the_agent_in_order() {
    let Hanging {
        _fake,
        systemd,
        node,
        agent,
    } = hanging();
    let node = node.with("publish.max_series", "400");
    let mut reload = node.command(&["reload"]).stderr(Stdio::null()).spawn().unwrap();
    systemd.wait("RELOADING=1");
    agent.signal(Signal::TERM);
    let ended = agent.ended();
    let _ = reload.kill();
    reload.wait().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert_eq!(ended.log.matches("gpushare is ready").count(), 1, "{}", ended.log);
}

#[test]
fn many_reloads_leave_no_thread_and_no_file_open() {
    let node = Node::new(ONE_GPU);
    let agent = node.start();
    let pid = agent.pid();
    let count = |what: &str| fs_err::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    let mut node = node;
    let mut reload = |interval: &str| {
        node = std::mem::replace(&mut node, Node::new(ONE_GPU)).with("sample.interval", interval);
        let (code, _, stderr) = output(node.command(&["reload"]));
        assert_eq!(code, 0, "{stderr}");
        agent.wait("it works", |status| {
            status.gpu.driver.is_ready() && status.publish.done.windows >= 1
        });
    };
    reload("\"150ms\"");
    let few = |threads: usize, files: usize| {
        // A reader of the kernel log looks up once a second.
        let settled = || (count("task") <= threads && count("fd") <= files).then_some(());
        wait_for(settled).unwrap_or_else(|| panic!("{} threads, {} files", count("task"), count("fd")));
    };
    std::thread::sleep(std::time::Duration::from_secs(2));
    let (threads, files) = (count("task"), count("fd"));
    for interval in ["\"160ms\"", "\"170ms\"", "\"180ms\""] {
        reload(interval);
    }
    few(threads, files);
    assert_eq!(agent.terminate().status.code(), Some(0));
}

#[test]
fn what_waits_in_memory_alone_is_not_risked() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::Throttle)]);
    // No file system has so much room.
    let node = node(&fake).with("spool.min_free_bytes", "\"1000PiB\"");
    let agent = node.start();
    agent.wait("windows wait in memory", |status| {
        status.publish.pending_windows >= 2
    });
    let node = node.with("publish.max_series", "400");
    let (code, _, stderr) = output(node.command(&["reload"]));
    assert_eq!(code, 78, "{stderr}");
    assert!(
        stderr.contains("windows wait to be published and the spool"),
        "{stderr}"
    );
    assert_eq!(agent.status().unwrap().configuration.loads, 1);

    fake.play([]);
    agent.wait("they have arrived", |status| status.publish.pending_windows == 0);
    let (code, _, stderr) = output(node.command(&["reload"]));
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(agent.terminate().status.code(), Some(0));
}

#[test]
fn the_open_window_is_not_risked_either() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::Throttle)]);
    let node = node(&fake).with("spool.min_free_bytes", "\"1000PiB\"");
    let agent = node.start();
    let first = agent.wait("publishing fails", |status| {
        status.publish.done.failing_since.is_some()
    });
    assert!(first.publish.done.windows == 0);
    // As in the first minute of an outage: what there is waits in the open window.
    let node = node.with("publish.max_series", "400");
    let (code, _, stderr) = output(node.command(&["reload"]));
    assert_eq!(code, 78, "{stderr}");
    assert!(stderr.contains("a reload may lose samples"), "{stderr}");
}

#[test]
fn what_waits_on_the_disk_is_published_by_the_next_agent() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::Throttle)]);
    let node = node(&fake);
    let agent = node.start();
    let waiting = agent.wait("windows wait on the disk", |status| {
        status.publish.pending_windows >= 3
    });
    let node = node.with("publish.max_series", "400");
    let (code, _, stderr) = output(node.command(&["reload"]));
    assert_eq!(code, 0, "{stderr}");
    fake.play([]);
    let least = waiting.publish.pending_windows as u64;
    let well = agent.wait("they have arrived", |status| {
        status.publish.pending_windows == 0 && status.publish.done.windows >= least
    });
    assert_adds_up(&well);
    assert_eq!(agent.terminate().status.code(), Some(0));
    // The window that the reload cuts arrives in two parts, each once: what was throttled was not taken.
    let accepted = fake.accepted();
    let arrived: f64 = accepted.iter().flat_map(|datum| &datum.counts).sum();
    let (earlier, published) = (well.publish.earlier.collected, well.publish.done.samples);
    assert!(earlier > 0 && published >= earlier, "{published} of {earlier}");
    assert!(arrived >= published as f64, "{arrived} of {published}");
}

#[test]
fn a_task_that_does_not_end_holds_up_no_reload() {
    let node = Node::new(NO_GPUS);
    let (_reader, stdout) = full_pipe();
    let agent = node.start_into(&["run"], stdout);
    let before = agent.wait("a window waits", |status| status.publish.pending_windows >= 1);
    let node = node.with("publish.max_series", "400");
    let (code, stdout, stderr) = output(node.command(&["reload"]));
    assert_eq!(code, 0, "{stderr}\n{}", agent.log());
    assert_eq!(stdout, "reloaded: publish.max_series\n");
    let after = agent.wait("the new agent samples", |status| status.sampler.ticks > 0);
    assert_eq!((after.agent.pid, after.configuration.used), (before.agent.pid, 2));
    let waits = after.publish.pending_windows + usize::try_from(after.publish.done.windows).unwrap();
    assert!(waits >= before.publish.pending_windows, "{after:?}");
    let log = agent.log();
    assert!(
        log.contains("the end before the reload was not in order"),
        "{log}"
    );
    assert!(!log.contains("the spool's disk does not answer"), "{log}");
}

#[test]
fn a_second_reload_waits_for_the_first_and_is_done_too() {
    let Hanging {
        _fake,
        systemd,
        node,
        agent,
    } = hanging();
    let node = node.with("publish.max_series", "400");
    let first = node
        .command(&["reload"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    systemd.wait("RELOADING=1");
    let node = node.with("publish.max_series", "300");
    let (code, stdout, stderr) = output(node.command(&["reload"]));
    assert_eq!(
        (code, stdout.as_str()),
        (0, "reloaded: publish.max_series\n"),
        "{stderr}\n{}",
        agent.log()
    );
    let first = first.wait_with_output().unwrap();
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    let after = agent.wait("both are done", |status| status.configuration.used == 3);
    assert_eq!(after.publish.max_series, 300);
}

#[test]
fn an_agent_that_stops_takes_up_nothing() {
    let Hanging {
        _fake,
        systemd,
        node,
        agent,
    } = hanging();
    agent.signal(Signal::TERM);
    systemd.wait("STOPPING=1");
    let node = node.with("publish.max_series", "400");
    let (code, stdout, stderr) = output(node.command(&["reload"]));
    assert_eq!((code, stdout.as_str()), (69, ""), "{stderr}");
    assert!(stderr.contains("no agent answers on"), "{stderr}");
    assert_eq!(agent.ended().status.code(), Some(0));
}

#[test]
fn a_configuration_that_cannot_be_read_is_refused() {
    let node = Node::new(ONE_GPU);
    let agent = node.start();
    let (config, reload) = (node.path("config.toml"), node.command(&["reload"]));
    fs_err::remove_file(&config).unwrap();
    fs_err::create_dir(&config).unwrap();
    let (code, _, stderr) = output(reload);
    assert_eq!(code, 78, "{stderr}");
    assert!(stderr.contains("config.toml"), "{stderr}");
    assert_eq!(agent.status().unwrap().configuration.loads, 1);
    assert_eq!(agent.terminate().status.code(), Some(0));
}

#[test]
fn without_an_agent_there_is_nothing_to_reload() {
    let node = Node::new(ONE_GPU);
    let (code, _, stderr) = output(node.command(&["reload"]));
    assert_eq!(code, 69, "{stderr}");
    assert!(stderr.contains("no agent answers on"), "{stderr}");
}
