//! What the control program's caller sees of every version of the daemon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fake_mps::{Installed, Running};
use gpushare::mps::control::{Control, ControlError};
use gpushare::mps::protocol::{Command, Report, ServerStatus, Version};
use rustix::process::Signal;
use tempfile::TempDir;

use super::scene::kill;
use crate::harness::{PATIENCE, wait_for};

/// A daemon of its own, without `gpushare mps run`.
struct Daemon {
    running: Running,
    /// Dropped before the directory of its programs is: it kills the servers by their files.
    mps: Installed,
    root: TempDir,
}

impl Daemon {
    fn start(script: &str) -> Self {
        Self::start_with(script, "2")
    }

    fn start_with(script: &str, protocol: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mps = Installed::in_dir(root.path().join("mps")).unwrap();
        mps.play(script).unwrap();
        let mut control = mps.control(&root.path().join("pipe"));
        let running = Running::start(control.arg("-f").env("CUDA_MPS_PROTOCOL_VERSION", protocol)).unwrap();
        running.wait_for("Starting control daemon").unwrap();
        Self { running, mps, root }
    }

    fn pipe(&self) -> PathBuf {
        self.root.path().join("pipe")
    }

    fn control(&self) -> Control {
        Control::new(self.mps.control_program(), self.pipe())
    }

    fn probe(&self) -> Report {
        self.control().probe(None, PATIENCE).unwrap()
    }

    /// Starts a server ahead, and waits until it is as a probe shall see it.
    fn serve(&self, status: ServerStatus) {
        self.control()
            .order(Command::StartServer { uid: 0 }, PATIENCE)
            .unwrap();
        wait_for(|| {
            let report = self.probe();
            report
                .servers
                .iter()
                .any(|server| server.status == status)
                .then_some(())
        })
        .unwrap_or_else(|| panic!("never {status:?}: {:?}", self.probe()));
    }
}

#[test]
fn m26_every_version_is_understood_with_its_servers_and_clients() {
    for version in [535, 550, 580, 595, 615] {
        let daemon = Daemon::start(&format!("version = {version}\n"));
        let report = daemon.probe();
        assert_eq!(
            (report.servers.len(), &report.not_understood[..]),
            (0, &[][..]),
            "{version}"
        );
        assert!(report.limits_nobody(), "{version}");

        let told = if version == 535 {
            ServerStatus::Unknown
        } else {
            ServerStatus::Active
        };
        daemon.serve(told);
        let client = Running::start(&mut daemon.mps.client(&daemon.pipe())).unwrap();
        client.wait_for("connected").unwrap();
        let report = daemon.probe();
        assert_eq!(report.not_understood, [""; 0], "{version}");
        assert_eq!(report.servers.len(), 1, "{version}");
        assert_eq!(report.servers[0].status, told, "{version}");
        let clients = report.servers[0].known_clients();
        assert_eq!(clients.len(), 1, "{version}");
        assert_eq!(clients[0].pid, client.pid(), "{version}");
        assert!(clients[0].command.is_some(), "{version}: {clients:?}");
    }
}

#[test]
fn m26_a_daemon_of_protocol_3_is_recognised_and_not_misread() {
    let daemon = Daemon::start_with("version = 615\n", "3");
    let report = daemon.probe();
    assert_eq!(report.servers, []);
    assert_eq!(report.default_thread_percentage, None);
    assert!(!report.limits_nobody());
    assert!(
        report
            .not_understood
            .iter()
            .any(|text| text.contains("protocol 2")),
        "{:?}",
        report.not_understood
    );
}

#[test]
fn m26_noise_in_one_answer_leaves_the_others_readable() {
    let daemon = Daemon::start(
        "[control]\nanswers = { ps = \"PID WHAT\\n\" }\nanswers_hex = { get_server_list = \"00ff0a\" }\n",
    );
    let report = daemon.probe();
    assert!(report.limits_nobody());
    assert_eq!(report.not_understood.len(), 2, "{:?}", report.not_understood);
}

#[test]
fn m05_down_wedged_and_well_are_told_apart_and_nothing_is_left() {
    let daemon = Daemon::start("");
    let limit = Duration::from_secs(1);
    let control = daemon.control();
    assert!(control.probe(None, PATIENCE).is_ok());

    daemon.mps.play("[control]\nwedged = true\n").unwrap();
    assert!(matches!(
        control.probe(None, limit),
        Err(ControlError::Wedged { .. })
    ));
    daemon.mps.play("").unwrap();
    assert!(control.probe(None, PATIENCE).is_ok());

    kill(daemon.running.pid(), Signal::STOP);
    assert!(matches!(
        control.probe(None, limit),
        Err(ControlError::Wedged { .. })
    ));
    assert_eq!(control.abandoned(), 0);
    assert_eq!(
        programs_of(&daemon.mps.control_program()),
        1,
        "only the daemon is left"
    );
    kill(daemon.running.pid(), Signal::CONT);
    assert!(control.probe(None, PATIENCE).is_ok());

    kill(daemon.running.pid(), Signal::KILL);
    let gone = wait_for(|| match control.probe(None, PATIENCE) {
        Err(ControlError::NotRunning { .. }) => Some(()),
        _ => None,
    });
    assert!(gone.is_some());
}

/// Processes that run this file.
fn programs_of(program: &Path) -> usize {
    let processes = fs_err::read_dir("/proc").unwrap().flatten();
    let runs = processes.filter(|process| {
        fs_err::read_link(process.path().join("exe")).is_ok_and(|executable| executable == program)
    });
    runs.count()
}

#[test]
fn m08_defaults_are_restored_and_what_is_silently_ignored_is_noticed() {
    let start = "[start]\npercentage = 50.0\npinned_limits = { 0 = \"2G\" }\n";
    let daemon = Daemon::start(start);
    let report = daemon.probe();
    assert_eq!(report.default_thread_percentage, Some(50.0));
    assert_eq!(report.default_memory_limit.as_deref(), Some("2G"));

    daemon
        .mps
        .play(&format!("{start}[control]\nignores_settings = true\n"))
        .unwrap();
    let ignored = wait_for(|| match daemon.control().restore_defaults(PATIENCE) {
        Err(error @ ControlError::NotTaken { .. }) => Some(error),
        _ => None,
    });
    assert!(ignored.unwrap().to_string().contains("reads back 50"));

    daemon.mps.play(start).unwrap();
    let taken = wait_for(|| daemon.control().restore_defaults(PATIENCE).ok());
    assert!(taken.is_some());
    assert!(daemon.probe().limits_nobody());
}

#[test]
fn the_version_is_told_from_580_on() {
    for (version, expected) in [
        (550, Version::Untold),
        (580, Version::Binary(13_000)),
        (595, Version::Binary(13_020)),
    ] {
        let root = tempfile::tempdir().unwrap();
        let mps = Installed::in_dir(root.path()).unwrap();
        mps.play(&format!("version = {version}\n")).unwrap();
        // The program reads its script's path from its environment, which a wrapper gives it.
        let wrapper = root.path().join("wrapper");
        let script = format!(
            "#!/bin/sh\nFAKE_MPS_SCRIPT='{}' exec '{}' \"$@\"\n",
            mps.script().display(),
            mps.control_program().display()
        );
        fs_err::write(&wrapper, script).unwrap();
        fs_err::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let told = Control::new(wrapper, root.path().join("pipe")).version(PATIENCE);
        assert_eq!(told, Ok(expected), "{version}");
    }
}
