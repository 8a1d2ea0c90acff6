//! Agents that are killed, stopped, cloned and upgraded while windows wait.

use std::path::PathBuf;

use fake_cloudwatch::{FakeCloudWatch, Fate, Rule};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::Signal;

use super::scene::{assert_told_truly, assert_whole, open_window, wait_for_all, wait_for_backlog, windows};
use crate::harness::{Agent, Node, wait_for};
use crate::life::scene::{assert_adds_up, has_ended};
use crate::publish::scene::{node, node_with_gpu, status_text, stopped};

fn spool_file(node: &Node) -> PathBuf {
    node.path("spool").join("windows-v1.db")
}

/// SIGKILL, which nothing in the agent can see coming.
fn kill(agent: Agent) {
    let nvml = agent.status().and_then(|status| status.gpu.child.pid);
    agent.signal(Signal::KILL);
    assert_eq!(agent.ended().status.code(), None);
    if let Some(nvml) = nvml {
        wait_for(|| has_ended(nvml).then_some(())).expect("the NVML process is gone");
    }
}

#[test]
fn c02_an_agent_that_is_killed_again_and_again_loses_no_window_but_the_open_one() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::ServerError {
        status: 500,
        body: true,
    })]);
    let (node, epoch_us) = node_with_gpu(&fake);
    let mut whole = Vec::new();
    for run in 0..3 {
        let agent = node.start();
        let started = agent.wait("windows are open, with readings", |status| {
            status.sampler.open_window.is_some() && status.gpu.gpus.iter().any(|gpu| gpu.newest.is_some())
        });
        assert_eq!(started.publish.earlier.runs, run, "{:?}", started.publish.earlier);
        let first = open_window(&started) + 1;
        let waiting = agent.wait("four windows of this run wait", |status| {
            let open = status.sampler.open_window.map_or(0, |(start, _)| start);
            open >= first + 4
        });
        assert_adds_up(&waiting);
        // The window before the open one may be held for late samples.
        whole.push(first..=open_window(&waiting) - 2);
        kill(agent);
    }
    fake.play([]);
    let agent = node.start();
    let after = wait_for_all(&agent);
    assert_eq!(after.publish.earlier.runs, 3);
    assert_told_truly(&after, &fake);
    stopped(agent);
    let accepted = fake.accepted();
    for starts in whole {
        assert_whole(&accepted, epoch_us, starts);
    }
    assert_eq!(
        accepted.len(),
        windows(&accepted)
            .values()
            .map(std::collections::BTreeMap::len)
            .sum::<usize>(),
        "nothing was sent twice"
    );
}

#[test]
fn c02_a_torn_tail_of_the_log_costs_the_windows_in_it_and_no_more() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::Throttle)]);
    let node = node(&fake);
    let agent = node.start();
    let waiting = wait_for_backlog(&agent, 4);
    kill(agent);
    let log = node.path("spool").join("windows-v1.db-wal");
    let length = fs_err::metadata(&log).unwrap().len();
    // In the middle of the last commit, as when the power goes.
    let file = fs_err::OpenOptions::new().write(true).open(&log).unwrap();
    file.set_len(length - 700).unwrap();

    fake.play([]);
    let agent = node.start();
    let after = wait_for_all(&agent);
    assert_adds_up(&after);
    assert_eq!(after.publish.spool.as_ref().unwrap().set_aside, None);
    stopped(agent);
    let arrived = windows(&fake.accepted());
    let last = open_window(&waiting);
    for start in last - 3..last - 1 {
        assert!(arrived.contains_key(&start), "{start} of {:?}", arrived.keys());
    }
}

