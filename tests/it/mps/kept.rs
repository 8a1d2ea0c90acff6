//! What `gpushare mps run` keeps: the compute mode before MPS, and the configuration that worked last.

use gpushare::mps::events::Event;
use rustix::process::Signal;

use super::run::{mode_calls, names, processes};
use super::scene::{GPU, Scene, gpu, kill, runs};
use crate::harness::{output, wait_for};

#[test]
fn a_configuration_that_became_wrong_keeps_mps_neither_from_coming_back_nor_from_ending_in_order() {
    let mut scene = Scene::new("");
    let kept = scene.node.path("kept");
    fs_err::create_dir(&kept).unwrap();
    scene.node = scene.node.with_env("RUNTIME_DIRECTORY", kept.to_str().unwrap());
    let scene = scene.with("mps.dri", "\"/a/mistake\"");
    let (code, log) = scene.start_unseen().ended();
    assert_eq!(code, Some(78), "nothing has worked before: {log}");
    let scene = Scene {
        node: scene.node.without("mps.dri"),
        ..scene
    };
    let run = scene.start();
    kill(processes(&scene).0, Signal::KILL);
    run.ended();
    assert_eq!(names(&kept), ["gpushare.config.toml"]);
    // Another version may know more keys.
    let file = kept.join("gpushare.config.toml");
    let text = fs_err::read_to_string(&file).unwrap();
    fs_err::write(&file, text + "mps.of_another_version = 7\n").unwrap();

    // The file and the environment.
    let scene = scene.with("mps.dri", "\"/a/mistake\"");
    let scene = Scene {
        node: scene.node.with_env("GPUSHARE__GPU__NVML_LIBRAR", "x"),
        ..scene
    };
    let run = scene.start();
    assert_eq!(scene.said("get_default_active_thread_percentage"), "100.0\n");
    let warned = |event: &Event| match event {
        Event::Warned(warning) if warning.what.contains("mps.dri") => Some(warning.clone()),
        _ => None,
    };
    let warning = scene.events().iter().rev().find_map(warned);
    let warning = warning.unwrap_or_else(|| panic!("{}", run.log()));
    assert!(
        warning.what.contains("GPUSHARE__GPU__NVML_LIBRAR") && warning.mend.contains("gpushare check"),
        "{warning:?}"
    );
    let (code, said, stderr) = output(scene.node.command(&["mps", "quit", GPU, "--by-agent"]));
    assert_eq!(code, 0, "{stderr}");
    assert!(said.contains("The compute mode is default again"), "{said}");
    assert_eq!(run.ended().0, Some(0));
}

#[test]
fn a_configuration_that_is_corrected_is_warned_of_no_more() {
    let scene = Scene::new("");
    let run = scene.start();
    let config = scene.node.path("config.toml");
    let right = fs_err::read_to_string(&config).unwrap();
    fs_err::write(&config, "mps.grace = \"soon\"\n").unwrap();
    run.signal(Signal::HUP);
    let what = wait_for(|| {
        scene.events().into_iter().find_map(|event| match event {
            Event::Warned(warning) if warning.what.contains("mps.grace") => Some(warning.what),
            _ => None,
        })
    });
    let over = Event::Over {
        what: what.unwrap_or_else(|| panic!("{}", run.log())),
    };
    fs_err::write(&config, right).unwrap();
    run.signal(Signal::HUP);
    wait_for(|| scene.events().contains(&over).then_some(())).unwrap_or_else(|| panic!("{}", run.log()));
}

#[test]
fn sighup_under_a_wrong_configuration_goes_by_the_one_that_worked_last_and_not_by_that_of_the_start() {
    let mut scene = Scene::new("");
    let kept = scene.node.path("kept");
    fs_err::create_dir(&kept).unwrap();
    scene.node = scene.node.with_env("RUNTIME_DIRECTORY", kept.to_str().unwrap());
    let scene = scene.with("mps.exclusive_process", "false");
    let run = scene.start();
    assert_eq!(mode_calls(&scene), 0);
    let config = scene.node.path("config.toml");
    let text = fs_err::read_to_string(&config).unwrap();
    let exclusive = text.replace("exclusive_process = false", "exclusive_process = true");
    assert_ne!(exclusive, text);
    fs_err::write(&config, &exclusive).unwrap();
    run.signal(Signal::HUP);
    wait_for(|| (mode_calls(&scene) == 1).then_some(())).unwrap_or_else(|| panic!("{}", run.log()));
    fs_err::write(&config, "mps.grace = \"soon\"\n").unwrap();
    // Somebody took the mode away.
    fs_err::remove_file(scene.node.path("scenario.toml.state")).unwrap();
    run.signal(Signal::HUP);
    wait_for(|| (mode_calls(&scene) == 2).then_some(())).unwrap_or_else(|| panic!("{}", run.log()));
    let before = scene.daemon_dir().join("gpushare.compute-mode");
    assert_eq!(
        fs_err::read_to_string(before).unwrap(),
        "default\n",
        "nothing is given back"
    );
}

