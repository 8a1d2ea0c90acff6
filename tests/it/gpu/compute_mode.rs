//! The compute mode of a GPU: the command that MPS supervision starts to read and set it, and what the agent sees.

use std::process::Command;

use gpushare::gpu::{ComputeMode, ComputeModes};
use gpushare::status::Snapshot;

use super::scene::{calls_of, gaps, gpu, two_gpus, well};
use crate::harness::{Node, output};

fn command(node: &Node, uuid: &str, mode: Option<&str>) -> Command {
    let mut arguments = vec!["nvml", "--gpu", uuid, "--compute-mode"];
    arguments.extend(mode);
    node.command(&arguments)
}

/// What the command prints when it succeeds.
#[track_caller]
fn modes(node: &Node, uuid: &str, mode: Option<&str>) -> String {
    let (code, stdout, stderr) = output(command(node, uuid, mode));
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    stdout
}

/// What the command says when it fails; it prints nothing then.
#[track_caller]
fn refused(node: &Node, uuid: &str, mode: Option<&str>) -> (i32, String) {
    let (code, stdout, stderr) = output(command(node, uuid, mode));
    assert_eq!(stdout, "", "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    (code, stderr)
}

#[test]
fn the_mode_is_read_set_and_read_back() {
    let node = Node::new(&two_gpus());
    assert_eq!(
        modes(&node, "GPU-b", None),
        "{\"before\":\"default\",\"now\":\"default\"}\n"
    );
    let set = modes(&node, "GPU-b", Some("exclusive_process"));
    assert_eq!(set, "{\"before\":\"default\",\"now\":\"exclusive_process\"}\n");
    let parsed: ComputeModes = serde_json::from_str(&set).unwrap();
    assert_eq!(parsed.now, ComputeMode::ExclusiveProcess);
    let again = modes(&node, "GPU-b", None);
    assert_eq!(
        again,
        "{\"before\":\"exclusive_process\",\"now\":\"exclusive_process\"}\n"
    );
    assert_eq!(
        modes(&node, "GPU-a", None),
        "{\"before\":\"default\",\"now\":\"default\"}\n"
    );
    let deaf = Node::new(&gpu('a', "ignores_compute_mode = true"));
    let (code, said) = refused(&deaf, "GPU-a", Some("exclusive_process"));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("reads back default"), "{said}");
    let calls = node.nvml_calls();
    assert!(
        calls.iter().all(|call| call.function != "nvmlShutdown"),
        "a shutdown can hang, or be missing"
    );
}

#[test]
fn what_is_there_already_needs_no_permission() {
    let keys = "compute_mode = \"exclusive_process\"\n[gpu.errors]\nnvmlDeviceSetComputeMode = 4";
    let node = Node::new(&gpu('a', keys));
    assert_eq!(
        modes(&node, "GPU-a", Some("exclusive_process")),
        "{\"before\":\"exclusive_process\",\"now\":\"exclusive_process\"}\n"
    );
    let (code, said) = refused(&node, "GPU-a", Some("default"));
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("CAP_SYS_ADMIN") && said.contains("run as root"),
        "{said}"
    );
}

#[test]
fn a_gpu_that_mps_cannot_share_is_named_with_the_reason() {
    let scenario = format!(
        "{}{}{}{}",
        gpu('a', "mig = true"),
        gpu('b', "[gpu.errors]\nnvmlDeviceSetComputeMode = 3"),
        gpu('c', ""),
        "[[fault]]\ngpu = 2\nkind = \"lost\"\nat_ms = 0\n"
    );
    let node = Node::new(&scenario);
    for mode in [None, Some("exclusive_process")] {
        let (code, said) = refused(&node, "GPU-a", mode);
        assert_eq!(code, 69, "{said}");
        assert!(said.contains("nvidia-smi -i GPU-a -mig 0"), "{said}");
        let (code, said) = refused(&node, "GPU-c", mode);
        assert_eq!(code, 69, "{said}");
        assert!(said.contains("GPU-c cannot be used"), "{said}");
        let (code, said) = refused(&node, "GPU-x", mode);
        assert_eq!(code, 69, "{said}");
        assert!(
            said.contains("no GPU GPU-x") && said.contains("GPU-a, GPU-b"),
            "{said}"
        );
    }
    assert!(modes(&node, "GPU-b", None).contains("default"));
    let (code, said) = refused(&node, "GPU-b", Some("prohibited"));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("mps.exclusive_process = false"), "{said}");
}

