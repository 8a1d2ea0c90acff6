//! NVML as a whole is missing, wrong, late, or never answers.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use fake_nvml::calllog::Outcome;
use gpushare::gpu::DriverState;
use gpushare::gpu::inventory::Reason;
use gpushare::gpu::wire::FaultKind;

use super::scene::{
    calls_of, driver_fault, gaps, gpu, host_goes_on, lines, metrics_of, next_windows, problems, reasons,
    series, values, well,
};
use crate::harness::{Node, PATIENCE, exists, wait_for};

const INIT: &str = "nvmlInit_v2";
const UNAVAILABLE: &str = "no GPU can be read";
const READY: &str = "NVML is ready";

fn init_error(code: u32) -> String {
    format!("{}[init]\nerror = {code}\n", gpu('a', ""))
}

#[test]
fn g01_without_a_driver_the_agent_stays_up_and_finds_one_that_is_installed_later() {
    let node = Node::new(&gpu('a', "utilization = 40"));
    let library = node.path("driver.so.1");
    let node = node.with_library(&library);
    let begun = Instant::now();
    let agent = node.start();
    let second = agent.wait("a second attempt", |s| s.gpu.child.starts >= 2);
    assert_eq!(driver_fault(&second), Some(FaultKind::LibraryMissing));
    let text = problems(&second);
    assert!(text.contains("driver.so.1"), "names the file: {text}");
    assert!(text.contains("gpu.enabled = false"), "names the mend: {text}");
    let windows = next_windows(&agent, 1);
    assert!(host_goes_on(&windows));
    assert!(metrics_of(&windows, 0).is_empty(), "no GPU, no series");

    let unpacked = node.path("driver.so.1.new");
    fs_err::copy(fake_nvml::library_path(), &unpacked).unwrap();
    fs_err::rename(&unpacked, &library).unwrap();
    let found = agent.wait("the GPU", |s| well(s, 1));
    // 1 s before the second attempt, 2 s more before the third.
    assert!(found.gpu.child.starts > 2 && begun.elapsed() >= Duration::from_secs(3));
    assert_eq!(
        (lines(&agent.log(), UNAVAILABLE), lines(&agent.log(), READY)),
        (1, 1)
    );
}

#[test]
fn g02_a_late_driver_is_found_within_one_retry_and_logged_once() {
    let node = Node::new(&init_error(9));
    let agent = node.start();
    let waiting = agent.wait("a second attempt", |s| s.gpu.child.starts >= 2);
    assert_eq!(driver_fault(&waiting), Some(FaultKind::DriverNotLoaded));
    node.play(&gpu('a', "utilization = 40"));
    let attempts = agent.status().unwrap().gpu.child.starts;
    let found = agent.wait("the GPU", |s| well(s, 1));
    // The attempt that was under way during the change may have failed still.
    assert!(
        found.gpu.child.starts <= attempts + 1,
        "{attempts} attempts before"
    );
    assert_eq!(found.agent.pid, agent.pid());
    let log = agent.log();
    assert_eq!((lines(&log, UNAVAILABLE), lines(&log, READY)), (1, 1), "{log}");
    assert_eq!(values(&next_windows(&agent, 1), "gpu_utilization", 0), [40.0]);
}

#[test]
fn g03_a_driver_that_was_upgraded_on_disk_makes_its_gpus_unhealthy_until_it_is_reloaded() {
    let good = gpu('a', "utilization = 40");
    let node = Node::new(&good);
    let agent = node.start();
    agent.wait("the GPU", |s| well(s, 1));
    node.play(&format!("{good}[[driver_gone]]\nat_ms = 0\ninit_error = 18\n"));
    let broken = agent.wait("the mismatch", |s| {
        driver_fault(s) == Some(FaultKind::VersionMismatch)
    });
    assert_eq!(reasons(&broken, 0), [Reason::DriverUnavailable]);
    assert!(
        problems(&broken).contains("reload the kernel module"),
        "{}",
        problems(&broken)
    );
    let windows = next_windows(&agent, 1);
    assert_eq!(values(&windows, "gpu_healthy", 0), [0.0]);
    assert_eq!(series(&windows, "gpu_utilization", 0), []);
    assert!(host_goes_on(&windows));

    node.play(&good);
    let attempts = agent.status().unwrap().gpu.child.starts;
    let mended = agent.wait("the GPU again", |s| well(s, 1));
    assert!(
        mended.gpu.child.starts <= attempts + 1,
        "{attempts} attempts before"
    );
    assert_eq!(values(&next_windows(&agent, 1), "gpu_healthy", 0), [1.0]);
    let calls = node.nvml_calls();
    let inits = calls_of(&calls, INIT);
    let children: BTreeSet<u32> = inits.iter().map(|call| call.pid).collect();
    assert_eq!(children.len(), inits.len(), "a fresh process each time");
    let log = agent.log();
    assert_eq!(lines(&log, "driver and library versions differ"), 1, "{log}");
    assert_eq!(lines(&log, READY), 2, "{log}");
}

