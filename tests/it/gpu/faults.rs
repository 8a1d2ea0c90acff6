//! One GPU, or each of them, is lost, broken or hangs.

use std::time::Duration;

use fake_nvml::calllog::Outcome;
use gpushare::gpu::KernelLog;
use gpushare::gpu::health::XidClass;
use gpushare::gpu::inventory::Reason;
use gpushare::status::Snapshot;

use super::scene::{
    HANGING, calls_of, from_the_hang, gpu, hanging, host_goes_on, lines, metrics_of, next_windows, problems,
    reasons, series, total, two_gpus, values, well,
};
use crate::harness::{Agent, Node, exists, wait_for};

/// What is published about a GPU that gives no data.
const STATE_ONLY: [&str; 3] = ["gpu_driver_stuck", "gpu_healthy", "gpu_xid_errors"];

fn start_well(node: &Node) -> Agent {
    let agent = node.start();
    agent.wait("both GPUs", |s| well(s, 2));
    agent
}

fn is_stuck(snapshot: &Snapshot, gpu: usize) -> bool {
    reasons(snapshot, gpu) == [Reason::Stuck]
}

#[test]
fn g05_a_lost_gpu_stops_its_data_alone_and_comes_back_by_itself() {
    let node = Node::new(&two_gpus());
    let agent = start_well(&node);
    node.play(&format!(
        "{}[[fault]]\ngpu = 1\nkind = \"lost\"\nat_ms = 0\n",
        two_gpus()
    ));
    agent.wait("GPU 1 is lost", |s| reasons(s, 1) == [Reason::Lost]);
    let windows = next_windows(&agent, 2);
    assert!(metrics_of(&windows, 1).iter().eq(&STATE_ONLY));
    assert_eq!(values(&windows, "gpu_healthy", 1), [0.0]);
    assert_eq!(
        values(&windows, "gpu_driver_stuck", 1),
        [0.0],
        "it answers, with an error"
    );
    assert_eq!(values(&windows, "gpu_healthy", 0), [1.0]);
    assert_eq!(values(&windows, "gpu_utilization", 0), [40.0]);

    node.play(&two_gpus());
    let back = agent.wait("GPU 1 is back", |s| well(s, 2));
    assert_eq!(back.gpu.child.starts, 1, "the other GPU was not disturbed");
    assert_eq!(values(&next_windows(&agent, 1), "gpu_utilization", 1), [70.0]);
    assert_eq!(lines(&agent.log(), "GPU is unhealthy"), 1);
    assert_eq!(lines(&agent.log(), "GPU is healthy again"), 1);
}

#[test]
fn g05_numbers_stay_when_a_gpu_is_missing_after_a_restart_of_the_agent() {
    let node = Node::new(&two_gpus());
    let first = node.start();
    first.wait("the numbers are kept", |s| {
        well(s, 2) && node.path("state/gpus.json").exists()
    });
    assert!(first.terminate().status.success());
    node.play(&gpu('b', "utilization = 70"));
    let agent = node.start();
    let seen = agent.wait("GPU 0 is missed", |s| reasons(s, 0) == [Reason::Missing]);
    let gpus: Vec<_> = seen
        .gpu
        .gpus
        .iter()
        .map(|gpu| (&*gpu.number, &*gpu.info.uuid.0))
        .collect();
    assert_eq!(gpus, [("0", "GPU-a"), ("1", "GPU-b")]);
    let windows = next_windows(&agent, 1);
    assert_eq!(values(&windows, "gpu_healthy", 0), [0.0]);
    assert_eq!(values(&windows, "gpu_utilization", 1), [70.0]);
    assert_eq!(series(&windows, "gpu_utilization", 0), []);
}

#[test]
fn g08_a_gpu_that_needs_a_reset_is_marked_and_what_still_works_goes_on() {
    let node = Node::new(&two_gpus());
    let agent = start_well(&node);
    node.play(&format!(
        "{}[[fault]]\ngpu = 1\nkind = \"reset_required\"\nat_ms = 0\n",
        two_gpus()
    ));
    let marked = agent.wait("GPU 1 is marked", |s| reasons(s, 1).len() == 2);
    let verdict = Reason::RecoveryAction {
        action: "reset the GPU".into(),
    };
    assert!(reasons(&marked, 1).contains(&Reason::ResetRequired));
    assert!(reasons(&marked, 1).contains(&verdict), "the driver's own verdict");
    let windows = next_windows(&agent, 1);
    assert_eq!(values(&windows, "gpu_healthy", 1), [0.0]);
    assert_eq!(
        series(&windows, "gpu_utilization", 1),
        [],
        "not readable, so absent"
    );
    assert_eq!(values(&windows, "gpu_memory_utilization", 1), [20.0]);
    assert_eq!(values(&windows, "gpu_temperature", 1), [36.0]);
    assert_eq!(values(&windows, "gpu_power_draw", 1), [71.0]);
    assert_eq!(values(&windows, "gpu_healthy", 0), [1.0]);

    node.play(&two_gpus());
    agent.wait("GPU 1 after its reset", |s| well(s, 2));
}