#[test]
fn without_a_driver_the_command_is_unavailable_and_says_why() {
    let node = Node::new("[init]\nerror = 9\n");
    let (code, said) = refused(&node, "GPU-a", Some("exclusive_process"));
    assert_eq!(code, 69, "{said}");
    assert!(
        said.contains("driver not loaded") && said.contains("mend: "),
        "{said}"
    );
    let node = Node::new(&gpu('a', "")).with_library("/nowhere/libnvidia-ml.so.1");
    let (code, said) = refused(&node, "GPU-a", None);
    assert_eq!(code, 69, "{said}");
    assert!(said.contains("/nowhere/libnvidia-ml.so.1"), "{said}");
    let node = Node::new("");
    let (code, said) = refused(&node, "GPU-a", None);
    assert_eq!(code, 69, "{said}");
    assert!(said.contains("the driver sees none"), "{said}");
}

#[test]
fn a_mode_that_is_none_and_a_mode_without_a_gpu_are_wrong_usage() {
    let node = Node::new(&gpu('a', ""));
    let (code, said) = refused(&node, "GPU-a", Some("exclusive_thread"));
    assert_eq!(code, 64, "{said}");
    assert!(said.contains("default, prohibited, exclusive_process"), "{said}");
    for arguments in [&["nvml", "--gpu", "GPU-a"][..], &["nvml", "--compute-mode"]] {
        let (code, _, said) = output(node.command(arguments));
        assert_eq!(code, 64, "{said}");
    }
}

#[test]
fn m18_a_mode_that_somebody_changes_is_seen_and_so_is_mig() {
    let scenario = gpu('a', "compute_capability = \"8.6\"\nmig = false") + &gpu('b', "mig = true");
    let node = Node::new(&scenario).with("pods.interval", "\"200ms\"");
    let agent = node.start();
    let seen = |snapshot: &Snapshot, gpu: usize| {
        let newest = snapshot.gpu.gpus[gpu].newest.clone()?;
        Some((newest.compute_mode?, newest.mig?))
    };
    let first = agent.wait("the modes", |s| {
        well(s, 2) && seen(s, 0) == Some((ComputeMode::Default, false))
    });
    assert_eq!(seen(&first, 1), Some((ComputeMode::Default, true)));
    assert_eq!(first.gpu.gpus[0].info.compute_capability, Some((8, 6)));
    modes(&node, "GPU-a", Some("exclusive_process"));
    let changed = agent.wait("the change", |s| {
        seen(s, 0) == Some((ComputeMode::ExclusiveProcess, false))
    });
    let at = |s: &Snapshot| s.gpu.gpus[0].newest.clone().unwrap().modes_at.unwrap();
    assert!(at(&changed) > at(&first));
    modes(&node, "GPU-a", Some("default"));
    agent.wait("the drift", |s| seen(s, 0) == Some((ComputeMode::Default, false)));

    // A GPU that knows neither has neither.
    node.play(&gpu('a', "[gpu.errors]\nnvmlDeviceGetComputeMode = 3"));
    agent.wait("no mode", |s| {
        let newest = s.gpu.gpus[0].newest.clone();
        newest.is_some_and(|newest| newest.compute_mode.is_none() && newest.mig.is_none())
    });
}

#[test]
fn modes_are_read_every_five_seconds_at_most_where_the_process_lists_are_read_less_often() {
    let node = Node::new(&gpu('a', ""));
    let agent = node.start();
    agent.wait("a second look", |_| {
        calls_of(&node.nvml_calls(), "nvmlDeviceGetComputeMode").len() >= 2
    });
    let calls = node.nvml_calls();
    let read = calls_of(&calls, "nvmlDeviceGetComputeMode");
    // Half a reading early is in time; the log's wall clock may slew a little.
    assert!(gaps(&read)[0] > 4.8, "{read:?}");
    assert_eq!(
        calls_of(&calls, "nvmlDeviceGetMigMode").len(),
        1,
        "not supported: asked once"
    );
}