#[test]
fn g04_other_failures_of_init_have_reasons_of_their_own_and_make_no_tight_loop() {
    let node = Node::new(&init_error(999));
    let agent = node.start();
    let unknown = agent.wait("the unknown error", |s| s.gpu.child.starts >= 2);
    assert_eq!(driver_fault(&unknown), Some(FaultKind::Other));
    node.play(&init_error(4));
    let refused = agent.wait("the refusal", |s| {
        driver_fault(s) == Some(FaultKind::NoPermission)
    });
    assert!(
        problems(&refused).contains("/dev/nvidia"),
        "{}",
        problems(&refused)
    );
    assert_ne!(problems(&refused), problems(&unknown));
    let calls = node.nvml_calls();
    let waits = gaps(&calls_of(&calls, INIT));
    // Each wait is at least twice the one before, from 1 s on; the wall clock of the log may slew a little.
    let least = [0.99, 1.98, 3.96, 7.92];
    assert!(waits.len() >= 2, "{waits:?}");
    assert!(
        waits.iter().zip(least).all(|(wait, least)| *wait >= least),
        "{waits:?}"
    );
    assert!(host_goes_on(&next_windows(&agent, 1)));
}

#[test]
fn g11_an_init_that_hangs_keeps_nothing_from_working_but_the_gpus() {
    let node = Node::new(&gpu('a', ""));
    let first = node.start();
    first.wait("the number is kept", |s| {
        well(s, 1) && node.path("state/gpus.json").exists()
    });
    assert!(first.terminate().status.success());

    node.play(&format!("{}[init]\nhang_ms = \"forever\"\n", gpu('a', "")));
    let socket = node.path("notify.sock");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let node = node
        .with_env("NOTIFY_SOCKET", socket.to_str().unwrap())
        .with_env("WATCHDOG_USEC", "400000");
    let agent = node.start();
    assert!(next_message(&systemd).contains("READY=1"));
    // From here on nobody reads the socket until its queue is full; that stops nothing either.
    let stuck = agent.wait("the driver counts as stuck", |s| {
        s.gpu.driver == DriverState::Stuck
    });
    assert_eq!(reasons(&stuck, 0), [Reason::Stuck]);
    assert_eq!(stuck.gpu.child.killed, 0, "shown before the child is given up");
    assert!(
        problems(&stuck).contains("does not answer"),
        "{}",
        problems(&stuck)
    );
    let windows = next_windows(&agent, 1);
    assert!(host_goes_on(&windows));
    assert_eq!(values(&windows, "gpu_driver_stuck", 0), [1.0]);
    assert_eq!(values(&windows, "gpu_healthy", 0), [0.0]);
    forget_messages(&systemd);
    while !next_message(&systemd).contains("WATCHDOG=1") {}
    let calls = node.nvml_calls();
    let hung = calls.last().unwrap();
    assert_eq!(
        (hung.function.as_str(), hung.outcome),
        (INIT, Outcome::Entered),
        "nothing was asked after it"
    );

    let child = stuck.gpu.child.pid.unwrap();
    let ended = agent.terminate();
    assert!(ended.status.success(), "{}", ended.log);
    assert!(ended.took < Duration::from_secs(2), "took {:?}", ended.took);
    assert!(
        wait_for(|| (!exists(child)).then_some(())).is_some(),
        "the child is gone too"
    );
}

/// Empties the queue, so that the next message is a new one.
fn forget_messages(systemd: &UnixDatagram) {
    systemd.set_nonblocking(true).unwrap();
    while systemd.recv(&mut [0; 4096]).is_ok() {}
    systemd.set_nonblocking(false).unwrap();
}

fn next_message(systemd: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let length = systemd.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

#[test]
fn a_library_that_is_not_nvml_is_named_and_the_agent_stays_up() {
    let text = Node::new(&gpu('a', ""));
    let file = text.path("notes.txt");
    fs_err::write(&file, "this is not a library\n").unwrap();
    let text = text.with_library(&file);
    let libc = Node::new(&gpu('a', "")).with_library("libc.so.6");
    for (node, named) in [(text, "notes.txt"), (libc, "libc.so.6")] {
        let agent = node.start();
        let known = agent.wait("the verdict", |s| driver_fault(s).is_some());
        assert_eq!(driver_fault(&known), Some(FaultKind::NotNvml), "{named}");
        let text = problems(&known);
        assert!(
            text.contains(named) && text.contains("gpu.nvml_library"),
            "{text}"
        );
        assert!(host_goes_on(&next_windows(&agent, 1)));
        let ended = agent.terminate();
        assert!(
            ended.status.success() && !ended.log.contains("panicked"),
            "{}",
            ended.log
        );
    }
}
