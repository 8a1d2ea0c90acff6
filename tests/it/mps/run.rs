//! `gpushare mps run`.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fake_mps::Running;
use fake_nvml::calllog::Outcome;
use gpushare::mps::events::Event;
use rustix::process::Signal;

use super::scene::{GPU, Scene, gpu, kill, runs, wait_gone};
use crate::harness::{output, wait_for};

const SET_MODE: &str = "nvmlDeviceSetComputeMode";

pub(super) fn names(directory: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

/// The daemon and the server that run.
pub(super) fn processes(scene: &Scene) -> (u32, u32) {
    (*scene.daemons().last().unwrap(), *scene.servers().last().unwrap())
}

pub(super) fn mode_calls(scene: &Scene) -> usize {
    let calls = scene.node.nvml_calls();
    calls.iter().filter(|call| call.function == SET_MODE).count()
}

#[test]
fn m09_ready_means_that_the_daemon_answers_can_be_seen_and_has_its_server() {
    let scene = Scene::new("");
    let run = scene.start_unseen();
    let said = run.wait_ready();
    let (daemon, server) = processes(&scene);
    assert!(
        said.contains(&format!(
            "STATUS=MPS daemon {daemon} answers; server {server} is active"
        )),
        "{said}"
    );
    assert_eq!(scene.said("get_default_active_thread_percentage"), "100.0\n");
    assert_eq!(scene.said(&format!("get_server_status {server}")), "ACTIVE\n");
    let events = scene.events();
    assert_eq!(
        events[..2],
        [
            Event::Begun { pid: run.pid() },
            Event::DaemonStarted {
                pid: daemon,
                multi_user: true
            }
        ]
    );
    assert!(
        events.contains(&Event::ServerStarting { pid: server, uid: 0 }),
        "{events:?}"
    );
    assert!(events.contains(&Event::DaemonReady { pid: daemon }), "{events:?}");
    let calls = scene.node.nvml_calls();
    let set = calls.iter().find(|call| call.function == SET_MODE).unwrap();
    assert_eq!(set.outcome, Outcome::Returned(0));
    assert_eq!(
        fs_err::read_to_string(scene.daemon_dir().join("gpushare.compute-mode")).unwrap(),
        "default\n"
    );
}

#[test]
fn m09_there_is_no_daemon_before_the_compute_mode_is_set() {
    let scene = Scene::new("");
    scene
        .node
        .play(&gpu(&format!("[[hang]]\nfunction = \"{SET_MODE}\"\nms = 500")));
    let run = scene.start_unseen();
    let calls = wait_for(|| {
        let calls = scene.node.nvml_calls();
        calls
            .iter()
            .any(|call| call.function == SET_MODE)
            .then_some(calls)
    });
    let entered = calls.unwrap();
    assert_eq!(entered.last().unwrap().outcome, Outcome::Entered);
    run.wait_ready();
    let calls = scene.node.nvml_calls();
    let set = calls
        .iter()
        .find(|call| call.function == SET_MODE && call.outcome == Outcome::Returned(0));
    let set = set.expect("it returned").unix_us;
    let started = scene.mps.calls().unwrap();
    let started = started
        .iter()
        .find(|call| Some(&call.pid) == scene.daemons().first())
        .unwrap();
    assert!(
        started.unix_us >= set,
        "started at {}, set at {set}",
        started.unix_us
    );
}

#[test]
fn the_compute_mode_is_kept_before_another_is_set_and_who_sets_it_does_not_outlive_the_parent() {
    let scene = Scene::new("");
    scene
        .node
        .play(&gpu(&format!("[[hang]]\nfunction = \"{SET_MODE}\"")));
    let run = scene.start_unseen();
    let setting = || {
        let calls = scene.node.nvml_calls();
        calls
            .iter()
            .find(|call| call.function == SET_MODE)
            .map(|call| call.pid)
    };
    let setter = wait_for(setting).expect("the mode is being set");
    let kept = fs_err::read_to_string(scene.daemon_dir().join("gpushare.compute-mode")).unwrap();
    assert_eq!(kept, "default\n");
    run.signal(Signal::KILL);
    wait_gone(setter);
}

#[test]
fn m09_a_server_that_does_not_come_is_told_and_keeps_nobody_waiting() {
    let scene = Scene::new("[server]\nexit_at_start = 1");
    let said = scene.start_unseen().wait_ready();
    assert!(said.contains("answers; its server ended"), "{said}");
    let events = scene.events();
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::ServerExited { .. })),
        "{events:?}"
    );
}

