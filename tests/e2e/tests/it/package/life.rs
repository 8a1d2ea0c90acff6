//! A node's life with the package: installed, upgraded under a CUDA program, rolled back, removed, installed again.

use e2e::{Edition, Node, PATIENCE};

use super::installer::{CONFIG_FILE, Installer, complaints, with_packages};
use crate::mps::scene::{self, AGENT, Pids, Scene, UUIDS, clients, is_ready, mps_unit, of};
use crate::unit;

const NONE: [String; 0] = [];
const MISTAKEN: &str = "[sample]\nintervall = \"1s\"\n";

#[test]
fn a_deb_upgrades_under_a_cuda_program_and_can_be_rolled_back() {
    upgrades_under_a_client(Installer::Dpkg);
}

#[test]
fn an_rpm_upgrades_under_a_cuda_program_and_can_be_rolled_back() {
    upgrades_under_a_client(Installer::Rpm);
}

#[test]
fn a_deb_leaves_nothing_running_and_can_be_installed_again() {
    let scene = goes_and_comes_back(Installer::Dpkg);
    let node = &scene.node;
    assert_eq!(complaints(node, &["dpkg", "--purge", "gpushare"]), NONE);
    for path in ["/etc/gpushare", "/var/lib/gpushare", "/run/gpushare"] {
        assert!(!node.path(path).exists(), "{path}");
    }
}

#[test]
fn an_rpm_leaves_nothing_running_and_can_be_installed_again() {
    goes_and_comes_back(Installer::Rpm);
}

#[test]
fn a_configuration_that_was_there_first_is_kept_and_a_wrong_one_is_told_once() {
    for installer in Installer::BOTH {
        let spec = unit::bare(&format!("first-{}", installer.extension()));
        let node = Node::boot(&with_packages(spec.with_file(CONFIG_FILE, MISTAKEN, 0o644)));
        let said = complaints(&node, &installer.install(Edition::Old)).join("\n");
        assert!(
            said.contains("the agent does not start: journalctl -u gpushare"),
            "{said}"
        );
        assert_eq!(installer.version(&node).as_deref(), Some(Edition::Old.version()));
        assert_eq!(node.property(AGENT, "NRestarts"), "0");
        assert_eq!(fs_err::read_to_string(node.path(CONFIG_FILE)).unwrap(), MISTAKEN);
        assert!(node.journal(AGENT).contains("sample.intervall"));
        fs_err::write(node.path(CONFIG_FILE), scene::CONFIG).unwrap();
        node.succeed(&["systemctl", "start", AGENT]);
        assert_runs(&node);
    }
}

#[test]
fn a_removal_ends_an_mps_daemon_that_hangs_as_well_and_goes_on() {
    let scene = in_use(Installer::Dpkg, "wedged");
    let before = both(&scene);
    scene.play(0, "[control]\nwedged = true\n");
    // Its answer is waited for before it is killed.
    let removal = scene.node.spawn(&Installer::Dpkg.remove());
    let ran = removal.wait(3 * PATIENCE).unwrap();
    assert_eq!(ran.code, 0, "{ran:?}");
    for pids in before {
        assert!(
            ![pids.main, pids.daemon, pids.server]
                .iter()
                .any(|pid| scene.runs(*pid))
        );
    }
    assert_eq!(
        [0, 1].map(|gpu| scene.compute_modes(gpu).pop()),
        [Some(0), Some(0)]
    );
    assert_eq!(Installer::Dpkg.version(&scene.node), None);
    assert!(!scene.node.path("/run/gpushare").exists());
    assert_eq!(scene.node.succeed(&["systemctl", "--failed", "--no-legend"]), "");
}

#[test]
fn a_removal_puts_the_compute_mode_back_where_the_configuration_is_wrong() {
    let scene = in_use(Installer::Rpm, "mistaken");
    fs_err::write(scene.node.path(CONFIG_FILE), MISTAKEN).unwrap();
    // The package's script has the environment of whoever calls rpm, and not that of a unit.
    let mut words = vec!["env", "FAKE_NVML_SCENARIO=/etc/fakes/scenario.toml"];
    words.extend(Installer::Rpm.remove());
    let ran = scene.node.spawn(&words).wait(3 * PATIENCE).unwrap();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        [0, 1].map(|gpu| scene.compute_modes(gpu).pop()),
        [Some(0), Some(0)],
        "{ran:?}"
    );
    assert!(!scene.node.path("/run/gpushare").exists());
}

