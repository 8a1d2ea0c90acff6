//! Clients, and what they see. No real one was measured: this is what documents and logs of users say.

use std::os::unix::process::CommandExt;
use std::process::Command;

use fake_mps::Running;
use fake_mps::calls::Event;
use rustix::process::Signal;

use crate::stage::{Stage, is_root, server_of, wait_until};

fn client(command: &mut Command) -> Running {
    Running::start(command).unwrap()
}

#[test]
fn a_client_starts_the_server_and_is_listed_with_its_host_pid() {
    let stage = Stage::new("");
    let daemon = stage.daemon(&[]);
    let (client, server) = stage.connected();
    let pid = client.pid();
    assert_eq!(stage.said("get_server_list"), format!("{server}\n"));
    stage.until(&format!("get_client_list {server}"), &format!("{pid}\n"));
    let ps = stage.said("ps");
    let row: Vec<&str> = ps.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(
        row[..3],
        [pid.to_string(), "0".to_owned(), server.to_string()],
        "{ps}"
    );
    let namespace = fs_err::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(namespace.to_str().unwrap(), format!("pid:[{}]", row[4]));
    assert!(row[5].ends_with("fake-mps-client"), "{ps}");
    let devices = stage.said(&format!("get_device_client_list {server}"));
    assert_eq!(devices, format!("[0] 00:30.0, Tesla T4\n{pid}\n"));
    daemon.wait_for(&format!("NEW CLIENT {pid} from user")).unwrap();
    daemon
        .wait_for(&format!("Client {{PID: {pid}, Context ID: 0}} connected"))
        .unwrap();
    drop(client);
    stage.until(&format!("get_client_list {server}"), "");
    daemon
        .wait_for("Receive command failed, assuming client exit")
        .unwrap();
    wait_until(|| stage.said("ps").lines().count() == 1, || stage.said("ps"));
}

#[test]
fn healthy_logs_complain_about_credentials_before_every_client() {
    let stage = Stage::new("");
    let daemon = stage.daemon(&[]);
    let (_first, _) = stage.connected();
    let (second, _) = stage.connected();
    let line = daemon.wait_for(&format!("NEW CLIENT {}", second.pid())).unwrap();
    assert!(line.ends_with(": Server already exists"), "{line}");
    let lines = daemon.lines();
    let complaints = lines
        .iter()
        .filter(|line| line.contains("User did not send valid credentials"));
    assert_eq!(complaints.count(), 2);
}

#[test]
fn a_client_lives_in_a_directory_with_hard_links_of_two_files() {
    let stage = Stage::new("");
    let _daemon = stage.daemon(&[]);
    let view = stage.path("view");
    fs_err::create_dir(&view).unwrap();
    for name in ["control", "log"] {
        fs_err::hard_link(stage.pipe.join(name), view.join(name)).unwrap();
    }
    let client = client(&mut stage.mps.client(&view));
    let server = server_of(&client);
    stage.until(
        &format!("get_client_list {server}"),
        &format!("{}\n", client.pid()),
    );
}

#[test]
fn without_a_daemon_a_client_runs_without_mps_unless_the_gpu_is_held() {
    let stage = Stage::new("");
    let mut free = stage.client();
    free.wait_for("without-mps").unwrap();
    free.close_stdin();
    assert_eq!(free.wait().unwrap().code(), Some(0));
    let mut held = client(stage.mps.client(&stage.pipe).arg("--gpu-held"));
    held.wait_for("error 46 DEVICE_UNAVAILABLE").unwrap();
    assert_eq!(held.wait().unwrap().code(), Some(1));
}

#[test]
fn a_client_outlives_its_server_and_says_so() {
    let stage = Stage::new("");
    let mut daemon = stage.daemon(&[]);
    let (mut client, server) = stage.connected();
    // The daemon is no part of the connection.
    daemon.signal(Signal::KILL).unwrap();
    daemon.wait().unwrap();
    let server = rustix::process::Pid::from_raw(server).unwrap();
    rustix::process::kill_process(server, Signal::KILL).unwrap();
    client.wait_for("server-gone").unwrap();
    client.close_stdin();
    client.wait_for("ended").unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(0));
    let lines = client.lines();
    let pids: Vec<_> = lines.iter().map(|line| line.split('=').next().unwrap()).collect();
    assert_eq!(
        pids,
        [
            "connecting",
            "pending",
            "connected server",
            "server-gone",
            "ended"
        ]
    );
}

