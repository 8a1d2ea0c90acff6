//! Servers: how they start, end and outlive their daemon.

use fake_mps::calls::Event;
use rustix::process::{Pid, Signal, getuid, kill_process};

use crate::stage::{Stage, lives, wait_until};

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn start() -> String {
    format!("start_server -uid {}", getuid().as_raw())
}

#[test]
fn a_starting_server_is_listed_initializing_and_answers_nothing() {
    let stage = Stage::new("[server]\ninit_ms = 60000");
    let daemon = stage.daemon(&[]);
    let server = stage.server("INITIALIZING");
    assert_eq!(stage.said(&format!("get_client_list {server}")), "");
    assert_eq!(stage.said("get_device_client_list"), "");
    assert_eq!(stage.said("ps"), "Server not found\n");
    assert_eq!(
        stage.said(&format!("ps -p {server}")),
        format!("Server {server} not found\n\n")
    );
    assert_eq!(stage.said(&format!("get_active_thread_percentage {server}")), "");
    let terminated = stage.said(&format!("terminate_client {server} 1"));
    assert_eq!(terminated, format!("Server {server} not found!\n1\n"));
    daemon.wait_for(&format!("Server {server} is <busy>")).unwrap();
    stage.mps.play("").unwrap();
    stage.until(&format!("get_server_status {server}"), "ACTIVE\n");
    daemon.wait_for(&format!("NEW SERVER {server}: Ready")).unwrap();
}

#[test]
fn a_server_logs_its_limits_in_bytes_through_the_daemon() {
    let stage = Stage::new("[[device]]\nuuid = \"GPU-a\"\nname = \"Tesla T4\"");
    let daemon = stage.daemon(&[]);
    stage.said("set_default_device_pinned_mem_limit 0 5G\nset_default_active_thread_percentage 33");
    let server = stage.server("ACTIVE");
    daemon.wait_for("Server has started").unwrap();
    for line in [
        "Creating server context on device 0 (Tesla T4)",
        "Active Threads Percentage set to 33.0",
        "Device pinned memory limit for device 0 set to 0x140000000 bytes",
    ] {
        let line = daemon.wait_for(line).unwrap();
        assert!(line.contains(&format!(" Server {server:5}] ")), "{line}");
    }
}

#[test]
fn a_server_that_dies_at_once_leaves_start_server_silent() {
    let stage = Stage::new("[server]\nexit_at_start = 7");
    let mut daemon = stage.daemon(&[]);
    assert_eq!(stage.said(&start()), "");
    daemon
        .wait_for("Server encountered a fatal exception. Shutting down")
        .unwrap();
    daemon.wait_for("exited with status 7").unwrap();
    stage.until("get_server_list", "");
    // Nobody waits for it, so nobody starts it again.
    assert_eq!(
        stage
            .mps
            .calls()
            .unwrap()
            .iter()
            .filter(|call| matches!(call.event, Event::Server(_)))
            .count(),
        1
    );
    stage.said("quit");
    assert_eq!(daemon.wait().unwrap().code(), Some(7));
}

#[test]
fn the_server_is_looked_up_in_path() {
    let stage = Stage::new("");
    let mut control = stage.mps.control(&stage.pipe);
    let mut daemon = fake_mps::Running::start(control.arg("-f").env("PATH", "/nonexistent")).unwrap();
    daemon.wait_for("To connect").unwrap();
    assert_eq!(stage.said(&start()), "");
    daemon.wait_for("Starting new server ").unwrap();
    daemon.wait_for("exited with status 1").unwrap();
    // Measured with 550 in the foreground: the command line that says quit then ends with 1 too.
    let quit = stage.ask("quit");
    assert_eq!((quit.code, quit.stderr.as_str()), (Some(1), ""));
    assert_eq!(daemon.wait().unwrap().code(), Some(1));
}

#[test]
fn a_server_killed_by_a_signal_is_logged_with_status_0() {
    let stage = Stage::new("");
    let daemon = stage.daemon(&[]);
    let server = stage.server("ACTIVE");
    signal(server, Signal::KILL);
    daemon
        .wait_for(&format!("Server {server} exited with status 0"))
        .unwrap();
    stage.until("get_server_list", "");
}