#[test]
fn c15_what_another_instance_left_is_never_published_and_its_own_is() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::Throttle)]);
    let original = node(&fake).with("node.instance_id", "\"i-0aaaaaaaaaaaaaaaa\"");
    let agent = original.start();
    let waiting = wait_for_backlog(&agent, 3);
    stopped(agent);

    fake.play([]);
    let clone = original.with("node.instance_id", "\"i-0bbbbbbbbbbbbbbbb\"");
    let agent = clone.start();
    let after = wait_for_all(&agent);
    assert_adds_up(&after);
    assert_eq!(after.publish.earlier.runs, 0, "those were another's");
    let spool = after.publish.spool.unwrap();
    assert!(spool.other_windows >= 3, "{spool:?}");
    assert_eq!(spool.other_instances, ["i-0aaaaaaaaaaaaaaaa"]);
    assert!(
        status_text(&clone).contains("i-0aaaaaaaaaaaaaaaa"),
        "{}",
        status_text(&clone)
    );
    stopped(agent);
    for datum in fake.take_accepted() {
        assert_eq!(datum.key.series.dimensions["InstanceId"], "i-0bbbbbbbbbbbbbbbb");
    }

    let original = clone.with("node.instance_id", "\"i-0aaaaaaaaaaaaaaaa\"");
    let agent = original.start();
    let after = wait_for_all(&agent);
    assert_eq!(after.publish.earlier.runs, 1);
    stopped(agent);
    let accepted = fake.accepted();
    assert!(
        accepted
            .iter()
            .all(|datum| datum.key.series.dimensions["InstanceId"] == "i-0aaaaaaaaaaaaaaaa")
    );
    assert!(windows(&accepted).contains_key(&(open_window(&waiting) - 2)));
}

#[test]
fn c15_a_spoilt_file_is_set_aside_named_and_keeps_nobody_from_working() {
    let fake = FakeCloudWatch::start().unwrap();
    let node = node(&fake);
    fs_err::create_dir_all(node.path("spool")).unwrap();
    let garbage: Vec<u8> = (0..50_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    fs_err::write(spool_file(&node), &garbage).unwrap();
    let agent = node.start();
    let after = wait_for_all(&agent);
    let aside = after.publish.spool.unwrap().set_aside.unwrap();
    assert_eq!(fs_err::read(&aside.path).unwrap(), garbage, "as it was");
    let text = status_text(&node);
    assert!(text.contains("set aside as"), "{text}");
    let ended = stopped(agent);
    assert!(ended.log.contains("set aside"), "{}", ended.log);
    // The next start finds nothing wrong.
    let agent = node.start();
    let after = wait_for_all(&agent);
    assert_eq!(after.publish.spool.unwrap().set_aside, None);
    stopped(agent);
}

#[test]
fn c21_a_restart_costs_no_whole_window() {
    let fake = FakeCloudWatch::start().unwrap();
    let (node, epoch_us) = node_with_gpu(&fake);
    let agent = node.start();
    let before = agent.wait("windows arrive", |status| status.publish.done.windows >= 3);
    stopped(agent);
    let agent = node.start();
    let begun = agent.wait("a window is open", |status| status.sampler.open_window.is_some());
    let after = agent.wait("windows arrive again", |status| {
        status.publish.done.last_window >= Some(open_window(&begun) + 3)
    });
    assert_eq!(after.publish.earlier.runs, 1);
    assert_adds_up(&after);
    stopped(agent);
    let accepted = fake.accepted();
    let arrived = windows(&accepted);
    let gap = open_window(&begun) - open_window(&before);
    assert!(gap <= 3, "it took {gap} s to stop and to start");
    for start in open_window(&before)..=open_window(&begun) {
        assert!(
            arrived.contains_key(&start),
            "{start} of {:?}: a part of it at least",
            arrived.keys()
        );
    }
    assert_whole(
        &accepted,
        epoch_us,
        open_window(&begun) + 1..=open_window(&begun) + 2,
    );
}

#[test]
fn c15_a_spool_that_is_mounted_while_the_agent_runs_is_published_and_not_overwritten() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::Throttle)]);
    let node = node(&fake);
    let agent = node.start();
    let waiting = wait_for_backlog(&agent, 4);
    kill(agent);
    let (spool, elsewhere) = (node.path("spool"), node.path("elsewhere"));
    fs_err::rename(&spool, &elsewhere).unwrap();

    let agent = node.start();
    wait_for_backlog(&agent, 3);
    // As when the file system that belongs there comes late.
    renameat_with(CWD, &spool, CWD, &elsewhere, RenameFlags::EXCHANGE).unwrap();
    agent.wait("the other file is found", |status| {
        status.publish.earlier.runs == 1 && status.publish.pending_windows > 5
    });
    fake.play([]);
    let after = wait_for_all(&agent);
    assert_adds_up(&after);
    let ended = stopped(agent);
    assert!(ended.log.contains("removed or replaced"), "{}", ended.log);
    let arrived = windows(&fake.accepted());
    let last = open_window(&waiting);
    for start in last - 3..last - 1 {
        assert!(arrived.contains_key(&start), "{start} of {:?}", arrived.keys());
    }
}