#[test]
fn a_compute_mode_that_cannot_be_kept_is_not_changed() {
    let scene = Scene::new("");
    let kept = scene.daemon_dir().join("gpushare.compute-mode");
    fs_err::create_dir_all(&kept).unwrap();
    let (code, log) = scene.start_unseen().ended();
    assert_eq!(code, Some(69), "{log}");
    assert_eq!((mode_calls(&scene), scene.daemons().len()), (0, 0), "{log}");
    let Some(Event::NotStarted(trouble)) = scene.events().pop() else {
        panic!("{log}");
    };
    assert!(
        trouble.why.contains(kept.to_str().unwrap()) && trouble.mend.contains("mps.dir"),
        "{trouble:?}"
    );
}

#[test]
fn what_sighup_could_not_set_is_over_when_the_next_one_can() {
    let scene = Scene::new("");
    let run = scene.start();
    scene.node.play("[init]\nerror = 9\n");
    run.signal(Signal::HUP);
    let warning = || {
        scene.events().into_iter().find_map(|event| match event {
            Event::Warned(warning) if warning.what.contains("past MPS") => Some(warning.what),
            _ => None,
        })
    };
    let over = Event::Over {
        what: wait_for(warning).unwrap_or_else(|| panic!("{}", run.log())),
    };
    scene.node.play(&gpu(""));
    // One that comes while the driver is still asked for the one before is not heard.
    let is_over = || {
        run.signal(Signal::HUP);
        scene.events().contains(&over).then_some(())
    };
    wait_for(is_over).unwrap_or_else(|| panic!("{}", run.log()));
}

#[test]
fn where_exclusive_process_is_not_wished_the_gpu_is_looked_at_all_the_same() {
    for (scenario, word) in [("", "no GPU"), (&*gpu("mig = true"), "MIG")] {
        let scene = Scene::new("").with("mps.exclusive_process", "false");
        scene.node.play(scenario);
        let (code, log) = scene.start_unseen().ended();
        assert_eq!(code, Some(69), "{log}");
        assert!(log.contains(word) && scene.daemons().is_empty(), "{log}");
    }
}

#[test]
fn a_mode_that_is_not_given_back_is_not_called_open_to_others() {
    let scene = Scene::new("").with("mps.exclusive_process", "false");
    scene.node.play(&gpu(
        "compute_mode = \"exclusive_process\"\n[gpu.errors]\nnvmlDeviceSetComputeMode = 4",
    ));
    fs_err::create_dir_all(scene.daemon_dir()).unwrap();
    fs_err::write(scene.daemon_dir().join("gpushare.compute-mode"), "default\n").unwrap();
    let run = scene.start();
    let warned = scene.events().into_iter().find_map(|event| match event {
        Event::Warned(warning) if warning.what.contains("was default before MPS") => Some(warning),
        _ => None,
    });
    let warning = warned.unwrap_or_else(|| panic!("{}", run.log()));
    assert!(!warning.what.contains("past MPS"), "{warning:?}");
    assert!(!warning.mend.contains("EXCLUSIVE_PROCESS"), "{warning:?}");
}

#[test]
fn where_mps_is_switched_off_the_mode_is_put_back_and_no_daemon_is_started() {
    let scene = Scene::new("");
    let run = scene.start();
    let server = processes(&scene).1;
    run.signal(Signal::KILL);
    run.ended();
    for key in ["mps.enabled", "gpu.enabled"] {
        let off = scene
            .node
            .command(&["mps", "run", GPU, "--set", &format!("{key}=false")]);
        let (code, _, stderr) = output(off);
        assert_eq!(code, 69, "{stderr}");
        assert!(stderr.contains("switched off"), "{stderr}");
        assert!(!scene.daemon_dir().join("gpushare.compute-mode").exists());
    }
    assert!(!runs(server), "it would be nobody's");
    assert_eq!((mode_calls(&scene), scene.daemons().len()), (2, 1));
}