fn upgrades_under_a_client(installer: Installer) {
    let scene = in_use(installer, "upgrade");
    let node = &scene.node;
    let (agent, before) = (agent_pid(node), both(&scene));
    let config = fs_err::read_to_string(node.path(CONFIG_FILE)).unwrap();

    assert_eq!(complaints(node, &installer.install(Edition::New)), NONE);
    assert_eq!(installer.version(node).as_deref(), Some(Edition::New.version()));
    let upgraded = agent_pid(node);
    assert!(upgraded != 0 && upgraded != agent);
    assert_untouched(&scene, &before);
    assert_eq!(fs_err::read_to_string(node.path(CONFIG_FILE)).unwrap(), config);
    assert!(
        node.path(installer.new_config()).exists(),
        "the new one is there to look at"
    );

    // What does not run is not started, and what an administrator has disabled stays so.
    node.succeed(&["systemctl", "disable", "--now", AGENT]);
    assert_eq!(complaints(node, &installer.install(Edition::Old)), NONE);
    assert_eq!(installer.version(node).as_deref(), Some(Edition::Old.version()));
    assert_eq!(node.property(AGENT, "ActiveState"), "inactive");
    assert_eq!(node.property(AGENT, "UnitFileState"), "disabled");
    node.succeed(&["systemctl", "start", AGENT]);
    assert_untouched(&scene, &before);

    // A version that refuses the configuration is installed and says so; the agent that runs goes on.
    let running = agent_pid(node);
    fs_err::write(node.path(CONFIG_FILE), MISTAKEN).unwrap();
    let said = complaints(node, &installer.install(Edition::New)).join("\n");
    assert!(
        said.contains("the new version refuses the configuration") && said.contains("try-restart"),
        "{said}"
    );
    assert_eq!(installer.version(node).as_deref(), Some(Edition::New.version()));
    assert_eq!(agent_pid(node), running);
    fs_err::write(node.path(CONFIG_FILE), &config).unwrap();
    assert_untouched(&scene, &before);
    node.succeed(&["systemctl", "try-restart", AGENT]);
    assert_ne!(agent_pid(node), running);

    // The unit has keys of its own, which an administrator's shell does not see.
    let drop_in = node.path("/etc/systemd/system/gpushare.service.d/keys.conf");
    fs_err::create_dir_all(drop_in.parent().unwrap()).unwrap();
    fs_err::write(
        &drop_in,
        "[Service]\nEnvironment=GPUSHARE__SAMPLE__INTERVAL=500ms\n",
    )
    .unwrap();
    node.succeed(&["systemctl", "daemon-reload"]);
    fs_err::write(
        node.path(CONFIG_FILE),
        format!("{config}[sample]\ninterval = \"0s\"\n"),
    )
    .unwrap();
    node.succeed(&["systemctl", "restart", AGENT]);
    let running = agent_pid(node);
    assert_eq!(complaints(node, &installer.install(Edition::Old)), NONE);
    assert_ne!(agent_pid(node), running);
    fs_err::remove_file(drop_in).unwrap();
    node.succeed(&["systemctl", "daemon-reload"]);
    fs_err::write(node.path(CONFIG_FILE), &config).unwrap();

    // One that has failed is started by the version that is installed for that reason.
    fs_err::write(node.path(CONFIG_FILE), MISTAKEN).unwrap();
    assert_ne!(node.run(&["systemctl", "restart", AGENT]).code, 0);
    fs_err::write(node.path(CONFIG_FILE), &config).unwrap();
    node.succeed(&["systemctl", "enable", AGENT]);
    assert_eq!(complaints(node, &installer.install(Edition::New)), NONE);
    assert_runs(node);
    assert_untouched(&scene, &before);
}

