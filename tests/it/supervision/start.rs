//! How MPS comes up, and what keeps it from doing so.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use fake_mps::Running;
use gpushare::status::problems;

use super::scene::{Scene, UUIDS, gpus, mps, ready, why};
use crate::harness::{datums, output, wait_for};

#[test]
fn m09_every_gpu_gets_a_verified_daemon_of_its_own_before_anything_may_use_it() {
    let scene = Scene::new();
    let agent = scene.start();
    agent.wait_batches("that they are ready is published", |batches| {
        let last = datums(batches, "mps_ready").pop()?;
        (last.values.last()?.0 > 0.0).then_some(())
    });
    let snapshot = agent.status().unwrap();
    assert_eq!(problems::find(&snapshot), []);
    assert!(problems::summary(&snapshot).contains("MPS 2/2 ready"));
    let gpu = mps(&snapshot, 0).unwrap();
    assert_eq!(
        (gpu.client_limit, gpu.smallest_useful_slices, gpu.restarts),
        (Some(48), Some(1), 0)
    );
    assert_eq!(gpu.last_step.as_ref().unwrap().why, "it was not running");
    assert_ne!(scene.daemon(0), scene.daemon(1));
    let answer = scene.mps.ask(&scene.pipe(0), "device_query --csv\n").unwrap();
    assert!(
        answer.stdout.contains(UUIDS[0]) && !answer.stdout.contains(UUIDS[1]),
        "{answer:?}"
    );
    let batches = agent.terminate().batches;
    for (metric, value) in [("mps_ready", 1.0), ("mps_clients", 0.0), ("mps_restarts", 0.0)] {
        let all = datums(&batches, metric);
        let is_there = all
            .iter()
            .any(|datum| datum.values.iter().any(|(found, _)| *found == value));
        assert!(is_there, "no {metric} of {value}: {all:?}");
    }
}

#[test]
fn m20_pods_see_two_links_and_may_pass_through_every_directory_above_them() {
    let scene = Scene::new();
    let _agent = scene.start();
    let mut seen: Vec<String> = fs_err::read_dir(scene.view(0))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    seen.sort();
    assert_eq!(seen, ["control", "log"]);
    let mode = |path| fs_err::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(scene.view(0)), mode(scene.pipe(0))), (0o755, 0o700));
    assert_eq!(
        mode(scene.pipe(0).join("control_lock")),
        0o600,
        "nobody but root may hold the daemon's lock"
    );
}

#[test]
fn m07_a_daemon_without_its_driver_is_tried_again_and_says_what_is_missing() {
    for (code, text) in [(100, "no device"), (244, "libcuda")] {
        let scene = Scene::new();
        scene.mps.play(&format!("[start]\nexit = {code}\n")).unwrap();
        let agent = scene.node.start();
        let snapshot = agent.wait("the reason is told", |snapshot| !why(snapshot, 0).is_empty());
        let told = why(&snapshot, 0).to_lowercase();
        assert!(told.contains(text), "exit code {code}: {told}");
        scene.mps.play("").unwrap();
        agent.wait("it comes up by itself", |snapshot| {
            ready(snapshot, 0) && ready(snapshot, 1)
        });
    }
}

#[test]
fn m08_a_daemon_that_limits_everybody_is_not_ready() {
    let scene = Scene::new();
    scene.mps.play("[start]\npercentage = 50.0\n").unwrap();
    let agent = scene.node.start();
    let snapshot = agent.wait("the limit is told", |snapshot| {
        why(snapshot, 0).contains("active thread percentage is 50.0")
    });
    assert!(!ready(&snapshot, 0));
    scene.mps.play("").unwrap();
    agent.wait("a fresh daemon limits nobody", |snapshot| ready(snapshot, 0));
}

#[test]
fn m25_a_gpu_with_mig_is_refused_and_its_neighbour_is_served() {
    let scene = Scene::new();
    scene.node.play(&gpus("mig = true\n"));
    let agent = scene.node.start();
    let snapshot = agent.wait("MIG is told", |snapshot| {
        ready(snapshot, 0) && why(snapshot, 1).contains("MIG is on")
    });
    assert_eq!(mps(&snapshot, 1).unwrap().pid, None);
    assert!(!scene.pipe(1).join("control").exists(), "never half");
}

#[test]
fn m23_more_slices_than_clients_are_refused_with_the_number() {
    let scene = Scene::new().with("slices.per_gpu", "60");
    let agent = scene.node.start();
    let snapshot = agent.wait("the limit is told", |snapshot| !why(snapshot, 0).is_empty());
    let problem = problems::find(&snapshot).into_iter().next().unwrap();
    assert!(problem.what.contains("slices.per_gpu = 60"), "{problem:?}");
    assert!(
        problem.mend.contains("set slices.per_gpu to 48 or less"),
        "{problem:?}"
    );
}

#[test]
fn m26_an_unknown_version_is_degraded_in_words_and_the_agent_lives_on() {
    let scene = Scene::new();
    scene
        .mps
        .play("[control.answers]\nget_default_active_thread_percentage = \"Nope: 7\\n\"\n")
        .unwrap();
    let agent = scene.node.start();
    let snapshot = agent.wait("it is degraded", |snapshot| !why(snapshot, 0).is_empty());
    assert!(why(&snapshot, 0).contains("Nope: 7"), "{}", why(&snapshot, 0));
    scene.mps.play("").unwrap();
    agent.wait("it is understood again", |snapshot| ready(snapshot, 0));
}

