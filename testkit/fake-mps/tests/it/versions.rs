//! What differs between drivers.

use std::process::Command;

use crate::stage::{Stage, output};

fn with(stage: &Stage, args: &[&str]) -> Command {
    let mut control = stage.mps.control(&stage.pipe);
    control.args(args);
    control
}

#[test]
fn the_version_flag_is_unknown_before_580() {
    for version in [535, 550] {
        let stage = Stage::new(&format!("version = {version}"));
        for flag in ["-v", "-multiuser-server"] {
            let answer = with(&stage, &[flag]).output().unwrap();
            assert_eq!(answer.status.code(), Some(1));
            assert_eq!(answer.stderr, b"Cannot find MPS control daemon process\n");
        }
    }
    for (version, binary) in [(580, "13000"), (595, "13020")] {
        let stage = Stage::new(&format!("version = {version}"));
        let said = output(&mut with(&stage, &["-v"]), "");
        assert_eq!(
            said,
            format!("CUDA MPS Control for Linux/Unix/QNX. Binary version: {binary}\n")
        );
    }
}

#[test]
fn driver_535_has_no_pid_file_and_no_server_status() {
    let stage = Stage::new("version = 535");
    let _daemon = stage.daemon(&[]);
    assert!(!stage.pipe.join("nvidia-cuda-mps-control.pid").exists());
    assert_eq!(
        stage.said("get_server_status 1"),
        "Unknown command \"get_server_status\"\n"
    );
}

#[test]
fn commands_come_and_go_with_versions() {
    let unknown = |command: &str| format!("Unknown command \"{command}\"\n");
    let partitioned = "Static partitioning mode is not enabled\n".to_owned();
    for (version, query, partitions) in [
        (550, unknown("device_query"), unknown("lspart")),
        (580, "Default\n".to_owned(), unknown("lspart")),
        (595, "Default\n".to_owned(), partitioned),
    ] {
        let stage = Stage::new(&format!("version = {version}"));
        let _daemon = stage.daemon(&[]);
        assert!(stage.said("device_query").starts_with(&query), "{version}");
        assert_eq!(stage.said("lspart"), partitions, "{version}");
    }
}

#[test]
fn commands_as_arguments_work_on_595_and_are_silently_nothing_on_580() {
    for (version, said) in [(580, ""), (595, "100.0\n")] {
        let stage = Stage::new(&format!("version = {version}"));
        let _daemon = stage.daemon(&[]);
        assert_eq!(
            output(&mut with(&stage, &["get_default_active_thread_percentage"]), ""),
            said
        );
    }
}

#[test]
fn protocol_3_is_asked_for_by_flag_or_environment_and_knows_no_old_command() {
    let stage = Stage::new("version = 615");
    let mut control = with(&stage, &["-f", "-p", "3"]);
    let three = fake_mps::Running::start(&mut control).unwrap();
    three.wait_for("To connect").unwrap();
    assert_eq!(
        stage.said("get_server_list"),
        "Unknown command \"get_server_list\"\n"
    );
    assert_eq!(stage.said("server list"), "");
    drop(three);
    let mut control = with(&stage, &["-f", "-p", "3"]);
    let two = fake_mps::Running::start(control.env("CUDA_MPS_PROTOCOL_VERSION", "2")).unwrap();
    two.wait_for("To connect").unwrap();
    assert_eq!(stage.said("get_server_list"), "");
}

#[test]
fn ps_has_one_column_more_on_595() {
    for (version, last) in [(550, "COMMAND"), (580, "COMMAND"), (595, "ATTRIBUTES")] {
        let stage = Stage::new(&format!("version = {version}"));
        let _daemon = stage.daemon(&[]);
        stage.server("ACTIVE");
        let ps = stage.said("ps");
        let header: Vec<&str> = ps.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(
            header[..6],
            ["PID", "ID", "SERVER", "DEVICE", "NAMESPACE", "COMMAND"]
        );
        assert_eq!(header.last(), Some(&last));
    }
}

#[test]
fn a_second_server_for_a_user_is_told_on_595_alone() {
    let uid = rustix::process::getuid().as_raw();
    for (version, said) in [
        (580, String::new()),
        (595, format!("Server with UID {uid} already exists\n")),
    ] {
        let stage = Stage::new(&format!("version = {version}"));
        let _daemon = stage.daemon(&[]);
        let server = stage.server("ACTIVE");
        assert_eq!(stage.said(&format!("start_server -uid {uid}")), said);
        assert_eq!(stage.said("get_server_list"), format!("{server}\n"));
    }
}
