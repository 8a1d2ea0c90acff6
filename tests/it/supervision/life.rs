//! The agent's own life is not that of MPS.

use rustix::process::Signal;

use super::faults::kill;
use super::scene::{Scene, UUIDS, mps, pids, ready, why};
use crate::harness::{exists, output};

#[test]
fn m15_an_agent_that_stops_crashes_or_starts_touches_neither_daemon_nor_client() {
    let scene = Scene::new();
    let agent = scene.start();
    let mut client = scene.client(0);
    let before = agent.wait("the client is seen", |snapshot| {
        mps(snapshot, 0).is_some_and(|gpu| {
            gpu.server
                .as_ref()
                .is_some_and(|server| server.known_clients().len() == 1)
        })
    });
    let daemon = scene.daemon(0);
    assert_eq!(agent.terminate().status.code(), Some(0));
    assert!(exists(daemon));
    let second = scene.start();
    second.signal(Signal::KILL);
    let _ = second.ended();
    let third = scene.start();
    let after = third.wait("the client is seen again", |snapshot| {
        mps(snapshot, 0).is_some_and(|gpu| {
            gpu.server
                .as_ref()
                .is_some_and(|server| server.known_clients().len() == 1)
        })
    });
    assert_eq!(pids(&after, 0), pids(&before, 0));
    assert_eq!(mps(&after, 0).unwrap().restarts, 0);
    assert_eq!(mps(&after, 0).unwrap().last_step, None, "there was nothing to do");
    assert!(
        client.lines().iter().all(|line| line != "server-gone"),
        "{:?}",
        client.lines()
    );
    client.close_stdin();
    client.wait().unwrap();
}

#[test]
fn a_daemon_that_was_quit_stays_so_until_it_is_restarted() {
    let scene = Scene::new();
    let agent = scene.start();
    let daemon = scene.daemon(0);
    let (code, out, err) = output(scene.node.command(&["mps", "quit", UUIDS[0]]));
    assert_eq!(code, 0, "{out}{err}");
    assert!(!exists(daemon));
    let snapshot = agent.wait("it is told", |snapshot| why(snapshot, 0).contains("on purpose"));
    assert!(ready(&snapshot, 1));
    let (code, out, err) = output(scene.node.command(&["mps", "restart", UUIDS[0]]));
    assert_eq!(code, 0, "{out}{err}");
    agent.wait("it is back", |snapshot| ready(snapshot, 0));
}

#[test]
fn a_restart_is_refused_while_clients_are_at_work_unless_it_is_forced() {
    let scene = Scene::new();
    let agent = scene.start();
    let client = scene.client(0);
    let before = agent.wait("the client is seen", |snapshot| {
        mps(snapshot, 0).is_some_and(|gpu| {
            gpu.server
                .as_ref()
                .is_some_and(|server| server.known_clients().len() == 1)
        })
    });
    let (code, _, err) = output(scene.node.command(&["mps", "restart", UUIDS[0]]));
    assert_eq!(code, 1);
    assert!(
        err.contains(&client.pid().to_string()) && err.contains("--force"),
        "{err}"
    );
    assert_eq!(pids(&agent.status().unwrap(), 0), pids(&before, 0));
    let (code, _, err) = output(scene.node.command(&["mps", "restart", "0", "--force"]));
    assert_eq!(code, 0, "{err}");
    agent.wait("another daemon is verified", |snapshot| {
        ready(snapshot, 0) && pids(snapshot, 0).0 != pids(&before, 0).0
    });
}

#[test]
fn a_daemon_that_dies_comes_back_although_the_configuration_has_become_wrong() {
    let scene = Scene::new();
    let agent = scene.start();
    let before = agent.status().unwrap();
    let wrong = scene.node.path("config.toml");
    fs_err::write(wrong, "[mps]\ngrace = \"soon\"\n").unwrap();
    kill(scene.daemon(0), Signal::KILL);
    let after = agent.wait("another daemon is verified", |snapshot| {
        ready(snapshot, 0) && pids(snapshot, 0).0 != pids(&before, 0).0
    });
    let warnings = &mps(&after, 0).unwrap().warnings;
    assert!(
        warnings.iter().any(|warning| warning.what.contains("mps.grace")),
        "{warnings:?}"
    );
    assert!(ready(&after, 1));
}
