//! What of one GPU's MPS ends by itself comes back, and its neighbour notices nothing.

use std::time::{Duration, Instant};

use e2e::PATIENCE;
use rustix::process::Signal;

use super::scene::{CONFIG, Pids, Scene, clients, installed, is_ready, mps_unit, of, trouble};

/// `NVML_COMPUTEMODE_EXCLUSIVE_PROCESS` of nvml.h.
const EXCLUSIVE_PROCESS: u32 = 3;

#[test]
fn m01_m03_m12_what_is_killed_or_faulty_is_back_and_verified_and_the_neighbour_notices_nothing() {
    let scene = Scene::ready(&installed("ends"));
    scene.pod(0, "poda", 1000);
    scene.pod(1, "podb", 1000);
    scene.wait("both clients are seen", |status| {
        clients(status, 0) == 1 && clients(status, 1) == 1
    });
    let (first, neighbour) = (scene.pids(0), scene.pids(1));

    let (second, took) = assert_replaced(&scene, &first, first.daemon);
    println!(
        "verified again {} ms after the control daemon was killed",
        took.as_millis()
    );
    scene.wait_pod("poda", "server-gone");
    let (third, took) = assert_replaced(&scene, &second, second.main);
    println!(
        "verified again {} ms after gpushare mps run was killed",
        took.as_millis()
    );
    assert_eq!(scene.node.property(&mps_unit(0), "NRestarts"), "2");

    scene.pod(0, "podc", 1000);
    let status = scene.wait("the client is seen", |status| clients(status, 0) == 1);
    let client = &of(&status, 0)["server"]["clients"][0]["pid"];
    scene.play(0, "[server]\nfault = \"held\"\n");
    let status = scene.wait("the fault is told", |status| trouble(status, 0).contains("fault"));
    assert!(trouble(&status, 0).contains(&client.to_string()), "{status:#}");
    assert!(is_ready(&status, 1));
    scene.wait_pod("podc", "fault");
    // It does not recover by itself: whoever is left is ended, then the server, and the next one has the fault as well.
    scene.wait_pod("podc", "error 810");
    scene.wait("the server is replaced", |status| {
        let server = &of(status, 0)["server"]["pid"];
        server.is_number() && *server != third.server
    });
    assert!(!scene.runs(third.server));
    scene.play(0, "");
    scene.wait("it is well again", |status| is_ready(status, 0));
    assert_eq!(
        (scene.pids(0).main, scene.pids(0).daemon),
        (third.main, third.daemon),
        "a fault is the server's"
    );

    assert_eq!(scene.pids(1), neighbour);
    assert!(!scene.pod_said("podb", "server-gone"));
}

/// Kills one of these processes: all of them are gone, and others are in their place and verified, after this time.
fn assert_replaced(scene: &Scene, before: &Pids, killed: u32) -> (Pids, Duration) {
    let begun = Instant::now();
    scene.signal(killed, Signal::KILL);
    scene.wait("another one is verified", |status| {
        let pid = &of(status, 0)["pid"];
        is_ready(status, 0) && pid.is_number() && *pid != before.main
    });
    let took = begun.elapsed();
    let after = scene.pids(0);
    for pid in [before.main, before.daemon, before.server] {
        assert!(!scene.runs(pid), "process {pid} of {before:?} is left");
    }
    (after, took)
}

#[test]
fn m05_a_daemon_that_does_not_answer_is_replaced_and_the_gpu_is_never_open_to_others() {
    let scene = Scene::ready(&installed("silent"));
    let before = scene.pids(0);
    scene.signal(before.daemon, Signal::STOP);
    scene.wait("another one is verified", |status| {
        let pid = &of(status, 0)["pid"];
        is_ready(status, 0) && pid.is_number() && *pid != before.main
    });
    assert!(!scene.runs(before.daemon) && !scene.runs(before.server));
    let modes = scene.compute_modes(0);
    assert!(modes.iter().all(|mode| *mode == EXCLUSIVE_PROCESS), "{modes:?}");
    assert_eq!(scene.node.property(&mps_unit(0), "NRestarts"), "1");
}

#[test]
fn a_configuration_that_became_wrong_keeps_mps_neither_down_nor_on_after_its_stop() {
    let scene = Scene::ready(&installed("wrong"));
    let before = scene.pids(0);
    let config = scene.node.path("/etc/gpushare/config.toml");
    let wrong = format!("{CONFIG}[mps]\n");
    fs_err::write(&config, wrong).unwrap();
    assert_eq!(scene.node.run(&["gpushare", "reload"]).code, 78);
    scene.signal(before.main, Signal::KILL);
    // `gpushare status` is refused, too.
    scene.node.wait_until("another one is ready", PATIENCE, || {
        let [main, state] = ["MainPID", "ActiveState"].map(|name| scene.node.property(&mps_unit(0), name));
        (main != before.main.to_string() && state == "active").then_some(())
    });
    let journal = scene.node.journal(&mps_unit(0));
    assert!(
        journal.contains("the configuration that worked last"),
        "{journal}"
    );
    scene.node.succeed(&["systemctl", "stop", &mps_unit(0)]);
    // The agent starts it again at once.
    let modes = scene.compute_modes(0);
    assert!(
        modes.starts_with(&[EXCLUSIVE_PROCESS, 0]),
        "ExecStop= puts the mode back: {modes:?}"
    );
    fs_err::write(&config, CONFIG).unwrap();
    scene.wait("it is back", |status| is_ready(status, 0) && is_ready(status, 1));
}
