//! `gpushare mps quit` and `gpushare mps restart`, as an operator types them on a node without systemd.

use std::thread;

use fake_mps::Running;
use rustix::process::Signal;

use super::scene::{GPU, Scene, kill, runs, wait_gone};
use crate::harness::{output, wait_for};

impl Scene {
    /// Runs a command to its end: exit code, standard output, standard error.
    fn types(&self, arguments: &[&str]) -> (i32, String, String) {
        output(self.node.command(arguments))
    }

    /// A client on what pods see, connected.
    fn client(&self) -> Running {
        let client = Running::start(&mut self.mps.client(&self.client_dir())).unwrap();
        client.wait_for("connected").unwrap();
        client
    }

    /// The GPU's compute mode.
    fn mode(&self) -> String {
        let (code, stdout, stderr) = self.types(&["nvml", "--gpu", GPU, "--compute-mode"]);
        assert_eq!(code, 0, "{stderr}");
        stdout
    }
}

const STAYS: &str = "It stays stopped until the node boots again, or: gpushare mps restart \
                     GPU-7f1c9a52-3d08-5b6e-9c41-2e8a60d7b3f4\n";

const DEFAULT: &str = "{\"before\":\"default\",\"now\":\"default\"}\n";

#[test]
fn quit_ends_mps_in_order_restores_the_compute_mode_and_has_nothing_to_do_twice() {
    let scene = Scene::new("");
    let run = scene.start();
    assert!(scene.mode().contains("exclusive_process"));
    let (pid, servers) = (run.pid(), scene.servers());
    let (code, stdout, stderr) = scene.types(&["mps", "quit", GPU]);
    assert_eq!(code, 0, "{stderr}{}", run.log());
    assert_eq!(
        stdout,
        format!(
            "MPS has ended on {GPU}, in order: process {pid}.\nThe compute mode is default again.\n{STAYS}"
        )
    );
    assert_eq!(run.ended().0, Some(0));
    servers.into_iter().for_each(wait_gone);
    assert_eq!(scene.mode(), DEFAULT);
    assert!(!scene.daemon_dir().join("gpushare.compute-mode").exists());

    let (code, stdout, _) = scene.types(&["mps", "quit", GPU]);
    assert_eq!(
        (code, stdout),
        (0, format!("MPS does not run on {GPU}.\n{STAYS}"))
    );
}

#[test]
fn quit_takes_the_number_of_a_gpu_and_refuses_what_is_none() {
    let scene = Scene::new("");
    let numbers = format!("{{\"gpus\":{{\"{GPU}\":{{\"number\":3,\"seen_in_boot\":\"b\"}}}}}}");
    fs_err::create_dir_all(scene.node.path("state")).unwrap();
    fs_err::write(scene.node.path("state/gpus.json"), numbers).unwrap();
    let (code, stdout, _) = scene.types(&["mps", "quit", "3"]);
    assert_eq!(
        (code, stdout),
        (0, format!("MPS does not run on {GPU}.\n{STAYS}"))
    );
    let mark = scene.daemon_dir().join("gpushare.quit");
    assert!(mark.exists(), "an agent that starts later knows it, too");
    for command in ["run", "quit", "restart"] {
        for (argument, expected) in [
            ("4", 64),
            ("a10g", 64),
            ("GPU-7f1c9a52", 64),
            ("MIG-7f1c9a52", 69),
        ] {
            let (code, stdout, stderr) = scene.types(&["mps", command, argument]);
            assert_eq!(
                (code, stdout.as_str()),
                (expected, ""),
                "{command} {argument}: {stderr}"
            );
            if expected == 64 {
                assert!(stderr.contains(&format!("known: 3 = {GPU}")), "{stderr}");
            }
        }
    }
}

