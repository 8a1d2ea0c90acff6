//! What goes wrong on one GPU, and stays there.

use std::io::Write as _;
use std::time::Instant;

use gpushare::mps::protocol::{Server, ServerStatus};
use gpushare::status::Snapshot;
use rustix::process::{Pid, Signal, kill_process};

use super::scene::{Scene, UUIDS, mps, pids, ready, why};
use crate::harness::{Datum, datums, exists, output, wait_for};

pub(super) fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// The clients of a GPU's server.
fn listed(snapshot: &Snapshot, gpu: usize) -> Vec<u32> {
    let server = mps(snapshot, gpu).and_then(|gpu| gpu.server.as_ref());
    let clients = server.into_iter().flat_map(Server::known_clients);
    clients.map(|client| client.pid).collect()
}

#[test]
fn m01_m03_a_daemon_that_is_killed_is_back_and_verified_without_its_orphans_and_its_neighbour_notices_nothing()
 {
    let scene = Scene::new();
    let agent = scene.start();
    let (mut client, mut neighbour) = (scene.client(0), scene.client(1));
    let before = agent.wait("the client is seen", |snapshot| {
        mps(snapshot, 0).is_some_and(|gpu| {
            gpu.server
                .as_ref()
                .is_some_and(|server| server.known_clients().len() == 1)
        })
    });
    let (_, server) = pids(&before, 0);
    kill(scene.daemon(0), Signal::KILL);
    let after = agent.wait(
        "another daemon is verified, and its neighbour is what it was",
        |snapshot| {
            let is_another = pids(snapshot, 0).0 != pids(&before, 0).0;
            ready(snapshot, 0) && is_another && pids(snapshot, 1) == pids(&before, 1)
        },
    );
    assert!(!exists(server.unwrap()), "the orphan of the old daemon is gone");
    assert!(mps(&after, 0).unwrap().restarts > 0);
    client.wait_for("server-gone").unwrap();
    client.close_stdin();
    drop(scene.client(0));
    assert!(neighbour.lines().iter().all(|line| line != "server-gone"));
    neighbour.close_stdin();
    neighbour.wait().unwrap();
    agent.wait_batches("the restart is counted", |batches| {
        let restarts = datums(batches, "mps_restarts");
        let counts = |datum: &Datum| datum.values.iter().any(|(value, _)| *value > 0.0);
        let counted = restarts.iter().find(|datum| counts(datum))?;
        assert_eq!(counted.label, "GPUNumber=0");
        Some(())
    });
}

#[test]
fn m05_a_daemon_that_does_not_answer_is_down_after_three_probes_and_replaced() {
    let scene = Scene::new();
    let agent = scene.start();
    let daemon = scene.daemon(0);
    kill(daemon, Signal::STOP);
    let snapshot = agent.wait("it is down", |snapshot| !why(snapshot, 0).is_empty());
    assert!(
        why(&snapshot, 0).contains("has not answered"),
        "{}",
        why(&snapshot, 0)
    );
    assert!(ready(&snapshot, 1));
    agent.wait("another one is verified", |snapshot| ready(snapshot, 0));
    assert!(!exists(daemon));
}

#[test]
fn m11_a_server_that_crashes_again_and_again_is_a_crash_loop_and_its_daemon_stays() {
    let scene = Scene::new();
    let agent = scene.start();
    let daemon = scene.daemon(0);
    // The server at work reads it too, and is the first to crash.
    scene.mps.play("[server]\nlives_ms = 100\n").unwrap();
    let snapshot = agent.wait("the crash loop is told", |snapshot| {
        why(snapshot, 0).contains("keeps crashing")
    });
    assert!(!ready(&snapshot, 0));
    assert_eq!(scene.daemon(0), daemon);
}

