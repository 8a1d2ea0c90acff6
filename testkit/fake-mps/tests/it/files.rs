//! The files of the pipe directory.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::process::Signal;

use crate::stage::Stage;

fn mode(path: &Path) -> u32 {
    fs_err::metadata(path).unwrap().mode() & 0o7777
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

const ALL: [&str; 5] = [
    "control",
    "control_lock",
    "control_privileged",
    "log",
    "nvidia-cuda-mps-control.pid",
];
const AFTER_QUIT: [&str; 3] = ["control", "control_lock", "control_privileged"];

#[test]
fn files_have_their_kinds_and_modes() {
    let stage = Stage::new("");
    let daemon = stage.daemon(&[]);
    let at = |name: &str| stage.pipe.join(name);
    assert_eq!(names(&stage.pipe), ALL);
    assert_eq!(mode(&stage.pipe), 0o777);
    assert_eq!(mode(&at("control")), 0o666);
    assert_eq!(mode(&at("control_privileged")), 0o755);
    assert_eq!(mode(&at("control_lock")), 0o666);
    assert_eq!(mode(&at("log")), 0o777);
    assert_eq!(mode(&at("nvidia-cuda-mps-control.pid")), 0o666);
    assert!(fs_err::metadata(at("log")).unwrap().file_type().is_fifo());
    assert!(fs_err::metadata(at("control")).unwrap().file_type().is_socket());
    assert_eq!(fs_err::metadata(at("control_lock")).unwrap().len(), 0);
    let pid = fs_err::read_to_string(at("nvidia-cuda-mps-control.pid")).unwrap();
    assert_eq!(pid, daemon.pid().to_string());
}

#[test]
fn the_log_directory_of_the_foreground_is_made_and_stays_empty() {
    let stage = Stage::new("");
    let _daemon = stage.daemon(&[]);
    assert_eq!(mode(&stage.path("log")), 0o700);
    assert!(names(&stage.path("log")).is_empty());
}

#[test]
fn quit_takes_the_log_and_the_pid_file_away() {
    let stage = Stage::new("");
    let mut daemon = stage.daemon(&[]);
    assert_eq!(stage.said("quit"), "");
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
    assert_eq!(names(&stage.pipe), AFTER_QUIT);
}

#[test]
fn after_a_signal_everything_stays_and_a_new_daemon_starts_over_it() {
    let stage = Stage::new("");
    for signal in [Signal::KILL, Signal::TERM] {
        let mut daemon = stage.daemon(&[]);
        stage.said("set_default_active_thread_percentage 25");
        let lines = daemon.lines().len();
        daemon.signal(signal).unwrap();
        assert_eq!(daemon.wait().unwrap().code(), None);
        assert!(!daemon.lines()[lines..].iter().any(|line| line.contains("Exit")));
        assert_eq!(names(&stage.pipe), ALL);
        assert_eq!(stage.ask("get_server_list").code, Some(1));
    }
    let _daemon = stage.daemon(&[]);
    // Settings live in the daemon's memory only.
    assert_eq!(stage.said("get_default_active_thread_percentage"), "100.0\n");
}

/// Whoever removes the lock file has two daemons, the older of which nobody reaches.
#[test]
fn without_the_lock_file_a_second_daemon_starts_on_the_same_directory() {
    let stage = Stage::new("");
    let first = stage.daemon(&[]);
    stage.said("set_default_active_thread_percentage 25");
    fs_err::remove_file(stage.pipe.join("control_lock")).unwrap();
    let _second = stage.daemon(&[]);
    assert_eq!(stage.said("get_default_active_thread_percentage"), "100.0\n");
    assert!(crate::stage::lives(i32::try_from(first.pid()).unwrap()));
}

#[test]
fn plain_text_in_the_fifo_is_dropped() {
    let stage = Stage::new("");
    let daemon = stage.daemon(&[]);
    fs_err::write(stage.pipe.join("log"), "nobody prints this\n").unwrap();
    stage.said("bogus");
    daemon.wait_for("Unknown command").unwrap();
    assert!(!daemon.lines().iter().any(|line| line.contains("nobody prints")));
}
