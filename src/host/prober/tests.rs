//! The prober against file systems that answer, fail and hang on command.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use super::*;

const SPACE: Space = Space {
    f_frsize: 1,
    f_blocks: 100,
    f_bfree: 60,
    f_bavail: 60,
    f_files: 10,
    f_ffree: 5,
};

/// Long enough for a loaded test machine, short enough that a test which has to wait for it stays quick.
const PATIENCE: Patience = Patience {
    grace: Duration::from_millis(40),
    deadline: Duration::from_millis(400),
    max_abandoned: 2,
};

/// A state that does not come within this time never will.
const GIVE_UP: Duration = Duration::from_secs(20);

#[derive(Default)]
struct State {
    held: BTreeSet<PathBuf>,
    failing: BTreeSet<PathBuf>,
    running: usize,
    most_running: usize,
}

/// File systems that a test can hold: a call on a held path blocks until it is released.
#[derive(Default)]
struct FakeDisks {
    state: Mutex<State>,
    released: Condvar,
}

impl FakeDisks {
    fn hold(&self, path: &str) {
        self.state.lock().unwrap().held.insert(path.into());
    }

    fn release(&self, path: &str) {
        self.state.lock().unwrap().held.remove(Path::new(path));
        self.released.notify_all();
    }

    fn release_all(&self) {
        self.state.lock().unwrap().held.clear();
        self.released.notify_all();
    }

    fn running(&self) -> usize {
        self.state.lock().unwrap().running
    }
}

impl SpaceSource for FakeDisks {
    fn space(&self, path: &Path) -> io::Result<Space> {
        let mut state = self.state.lock().unwrap();
        state.running += 1;
        state.most_running = state.most_running.max(state.running);
        let mut state = self
            .released
            .wait_while(state, |state| state.held.contains(path))
            .unwrap();
        state.running -= 1;
        if state.failing.contains(path) {
            Err(io::ErrorKind::PermissionDenied.into())
        } else {
            Ok(SPACE)
        }
    }
}

fn mount(path: &str) -> Mount {
    Mount {
        mount_point: path.into(),
        device_number: format!("0:{path}"),
        source: "/dev/any".into(),
        fs_type: "ext4".into(),
    }
}

fn mounts(paths: &[&str]) -> Vec<Mount> {
    paths.iter().map(|path| mount(path)).collect()
}

fn prober(disks: &Arc<FakeDisks>) -> SpaceProber {
    prober_with(disks, PATIENCE)
}

fn prober_with(disks: &Arc<FakeDisks>, patience: Patience) -> SpaceProber {
    SpaceProber::new(Arc::clone(disks) as Arc<dyn SpaceSource>, "/".into(), patience)
}

fn paths(spaces: &Spaces) -> Vec<&str> {
    spaces
        .disks
        .iter()
        .map(|disk| disk.path.to_str().unwrap())
        .collect()
}