#[test]
fn m12_a_fault_is_told_its_clients_ended_after_the_grace_and_its_server_replaced_on_that_gpu_alone() {
    // Long enough for every look at the status to see who was hit.
    let scene = Scene::new().with("mps.grace", "\"5s\"");
    scene.play(0, "");
    let agent = scene.start();
    let (client, neighbour) = (scene.client(0), scene.client(1));
    let before = agent.wait("the client is seen", |snapshot| {
        listed(snapshot, 0) == [client.pid()]
    });
    let daemon = scene.daemon(0);
    scene.play(0, "[server]\nfault = \"held\"\n");
    let snapshot = agent.wait("the fault is told", |snapshot| {
        why(snapshot, 0).contains(&format!("hit were {}", client.pid()))
    });
    let status = snapshot.mps.gpus[0].server.as_ref().unwrap().status;
    assert_eq!(status, ServerStatus::Fault);
    client.wait_for("fault").unwrap();
    // It does not recover by itself: whoever is left is ended, then the server, and the next one has the fault as well.
    client.wait_for("error 810").unwrap();
    agent.wait("the server is replaced", |snapshot| {
        let server = pids(snapshot, 0).1;
        server.is_some() && server != pids(&before, 0).1
    });
    let old = pids(&before, 0).1.unwrap();
    let has_ended = wait_for(|| (!exists(old)).then_some(()));
    assert!(has_ended.is_some(), "{}", agent.log());
    scene.play(0, "");
    let after = agent.wait("it is well again, and its neighbour untouched", |snapshot| {
        ready(snapshot, 0) && pids(snapshot, 1) == pids(&before, 1)
    });
    assert_eq!(pids(&after, 0).0, pids(&before, 0).0, "a fault is the server's");
    assert_eq!(scene.daemon(0), daemon);
    let last_step = |snapshot: &Snapshot| mps(snapshot, 1).unwrap().last_step.clone();
    assert_eq!(last_step(&after), last_step(&before));
    let said = neighbour.lines();
    assert!(said.iter().all(|line| line != "fault"), "{said:?}");
}

#[test]
fn m13_a_client_that_is_gone_and_still_listed_is_dropped() {
    let scene = Scene::new();
    scene.mps.play("[server]\nkeeps_dead_clients = true\n").unwrap();
    let agent = scene.start();
    let client = scene.client(0);
    let listed = client.pid();
    agent.wait("the client is seen", |snapshot| {
        mps(snapshot, 0).is_some_and(|gpu| {
            gpu.server
                .as_ref()
                .is_some_and(|server| server.known_clients().len() == 1)
        })
    });
    client.signal(Signal::KILL).unwrap();
    let snapshot = agent.wait("it is dropped", |snapshot| {
        let step = mps(snapshot, 0).and_then(|gpu| gpu.last_step.as_ref());
        step.is_some_and(|step| step.step.contains(&format!("drop {listed}")))
    });
    assert!(ready(&snapshot, 0), "nobody else is disturbed");
}

#[test]
fn m13_a_server_that_does_not_drop_a_dead_client_is_told_and_replaced_when_nobody_else_is_on_it() {
    let scene = Scene::new();
    scene.play(
        0,
        "[server]\nkeeps_dead_clients = true\nignores_terminate = true\n",
    );
    let agent = scene.start();
    let (dead, mut alive) = (scene.client(0), scene.client(0));
    let before = agent.wait("both are seen", |snapshot| listed(snapshot, 0).len() == 2);
    dead.signal(Signal::KILL).unwrap();
    agent.wait("it is told, and who is alive works on", |snapshot| {
        let name = format!(": {}", dead.pid());
        let warnings = &mps(snapshot, 0).unwrap().warnings;
        let is_told = warnings.iter().any(|warning| warning.what.ends_with(&name));
        is_told && ready(snapshot, 0) && pids(snapshot, 0) == pids(&before, 0)
    });
    alive.close_stdin();
    alive.wait().unwrap();
    let after = agent.wait("the server is another", |snapshot| {
        let server = pids(snapshot, 0).1;
        ready(snapshot, 0) && server.is_some() && server != pids(&before, 0).1
    });
    assert_eq!(listed(&after, 0), [0; 0]);
}