#[test]
fn g10_a_call_that_takes_seconds_is_published_as_it_hangs_and_forgotten_when_it_returns() {
    let node = Node::new(&two_gpus());
    let agent = start_well(&node);
    node.play(&hanging(Some(1), "ms = 5000\ntimes = 1"));
    agent.wait_batches("GPU 1 is stuck, in a window", |batches| {
        values(batches, "gpu_driver_stuck", 1)
            .contains(&1.0)
            .then_some(())
    });
    let calls = node.nvml_calls();
    let hung = from_the_hang(&calls, 1);
    assert_eq!(
        hung.len(),
        1,
        "the call has not returned yet, and no other waits behind it"
    );

    let recovered = agent.wait("GPU 1 answers again", |s| well(s, 2));
    assert_eq!((recovered.gpu.child.starts, recovered.gpu.child.killed), (1, 0));
    let calls = node.nvml_calls();
    let hung = from_the_hang(&calls, 1);
    assert_eq!(hung[1].outcome, Outcome::Returned(0));
    assert_eq!(hung[1].function, HANGING);
    let windows = next_windows(&agent, 1);
    assert_eq!(values(&windows, "gpu_driver_stuck", 1), [0.0]);
    assert_eq!(values(&windows, "gpu_healthy", 1), [1.0]);
}

#[test]
fn g10_one_gpu_that_hangs_for_ever_silences_nobody_else() {
    let node = Node::new(&two_gpus());
    let agent = start_well(&node);
    node.play(&hanging(Some(1), ""));
    agent.wait("GPU 1 is stuck", |s| is_stuck(s, 1));
    let windows = next_windows(&agent, 3);
    assert!(metrics_of(&windows, 1).iter().eq(&STATE_ONLY));
    assert_eq!(values(&windows, "gpu_driver_stuck", 1), [1.0]);
    assert_eq!(values(&windows, "gpu_healthy", 1), [0.0]);
    assert_eq!(values(&windows, "gpu_driver_stuck", 0), [0.0]);
    assert_eq!(
        series(&windows, "gpu_utilization", 0).len(),
        windows.len(),
        "in each window"
    );
    assert!(host_goes_on(&windows));
    let calls = node.nvml_calls();
    assert_eq!(from_the_hang(&calls, 1).len(), 1, "nothing is queued behind it");
    let child = agent.status().unwrap().gpu.child;
    assert_eq!((child.starts, child.killed), (1, 0), "it still serves GPU 0");
}

#[test]
fn g10_a_child_whose_gpus_all_hang_is_killed_after_its_limit_and_replaced() {
    let node = Node::new(&two_gpus());
    let agent = start_well(&node);
    // The killed child's calls hang for ever; those of its successor begin later than this and do not.
    node.play(&hanging(None, "until_ms = 6000"));
    let stuck = agent.wait("both GPUs are stuck", |s| is_stuck(s, 0) && is_stuck(s, 1));
    let first = stuck.gpu.child.pid.unwrap();
    let windows = next_windows(&agent, 2);
    assert_eq!(values(&windows, "gpu_driver_stuck", 0), [1.0]);
    assert_eq!(values(&windows, "gpu_driver_stuck", 1), [1.0]);
    assert!(host_goes_on(&windows));

    let mended = agent.wait("a new child reads both", |s| well(s, 2));
    assert_eq!((mended.gpu.child.starts, mended.gpu.child.killed), (2, 1));
    assert_eq!(mended.gpu.child.abandoned, 0);
    assert!(!exists(first), "the stuck child is gone");
    let calls = node.nvml_calls();
    for gpu in [0, 1] {
        let hung = from_the_hang(&calls, gpu);
        assert_eq!(
            hung[1].pid,
            mended.gpu.child.pid.unwrap(),
            "GPU {gpu}: none queued in the old child"
        );
        let silence = hung[1].unix_us - hung[0].unix_us;
        // 10 s and two readings after the last answer (a little before the call that hangs), then 1 s of back-off.
        assert!(silence >= 10_500_000, "killed before its limit: {silence} us");
    }
    let log = agent.log();
    assert_eq!(lines(&log, "the NVIDIA driver does not answer"), 1, "{log}");
    let windows = next_windows(&agent, 1);
    assert_eq!(values(&windows, "gpu_healthy", 1), [1.0]);
    assert_eq!(values(&windows, "gpu_utilization", 1), [70.0]);
}