/// The node, after a removal and a second installation.
fn goes_and_comes_back(installer: Installer) -> Scene {
    let scene = in_use(installer, "removal");
    let node = &scene.node;
    let before = both(&scene);
    let config = fs_err::read_to_string(node.path(CONFIG_FILE)).unwrap();

    assert_eq!(complaints(node, &installer.remove()), NONE);
    assert_eq!(installer.version(node), None);
    let ours = node.run(&["pgrep", "--list-name", "^(gpushare|nvidia-cuda-mps)"]);
    assert_eq!((ours.code, ours.stdout.as_str()), (1, ""), "none runs");
    scene.wait_pod("pod", "server-gone");
    for (gpu, pids) in before.iter().enumerate() {
        assert!(
            [pids.main, pids.daemon, pids.server]
                .iter()
                .all(|pid| !scene.runs(*pid))
        );
        assert_eq!(scene.compute_modes(gpu).last(), Some(&0), "as it was before MPS");
        assert_eq!(node.property(&mps_unit(gpu), "LoadState"), "not-found");
    }
    assert!(!node.path("/run/gpushare").exists());
    let links = node.run(&["find", "/etc/systemd/system", "-name", "gpushare*.service"]);
    assert_eq!(links.stdout, "", "nothing is enabled");
    assert_eq!(node.succeed(&["systemctl", "--failed", "--no-legend"]), "");
    assert_eq!(
        fs_err::read_to_string(node.path(installer.kept_config())).unwrap(),
        config
    );
    assert!(node.path("/var/lib/gpushare/gpus.json").exists());

    let said = complaints(node, &installer.install(Edition::New));
    match installer {
        Installer::Dpkg => assert_eq!(said, NONE),
        Installer::Rpm => assert!(said.concat().contains("config.toml.rpmsave"), "{said:?}"),
    }
    assert_runs(node);
    scene.wait("MPS is back on both GPUs", |status| {
        is_ready(status, 0) && is_ready(status, 1)
    });
    assert_eq!(complaints(node, &installer.remove()), NONE);
    scene
}

/// A node on which the package is installed and configured, and a program of a pod uses the first GPU.
fn in_use(installer: Installer, name: &str) -> Scene {
    let spec = with_packages(scene::bare(&format!("{name}-{}", installer.extension())));
    let scene = Scene {
        node: Node::boot(&spec),
    };
    let node = &scene.node;
    assert_eq!(complaints(node, &installer.install(Edition::Old)), NONE);
    assert_eq!(installer.version(node).as_deref(), Some(Edition::Old.version()));
    assert_runs(node);
    let shipped = fs_err::read_to_string(node.path(CONFIG_FILE)).unwrap();
    fs_err::write(node.path(CONFIG_FILE), shipped + scene::CONFIG).unwrap();
    node.succeed(&["systemctl", "restart", AGENT]);
    scene.wait("both GPUs are ready", |status| {
        is_ready(status, 0) && is_ready(status, 1)
    });
    scene.pod(0, "pod", 1000);
    scene.wait_pod("pod", "connected server=");
    scene
}

/// Enabled, and READY: `systemctl start` and so the package's script have waited for it.
fn assert_runs(node: &Node) {
    assert_eq!(node.property(AGENT, "ActiveState"), "active");
    assert_eq!(node.property(AGENT, "UnitFileState"), "enabled");
    assert_eq!(node.property(AGENT, "NRestarts"), "0");
    node.succeed(&["gpushare", "status"]);
}

/// The same processes, and a client that was never disturbed.
fn assert_untouched(scene: &Scene, before: &[Pids; 2]) {
    scene.wait("both are ready and the client is seen", |status| {
        let same = |gpu: usize| of(status, gpu)["restarts"] == 0;
        is_ready(status, 0) && is_ready(status, 1) && same(0) && same(1) && clients(status, 0) == 1
    });
    assert_eq!(&both(scene), before);
    assert!(!scene.pod_said("pod", "server-gone"));
}

fn both(scene: &Scene) -> [Pids; UUIDS.len()] {
    [scene.pids(0), scene.pids(1)]
}

fn agent_pid(node: &Node) -> u32 {
    node.property(AGENT, "MainPID").parse().unwrap()
}
