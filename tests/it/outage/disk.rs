//! The disk under the spool is full or read-only. A disk of one's own takes the right to mount one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use fake_cloudwatch::{FakeCloudWatch, Fate, Rule};
use gpushare::publish::spool::SpoolState;
use gpushare::status::Snapshot;

use super::scene::{assert_told_truly, assert_whole, open_window, unix_seconds, wait_for_all};
use crate::harness::{Agent, Node};
use crate::life::scene::assert_adds_up;
use crate::publish::scene::{node_with_gpu, status_text, stopped};

/// A disk in memory, unmounted when it is dropped.
struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Where nothing can be mounted, `cargo xtask test` leaves these tests out and says why.
    fn mount(node: &Node, size: &str) -> Self {
        let path = node.path("spool");
        fs_err::create_dir_all(&path).unwrap();
        let options = format!("size={size}");
        mount(&["-t", "tmpfs", "-o", &options, "none"], &path).unwrap();
        Self { path }
    }

    /// Fills the rest of it.
    fn fill(&self) {
        let file = self.path.join("ballast");
        let _ = fs_err::write(&file, vec![0; 8 << 20]);
        assert!(fs_err::metadata(&file).unwrap().len() > 0);
    }

    fn empty(&self) {
        fs_err::remove_file(self.path.join("ballast")).unwrap();
    }

    fn remount(&self, how: &str) {
        mount(&["-o", &format!("remount,{how}")], &self.path).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

fn mount(arguments: &[&str], path: &Path) -> Result<(), String> {
    let output = Command::new("mount").args(arguments).arg(path).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("mount: {error}")),
    }
}

fn wait_for_state(agent: &Agent, state: SpoolState) -> Snapshot {
    agent.wait(&format!("the spool {}", state.as_str()), |status| {
        status
            .publish
            .spool
            .as_ref()
            .is_some_and(|spool| spool.state == state)
    })
}

/// Waits for three more windows.
fn three_windows(agent: &Agent) -> Snapshot {
    let now = agent.status().unwrap().sampler.open_window;
    let now = now.map_or_else(|| unix_seconds(SystemTime::now()), |(start, _)| start);
    agent.wait("three more windows", |status| {
        status
            .sampler
            .open_window
            .is_some_and(|(start, _)| start >= now + 3)
    })
}

/// Asserts that the status names the trouble with the disk, and that the ledger balances through three more windows of it.
#[track_caller]
fn assert_bad(agent: &Agent, node: &Node, state: SpoolState) {
    let bad = wait_for_state(agent, state);
    assert!(
        bad.problems
            .iter()
            .any(|problem| problem.what.starts_with("the spool ")),
        "{:?}",
        bad.problems
    );
    assert_adds_up(&three_windows(agent));
    let text = status_text(node);
    assert!(text.contains("wait in memory"), "{text}");
}

const DOWN: Fate = Fate::ServerError {
    status: 500,
    body: true,
};

#[test]
fn c14_on_a_tmpfs_that_is_full_windows_wait_in_memory_until_there_is_room() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(DOWN)]);
    let (node, epoch_us) = node_with_gpu(&fake);
    let disk = Disk::mount(&node, "1m");
    let agent = node.start();
    wait_for_state(&agent, SpoolState::Well);
    let first = open_window(&three_windows(&agent)) - 2;
    disk.fill();
    assert_bad(&agent, &node, SpoolState::NoRoom);

    disk.empty();
    wait_for_state(&agent, SpoolState::Well);
    let last = open_window(&three_windows(&agent));
    fake.play([]);
    agent.wait("live data arrives", |status| {
        status.publish.done.last_window > Some(last)
    });
    let after = wait_for_all(&agent);
    assert_told_truly(&after, &fake);
    let ended = stopped(agent);
    assert!(ended.log.contains("the spool"), "{}", ended.log);
    assert_whole(&fake.accepted(), epoch_us, first..=last);
}

#[test]
fn c14_on_a_tmpfs_that_is_read_only_at_the_start_windows_wait_in_memory_until_it_is_not() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(DOWN)]);
    let (node, epoch_us) = node_with_gpu(&fake);
    let disk = Disk::mount(&node, "4m");
    let agent = node.start();
    wait_for_state(&agent, SpoolState::Well);
    let left = open_window(&three_windows(&agent)) - 2;
    stopped(agent);
    disk.remount("ro");
    let agent = node.start();
    assert_bad(&agent, &node, SpoolState::Failing);
    let first = open_window(&agent.status().unwrap()) - 1;

    disk.remount("rw");
    wait_for_state(&agent, SpoolState::Well);
    let last = open_window(&three_windows(&agent));
    fake.play([]);
    agent.wait("live data arrives", |status| {
        status.publish.done.last_window > Some(last)
    });
    let after = wait_for_all(&agent);
    assert_told_truly(&after, &fake);
    assert_eq!(after.publish.earlier.runs, 1);
    stopped(agent);
    assert_whole(&fake.accepted(), epoch_us, left..=left + 1);
    assert_whole(&fake.accepted(), epoch_us, first..=last);
}

#[test]
fn c14_on_a_tmpfs_that_is_full_from_the_start_data_flows_and_a_stop_says_what_is_lost() {
    let fake = FakeCloudWatch::start().unwrap();
    let (node, _) = node_with_gpu(&fake);
    let disk = Disk::mount(&node, "64k");
    disk.fill();
    let agent = node.start();
    let status = wait_for_all(&agent);
    assert_told_truly(&status, &fake);
    fake.play([Rule::always(Fate::Throttle)]);
    agent.wait("two windows wait", |status| status.publish.pending_windows >= 2);
    let ended = agent.terminate();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert!(ended.log.contains("samples are lost"), "{}", ended.log);
}
