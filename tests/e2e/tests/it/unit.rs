//! `systemd/gpushare.service` and what is installed with it, on a booted node with a simulated GPU.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use e2e::{Node, PATIENCE, Spec, built};
use rustix::process::{Pid, Signal, kill_process};

/// The agent.
pub(super) const UNIT: &str = "gpushare.service";
/// Where the driver's package puts it.
pub(super) const NVML: &str = "/usr/lib/libnvidia-ml.so.1";
pub(super) const CONFIG: &str = "\
[node]
instance_id = \"i-0node\"
[publish]
target = \"stdout\"
interval = \"1s\"
groups = [\"host\", \"gpu\", \"agent\"]
";
/// For every unit that asks for the GPUs.
pub(super) const DROP_IN: &str = "\
[Service]
Environment=FAKE_NVML_SCENARIO=/etc/fakes/scenario.toml AWS_EC2_METADATA_DISABLED=true
";
/// `CAP_SYSLOG`, number 34, and nothing else.
const ONE_CAPABILITY: &str = "0000000400000000";
/// Of `systemd-analyze security`, in tenths: 0 is locked up, 100 is a program in a root shell.
const MOST_EXPOSED: &str = "--threshold=26";

#[test]
fn the_unit_verifies_and_is_hardly_exposed() {
    let node = Node::boot(&installed("verified"));
    let file = "/usr/lib/systemd/system/gpushare.service";
    let ran = node.run(&["systemd-analyze", "verify", file]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "", ""));
    let gate = [
        "systemd-analyze",
        "security",
        "--offline=true",
        "--no-pager",
        MOST_EXPOSED,
        file,
    ];
    let ran = node.run(&gate);
    assert_eq!(ran.code, 0, "{}", ran.stdout);
}

#[test]
fn the_agent_is_ready_says_how_it_is_and_is_there_again_after_a_reboot() {
    let mut node = Node::boot(&installed("agent"));
    node.succeed(&["systemctl", "enable", "--now", UNIT]);
    assert_eq!(node.property(UNIT, "ActiveState"), "active", "READY came");
    assert_well(&node);
    assert_eq!(node.property(UNIT, "NRestarts"), "0");

    node.reboot();
    assert_eq!(node.state().as_deref(), Some("running"), "{}", node.journal(UNIT));
    assert_well(&node);

    node.succeed(&["systemctl", "stop", UNIT]);
    assert_eq!(node.property(UNIT, "Result"), "success", "{}", node.journal(UNIT));
    assert!(node.path("/run/gpushare/clients").is_dir(), "pods mount it");
}

