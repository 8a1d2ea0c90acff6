//! Nothing of a node is left, whatever ended its test.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use e2e::{Node, PATIENCE, Spec};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Set in a process that plays the test that is killed: where it says that its node is up.
const VICTIM: &str = "E2E_VICTIM";
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[test]
fn a_node_that_is_dropped_leaves_nothing() {
    let node = Node::boot(&Spec::new("dropped"));
    let left = Left::of(std::process::id());
    drop(node);
    assert_eq!(left.now(), Vec::<String>::new());
}

#[test]
fn a_test_that_is_killed_with_its_process_group_leaves_nothing() {
    let (mut victim, left) = victim("leftovers::a_test_that_is_killed_with_its_process_group_leaves_nothing");
    kill_process_group(pid(victim.id()), Signal::KILL).unwrap();
    victim.wait().unwrap();
    left.wait_for(<[String]>::is_empty);
}

#[test]
fn what_a_holder_leaves_that_was_killed_itself_is_removed_by_the_next_node() {
    let (mut victim, left) =
        victim("leftovers::what_a_holder_leaves_that_was_killed_itself_is_removed_by_the_next_node");
    for one in &left.processes {
        let _ = kill_process(pid(*one), Signal::KILL);
    }
    victim.kill().unwrap();
    victim.wait().unwrap();
    left.wait_for(|left| left.iter().all(|one| !one.starts_with("process")));
    drop(Node::boot(&Spec::new("next")));
    assert_eq!(left.now(), Vec::<String>::new());
}

/// Starts the calling test a second time, as one that has a node and never ends.
fn victim(test: &str) -> (Child, Left) {
    if let Some(mark) = std::env::var_os(VICTIM) {
        let node = Node::boot(&Spec::new("victim"));
        let _beside = node.beside(Command::new("sleep").arg("5000"));
        fs_err::write(PathBuf::from(mark), "up").unwrap();
        loop {
            std::thread::park();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("up");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(VICTIM, &mark)
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !mark.exists() {
        assert!(child.try_wait().unwrap().is_none(), "the victim ended by itself");
        assert!(begun.elapsed() < PATIENCE, "the victim's node does not boot");
        std::thread::sleep(LOOK_EVERY);
    }
    let left = Left::of(child.id());
    (child, left)
}

/// What a node is made of, on this machine.
struct Left {
    processes: Vec<u32>,
    groups: Vec<PathBuf>,
}

impl Left {
    /// All descendants of a test, and their control groups.
    fn of(test: u32) -> Self {
        let processes = descendants(test);
        assert!(
            processes.len() > 5,
            "PID 1, the journal, D-Bus, ...: {processes:?}"
        );
        let own = group(std::process::id());
        let mut groups: Vec<PathBuf> = processes.iter().filter_map(|pid| group(*pid)).collect();
        groups.retain(|path| Some(path) != own.as_ref());
        assert!(!groups.is_empty() && groups.iter().all(|group| group.exists()));
        Self { processes, groups }
    }

    /// What is still there: processes and control groups. Mounts are in the processes' namespaces and go with them.
    fn now(&self) -> Vec<String> {
        let alive = |pid: &&u32| Path::new("/proc").join(pid.to_string()).exists();
        let processes = self
            .processes
            .iter()
            .filter(alive)
            .map(|pid| format!("process {pid}"));
        let groups = self.groups.iter().filter(|group| group.exists());
        processes
            .chain(groups.map(|group| group.display().to_string()))
            .collect()
    }

    fn wait_for(&self, wanted: impl Fn(&[String]) -> bool) {
        let begun = Instant::now();
        loop {
            let left = self.now();
            if wanted(&left) {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "left: {left:?}");
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn descendants(ancestor: u32) -> Vec<u32> {
    let children = |pid: u32| {
        let threads = fs_err::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten();
        let lists = threads.map(|thread| fs_err::read_to_string(thread.unwrap().path().join("children")));
        let text: String = lists.map(Result::unwrap_or_default).collect();
        let pids: Vec<u32> = text.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        pids
    };
    let mut found = children(ancestor);
    let mut at = 0;
    while at < found.len() {
        let more = children(found[at]);
        found.extend(more);
        at += 1;
    }
    found
}

/// The folder of a process's control group.
fn group(of: u32) -> Option<PathBuf> {
    let groups = fs_err::read_to_string(format!("/proc/{of}/cgroup")).ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    Some(Path::new(mount.split(' ').nth(4)?).join(path))
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
}