#[test]
fn a_control_program_that_is_not_there_is_named_with_the_key() {
    let scene = Scene::new().with("mps.control_binary", "\"/nonexistent/nvidia-cuda-mps-control\"");
    let agent = scene.node.start();
    let snapshot = agent.wait("the program is named", |snapshot| !why(snapshot, 0).is_empty());
    assert!(
        why(&snapshot, 0).contains("/nonexistent/nvidia-cuda-mps-control"),
        "{}",
        why(&snapshot, 0)
    );
    let problem = problems::find(&snapshot).into_iter().next().unwrap();
    assert!(problem.mend.contains("mps.control_binary"), "{problem:?}");
}

#[test]
fn mps_that_is_switched_off_is_stopped_and_the_compute_mode_is_what_it_was() {
    let scene = Scene::new();
    let agent = scene.start();
    let modes = fs_err::read_to_string(scene.node.path("scenario.toml.state")).unwrap();
    let (daemon, _) = (scene.daemon(0), agent.terminate());
    let scene = scene.with("mps.enabled", "false").with("slices.enabled", "false");
    let agent = scene.node.start();
    assert!(
        wait_for(|| (!crate::harness::exists(daemon)).then_some(())).is_some(),
        "{}",
        agent.log()
    );
    let restored = wait_for(|| {
        let now = fs_err::read_to_string(scene.node.path("scenario.toml.state")).ok()?;
        (now != modes).then_some(now)
    });
    assert!(restored.is_some(), "the compute mode stays {modes}");
    let (_, text, _) = output(scene.node.command(&["status"]));
    assert!(text.contains("MPS     off"), "{text}");
}

#[test]
fn mps_that_is_switched_off_while_it_cannot_start_gives_the_compute_mode_back() {
    let scene = Scene::new();
    scene.mps.play("[start]\nexit = 100\n").unwrap();
    let agent = scene.node.start();
    agent.wait("the reason is told", |snapshot| {
        why(snapshot, 0).contains("no device") && why(snapshot, 1).contains("no device")
    });
    agent.terminate();
    let last_modes = || {
        let text = fs_err::read_to_string(scene.node.path("scenario.toml.state")).unwrap();
        UUIDS.map(|uuid| {
            let line = text.lines().rfind(|line| line.contains(uuid));
            line.and_then(|line| line.rsplit(' ').next().map(str::to_owned))
        })
    };
    let [exclusive, default] = ["3", "0"].map(|mode| [Some(mode.to_owned()), Some(mode.to_owned())]);
    assert_eq!(last_modes(), exclusive);
    let off = [
        "run",
        "--set",
        "mps.enabled=false",
        "--set",
        "slices.enabled=false",
    ];
    let agent = scene.node.start_into(&off, Stdio::null());
    let restored = wait_for(|| (last_modes() == default).then_some(()));
    assert!(restored.is_some(), "{:?}\n{}", last_modes(), agent.log());
}

#[test]
fn m20_a_directory_that_cannot_be_used_is_a_problem_with_what_to_do() {
    let too_long = format!("\"/{}\"", "d".repeat(90));
    for (key, value, word) in [
        ("mps.dir", &*too_long, "make mps.dir shorter"),
        ("mps.client_dir", "\"/proc/clients\"", "set mps.client_dir"),
        // There is no place in which the reason could be written down for the agent.
        ("mps.dir", "\"/proc/daemons\"", "run `gpushare check`"),
    ] {
        let scene = Scene::new().with(key, value);
        let agent = scene.node.start();
        let snapshot = agent.wait("the reason is told", |snapshot| !why(snapshot, 0).is_empty());
        let problem = problems::find(&snapshot).into_iter().next().unwrap();
        assert!(problem.mend.contains(word), "{key} = {value}: {problem:?}");
    }
}

#[test]
fn m06_a_foreign_daemon_is_named_by_its_true_pid_and_ours_comes_when_it_has_gone() {
    let scene = Scene::new();
    fs_err::create_dir_all(scene.pipe(0)).unwrap();
    let mut foreign = Running::start(scene.mps.control(&scene.pipe(0)).arg("-f")).unwrap();
    foreign.wait_for("To connect CUDA applications").unwrap();
    fs_err::write(scene.pipe(0).join("nvidia-cuda-mps-control.pid"), "1").unwrap();
    let agent = scene.node.start();
    let snapshot = agent.wait("it is told, and the neighbour is served", |snapshot| {
        !why(snapshot, 0).is_empty() && ready(snapshot, 1)
    });
    let problem = problems::find(&snapshot).into_iter().next().unwrap();
    assert!(
        problem.what.contains(&format!("process {} (", foreign.pid())),
        "{problem:?}"
    );
    assert!(problem.mend.contains("mps.dir"), "{problem:?}");
    scene.mps.ask(&scene.pipe(0), "quit -t 1\n").unwrap();
    foreign.wait().unwrap();
    agent.wait("ours is there", |snapshot| ready(snapshot, 0));
}
