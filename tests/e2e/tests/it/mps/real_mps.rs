//! NVIDIA's own control daemon, version 550, under the agent and `gpushare mps run`. It needs no GPU; its server does,
//! so that no GPU becomes ready here.

use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use e2e::{PATIENCE, RealMps, Spec};
use rustix::process::Signal;

use super::scene::{AGENT, Scene, UUIDS, mps_unit, trouble, view, without_mps};

const PERCENTAGE: &str = "get_default_active_thread_percentage";

fn with_nvidias(name: &str) -> Spec {
    let mps = RealMps::of_this_run();
    without_mps(name)
        .with_bind(mps.control(), "/usr/bin/nvidia-cuda-mps-control")
        .with_bind(mps.server(), "/usr/bin/nvidia-cuda-mps-server")
}

#[test]
fn m02_m06_m08_nvidias_daemon_is_kept_alone_on_its_directory_with_its_defaults_and_started_again() {
    let scene = Scene::boot(&with_nvidias("real"));
    let node = &scene.node;
    for gpu in [0, 1] {
        scene.wait_unit(gpu, "active");
        // It cuts a conversation off when its server ends in the middle of it.
        node.wait_until("its default", PATIENCE, || {
            (ask(&scene, gpu, PERCENTAGE) == "100.0\n").then_some(())
        });
    }
    let status = scene.wait("the server that cannot start is told", |status| {
        !trouble(status, 0).is_empty() && !trouble(status, 1).is_empty()
    });
    println!("without a GPU: {}", trouble(&status, 0));

    assert_alone(&scene);
    let (main, daemon, neighbour) = (main_pid(&scene, 0), daemon(&scene, 0), daemon(&scene, 1));
    let before = inodes(&scene);
    let begun = Instant::now();
    scene.signal(daemon, Signal::KILL);
    node.wait_until("another daemon", PATIENCE, || {
        (main_pid(&scene, 0) != main && ask(&scene, 0, PERCENTAGE) == "100.0\n").then_some(())
    });
    println!(
        "NVIDIA's daemon answers {} ms after it was killed",
        begun.elapsed().as_millis()
    );
    scene.wait_unit(0, "active");
    assert_eq!(inodes(&scene), before, "nothing was removed or made anew");
    assert_alone(&scene);
    assert_eq!(self::daemon(&scene, 1), neighbour);

    node.wait_until("that it takes a setting", PATIENCE, || {
        (ask(&scene, 0, "set_default_active_thread_percentage 25") == "25.0\n").then_some(())
    });
    node.wait_until("a daemon that limits nobody", PATIENCE, || {
        (ask(&scene, 0, PERCENTAGE) == "100.0\n").then_some(())
    });
    scene.wait_unit(0, "active");
    node.succeed(&["systemctl", "stop", AGENT]);
    node.succeed(&["systemctl", "stop", &mps_unit(0)]);
    let journal = node.journal(&mps_unit(0));
    assert!(
        journal.contains("MPS has ended on") && journal.contains("in order"),
        "{journal}"
    );
    assert!(!journal.contains("does not leave in order"), "{journal}");
    assert_eq!(scene.compute_modes(0).last(), Some(&0));
}

#[test]
fn m27_root_without_capabilities_in_a_pod_changes_nothing_in_nvidias_daemon() {
    let scene = Scene::boot(&with_nvidias("real-pod"));
    let node = &scene.node;
    scene.wait_unit(0, "active");
    let before = (main_pid(&scene, 0), daemon(&scene, 0));
    assert_eq!(ask_from_pod(&scene, PERCENTAGE), "100.0\n");
    for (order, answer) in [
        (
            "set_default_active_thread_percentage 25",
            "Insufficient privileges",
        ),
        (
            "set_default_device_pinned_mem_limit 0 1G",
            "Insufficient privileges",
        ),
        ("quit", "Not enough privilege"),
        ("quit -t 1", "Not enough privilege"),
        // These two it does let root do through the clients' socket; neither changes a setting or the daemon.
        ("start_server -uid 4242", ""),
        ("shutdown_server 1 -f", "Server 1 not found"),
    ] {
        let said = ask_from_pod(&scene, order);
        assert!(said.contains(answer), "{order}: {said}");
    }
    assert_eq!(ask(&scene, 0, PERCENTAGE), "100.0\n");
    assert_eq!(ask(&scene, 0, "get_default_device_pinned_mem_limit 0"), "");
    assert_eq!((main_pid(&scene, 0), daemon(&scene, 0)), before);
    node.wait_until("the server that was ordered", PATIENCE, || {
        node.journal(&mps_unit(0)).contains("for user 4242").then_some(())
    });
    // What the pod sees holds no lock that it could take.
    let seen = in_pod(
        &scene,
        "cd $CUDA_MPS_PIPE_DIRECTORY; ls; ls /run/gpushare/mps; touch x; rm -f control",
    );
    assert!(seen.starts_with("control\nlog\n"), "{seen}");
    assert_eq!(seen.matches("Read-only file system").count(), 2, "{seen}");
    assert!(seen.contains("'/run/gpushare/mps': No such file"), "{seen}");
}