#[test]
fn m17_the_daemon_of_a_lost_gpu_is_stopped_and_comes_back_with_it() {
    let scene = Scene::new();
    let agent = scene.start();
    let (before, daemon) = (agent.status().unwrap(), scene.daemon(1));
    scene.node.play(&super::scene::gpus(
        "[[fault]]\ngpu = 1\nkind = \"lost\"\nat_ms = 0\n",
    ));
    agent.wait("it waits for its GPU", |snapshot| {
        mps(snapshot, 1).is_some_and(|gpu| gpu.state.as_str() == "no driver")
    });
    assert!(
        wait_for(|| (!exists(daemon)).then_some(())).is_some(),
        "{}",
        agent.log()
    );
    agent.wait("its neighbour is what it was", |snapshot| {
        ready(snapshot, 0) && pids(snapshot, 0) == pids(&before, 0)
    });
    scene.node.play(&super::scene::gpus(""));
    agent.wait("it is back with its GPU", |snapshot| ready(snapshot, 1));
}

#[test]
fn m18_a_compute_mode_that_somebody_changes_is_told_and_set_again() {
    let scene = Scene::new();
    let agent = scene.start();
    let mode = ["nvml", "--gpu", UUIDS[0], "--compute-mode", "default"];
    let (code, _, said) = output(scene.node.command(&mode));
    assert_eq!(code, 0, "{said}");
    let snapshot = agent.wait("the drift is told", |snapshot| {
        why(snapshot, 0).contains("EXCLUSIVE_PROCESS")
    });
    assert!(ready(&snapshot, 1));
    agent.wait("it is set again", |snapshot| ready(snapshot, 0));
}

#[test]
fn m21_a_storm_of_log_lines_wedges_nobody_and_fills_no_disk() {
    let scene = Scene::new();
    scene.mps.play("[control]\nlog_lines_per_s = 2000\n").unwrap();
    let agent = scene.start();
    let probed = agent.status().unwrap().mps.gpus[0].probed_at.unwrap();
    let later = agent.wait("it goes on answering", |snapshot| {
        mps(snapshot, 0).is_some_and(|gpu| gpu.probed_at > Some(probed + 3))
    });
    assert!(ready(&later, 0));
    let events = fs_err::metadata(scene.pipe(0).join("gpushare.events"))
        .unwrap()
        .len();
    assert!(events < 64 * 1024, "{events} bytes of events");
    assert!(
        agent.log().len() < 256 * 1024,
        "{} bytes of log",
        agent.log().len()
    );
}

#[test]
fn what_mps_said_and_nobody_can_read_is_told_in_the_log() {
    let scene = Scene::new();
    let agent = scene.start();
    let mut events = fs_err::OpenOptions::new();
    let events = events.append(true).open(scene.pipe(0).join("gpushare.events"));
    events.unwrap().write_all(b"nonsense\n").unwrap();
    let told = "not all that MPS said since the last look can be read";
    let is_told = wait_for(|| agent.log().contains(told).then_some(()));
    assert!(is_told.is_some(), "{}", agent.log());
}

#[test]
fn one_probe_is_one_process() {
    let scene = Scene::new();
    let agent = scene.start();
    let (start, calls) = (Instant::now(), scene.mps.uis().unwrap());
    let before = agent.status().unwrap();
    let probes = |snapshot: &Snapshot| snapshot.mps.gpus[0].probed_at.unwrap();
    let begun = probes(&before);
    agent.wait("five seconds of probes", |snapshot| probes(snapshot) >= begun + 5);
    let made = scene.mps.uis().unwrap() - calls;
    // Two GPUs, a probe every 300 ms or more, and a few that were due or that an event has asked for.
    let intervals = usize::try_from(start.elapsed().as_millis() / 300).unwrap();
    let most = 2 * (intervals + 5);
    assert!((2..=most).contains(&made), "{made} processes, {most} at most");
}