#[test]
fn g12_sigterm_while_a_call_is_stuck_ends_the_agent_and_its_child_in_time() {
    let node = Node::new(&two_gpus());
    let agent = start_well(&node);
    node.play(&hanging(None, ""));
    let hung = wait_for(|| {
        let calls = node.nvml_calls();
        let entered = calls.iter().filter(|call| call.outcome == Outcome::Entered);
        (entered.count() == 2).then_some(())
    });
    assert!(hung.is_some(), "no call hangs");
    let child = agent.status().unwrap().gpu.child.pid.unwrap();
    let ended = agent.terminate();
    assert!(ended.status.success(), "{}", ended.log);
    assert!(ended.took < Duration::from_secs(2), "took {:?}", ended.took);
    assert!(
        wait_for(|| (!exists(child)).then_some(())).is_some(),
        "the child is gone too"
    );
    let calls = node.nvml_calls();
    assert!(
        calls_of(&calls, "nvmlShutdown").is_empty(),
        "a shutdown would hang too"
    );
}

#[test]
fn xids_are_counted_from_the_kernel_log_and_a_fatal_one_condemns_its_gpu() {
    // The driver of GPU 0 has no verdict of its own (field 230).
    let first = gpu('a', "[gpu.fields]\n230 = { error = 3 }");
    let node = Node::new(&(first + &gpu('b', "")));
    let agent = start_well(&node);
    agent.wait("the kernel log is read", |s| {
        s.gpu.kernel_log == KernelLog::Reading
    });
    for pci in ["0000:00:1a", "0000:00:1b", "0000:00:1a", "0000:00:77"] {
        node.log_to_kernel(&format!(
            "3,7,9,-;NVRM: Xid (PCI:{pci}): 31, pid=42, name=python3, Ch 00000008"
        ));
    }
    agent.wait_batches("three XIDs", |batches| {
        let counted = [0, 1].map(|gpu| total(batches, "gpu_xid_errors", gpu));
        (counted == [2.0, 1.0]).then_some(())
    });
    let application = next_windows(&agent, 1);
    assert_eq!(
        values(&application, "gpu_xid_errors", 0),
        [0.0],
        "counted once, and 0 in quiet seconds"
    );
    assert_eq!(
        values(&application, "gpu_healthy", 0),
        [1.0],
        "an application's fault is not the GPU's"
    );

    node.log_to_kernel("3,8,9,-;NVRM: Xid (PCI:0000:00:1a): 79, GPU has fallen off the bus.");
    let broken = Reason::Xid {
        xid: 79,
        class: XidClass::Broken,
    };
    let condemned = agent.wait("GPU 0 is condemned", |s| reasons(s, 0) == [broken.clone()]);
    assert!(
        problems(&condemned).contains("XID 79"),
        "{}",
        problems(&condemned)
    );
    let windows = next_windows(&agent, 1);
    assert_eq!(values(&windows, "gpu_healthy", 0), [0.0]);
    assert_eq!(values(&windows, "gpu_healthy", 1), [1.0]);
    assert_eq!(total(&agent.batches(), "gpu_xid_errors", 0), 3.0);
}

#[test]
fn xids_are_absent_not_zero_where_the_kernel_log_cannot_be_read() {
    let node = Node::new(&two_gpus()).with("gpu.kmsg", "\"/nonexistent/kmsg\"");
    let agent = start_well(&node);
    let windows = next_windows(&agent, 1);
    assert_eq!(values(&windows, "gpu_healthy", 0), [1.0]);
    assert_eq!(series(&windows, "gpu_xid_errors", 0), []);
    let text = problems(&agent.status().unwrap());
    assert!(
        text.contains("/nonexistent/kmsg") && text.contains("gpu.kmsg"),
        "{text}"
    );
}
