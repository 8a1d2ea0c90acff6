//! What keeps MPS from starting is told with the mend, and over when it is mended.

use super::scene::{Scene, UUIDS, installed, is_ready, mps_unit, of, trouble};

#[test]
fn m07_what_keeps_mps_from_starting_is_told_and_over_when_it_is_mended() {
    let script = |gpu: usize| format!("/etc/mps/{}.toml", UUIDS[gpu]);
    let spec = installed("starts")
        .with_file(&script(0), "[start]\nexit = 100\n", 0o644)
        .with_file(&script(1), "[start]\nexit = 244\n", 0o644);
    let scene = Scene::boot(&spec);
    scene.wait("both reasons are told", |status| {
        trouble(status, 0).contains("no device") && trouble(status, 1).contains("libcuda")
    });
    for gpu in [0, 1] {
        scene.wait_unit(gpu, "failed");
        let properties =
            ["ExecMainStatus", "NRestarts"].map(|name| scene.node.property(&mps_unit(gpu), name));
        assert_eq!(
            properties,
            ["69", "0"],
            "the agent tries it again, systemd does not"
        );
        scene.play(gpu, "");
    }
    scene.wait("it comes up by itself", |status| {
        is_ready(status, 0) && is_ready(status, 1)
    });

    assert_masked_is_named(&scene);
    assert_missing_is_named(&scene);
}

fn assert_masked_is_named(scene: &Scene) {
    let (node, unit, before) = (&scene.node, mps_unit(0), scene.pids(0));
    node.succeed(&["systemctl", "mask", "--runtime", &unit]);
    let probed = of(&scene.wait("", |_| true), 0)["probed_at"].as_u64();
    scene.wait("what runs goes on", |status| {
        is_ready(status, 0) && of(status, 0)["probed_at"].as_u64() > probed.map(|at| at + 1)
    });
    assert_eq!(scene.pids(0), before);
    node.succeed(&["systemctl", "stop", &unit]);
    scene.wait("the mask is told", |status| {
        trouble(status, 0).contains(&format!("systemctl unmask {unit}"))
    });
    node.succeed(&["systemctl", "unmask", "--runtime", &unit]);
    scene.wait("it is back", |status| is_ready(status, 0));
}

fn assert_missing_is_named(scene: &Scene) {
    let node = &scene.node;
    let file = "/usr/lib/systemd/system/gpushare-mps@.service";
    let (here, away) = (node.path(file), node.path("/var/away"));
    fs_err::rename(&here, &away).unwrap();
    fs_err::rename(
        node.path("/etc/systemd/system/gpushare-mps@.service.d"),
        node.path("/var/away.d"),
    )
    .unwrap();
    node.succeed(&["systemctl", "daemon-reload"]);
    node.succeed(&["systemctl", "stop", &mps_unit(0)]);
    scene.wait("the missing unit is told", |status| {
        trouble(status, 0).contains("install gpushare-mps@.service") && is_ready(status, 1)
    });
    fs_err::rename(&away, &here).unwrap();
    fs_err::rename(
        node.path("/var/away.d"),
        node.path("/etc/systemd/system/gpushare-mps@.service.d"),
    )
    .unwrap();
    node.succeed(&["systemctl", "daemon-reload"]);
    scene.wait("it is back", |status| is_ready(status, 0));
}
