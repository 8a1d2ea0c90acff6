//! `gpushare nvml --gpu UUID --compute-mode`: what MPS supervision starts to read and set a GPU's compute mode.

use std::process::Command;

use gpushare::gpu::{ComputeMode, ComputeModes};

use super::scene::{gpu, two_gpus};
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