#[test]
fn a_server_outlives_its_daemon_and_a_new_one_does_not_list_it() {
    for end in [Signal::KILL, Signal::TERM] {
        let stage = Stage::new("");
        let mut daemon = stage.daemon(&[]);
        let server = stage.server("ACTIVE");
        daemon.signal(end).unwrap();
        daemon.wait().unwrap();
        let _next = stage.daemon(&[]);
        assert_eq!(stage.said("get_server_list"), "");
        assert!(lives(server));
        let environ = fs_err::read(format!("/proc/{server}/environ")).unwrap();
        assert!(String::from_utf8_lossy(&environ).contains(stage.pipe.to_str().unwrap()));
    }
}

#[test]
fn a_server_that_was_told_to_go_is_called_faulty() {
    let stage = Stage::new("[server]\nignores_shutdown = true\nignores_force = true");
    let daemon = stage.daemon(&[]);
    let server = stage.server("ACTIVE");
    assert_eq!(stage.said(&format!("shutdown_server {server}")), "");
    assert_eq!(stage.said(&format!("get_server_status {server}")), "FAULT\n");
    assert_eq!(stage.said(&format!("shutdown_server {server} -f")), "");
    daemon
        .wait_for(&format!("Force shutting down server {server}"))
        .unwrap();
    assert!(lives(server));
}

#[test]
fn shutdown_server_waits_for_clients_unless_forced() {
    let stage = Stage::new("");
    let daemon = stage.daemon(&[]);
    let (client, server) = stage.connected();
    stage.said(&format!("shutdown_server {server}"));
    daemon
        .wait_for(&format!(
            "Server {server} has 1 active worker threads. Server will not shutdown."
        ))
        .unwrap();
    assert!(lives(server));
    stage.said(&format!("shutdown_server {server} -f"));
    client.wait_for("server-gone").unwrap();
    stage.until("get_server_list", "");
}

#[test]
fn quit_without_a_timeout_waits_for_ever_and_leaves_a_daemon_that_hears_nobody() {
    let stage = Stage::new("");
    let mut daemon = stage.daemon(&[]);
    let (client, _server) = stage.connected();
    let hang = |command: &str| {
        let mut ui = fake_mps::Running::start(&mut stage.mps.control(&stage.pipe)).unwrap();
        ui.say(command).unwrap();
        ui
    };
    let quit = hang("quit\n");
    daemon.wait_for("Cmd:quit").unwrap();
    drop(quit);
    let mut asked = hang("get_server_list\n");
    asked.close_stdin();
    assert!(
        asked
            .ended_within(std::time::Duration::from_millis(300))
            .unwrap()
            .is_none()
    );
    drop(client);
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
}

#[test]
fn quit_with_a_timeout_ends_servers_with_clients() {
    let stage = Stage::new("");
    let mut daemon = stage.daemon(&[]);
    let (client, server) = stage.connected();
    assert_eq!(stage.said("quit -t 1"), "");
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
    client.wait_for("server-gone").unwrap();
    for line in [
        "quit command issued with timeout of 1".to_owned(),
        format!("Force shutting down server {server}"),
        format!("Server {server} exited with status 0"),
        "Exit with status 0".to_owned(),
    ] {
        daemon.wait_for(&line).unwrap();
    }
}

/// The force of `quit -t` is one SIGINT (measured on 550).
#[test]
fn a_stopped_server_outlives_quit_with_a_timeout() {
    let stage = Stage::new("");
    let mut daemon = stage.daemon(&[]);
    let server = stage.server("ACTIVE");
    signal(server, Signal::STOP);
    let mut ui = fake_mps::Running::start(&mut stage.mps.control(&stage.pipe)).unwrap();
    ui.say("quit -t 0\n").unwrap();
    daemon.wait_for("Force shutting down server").unwrap();
    assert!(
        daemon
            .ended_within(std::time::Duration::from_millis(200))
            .unwrap()
            .is_none()
    );
    signal(server, Signal::KILL);
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
}

#[test]
fn a_multi_user_server_serves_everybody_as_user_0() {
    let stage = Stage::new("");
    let daemon = stage.daemon(&["-multiuser-server"]);
    assert_eq!(stage.said("start_server -uid 1000"), "");
    daemon.wait_for("for user 0").unwrap();
    let started = || {
        stage
            .mps
            .calls()
            .unwrap()
            .iter()
            .any(|call| call.event == Event::Server("-multiuser-server 0".to_owned()))
    };
    wait_until(started, || format!("{:?}", stage.mps.calls()));
}