/// The status line is the GPU's, and the agent may and can do what it needs, and no more.
fn assert_well(node: &Node) {
    wait_for_gpu(node);
    // The agent brings the line up to date every five seconds.
    node.wait_until("a healthy GPU in the status line", PATIENCE, || {
        let status = node.succeed(&["systemctl", "status", "--no-pager", UNIT]);
        status.contains("Status: \"1/1 GPUs healthy").then_some(())
    });
    let outside = node.host_pid(main_pid(node)).unwrap();
    let proc = fs_err::read_to_string(format!("/proc/{outside}/status")).unwrap();
    let has = |name: &str, value: &str| {
        let line = proc
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        assert_eq!(line, Some(value), "{name}");
    };
    for (name, value) in [("CapEff", ONE_CAPABILITY), ("NoNewPrivs", "1"), ("Seccomp", "2")] {
        has(name, value);
    }
    for (path, mode) in [
        ("/run/gpushare", 0o755),
        ("/run/gpushare/status.sock", 0o660),
        ("/var/lib/gpushare", 0o700),
        ("/var/lib/gpushare/gpus.json", 0o600),
    ] {
        let found = fs_err::metadata(node.path(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(found, mode, "{path}: {found:o}");
    }
}

#[test]
fn an_agent_that_is_killed_is_started_again_and_leaves_no_process() {
    let node = Node::boot(&installed("killed"));
    node.succeed(&["systemctl", "start", UNIT]);
    wait_for_gpu(&node);
    let first = main_pid(&node);
    let nvml = node.host_pid(nvml_pid(&node)).unwrap();
    signal(&node, first, Signal::KILL);
    let second = node.wait_until("another agent", PATIENCE, || {
        Some(main_pid(&node)).filter(|pid| *pid != 0 && *pid != first)
    });
    wait_for_gpu(&node);
    assert_eq!(node.property(UNIT, "NRestarts"), "1");
    assert_eq!(main_pid(&node), second);
    assert!(
        !Path::new(&format!("/proc/{nvml}")).exists(),
        "the old NVML child"
    );
}

#[test]
fn an_agent_that_hangs_is_ended_by_the_watchdog_and_started_again() {
    // The unit's own limit is half a minute.
    let limit = "[Service]\nWatchdogSec=2s\n";
    let spec =
        installed("watchdog").with_file("/etc/systemd/system/gpushare.service.d/limit.conf", limit, 0o644);
    let node = Node::boot(&spec);
    node.succeed(&["systemctl", "start", UNIT]);
    wait_for_gpu(&node);
    let first = main_pid(&node);
    signal(&node, first, Signal::STOP);
    node.wait_until("another agent", PATIENCE, || {
        Some(main_pid(&node)).filter(|pid| *pid != 0 && *pid != first)
    });
    wait_for_gpu(&node);
    let journal = node.journal(UNIT);
    assert!(journal.contains("Watchdog timeout (limit 2s)"), "{journal}");
    assert_eq!(node.property(UNIT, "NRestarts"), "1");
}

#[test]
fn a_wrong_configuration_is_not_tried_again_and_the_journal_says_what_is_wrong() {
    let spec = installed("mistaken").with_file(
        "/etc/gpushare/config.toml",
        "[sample]\nintervall = \"1s\"\n",
        0o644,
    );
    let node = Node::boot(&spec);
    assert_ne!(node.run(&["systemctl", "start", UNIT]).code, 0);
    assert_eq!(node.property(UNIT, "ActiveState"), "failed");
    assert_eq!(node.property(UNIT, "ExecMainStatus"), "78");
    assert_eq!(node.property(UNIT, "NRestarts"), "0");
    let journal = node.journal(UNIT);
    assert!(journal.contains("sample.intervall"), "{journal}");
}

#[test]
fn a_reload_uses_a_good_configuration_and_refuses_a_wrong_one_without_another_process() {
    let node = Node::boot(&installed("reload"));
    node.succeed(&["systemctl", "start", UNIT]);
    wait_for_gpu(&node);
    let pid = main_pid(&node);
    let file = node.path("/etc/gpushare/config.toml");
    fs_err::write(&file, CONFIG.replace("\"1s\"", "1")).unwrap();
    assert_ne!(node.run(&["systemctl", "reload", UNIT]).code, 0);
    let journal = node.journal(UNIT);
    assert!(journal.contains("publish.interval"), "{journal}");
    assert_eq!(node.property(UNIT, "ActiveState"), "active");
    let status = node.run(&["gpushare", "status"]);
    assert_eq!(status.code, 78, "{status:?}");
    let pid_of_it = format!("pid {pid}");
    assert!(
        status.stdout.contains(&pid_of_it) && status.stderr.contains("publish.interval"),
        "the agent's status and the mistake: {status:?}"
    );

    fs_err::write(&file, CONFIG.replace("\"1s\"", "\"2s\"")).unwrap();
    node.succeed(&["systemctl", "reload", UNIT]);
    assert_eq!(node.property(UNIT, "ActiveState"), "active");
    let status = node.succeed(&["gpushare", "status"]);
    assert!(status.contains("every 2s"), "{status}");
    wait_for_gpu(&node);
    assert_eq!(
        (main_pid(&node), node.property(UNIT, "NRestarts").as_str()),
        (pid, "0")
    );
}

/// A node with the agent as a package installs it, not yet enabled, and one T4.
pub(super) fn installed(name: &str) -> Spec {
    without_driver(name).with_bind(fake_nvml::library_path(), NVML)
}

/// The same without NVML.
pub(super) fn without_driver(name: &str) -> Spec {
    let product = repository().join("systemd");
    simulated(name)
        .with_bind(built("gpushare"), "/usr/bin/gpushare")
        .with_copy(
            product.join(UNIT),
            "/usr/lib/systemd/system/gpushare.service",
            0o644,
        )
        .with_copy(
            product.join("gpushare.tmpfiles"),
            "/usr/lib/tmpfiles.d/gpushare.conf",
            0o644,
        )
        .with_file("/etc/gpushare/config.toml", CONFIG, 0o644)
}

/// A node with one T4 and nothing of ours; the agent's unit will find the simulated driver.
pub(super) fn bare(name: &str) -> Spec {
    simulated(name).with_bind(fake_nvml::library_path(), NVML)
}

/// A node whose driver, once it is there, is a simulated one.
fn simulated(name: &str) -> Spec {
    Spec::new(name)
        .with_copy(
            repository().join("testkit/scenarios/g4dn.xlarge.toml"),
            "/etc/fakes/scenario.toml",
            0o644,
        )
        .with_file("/etc/systemd/system/gpushare.service.d/gpus.conf", DROP_IN, 0o644)
}

/// The sources.
pub(super) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(super) fn wait_for_gpu(node: &Node) {
    node.wait_until("a healthy GPU", PATIENCE, || {
        let status = node.run(&["gpushare", "status"]).stdout;
        let mut gpus = status.lines().filter(|line| line.contains("Tesla T4"));
        gpus.any(|line| line.ends_with("healthy")).then_some(())
    });
}

pub(super) fn main_pid(node: &Node) -> u32 {
    node.property(UNIT, "MainPID").parse().unwrap()
}

/// In the node's numbers.
fn nvml_pid(node: &Node) -> u32 {
    let found = node.succeed(&["pgrep", "--parent", &main_pid(node).to_string()]);
    found.trim().parse().unwrap()
}

fn signal(node: &Node, pid: u32, signal: Signal) {
    let outside = node.host_pid(pid).unwrap();
    kill_process(Pid::from_raw(i32::try_from(outside).unwrap()).unwrap(), signal).unwrap();
}
