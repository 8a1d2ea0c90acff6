//! What an operator does to MPS.

use e2e::PATIENCE;

use super::scene::{AGENT, Scene, UUIDS, clients, installed, is_ready, mps_unit, of, trouble};

const SWITCHED_OFF: &str =
    "[publish]\ntarget = \"stdout\"\n[mps]\nenabled = false\n[slices]\nenabled = false\n";

#[test]
fn m04_m24_what_an_operator_stops_ends_in_order_and_who_waits_is_named() {
    let old_driver = format!("/etc/mps/{}.toml", UUIDS[1]);
    let scene = Scene::ready(&installed("operator").with_file(&old_driver, "version = 550\n", 0o644));
    let node = &scene.node;
    // Waits for half a minute meanwhile.
    scene.pod(1, "first", 1000);
    scene.wait_pod("first", "connected server=");
    scene.pod(1, "second", 2000);
    scene.wait_pod("second", "pending");

    assert_stopped_in_order_and_back(&scene);
    assert_restart_spares_clients(&scene);
    assert_quit_lasts(&scene);

    let status = scene.wait("who waits is named", |status| {
        let warnings = of(status, 1)["warnings"].to_string();
        warnings.contains("of user 2000 waits") && warnings.contains("that of user 1000")
    });
    let warnings = of(&status, 1)["warnings"].to_string();
    assert!(warnings.contains("serves one user at a time"), "{warnings}");

    fs_err::write(node.path("/etc/gpushare/config.toml"), SWITCHED_OFF).unwrap();
    node.succeed(&["systemctl", "restart", AGENT]);
    for gpu in [0, 1] {
        scene.wait_unit(gpu, "inactive");
        assert_eq!(scene.compute_modes(gpu).last(), Some(&0), "as it was before MPS");
    }
    assert!(node.succeed(&["gpushare", "status"]).contains("MPS     off"));
}

/// `systemctl stop`.
fn assert_stopped_in_order_and_back(scene: &Scene) {
    let (node, before) = (&scene.node, scene.pids(0));
    node.succeed(&["systemctl", "stop", &mps_unit(0)]);
    let journal = node.journal(&mps_unit(0));
    assert!(
        journal.contains("in order") && journal.contains("The compute mode is"),
        "{journal}"
    );
    assert!(!journal.contains("is killed"), "{journal}");
    scene.wait("the agent starts it again", |status| {
        is_ready(status, 0) && of(status, 0)["pid"] != before.main
    });
    assert_eq!(scene.compute_modes(0), [3, 0, 3]);
    for pid in [before.main, before.daemon, before.server] {
        assert!(!scene.runs(pid), "process {pid} of {before:?} is left");
    }
}

/// `gpushare mps restart`.
fn assert_restart_spares_clients(scene: &Scene) {
    let (node, before) = (&scene.node, scene.pids(0));
    scene.pod(0, "third", 1000);
    let status = scene.wait("the client is seen", |status| clients(status, 0) == 1);
    let client = &of(&status, 0)["server"]["clients"][0]["pid"];
    let refused = node.run(&["gpushare", "mps", "restart", "0"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused.stderr.contains(&client.to_string()) && refused.stderr.contains("--force"),
        "{refused:?}"
    );
    assert_eq!(scene.pids(0), before);
    node.succeed(&["systemctl", "stop", "third"]);
    scene.wait("the client is gone", |status| clients(status, 0) == 0);
    node.succeed(&["gpushare", "mps", "restart", "0"]);
    assert_ne!(scene.pids(0).main, before.main);
}

/// `gpushare mps quit`.
fn assert_quit_lasts(scene: &Scene) {
    let node = &scene.node;
    let said = node.succeed(&["gpushare", "mps", "quit", UUIDS[0]]);
    assert!(said.contains("is stopped"), "{said}");
    assert_eq!(node.property(&mps_unit(0), "ActiveState"), "inactive");
    assert_eq!(scene.compute_modes(0).last(), Some(&0), "as it was before MPS");
    // Another agent knows it as well.
    node.succeed(&["systemctl", "restart", AGENT]);
    scene.wait("why it is down", |status| {
        trouble(status, 0).contains("on purpose") && is_ready(status, 1)
    });
    assert_eq!(node.property(&mps_unit(0), "ActiveState"), "inactive");
    let said = node.succeed(&["gpushare", "mps", "restart", "0"]);
    assert!(said.contains("runs on"), "{said}");
    scene.wait("it is back", |status| is_ready(status, 0));
}

#[test]
fn mps_that_is_switched_off_while_it_cannot_start_gives_the_compute_mode_back() {
    let script = |gpu: usize| format!("/etc/mps/{}.toml", UUIDS[gpu]);
    let spec = installed("off")
        .with_file(&script(0), "[control]\nwedged = true\n", 0o644)
        .with_file(&script(1), "[start]\nexit = 100\n", 0o644);
    let scene = Scene::boot(&spec);
    let node = &scene.node;
    for (gpu, state) in [(0, "activating"), (1, "failed")] {
        node.wait_until("EXCLUSIVE_PROCESS, and no daemon", PATIENCE, || {
            let is_so = node.property(&mps_unit(gpu), "ActiveState") == state;
            (is_so && scene.compute_modes(gpu) == [3]).then_some(())
        });
    }
    // By the agent's own unit: those of MPS see the file alone.
    let drop_in = node.path("/etc/systemd/system/gpushare.service.d/off.conf");
    fs_err::create_dir_all(drop_in.parent().unwrap()).unwrap();
    let off = "[Service]\nEnvironment=GPUSHARE__MPS__ENABLED=false GPUSHARE__SLICES__ENABLED=false\n";
    fs_err::write(drop_in, off).unwrap();
    node.succeed(&["systemctl", "daemon-reload"]);
    node.succeed(&["systemctl", "restart", AGENT]);
    for gpu in [0, 1] {
        node.wait_until("the mode before MPS", PATIENCE, || {
            (scene.compute_modes(gpu) == [3, 0]).then_some(())
        });
        // Nor is it a failed unit for ever.
        scene.wait_unit(gpu, "inactive");
    }
}