/// Samples until the result is as wanted, and never waits longer than the grace for one of them.
fn sample_until(prober: &mut SpaceProber, mounts: &[Mount], wanted: impl Fn(&Spaces) -> bool) -> Spaces {
    let start = Instant::now();
    loop {
        let spaces = prober.sample(mounts);
        if wanted(&spaces) {
            return spaces;
        }
        assert!(start.elapsed() < GIVE_UP, "never came; last: {spaces:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_sample_has_every_mount_that_answers() {
    let disks = Arc::new(FakeDisks::default());
    let mut prober = prober(&disks);
    let mounts = mounts(&["/", "/a", "/b"]);
    disks.state.lock().unwrap().failing.insert("/a".into());
    let spaces = sample_until(&mut prober, &mounts, |spaces| spaces.disks.len() == 2);
    assert_eq!((paths(&spaces), spaces.stuck.len()), (vec!["/", "/b"], 0));
    assert!(prober.faults["0:/a"].is_failing());
    disks.state.lock().unwrap().failing.clear();
    sample_until(&mut prober, &mounts, |spaces| spaces.disks.len() == 3);
    assert!(!prober.faults["0:/a"].is_failing());
    sample_until(&mut prober, &mounts[..1], |spaces| spaces.disks.len() == 1);
    assert_eq!(prober.faults.len(), 1, "nothing is kept about what is unmounted");
}

#[test]
fn a_mount_that_hangs_is_named_left_out_and_taken_back() {
    let disks = Arc::new(FakeDisks::default());
    let mut prober = prober(&disks);
    // First in order, so that it holds up the other until it is given up.
    let mounts = mounts(&["/hangs", "/answers"]);
    disks.hold("/hangs");

    let spaces = sample_until(&mut prober, &mounts, |spaces| !spaces.stuck.is_empty());
    assert_eq!(spaces.stuck, [PathBuf::from("/hangs")]);
    let spaces = sample_until(&mut prober, &mounts, |spaces| !spaces.disks.is_empty());
    assert_eq!(
        (paths(&spaces), &spaces.stuck[..]),
        (vec!["/answers"], &[PathBuf::from("/hangs")][..])
    );
    assert_eq!(
        disks.state.lock().unwrap().most_running,
        2,
        "a stuck mount is not asked again"
    );

    disks.release("/hangs");
    let spaces = sample_until(&mut prober, &mounts, |spaces| spaces.disks.len() == 2);
    assert!(spaces.stuck.is_empty());
}

#[test]
fn threads_are_bounded_and_one_that_returns_sets_things_going() {
    let disks = Arc::new(FakeDisks::default());
    let mut prober = prober(&disks);
    let mounts = mounts(&["/a", "/b", "/c", "/answers"]);
    for path in ["/a", "/b", "/c"] {
        disks.hold(path);
    }
    let spaces = sample_until(&mut prober, &mounts, |spaces| spaces.stuck.len() == 3);
    assert!(spaces.disks.is_empty());
    for _ in 0..10 {
        assert_eq!(
            prober.sample(&mounts).disks,
            [],
            "two abandoned, the third endured"
        );
    }
    assert_eq!(disks.running(), 3);

    disks.release("/b");
    let spaces = sample_until(&mut prober, &mounts, |spaces| spaces.disks.len() == 2);
    assert_eq!((paths(&spaces), spaces.stuck.len()), (vec!["/b", "/answers"], 2));
    assert!(disks.state.lock().unwrap().most_running <= 3 + 1);
    disks.release_all();
    sample_until(&mut prober, &mounts, |spaces| {
        spaces.disks.len() == 4 && spaces.stuck.is_empty()
    });
}

#[test]
fn the_endured_mount_can_return_too() {
    let disks = Arc::new(FakeDisks::default());
    let mut prober = prober(&disks);
    let mounts = mounts(&["/a", "/b", "/c", "/answers"]);
    for path in ["/a", "/b", "/c"] {
        disks.hold(path);
    }
    sample_until(&mut prober, &mounts, |spaces| spaces.stuck.len() == 3);
    let endured = prober.pending.as_ref().unwrap().mount.mount_point.clone();
    disks.release(endured.to_str().unwrap());
    let spaces = sample_until(&mut prober, &mounts, |spaces| spaces.disks.len() == 2);
    assert_eq!(spaces.stuck.len(), 2);
    disks.release_all();
}

#[test]
fn an_answer_after_the_grace_is_used_once_and_delays_no_other_mount() {
    let disks = Arc::new(FakeDisks::default());
    // Long enough for a prompt answer on a busy machine; a held one makes each sample wait for it.
    let grace = Duration::from_millis(1500);
    // The deadline is far off, so that a stall of the test machine makes nothing overdue.
    let mut prober = prober_with(
        &disks,
        Patience {
            grace,
            deadline: GIVE_UP,
            ..PATIENCE
        },
    );
    let mounts = mounts(&["/slow", "/quick"]);
    disks.hold("/slow");
    assert_eq!(prober.sample(&mounts), Spaces::default());
    assert_eq!(prober.slow, ["0:/slow"]);

    // It was asked a little after the sample had begun: until now it may have answered within its grace.
    thread::sleep(grace);
    disks.release("/slow");
    let start = Instant::now();
    while disks.running() > 0 {
        assert!(start.elapsed() < GIVE_UP);
        thread::sleep(Duration::from_millis(1));
    }
    disks.hold("/slow");
    assert_eq!(
        paths(&prober.sample(&mounts)),
        ["/slow", "/quick"],
        "the late answer and a prompt one"
    );
    assert_eq!(
        prober.sample(&mounts),
        Spaces::default(),
        "asked again, and nothing new yet"
    );
    disks.release_all();
    sample_until(&mut prober, &mounts, |spaces| spaces.disks.len() == 2);
    sample_until(&mut prober, &mounts, |spaces| spaces.disks.len() == 2);
    assert!(prober.slow.is_empty(), "prompt again");
}

#[test]
fn an_answer_older_than_the_deadline_is_absent() {
    let disks = Arc::new(FakeDisks::default());
    let mut prober = prober(&disks);
    let mounts = mounts(&["/a"]);
    disks.hold("/a");
    assert_eq!(prober.sample(&mounts), Spaces::default());
    disks.release("/a");
    thread::sleep(PATIENCE.deadline * 2);
    // Held again, so that only the old answer could be reported.
    disks.hold("/a");
    assert_eq!(prober.sample(&mounts).disks, []);
    disks.release("/a");
}

#[test]
fn an_unmounted_mount_is_not_named() {
    let disks = Arc::new(FakeDisks::default());
    let mut prober = prober(&disks);
    disks.hold("/gone");
    sample_until(&mut prober, &mounts(&["/gone"]), |spaces| {
        !spaces.stuck.is_empty()
    });
    let spaces = sample_until(&mut prober, &mounts(&["/answers"]), |spaces| {
        !spaces.disks.is_empty()
    });
    assert_eq!((paths(&spaces), spaces.stuck.len()), (vec!["/answers"], 0));
    disks.release_all();
}

#[test]
fn the_threads_end_with_the_prober() {
    let disks = Arc::new(FakeDisks::default());
    let mut prober = prober(&disks);
    disks.hold("/hangs");
    sample_until(&mut prober, &mounts(&["/hangs"]), |spaces| {
        !spaces.stuck.is_empty()
    });
    sample_until(&mut prober, &mounts(&["/hangs", "/answers"]), |spaces| {
        !spaces.disks.is_empty()
    });
    drop(prober);
    disks.release_all();
    let start = Instant::now();
    // Each thread owns one reference to the source.
    while Arc::strong_count(&disks) > 1 {
        assert!(start.elapsed() < GIVE_UP, "a thread outlived its prober");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn mount_points_are_found_below_the_root() {
    for (root, mount_point, found) in [
        ("/", "/", "/"),
        ("/", "/data", "/data"),
        ("/host", "/", "/host"),
        ("/host", "/data", "/host/data"),
    ] {
        assert_eq!(
            below_root(Path::new(root), Path::new(mount_point)),
            Path::new(found)
        );
    }
}