#[test]
fn a_client_can_only_tighten_the_limits_of_the_daemon() {
    let stage = Stage::new("");
    let _daemon = stage.daemon(&[]);
    stage.said("set_default_active_thread_percentage 50\nset_default_device_pinned_mem_limit 0 2G");
    for (percentage, limit, shares) in [
        ("10", "0=1G", "percentage=10.0 limit=1073741824"),
        ("90", "0=4G,1=1M", "percentage=50.0 limit=2147483648"),
    ] {
        let mut command = stage.mps.client(&stage.pipe);
        command.env("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", percentage);
        command.env("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", limit);
        client(&mut command).wait_for(shares).unwrap();
    }
}

#[test]
fn terminate_client_ends_it_with_810() {
    let stage = Stage::new("");
    let _daemon = stage.daemon(&[]);
    let (mut client, server) = stage.connected();
    let pid = client.pid();
    stage.until(&format!("get_client_list {server}"), &format!("{pid}\n"));
    let wrong = stage.said(&format!("terminate_client {server} 1"));
    assert_eq!(wrong, "Invalid process 1!\n1\n");
    assert_eq!(stage.said(&format!("terminate_client {server} {pid}")), "0\n");
    client.wait_for("error 810 MPS_CLIENT_TERMINATED").unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(1));
    stage.until(&format!("get_client_list {server}"), "");
}

#[test]
fn one_client_too_many_gets_808() {
    let stage = Stage::new("[server]\nmax_clients = 2");
    let _daemon = stage.daemon(&[]);
    let _two = [stage.connected(), stage.connected()];
    stage
        .client()
        .wait_for("error 808 MPS_MAX_CLIENTS_REACHED")
        .unwrap();
}

#[test]
fn a_faulty_server_refuses_new_clients_until_the_old_ones_are_gone() {
    let stage = Stage::new("");
    let _daemon = stage.daemon(&[]);
    let (old, server) = stage.connected();
    let status = format!("get_server_status {server}");
    stage.mps.play("[server]\nfault = \"until_clients_end\"").unwrap();
    stage.until(&status, "FAULT\n");
    old.wait_for("fault").unwrap();
    stage.client().wait_for("error 807 MPS_SERVER_NOT_READY").unwrap();
    drop(old);
    stage.until(&status, "ACTIVE\n");
    stage.connected();
    stage.mps.play("[server]\nfault = \"held\"").unwrap();
    stage.until(&status, "FAULT\n");
    stage.mps.play("").unwrap();
    stage.until(&status, "ACTIVE\n");
}

#[test]
fn a_server_that_never_starts_is_tried_six_times_for_a_client() {
    let stage = Stage::new("[server]\nexit_at_start = 1");
    let _daemon = stage.daemon(&[]);
    let mut client = stage.client();
    client.wait_for("error 805 MPS_CONNECTION_FAILED").unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(1));
    let started = |event: &Event| matches!(event, Event::Server(_));
    let calls = stage.mps.calls().unwrap();
    assert_eq!(calls.iter().filter(|call| started(&call.event)).count(), 6);
}

/// Only root can start clients of two users; anybody else sees that the daemon says no to the second one's server.
#[test]
fn a_second_user_waits_until_the_first_one_is_gone() {
    let stage = Stage::new("");
    let mut daemon = stage.daemon(&[]);
    let (first, server) = stage.connected();
    if !is_root() {
        let uid = rustix::process::getuid().as_raw();
        daemon
            .wait_for(&format!("NEW CLIENT {} from user {uid}", first.pid()))
            .unwrap();
        return assert!(daemon.ended_within(std::time::Duration::ZERO).unwrap().is_none());
    }
    let mut second = stage.mps.client(&stage.pipe);
    let second = client(second.uid(65534).gid(65534));
    second.wait_for("pending").unwrap();
    let line = daemon
        .wait_for(&format!("NEW CLIENT {} from user 65534", second.pid()))
        .unwrap();
    assert!(
        line.ends_with(": Server is not ready, push client to pending list"),
        "{line}"
    );
    assert_eq!(stage.said("get_server_list"), format!("{server}\n"));
    drop(first);
    let other = server_of(&second);
    assert_ne!(other, server);
    daemon
        .wait_for(&format!("Starting new server {other} for user 65534"))
        .unwrap();
}

#[test]
fn one_multi_user_server_takes_clients_of_all_users() {
    let stage = Stage::new("");
    let _daemon = stage.daemon(&["-M"]);
    let (_first, server) = stage.connected();
    let mut second = stage.mps.client(&stage.pipe);
    if is_root() {
        second.uid(65534).gid(65534);
    }
    assert_eq!(server_of(&client(&mut second)), server);
}
