//! The whole source, against a copied tree with a mount that hangs and against this machine.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::super::disk_space::Space;
use super::*;

const GIVE_UP: Duration = Duration::from_secs(20);

/// A gate on one path: calls for it block while it is shut. Everything else answers.
struct Gate {
    path: PathBuf,
    shut: Mutex<bool>,
    opened: Condvar,
}

impl SpaceSource for Gate {
    fn space(&self, path: &Path) -> io::Result<Space> {
        if path == self.path {
            let shut = self.shut.lock().unwrap();
            drop(self.opened.wait_while(shut, |shut| *shut).unwrap());
        }
        Ok(Space {
            f_frsize: 1,
            f_blocks: 100,
            f_bfree: 25,
            f_bavail: 25,
            f_files: 0,
            f_ffree: 0,
        })
    }
}

fn settings(root_dir: &Path) -> HostSettings {
    HostSettings {
        root_dir: root_dir.into(),
        exclude_mounts: vec!["/run".into()],
        exclude_fs_types: vec!["tmpfs".into()],
    }
}

fn write(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(path, text).unwrap();
}

fn paths(sample: &HostSample) -> Vec<&str> {
    sample
        .disks
        .iter()
        .map(|disk| disk.path.to_str().unwrap())
        .collect()
}

/// A local disk, and before it a network mount that hangs until the gate is opened.
fn root_with_a_shut_gate() -> (tempfile::TempDir, Arc<Gate>) {
    let root = tempfile::tempdir().unwrap();
    let mountinfo = "20 1 0:50 / /efs rw - nfs4 server:/ rw\n21 1 259:1 / / rw - xfs /dev/nvme0n1p1 rw\n";
    write(root.path(), "proc/self/mountinfo", mountinfo);
    let gate = Gate {
        path: root.path().join("efs"),
        shut: Mutex::new(true),
        opened: Condvar::new(),
    };
    (root, Arc::new(gate))
}

#[test]
fn a_mount_that_hangs_stops_nothing_and_comes_back() {
    let (root, gate) = root_with_a_shut_gate();
    let patience = Patience {
        deadline: Duration::from_millis(300),
        ..Patience::USUAL
    };
    let source = Arc::clone(&gate) as Arc<dyn SpaceSource>;
    let mut host = LocalHost::with_space_source(settings(root.path()), source, patience);

    let start = Instant::now();
    let mut busy = 0;
    loop {
        busy += 10;
        write(
            root.path(),
            "proc/stat",
            &format!("cpu  {busy} 0 0 {} 0 0 0 0 0 0\n", 3 * busy),
        );
        let asked = Instant::now();
        let sample = host.sample();
        // The grace is 50 ms; the rest is for a loaded machine, and well below the 20 s of a hang.
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        assert_eq!(sample.cpu_usage_active, (busy > 10).then_some(25.0));
        assert!(sample.mem_used_percent.is_some());
        assert!(!paths(&sample).contains(&"/efs"), "{sample:?}");
        if sample.stuck_mounts == [PathBuf::from("/efs")] && paths(&sample) == ["/"] {
            break;
        }
        assert!(start.elapsed() < GIVE_UP, "{sample:?}");
        thread::sleep(Duration::from_millis(10));
    }

    *gate.shut.lock().unwrap() = false;
    gate.opened.notify_all();
    let start = Instant::now();
    loop {
        let sample = host.sample();
        if paths(&sample) == ["/efs", "/"] && sample.stuck_mounts.is_empty() {
            break;
        }
        assert!(start.elapsed() < GIVE_UP, "{sample:?}");
    }
}

#[test]
fn a_local_disk_is_in_the_first_sample_although_a_network_mount_hangs() {
    let (root, gate) = root_with_a_shut_gate();
    // Generous, because only the order is at stake and the hanging call uses the grace up.
    let patience = Patience {
        grace: Duration::from_millis(500),
        ..Patience::USUAL
    };
    let source = Arc::clone(&gate) as Arc<dyn SpaceSource>;
    let sample = LocalHost::with_space_source(settings(root.path()), source, patience).sample();
    assert_eq!(paths(&sample), ["/"]);
    *gate.shut.lock().unwrap() = false;
    gate.opened.notify_all();
}

#[test]
fn an_empty_root_is_an_empty_sample_but_for_memory_and_says_what_fails() {
    let root = tempfile::tempdir().unwrap();
    let mut host = LocalHost::new(settings(root.path()));
    for _ in 0..3 {
        let sample = host.sample();
        let expected = HostSample {
            mem_used_percent: sample.mem_used_percent,
            swap_used_percent: sample.swap_used_percent,
            failing: ["cpu", "disk I/O", "mounts"].map(str::to_owned).into(),
            ..HostSample::default()
        };
        assert_eq!(sample, expected);
    }
}

#[test]
fn this_machine_is_in_range() {
    let mut host = LocalHost::new(settings(Path::new("/")));
    assert_eq!(host.sample().cpu_usage_active, None, "one reading is no rate");
    let start = Instant::now();
    let sample = loop {
        thread::sleep(Duration::from_millis(50));
        let sample = host.sample();
        if sample.cpu_usage_active.is_some() && (!sample.disks.is_empty() || !root_is_on_block_device()) {
            break sample;
        }
        assert!(start.elapsed() < GIVE_UP, "{sample:?}");
    };
    let percents = [
        sample.cpu_usage_active,
        sample.mem_used_percent,
        sample.swap_used_percent,
    ];
    let disks = sample.disks.iter().map(|disk| disk.used_percent);
    for percent in percents.into_iter().flatten().chain(disks) {
        assert!((0.0..=100.0).contains(&percent), "{sample:?}");
    }
    assert!(sample.mem_used_percent.is_some());
    assert_eq!(
        paths(&sample).contains(&"/"),
        root_is_on_block_device(),
        "{sample:?}"
    );
    for rate in &sample.disk_io {
        assert!(
            rate.read_bytes_per_second >= 0.0 && rate.write_bytes_per_second >= 0.0,
            "{rate:?}"
        );
    }
}

/// Read here without the code under test: the last mount on `/` is the one that is seen.
fn root_is_on_block_device() -> bool {
    let mountinfo = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
    let on_root = mountinfo
        .lines()
        .rfind(|line| line.split(' ').nth(4) == Some("/"))
        .unwrap();
    let (_, after_options) = on_root.split_once(" - ").unwrap();
    after_options.split(' ').nth(1).unwrap().starts_with("/dev/")
}
