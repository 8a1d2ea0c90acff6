//! How a daemon starts, and how it does not.

use std::os::unix::fs::MetadataExt;

use fake_mps::Running;

use crate::stage::{Stage, output, wait_until};

#[test]
fn without_a_daemon_the_command_line_ends_with_1() {
    let stage = Stage::new("");
    let answer = stage.ask("get_server_list");
    assert_eq!(answer.code, Some(1));
    assert_eq!(answer.stderr, "Cannot find MPS control daemon process\n");
    assert_eq!(answer.stdout, "");
}

#[test]
fn a_second_daemon_ends_with_1_in_front_and_behind() {
    let stage = Stage::new("");
    let _daemon = stage.daemon(&[]);
    for mode in ["-f", "-d"] {
        let second = stage.mps.control(&stage.pipe).arg(mode).output().unwrap();
        assert_eq!(second.status.code(), Some(1));
        assert_eq!(second.stderr, b"An instance of this daemon is already running\n");
    }
    assert_eq!(stage.said("get_server_list"), "");
}

#[test]
fn the_script_chooses_a_silent_exit_code() {
    for code in [100, 244, 1] {
        let stage = Stage::new(&format!("[start]\nexit = {code}"));
        let daemon = stage.mps.control(&stage.pipe).arg("-f").output().unwrap();
        assert_eq!(daemon.status.code(), Some(code));
        assert!(daemon.stdout.is_empty() && daemon.stderr.is_empty());
        assert!(!stage.pipe.exists());
    }
}

#[test]
fn a_directory_without_a_parent_is_named_and_a_long_path_is_not() {
    let stage = Stage::new("");
    let missing = stage.path("none/pipe");
    let daemon = stage.mps.control(&missing).arg("-f").output().unwrap();
    assert_eq!(daemon.status.code(), Some(1));
    let said = String::from_utf8([daemon.stdout, daemon.stderr].concat()).unwrap();
    assert_eq!(
        said,
        format!("Cannot access CUDA_MPS_PIPE_DIRECTORY={}\n", missing.display())
    );
    let long = stage.path(&"x".repeat(108));
    let daemon = stage.mps.control(&long).arg("-f").output().unwrap();
    assert_eq!(daemon.status.code(), Some(1));
    assert!(daemon.stdout.is_empty() && daemon.stderr.is_empty());
    assert!(
        long.join("control_lock").exists() && long.join("log").exists() && !long.join("control").exists()
    );
}

#[test]
fn the_first_lines_name_the_socket_and_the_version() {
    let stage = Stage::new("");
    let daemon = stage.daemon(&[]);
    let pipe = stage.pipe.display();
    daemon.wait_for("CUDA MPS Control binary version: 13000").unwrap();
    let lines = daemon.lines();
    let head = format!(" Control {:5}] ", daemon.pid());
    assert!(lines[0].ends_with(&format!(
        "{head}Starting control daemon using socket {pipe}/control"
    )));
    let second =
        format!("To connect CUDA applications to this daemon, set env CUDA_MPS_PIPE_DIRECTORY={pipe}");
    assert!(lines[1].ends_with(&second), "{lines:?}");
}

#[test]
fn the_environment_sets_the_percentage_and_never_the_shown_limit() {
    for (value, shown) in [("33", "33.0\n"), ("0", "100.0\n")] {
        let stage = Stage::new("");
        let mut control = stage.mps.control(&stage.pipe);
        control
            .env("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", value)
            .env("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "0=1G");
        let daemon = Running::start(control.arg("-f")).unwrap();
        daemon.wait_for("To connect").unwrap();
        assert_eq!(stage.said("get_default_active_thread_percentage"), shown);
        assert_eq!(stage.said("get_default_device_pinned_mem_limit 0"), "");
        if value == "0" {
            daemon
                .wait_for("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE should be between (0.0, 100.0]")
                .unwrap();
        }
    }
}

#[test]
fn the_background_daemon_leads_its_session_and_logs_to_files() {
    let stage = Stage::new("");
    let parent = stage.mps.control(&stage.pipe).arg("-d").output().unwrap();
    assert_eq!(parent.status.code(), Some(0));
    assert!(parent.stdout.is_empty() && parent.stderr.is_empty());
    // It listens by now.
    assert_eq!(stage.said("get_server_list"), "");
    let pid = fs_err::read_to_string(stage.pipe.join("nvidia-cuda-mps-control.pid")).unwrap();
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .nth(3)
        .unwrap();
    assert_eq!(session, pid);
    for fd in 0..3 {
        let target = fs_err::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
        assert_eq!(target.to_str(), Some("/dev/null"));
    }
    let logs = stage.path("log");
    assert_eq!(fs_err::metadata(&logs).unwrap().mode() & 0o7777, 0o700);
    let log = || fs_err::read_to_string(logs.join("control.log")).unwrap();
    wait_until(|| log().contains("UI closed"), log);
    assert_eq!(fs_err::read_to_string(logs.join("server.log")).unwrap(), "");
    stage.said("quit");
}

#[test]
fn a_log_directory_that_cannot_be_written_is_a_warning() {
    let stage = Stage::new("");
    let logs = stage.path("none/log");
    let mut control = stage.mps.control(&stage.pipe);
    let parent = control
        .env("CUDA_MPS_LOG_DIRECTORY", &logs)
        .arg("-d")
        .output()
        .unwrap();
    assert_eq!(parent.status.code(), Some(0));
    let warning = format!(
        "Warning: Failed writing log files to directory [{}]. No logs will be available.\n",
        logs.display()
    );
    assert_eq!(String::from_utf8(parent.stderr).unwrap(), warning);
    stage.said("quit");
}

#[test]
fn a_wrong_script_is_refused_before_anything_starts() {
    let stage = Stage::new("");
    fs_err::write(stage.mps.script(), "[server]\nfaulty = true\n").unwrap();
    let daemon = stage.mps.control(&stage.pipe).arg("-f").output().unwrap();
    assert_eq!(daemon.status.code(), Some(64));
    let said = String::from_utf8(daemon.stderr).unwrap();
    assert!(said.contains("mps.toml") && said.contains("faulty"), "{said}");
}

#[test]
fn help_needs_no_daemon() {
    let stage = Stage::new("version = 550");
    assert!(
        output(stage.mps.control(&stage.pipe).arg("--help"), "")
            .starts_with("CUDA MPS Control for Linux/Unix")
    );
}