#[test]
fn m01_m03_when_the_daemon_is_killed_nothing_of_it_is_left_and_the_reason_is_told() {
    let scene = Scene::new("");
    let run = scene.start();
    let (daemon, server) = processes(&scene);
    let begun = Instant::now();
    kill(daemon, Signal::KILL);
    let (code, log) = run.ended();
    assert_eq!(code, Some(1), "{log}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(!runs(daemon) && !runs(server), "at the end of its parent");
    let ended = scene.ended();
    assert_eq!((ended.code, ended.signal), (None, Some(9)));
    assert!(ended.trouble.unwrap().why.contains("killed by signal 9"));
}

#[test]
fn m02_what_a_killed_daemon_leaves_is_started_on_as_it_is() {
    let scene = Scene::new("");
    let run = scene.start();
    let places = [
        scene.daemon_dir(),
        scene.client_dir(),
        scene.daemon_dir().join("control_lock"),
    ];
    let before = places.each_ref().map(|place| place.metadata().unwrap().ino());
    kill(processes(&scene).0, Signal::KILL);
    run.ended();
    let stale = scene.client_dir().join("control").metadata().unwrap().ino();
    let _run = scene.start();
    assert_eq!(
        places.each_ref().map(|place| place.metadata().unwrap().ino()),
        before
    );
    let fresh = scene.client_dir().join("control").metadata().unwrap().ino();
    assert_ne!(fresh, stale, "pods see the new daemon's socket");
    assert_eq!(
        fresh,
        scene.daemon_dir().join("control").metadata().unwrap().ino()
    );
    assert_eq!(scene.said("get_default_active_thread_percentage"), "100.0\n");
}

#[test]
fn m03_a_killed_supervisor_takes_its_daemon_along_and_the_next_one_ends_the_server() {
    let scene = Scene::new("");
    let run = scene.start();
    let (daemon, server) = processes(&scene);
    run.signal(Signal::KILL);
    run.ended();
    wait_gone(daemon);
    assert!(runs(server), "nobody was left to end it");
    let again = scene.start();
    assert!(!runs(server), "{}", again.log());
    assert!(again.log().contains("left behind"), "{}", again.log());
    assert_ne!(processes(&scene).1, server);
}

#[test]
fn m04_sigterm_ends_the_daemon_in_order() {
    let scene = Scene::new("");
    let run = scene.start();
    let (daemon, server) = processes(&scene);
    run.signal(Signal::TERM);
    let (code, log) = run.ended();
    assert_eq!(code, Some(0), "{log}");
    assert!(!runs(daemon) && !runs(server));
    assert!(
        !scene.daemon_dir().join("log").exists(),
        "a daemon that leaves in order takes its FIFO along"
    );
    assert_eq!(scene.ended().trouble, None);
}

#[test]
fn m04_m05_a_daemon_that_does_not_answer_is_killed_and_its_server_too() {
    let scene = Scene::new("");
    let run = scene.start();
    let (daemon, server) = processes(&scene);
    kill(daemon, Signal::STOP);
    run.signal(Signal::TERM);
    let (code, log) = run.ended();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("does not leave in order"), "{log}");
    assert!(!runs(daemon) && !runs(server));
}

#[test]
fn m04_a_daemon_that_somebody_told_to_leave_has_not_failed_whatever_its_exit_code_is() {
    for (script, code) in [("", 0), ("[server]\nexit_at_start = 1", 1)] {
        let scene = Scene::new(script);
        let run = scene.start();
        scene.said("quit");
        let (exit, log) = run.ended();
        assert_eq!(exit, Some(0), "{log}");
        let ended = scene.ended();
        assert_eq!((ended.code, ended.trouble), (Some(code), None));
    }
}