#[test]
fn quit_ends_a_daemon_that_nobody_supervises() {
    let scene = Scene::new("");
    fs_err::create_dir_all(scene.daemon_dir()).unwrap();
    let daemon = Running::start(scene.mps.control(&scene.daemon_dir()).arg("-f")).unwrap();
    daemon.wait_for("Starting control daemon").unwrap();
    let (code, stdout, stderr) = scene.types(&["mps", "quit", GPU]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(
        stdout,
        format!("MPS has ended on {GPU}: a daemon that nobody supervised.\n{STAYS}")
    );
    wait_gone(daemon.pid());
}

#[test]
fn quit_waits_for_clients_and_not_for_ever() {
    let scene = Scene::new("");
    let run = scene.start();
    let client = scene.client();
    let (code, stdout, stderr) = scene.types(&["mps", "quit", GPU]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("in order"), "{stdout}");
    assert_eq!(run.ended().0, Some(0));
    drop(client);
}

#[test]
fn quit_kills_a_supervisor_that_does_not_react() {
    let scene = Scene::new("");
    let run = scene.start();
    let pid = run.pid();
    let (daemons, servers) = (scene.daemons(), scene.servers());
    assert_eq!((daemons.len(), servers.len()), (1, 1));
    kill(pid, Signal::STOP);
    let (code, stdout, stderr) = scene.types(&["mps", "quit", GPU]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.contains(&format!("process {pid} did not end in time and was killed")),
        "{stdout}"
    );
    daemons.into_iter().chain(servers).for_each(wait_gone);
    assert_eq!(scene.mode(), DEFAULT);
}

#[test]
fn a_compute_mode_that_cannot_be_restored_is_named_with_the_mend_and_tried_again() {
    let scene = Scene::new("");
    let run = scene.start();
    scene.node.play("[init]\nerror = 9\n");
    let (code, stdout, stderr) = scene.types(&["mps", "quit", GPU]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(
        stderr.contains("nvidia-smi -i") && stderr.contains("driver not loaded"),
        "{stderr}"
    );
    assert_eq!(run.ended().0, Some(0));
    scene.node.play(&super::scene::gpu(""));
    let (code, stdout, stderr) = scene.types(&["mps", "quit", GPU]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.contains("The compute mode is default again.\n"),
        "{stdout}"
    );
    assert_eq!(scene.mode(), DEFAULT);
}

#[test]
fn restart_is_refused_while_there_are_clients_and_names_them() {
    let scene = Scene::new("");
    let run = scene.start();
    let client = scene.client();
    let (code, stdout, stderr) = scene.types(&["mps", "restart", GPU]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(
        stderr.contains(&format!("{} (", client.pid())) && stderr.contains("--force"),
        "{stderr}"
    );
    assert!(runs(run.pid()));
    assert_eq!(scene.daemons().len(), 1);
}

#[test]
fn restart_is_refused_while_it_cannot_be_seen_whether_there_are_clients() {
    let scene = Scene::new("");
    let run = scene.start();
    scene.mps.play("[control]\nwedged = true\n").unwrap();
    let (code, _, stderr) = scene.types(&["mps", "restart", GPU]);
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains("has not answered within") && stderr.contains("--force"),
        "{stderr}"
    );
    assert!(runs(run.pid()));
}

#[test]
fn restart_by_force_ends_clients_and_waits_for_the_next_daemon() {
    let scene = Scene::new("");
    let run = scene.start();
    let _client = scene.client();
    let before = run.pid();
    let restarting = scene.node.command(&["mps", "restart", GPU, "--force"]);
    let restarting = thread::spawn(move || output(restarting));
    // Whoever keeps MPS starts it again when it has ended: here that is this test.
    assert_eq!(run.ended().0, Some(0));
    let next = scene.start();
    let (code, stdout, stderr) = restarting.join().unwrap();
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(
        stdout,
        format!(
            "MPS has ended on {GPU}, in order: process {before}.\nIt answers again: process {}.\n",
            next.pid()
        )
    );
    assert_eq!(scene.mode().matches("exclusive_process").count(), 2);
}

#[test]
fn restart_without_a_daemon_says_who_starts_one() {
    let scene = Scene::new("");
    let (code, stdout, stderr) = scene.types(&["mps", "restart", GPU]);
    assert_eq!((code, stdout.as_str()), (69, ""));
    assert!(stderr.contains("gpushare status"), "{stderr}");
    // A file that nobody locks is no supervisor.
    fs_err::create_dir_all(scene.daemon_dir()).unwrap();
    fs_err::write(scene.daemon_dir().join("gpushare.lock"), "1\n").unwrap();
    assert_eq!(scene.types(&["mps", "restart", GPU]).0, 69);
}

#[test]
fn restart_starts_what_was_quit() {
    let scene = Scene::new("");
    let run = scene.start();
    assert_eq!(scene.types(&["mps", "quit", GPU]).0, 0);
    assert_eq!(run.ended().0, Some(0));
    let mark = scene.daemon_dir().join("gpushare.quit");
    assert!(mark.exists());
    let restarting = scene.node.command(&["mps", "restart", GPU]);
    let restarting = thread::spawn(move || output(restarting));
    // The agent starts it when the mark is gone: here that is this test.
    assert!(wait_for(|| (!mark.exists()).then_some(())).is_some());
    let next = scene.start();
    let (code, stdout, stderr) = restarting.join().unwrap();
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(
        stdout,
        format!("MPS runs on {GPU} again: process {}.\n", next.pid())
    );
}