/// Neither NVIDIA's program nor ours starts a second one.
fn assert_alone(scene: &Scene) {
    let daemon = daemon(scene, 0);
    let by_hand = format!("{} nvidia-cuda-mps-control -f", environment(0));
    let ran = scene.node.run(&["sh", "-c", &by_hand]);
    assert!(
        ran.code == 1
            && ran
                .stdout
                .contains("An instance of this daemon is already running"),
        "{ran:?}"
    );
    let ran = scene.node.run(&["gpushare", "mps", "run", UUIDS[0]]);
    let main = main_pid(scene, 0).to_string();
    assert!(ran.code == 69 && ran.stderr.contains(&main), "{ran:?}");
    let lock = scene
        .node
        .path(format!("/run/gpushare/mps/{}/control_lock", UUIDS[0]));
    assert_eq!(fs_err::metadata(lock).unwrap().mode() & 0o777, 0o600);
    assert_eq!(self::daemon(scene, 0), daemon);
}

fn environment(gpu: usize) -> String {
    let directory = format!("/run/gpushare/mps/{}", UUIDS[gpu]);
    format!("CUDA_MPS_PIPE_DIRECTORY={directory} CUDA_MPS_LOG_DIRECTORY={directory}")
}

/// As root of the node.
fn ask(scene: &Scene, gpu: usize, order: &str) -> String {
    let pipe = format!("echo {order} | {} nvidia-cuda-mps-control", environment(gpu));
    let ran = scene.node.run(&["sh", "-c", &pipe]);
    ran.stdout + &ran.stderr
}

/// As root without capabilities, who sees of MPS what a pod sees.
fn ask_from_pod(scene: &Scene, order: &str) -> String {
    in_pod(scene, &format!("echo {order} | nvidia-cuda-mps-control"))
}

fn in_pod(scene: &Scene, script: &str) -> String {
    let ran = scene.node.run(&[
        "systemd-run",
        "--quiet",
        "--wait",
        "--pipe",
        "--slice=kubepods-besteffort-poda.slice",
        "--property=CapabilityBoundingSet=",
        "--property=TemporaryFileSystem=/run/gpushare:ro",
        &format!("--property=BindReadOnlyPaths={}", view(0)),
        &format!("--setenv=CUDA_MPS_PIPE_DIRECTORY={}", view(0)),
        "sh",
        "-c",
        &format!("exec 2>&1; {script}"),
    ]);
    ran.stdout
}

fn main_pid(scene: &Scene, gpu: usize) -> u32 {
    scene.node.property(&mps_unit(gpu), "MainPID").parse().unwrap()
}

/// The child of `gpushare mps run`.
fn daemon(scene: &Scene, gpu: usize) -> u32 {
    let parent = main_pid(scene, gpu).to_string();
    let found = scene
        .node
        .succeed(&["pgrep", "--parent", &parent, "--exact", "nvidia-cuda-mps"]);
    found.trim().parse().unwrap()
}

/// Of what pods have mounted and of what NVIDIA's daemon locks.
fn inodes(scene: &Scene) -> Vec<u64> {
    let (daemon, client) = (format!("/run/gpushare/mps/{}", UUIDS[0]), view(0));
    let paths = [format!("{daemon}/control_lock"), daemon, client];
    let inode = |path: &String| fs_err::metadata(scene.node.path(path)).unwrap().ino();
    paths.iter().map(inode).collect()
}