#[test]
fn m06_a_foreign_daemon_is_refused_with_the_pid_that_the_kernel_knows() {
    let scene = Scene::new("");
    fs_err::create_dir_all(scene.daemon_dir()).unwrap();
    let foreign = Running::start(scene.mps.control(&scene.daemon_dir()).arg("-f")).unwrap();
    foreign.wait_for("To connect CUDA applications").unwrap();
    fs_err::write(scene.daemon_dir().join("nvidia-cuda-mps-control.pid"), "1").unwrap();
    let (code, log) = scene.start_unseen().ended();
    assert_eq!(code, Some(69), "{log}");
    assert!(log.contains(&format!("process {} (", foreign.pid())), "{log}");
    assert!(log.contains("mps.dir"), "{log}");
    assert_eq!(
        scene.said("get_default_active_thread_percentage"),
        "100.0\n",
        "it still serves"
    );
    let events = scene.events();
    assert!(matches!(events.last(), Some(Event::NotStarted(_))), "{events:?}");
}

#[test]
fn m06_a_lock_that_is_no_daemons_is_refused_and_names_its_holder() {
    let scene = Scene::new("");
    fs_err::create_dir_all(scene.daemon_dir()).unwrap();
    let lock = fs_err::File::create(scene.daemon_dir().join("control_lock")).unwrap();
    lock_it(&lock);
    let (code, log) = scene.start_unseen().ended();
    assert_eq!(code, Some(69), "{log}");
    assert!(
        log.contains(&format!("process {} (", std::process::id())),
        "{log}"
    );
    drop(lock);
    scene.start();
}

/// As NVIDIA's daemon does it.
fn lock_it(file: &fs_err::File) {
    rustix::fs::fcntl_lock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
}

#[test]
fn m06_the_second_supervisor_of_a_gpu_is_refused_and_harms_nobody() {
    let scene = Scene::new("").with("mps.multi_user", "false");
    let first = scene.start();
    let before = (processes(&scene), mode(&scene.daemon_dir()));
    let (code, log) = scene.start_unseen().ended();
    assert_eq!(code, Some(69), "{log}");
    assert!(log.contains(&format!("process {}", first.pid())), "{log}");
    assert!(log.contains("gpushare mps quit"), "what to do: {log}");
    assert_eq!((processes(&scene), mode(&scene.daemon_dir())), before);
    assert_eq!(scene.said("get_default_active_thread_percentage"), "100.0\n");
}

#[test]
fn m07_exit_codes_of_the_daemon_become_unavailable_with_an_event_that_tells_why() {
    for (code, word) in [(100, "no device"), (244, "libcuda")] {
        let scene = Scene::new(&format!("[start]\nexit = {code}"));
        let (exit, log) = scene.start_unseen().ended();
        assert_eq!(exit, Some(69), "{log}");
        let ended = scene.ended();
        assert_eq!(ended.code, Some(code));
        let trouble = ended.trouble.unwrap();
        assert!(
            trouble.why.contains(word) && !trouble.mend.is_empty(),
            "{trouble:?}"
        );
        assert!(log.contains(&trouble.why), "{log}");
    }
}

#[test]
fn m07_another_end_at_the_start_is_a_failure_with_the_daemons_words() {
    let scene = Scene::new("").with_daemon("echo 'no such luck' >&2\nexit 3\n");
    let (exit, log) = scene.start_unseen().ended();
    assert_eq!(exit, Some(1), "{log}");
    let why = scene.ended().trouble.unwrap().why;
    assert!(
        why.contains("exit code 3") && why.contains("no such luck"),
        "{why}"
    );
}

#[test]
fn m07_without_the_gpu_or_the_driver_nothing_is_started() {
    for scenario in ["", "[init]\nreturns = 9"] {
        let scene = Scene::new("");
        scene.node.play(scenario);
        let (exit, log) = scene.start_unseen().ended();
        assert_eq!(exit, Some(69), "{log}");
        assert!(scene.daemons().is_empty());
        assert!(
            matches!(scene.events().last(), Some(Event::NotStarted(_))),
            "{log}"
        );
    }
}

