//! What the agent's own life is to MPS: nothing.

use std::time::Instant;

use e2e::PATIENCE;
use rustix::process::Signal;

use super::scene::{AGENT, Pids, Scene, UUIDS, clients, installed, is_ready, mps_unit, of};

/// The unit's own limit is half a minute.
const WATCHDOG: &str = "[Service]\nWatchdogSec=2s\n";
const LIMIT_FILE: &str = "/etc/systemd/system/gpushare.service.d/limit.conf";

#[test]
fn the_agent_without_capabilities_brings_both_gpus_under_mps_and_says_so() {
    let mut scene = Scene::ready(&installed("agent"));
    let node = &scene.node;
    let file = "/usr/lib/systemd/system/gpushare-mps@.service";
    let ran = node.run(&["systemd-analyze", "verify", file]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "", ""));
    node.wait_until("both in the status line", PATIENCE, || {
        let status = node.succeed(&["systemctl", "status", "--no-pager", AGENT]);
        let line = status.lines().find(|line| line.contains("Status: "))?;
        (line.contains("\"2/2 GPUs healthy") && line.contains(", MPS 2/2 ready")).then_some(())
    });
    for gpu in [0, 1] {
        assert_eq!(scene.compute_modes(gpu), [3], "the agent may not, the unit may");
        assert_eq!(node.property(&mps_unit(gpu), "NRestarts"), "0");
        let line = node.property(&mps_unit(gpu), "StatusText");
        assert!(line.contains("is active"), "{line}");
    }
    let before = both(&scene);
    let taken_away = format!(
        "FAKE_NVML_SCENARIO=/etc/fakes/scenario.toml gpushare nvml --gpu {} --compute-mode default",
        UUIDS[0]
    );
    node.succeed(&["sh", "-c", &taken_away]);
    node.succeed(&["systemctl", "reload", &mps_unit(0)]);
    node.wait_until("the compute mode is set again", PATIENCE, || {
        (scene.compute_modes(0) == [3, 0, 3]).then_some(())
    });
    assert_eq!(both(&scene), before, "a reload disturbs nobody");

    node.succeed(&["systemctl", "enable", AGENT]);
    let begun = Instant::now();
    scene.node.reboot();
    println!("down and up again in {} ms", begun.elapsed().as_millis());
    scene.wait("both are ready after a reboot", |status| {
        is_ready(status, 0) && is_ready(status, 1)
    });
    let journal = scene.node.journal(&mps_unit(0));
    assert!(
        journal.contains("in order"),
        "the end of a node ends it in order: {journal}"
    );
    assert_eq!(scene.compute_modes(0), [3, 0, 3, 0, 3]);
}

#[test]
fn m15_whatever_happens_to_the_agent_its_systemd_and_its_bus_mps_and_its_clients_notice_nothing() {
    let scene = Scene::ready(&installed("m15").with_file(LIMIT_FILE, WATCHDOG, 0o644));
    let node = &scene.node;
    scene.pod(0, "poda", 1000);
    scene.wait_pod("poda", "connected server=");
    let before = both(&scene);

    node.succeed(&["systemctl", "restart", AGENT]);
    assert_untouched(&scene, &before);
    node.succeed(&["systemctl", "stop", AGENT]);
    assert!(scene.runs(before[0].server) && scene.runs(before[1].daemon));
    node.succeed(&["systemctl", "start", AGENT]);
    assert_untouched(&scene, &before);
    for signal in [Signal::KILL, Signal::STOP] {
        let agent = main_pid(&scene);
        scene.signal(agent, signal);
        node.wait_until("another agent", PATIENCE, || {
            Some(main_pid(&scene)).filter(|pid| *pid != 0 && *pid != agent)
        });
        assert_untouched(&scene, &before);
    }
    assert!(node.journal(AGENT).contains("Watchdog timeout (limit 2s)"));
    node.succeed(&["systemctl", "daemon-reexec"]);
    assert_untouched(&scene, &before);
    node.succeed(&["systemctl", "restart", "dbus.service"]);
    assert_untouched(&scene, &before);

    // After both the agent still hears of a unit that ends and still starts it.
    node.succeed(&["systemctl", "stop", &mps_unit(1)]);
    scene.wait("the stopped one is back", |status| {
        is_ready(status, 1) && of(status, 1)["pid"] != before[1].main && !of(status, 1)["pid"].is_null()
    });
    assert_eq!(scene.pids(0), before[0]);
}

/// The same processes, a client that was never disturbed, and an agent that had nothing to do.
fn assert_untouched(scene: &Scene, before: &[Pids; 2]) {
    let status = scene.wait("both are ready and the client is seen", |status| {
        is_ready(status, 0) && is_ready(status, 1) && clients(status, 0) == 1
    });
    for gpu in [0, 1] {
        let seen = of(&status, gpu);
        assert_eq!(seen["restarts"], 0, "{}", UUIDS[gpu]);
        assert!(gpu == 1 || seen["server"]["pid"] == before[0].server, "{seen:#}");
    }
    assert_eq!(&both(scene), before);
    assert!(!scene.pod_said("poda", "server-gone"));
}

fn both(scene: &Scene) -> [Pids; 2] {
    [scene.pids(0), scene.pids(1)]
}

fn main_pid(scene: &Scene) -> u32 {
    scene.node.property(AGENT, "MainPID").parse().unwrap()
}