#[test]
fn m21_a_log_that_nobody_reads_does_not_wedge_the_daemon() {
    // A megabyte, and then a sign that all of it was taken.
    let scene = Scene::new("").with_daemon(
        "line=0\nwhile [ $line -lt 10000 ]; do line=$((line + 1))\n\
         echo \"[2026-11-26 12:32:15.073 Control  6861] this is line $line of a log that says very much about nothing at all\"\n\
         done\ntouch \"$CUDA_MPS_PIPE_DIRECTORY/written\"\nexec sleep 1000\n",
    );
    let (unread, mut stderr) = std::io::pipe().unwrap();
    // 8 KiB of it are left: the first lines fit in.
    stderr.write_all(&vec![b'\n'; 56 * 1024]).unwrap();
    let run = scene.start_into(Stdio::from(stderr));
    let written = scene.daemon_dir().join("written");
    wait_for(|| written.exists().then_some(())).expect("all of the log was taken");
    drop((unread, run));
}

#[test]
fn m22_m27_pods_see_two_links_and_nothing_that_gives_power() {
    let scene = Scene::new("");
    let _run = scene.start();
    assert_eq!(names(&scene.client_dir()), ["control", "log"]);
    assert_eq!(mode(&scene.daemon_dir()), 0o700);
    assert_eq!(mode(&scene.client_dir()), 0o755);
    assert_eq!(mode(&scene.daemon_dir().join("control_lock")), 0o600);
    let power =
        "set_default_active_thread_percentage 25\nset_default_device_pinned_mem_limit 0 1G\nquit -t 1\n";
    let answer = scene.mps.ask(&scene.client_dir(), power).unwrap();
    assert!(answer.stdout.contains("Insufficient privileges"), "{answer:?}");
    assert!(answer.stdout.contains("Not enough privilege"), "{answer:?}");
    assert_eq!(scene.said("get_default_active_thread_percentage"), "100.0\n");
    assert_eq!(scene.said("get_default_device_pinned_mem_limit 0"), "");
}

#[test]
fn m18_sighup_sets_compute_mode_and_view_again_and_touches_neither_daemon_nor_server() {
    let scene = Scene::new("");
    let run = scene.start();
    let before = (processes(&scene), mode_calls(&scene));
    fs_err::remove_file(scene.client_dir().join("control")).unwrap();
    fs_err::write(scene.client_dir().join("control_privileged"), "").unwrap();
    // Somebody took the mode away.
    fs_err::remove_file(scene.node.path("scenario.toml.state")).unwrap();
    run.signal(Signal::HUP);
    let again = || (mode_calls(&scene) > before.1).then_some(());
    wait_for(again).unwrap_or_else(|| panic!("the mode is not set\n{}", run.log()));
    wait_for(|| (names(&scene.client_dir()) == ["control", "log"]).then_some(()))
        .expect("the view is right again");
    assert_eq!(processes(&scene), before.0);
    let kept = fs_err::read_to_string(scene.daemon_dir().join("gpushare.compute-mode")).unwrap();
    assert_eq!(kept, "default\n");
}

#[test]
fn m24_an_old_driver_serves_one_user_at_a_time_and_that_is_told() {
    let scene = Scene::new("version = 550");
    let _run = scene.start();
    let events = scene.events();
    let warned = |word: &str| {
        let mut warnings = events.iter().filter_map(|event| match event {
            Event::Warned(warning) => Some(&warning.what),
            _ => None,
        });
        warnings.any(|what| what.contains(word))
    };
    assert!(warned("one user at a time"), "{events:?}");
    assert!(events.iter().any(|event| matches!(
        event,
        Event::DaemonStarted {
            multi_user: false,
            ..
        }
    )));
    assert_eq!(
        mode(&scene.daemon_dir()),
        0o711,
        "servers run as their clients' users"
    );
}

#[test]
fn the_daemon_gets_a_clean_environment() {
    let mut scene = Scene::new("").with_daemon("env > \"$CUDA_MPS_PIPE_DIRECTORY/env.new\"\nmv \"$CUDA_MPS_PIPE_DIRECTORY/env.new\" \"$CUDA_MPS_PIPE_DIRECTORY/env\"\nexec sleep 1000\n");
    for (name, value) in [
        ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "10"),
        ("CUDA_VISIBLE_DEVICES", "7"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("LD_LIBRARY_PATH", "/opt/driver"),
    ] {
        scene.node = scene.node.with_env(name, value);
    }
    let _run = scene.start_unseen();
    let path = scene.daemon_dir().join("env");
    let environment = wait_for(|| fs_err::read_to_string(&path).ok()).expect("the daemon runs");
    let mut names: Vec<&str> = environment
        .lines()
        .map(|line| line.split('=').next().unwrap())
        .collect();
    names.retain(|name| !["PWD", "_", "SHLVL", "OLDPWD"].contains(name));
    names.sort_unstable();
    let expected = [
        "CUDA_MPS_LOG_DIRECTORY",
        "CUDA_MPS_PIPE_DIRECTORY",
        "CUDA_MPS_PROTOCOL_VERSION",
        "CUDA_VISIBLE_DEVICES",
        "GPUSHARE_MPS_DAEMON",
        "LD_LIBRARY_PATH",
        "PATH",
    ];
    assert_eq!(names, expected);
    assert!(
        environment.contains(&format!("CUDA_VISIBLE_DEVICES={GPU}\n")),
        "{environment}"
    );
    assert!(
        environment.contains("CUDA_MPS_PROTOCOL_VERSION=2\n"),
        "{environment}"
    );
}

#[test]
fn what_cannot_be_is_refused_with_the_key_or_the_mend() {
    let too_long = format!("\"/{}\"", "d".repeat(90));
    let cases: [(&str, &str, i32, &str); 5] = [
        (
            "mps.control_binary",
            "\"/nowhere/control\"",
            69,
            "mps.control_binary",
        ),
        ("mps.control_binary", "\"/tmp\"", 69, "is a directory"),
        ("mps.control_binary", "\"/etc/passwd\"", 69, "is not executable"),
        ("mps.dir", &too_long, 78, "mps.dir"),
        ("mps.client_dir", "\"/proc/clients\"", 69, "mps.client_dir"),
    ];
    for (key, value, exit, word) in cases {
        let (code, log) = Scene::new("").with(key, value).start_unseen().ended();
        assert_eq!(code, Some(exit), "{key} = {value}: {log}");
        assert!(log.contains(word), "{key} = {value}: {log}");
    }
    let scene = Scene::new("");
    for (argument, exit) in [
        ("MIG-7f1c9a52-3d08-5b6e-9c41-2e8a60d7b3f4", 69),
        ("GPU-7f1c", 64),
        ("3", 64),
    ] {
        let (code, _, stderr) = output(scene.node.command(&["mps", "run", argument]));
        assert_eq!(code, exit, "{stderr}");
    }
}

#[test]
fn the_helper_is_of_no_use_to_anybody_else() {
    let scene = Scene::new("");
    let touched = scene.node.path("touched");
    let program = ["--", "/bin/touch", touched.to_str().unwrap()];
    let mut arguments = vec!["mps", "exec", "--parent", "1"];
    arguments.extend(program);
    let (code, _, stderr) = output(scene.node.command(&arguments));
    assert_eq!(code, 64, "{stderr}");
    assert!(!touched.exists());
}

#[test]
fn a_program_that_the_kernel_does_not_take_is_told_from_a_daemon_that_fails() {
    let scene = Scene::new("");
    let path = scene.node.path("no-program");
    // No magic number of any program.
    fs_err::write(&path, [0x7f, b'X', 0, 0]).unwrap();
    fs_err::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    let (code, log) = scene
        .with("mps.control_binary", &crate::harness::quoted(&path))
        .start_unseen()
        .ended();
    assert_eq!(code, Some(69), "{log}");
    assert!(log.contains("mps.control_binary"), "{log}");
}

#[test]
fn a_control_program_that_hangs_without_a_daemon_is_not_mended_by_a_restart_of_one() {
    let scene = Scene::new("");
    let path = scene.node.path("hangs");
    fs_err::write(&path, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs_err::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    let scene = scene.with("mps.control_binary", &crate::harness::quoted(&path));
    let (code, log) = scene.start_unseen().ended();
    assert_eq!(code, Some(69), "{log}");
    assert!(log.contains("its version") && !log.contains("--force"), "{log}");
}
