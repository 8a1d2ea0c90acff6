//! What is read, how often, and that no value is invented.

use std::collections::BTreeSet;
use std::time::SystemTime;

use fake_nvml::calllog::{Call, Outcome};
use gpushare::gpu::GpuProcess;
use gpushare::gpu::wire::FaultKind;
use rustix::process::{Pid, Signal};
use serde_json::Value;

use super::scene::{
    STAIRS, at_most_one_a_second, calls_of, driver_fault, gaps, gpu, metrics_of, next_windows,
    node_on_stairs, ring, series, start_of, unix_us, values, well,
};
use crate::harness::{Agent, Datum, Node, datums, wait_for};

#[test]
fn a_gpu_is_published_under_its_number_with_its_memory_share() {
    let node = Node::new(&gpu('a', "utilization = 40"));
    let agent = node.start();
    agent.wait("the GPU", |s| well(s, 1));
    let windows = next_windows(&agent, 1);
    assert_eq!(values(&windows, "gpu_utilization", 0), [40.0]);
    assert_eq!(
        values(&windows, "gpu_memory_utilization", 0),
        [20.0],
        "used / (total - reserved)"
    );
    let memory = &series(&windows, "gpu_memory_used", 0)[0];
    assert_eq!(memory.values[0].0, 4000.0 * 1024.0 * 1024.0);
    assert!(memory.samples() > 1.0, "one for each reading");
}

/// The samples of each window in ascending order, each of which occurs once.
fn sampled(batches: &[Value]) -> Vec<Vec<f64>> {
    let once = |window: Datum| {
        assert!(window.values.iter().all(|(_, count)| *count == 1.0), "{window:?}");
        window.values.into_iter().map(|(value, _)| value).collect()
    };
    series(batches, "gpu_utilization", 0)
        .into_iter()
        .map(once)
        .collect()
}

/// Asserts that the windows hold every sample of the ring once, from the first one that they hold on.
fn assert_no_sample_is_lost(batches: &[Value], epoch_us: u64) {
    let windows = sampled(batches);
    let everything = ring(epoch_us, epoch_us, unix_us(SystemTime::now()));
    let first = windows[0][0];
    let begin = everything.iter().position(|value| *value == first).unwrap();
    let mut rest = everything[begin..].iter();
    for window in &windows {
        let mut expected: Vec<f64> = rest.by_ref().take(window.len()).copied().collect();
        expected.sort_by(f64::total_cmp);
        assert_eq!(*window, expected, "of {windows:?}");
    }
}

#[test]
fn utilization_is_every_sample_of_the_drivers_ring() {
    let (node, epoch_us) = node_on_stairs();
    let agent = node.start();
    agent.wait_batches(
        "a window that holds exactly the samples of its second",
        |batches| {
            let exact = |batch: &Value| {
                let start = unix_us(start_of(batch));
                let expected = ring(epoch_us, start.max(epoch_us), start + 1_000_000);
                expected.len() == 6 && sampled(std::slice::from_ref(batch)) == [expected]
            };
            (batches.iter().filter(|batch| exact(batch)).count() >= 2).then_some(())
        },
    );
    assert_no_sample_is_lost(&agent.terminate().batches, epoch_us);
}

#[test]
fn a_child_that_dies_is_replaced_and_the_ring_bridges_the_gap() {
    let (node, epoch_us) = node_on_stairs();
    let agent = node.start();
    let child = agent.wait("the GPU", |s| well(s, 1)).gpu.child.pid.unwrap();
    let pid = Pid::from_raw(i32::try_from(child).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    let mended = agent.wait("another child", |s| s.gpu.child.starts == 2 && well(s, 1));
    assert!(agent.log().contains("the NVML process died"), "{}", agent.log());
    let healthy = values(&agent.batches(), "gpu_healthy", 0);
    assert!(
        healthy.iter().all(|value| *value == 1.0),
        "the driver was well: {healthy:?}"
    );
    assert_eq!(
        (mended.gpu.child.starts, mended.gpu.child.killed),
        (2, 0),
        "the agent did not kill it"
    );
    next_windows(&agent, 1);
    assert_no_sample_is_lost(&agent.terminate().batches, epoch_us);
}

#[test]
fn an_empty_ring_is_replaced_by_one_rate_a_second() {
    let node = Node::new(&gpu('a', "utilization = 40\nring = false"));
    let agent = node.start();
    agent.wait("the GPU", |s| well(s, 1));
    next_windows(&agent, 3);
    let batches = agent.terminate().batches;
    let calls = node.nvml_calls();
    let asked = calls_of(&calls, "nvmlDeviceGetUtilizationRates");
    assert!(at_most_one_a_second(&asked), "{:?}", gaps(&asked));
    assert_eq!(values(&batches, "gpu_utilization", 0), [40.0]);
    let published: f64 = datums(&batches, "gpu_utilization")
        .iter()
        .map(Datum::samples)
        .sum();
    // The last one may have been under way when the agent stopped.
    let lost = asked.len() as f64 - published;
    assert!(
        published >= 3.0 && (0.0..=1.0).contains(&lost),
        "{published} of {}",
        asked.len()
    );
}

/// A GPU that supports little: every call of [`REFUSED`] and all fields.
const REFUSED: [&str; 5] = [
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetClockInfo",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetCurrentClocksThrottleReasons",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
];

fn bare_gpu() -> String {
    let fields = [4, 74, 75, 77, 79, 186, 230].map(|id| format!("{id} = {{ error = 3 }}\n"));
    let errors = REFUSED.map(|function| format!("{function} = 3\n"));
    let tables = format!(
        "[gpu.fields]\n{}[gpu.errors]\n{}",
        fields.concat(),
        errors.concat()
    );
    gpu('a', &format!("utilization = 40\n{tables}"))
}

#[test]
fn g09_what_a_gpu_does_not_support_is_asked_once_and_absent() {
    // MIG takes the utilisation calls away from GPU 1.
    let scenario = bare_gpu() + &gpu('b', "mig = true");
    let absent = [
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetGraphicsRunningProcesses_v3",
        "nvmlShutdown",
    ];
    let node = Node::new(&scenario)
        .with("pods.interval", "\"100ms\"")
        .without_symbols(&absent);
    let agent = node.start();
    agent.wait("both GPUs", |s| well(s, 2));
    let windows = next_windows(&agent, 1);
    let states = [
        "gpu_driver_stuck",
        "gpu_healthy",
        "gpu_utilization",
        "gpu_xid_errors",
    ];
    assert!(
        metrics_of(&windows, 0).iter().eq(&states),
        "{:?}",
        metrics_of(&windows, 0)
    );
    assert_eq!(series(&windows, "gpu_utilization", 1), [], "not 0");
    let calls = node.nvml_calls();
    let asked = |function: &str, gpu| {
        calls_of(&calls, function)
            .iter()
            .filter(|c| c.gpu == Some(gpu))
            .count()
    };
    for function in REFUSED.into_iter().chain(["nvmlDeviceGetFieldValues"]) {
        assert_eq!(asked(function, 0), 1, "{function}");
    }
    assert_eq!(asked("nvmlDeviceGetSamples", 1), 1);
    assert_eq!(asked("nvmlDeviceGetUtilizationRates", 1), 1);
    assert!(asked("nvmlDeviceGetSamples", 0) > 10, "what works is asked again");
    assert!(asked("nvmlDeviceGetComputeRunningProcesses_v3", 0) > 5);

    // The child must end without the symbol that NVML clients call last.
    node.play(&format!("{scenario}[[driver_gone]]\nat_ms = 0\n"));
    agent.wait("the driver is gone", |s| {
        driver_fault(s) == Some(FaultKind::DriverNotLoaded)
    });
    let log = agent.terminate().log;
    assert!(
        !log.contains("panicked") && !log.contains("NVML process died"),
        "{log}"
    );
}

const NONE: [f64; 0] = [];

const COMPUTE: &str = "nvmlDeviceGetComputeRunningProcesses_v3";

fn processes(agent: &Agent) -> Option<Vec<GpuProcess>> {
    agent.status()?.gpu.gpus.first()?.newest.clone()?.processes
}

#[test]
fn g15_a_process_list_that_grows_while_it_is_read_loses_no_cycle() {
    let process = "[[gpu.process]]\npid = 4242\nmemory_mib = 100\n";
    let node =
        Node::new(&gpu('a', &format!("grow_per_call = 16\n{process}"))).with("pods.interval", "\"100ms\"");
    let agent = node.start();
    agent.wait("the processes", |_| {
        processes(&agent).is_some_and(|list| !list.is_empty())
    });
    next_windows(&agent, 1);
    let list = processes(&agent).unwrap();
    assert_eq!(list.len(), 17, "one, and those that came between the two calls");
    let known = GpuProcess {
        pid: 4242,
        memory_bytes: Some(100 << 20),
        computes: true,
    };
    assert!(list.contains(&known), "{list:?}");
    let calls = node.nvml_calls();
    let mut outcomes: Vec<Outcome> = calls_of(&calls, COMPUTE)
        .iter()
        .map(|call| call.outcome)
        .collect();
    outcomes.truncate(outcomes.len() / 2 * 2);
    let size_then_list = [Outcome::Returned(7), Outcome::Returned(0)];
    assert!(
        outcomes.len() > 10 && outcomes.chunks(2).all(|pair| pair == size_then_list),
        "{outcomes:?}"
    );

    // A list that cannot be read at all is not an empty one.
    node.play(&gpu(
        'a',
        &format!("temperature = 50\n{process}[gpu.errors]\n{COMPUTE} = 999\n"),
    ));
    agent.wait("the new scene", |s| {
        s.gpu.gpus[0]
            .newest
            .as_ref()
            .and_then(|newest| newest.temperature_celsius)
            == Some(50.0)
    });
    next_windows(&agent, 1);
    assert_eq!(processes(&agent), Some(list), "the last list that could be read");
}

#[test]
fn memory_that_no_process_holds_is_published_with_the_lists_of_processes() {
    let keys = "[[gpu.process]]\npid = 4242\nmemory_mib = 1000";
    let unknown = "[[gpu.process]]\npid = 4343";
    let scenario = gpu('a', keys) + &gpu('b', &format!("{keys}\n{unknown}"));
    let node = Node::new(&scenario)
        .with("pods.interval", "\"1s\"")
        .with("publish.groups", "[\"gpu\", \"mps\"]");
    let agent = node.start();
    agent.wait("both GPUs", |s| well(s, 2));
    let windows = next_windows(&agent, 2);
    assert_eq!(
        values(&windows, "gpu_memory_unattributed", 0),
        [3000.0 * 1024.0 * 1024.0],
        "4000 MiB in use less 1000"
    );
    assert_eq!(
        values(&windows, "gpu_memory_unattributed", 1),
        NONE,
        "one holds an unknown amount"
    );
    assert_eq!(
        values(&windows, "gpu_memory_mps_overhead", 0),
        NONE,
        "there is no server"
    );
    let named: Vec<_> = windows
        .iter()
        .flat_map(|batch| metrics_of(std::slice::from_ref(batch), 0))
        .collect();
    assert!(named.iter().all(|name| !name.starts_with("mps_")), "{named:?}");
}

#[test]
fn a_reading_is_a_few_calls_none_of_which_blocks_and_process_lists_are_read_rarely() {
    let node = Node::new(&gpu('a', "utilization = 40")).with("pods.interval", "\"1s\"");
    let agent = node.start();
    agent.wait("the GPU", |s| well(s, 1));
    next_windows(&agent, 2);
    agent.terminate();
    let calls = node.nvml_calls();
    let on_gpu: Vec<&Call> = calls.iter().filter(|call| call.gpu == Some(0)).collect();
    let readings = calls_of(&calls, "nvmlDeviceGetFieldValues").len();
    assert!(readings > 10, "{readings}");
    assert!(
        calls_of(&calls, "nvmlDeviceGetPcieThroughput").is_empty(),
        "it blocks for 20 ms"
    );
    // Samples (size, then list), memory, temperature, clock, fields; identity, process lists and modes besides.
    assert!(
        on_gpu.len() <= 7 * readings + 10,
        "{} calls for {readings} readings",
        on_gpu.len()
    );
    let lists: BTreeSet<&str> = on_gpu
        .iter()
        .map(|c| c.function.as_str())
        .filter(|f| f.contains("Running"))
        .collect();
    assert_eq!(lists.len(), 3, "compute, MPS, graphics: {lists:?}");
    for list in lists {
        let read = calls_of(&calls, list);
        assert!(at_most_one_a_second(&read), "{list}: {:?}", gaps(&read));
    }
}

#[test]
fn g23_counters_that_go_back_are_a_new_beginning() {
    let counters = |ecc: u64, throttled_ns: u64, temperature: u64| {
        let fields = format!(
            "temperature = {temperature}\n[gpu.fields]\n4 = {{ value = {ecc}, ramp_per_s = 50 }}\n\
             74 = {{ value = {throttled_ns}, ramp_per_s = 5e8 }}"
        );
        gpu('a', &fields)
    };
    let node = Node::new(&counters(9_000_000, 9_000_000_000_000, 40));
    let agent = node.start();
    agent.wait("the GPU", |s| well(s, 1));
    next_windows(&agent, 1);
    // Still large: taken for what happened since 0, it would stand out.
    node.play(&counters(1_000_000, 1_000_000_000_000, 50));
    agent.wait("the counters after the reset", |s| {
        s.gpu.gpus[0]
            .newest
            .as_ref()
            .and_then(|newest| newest.temperature_celsius)
            == Some(50.0)
    });
    let after = next_windows(&agent, 1);
    let batches = agent.terminate().batches;
    let errors = values(&batches, "gpu_ecc_uncorrected", 0);
    // 50 a second, and no reading is further than half a minute from the one before.
    assert!(errors.iter().all(|n| (0.0..=1500.0).contains(n)), "{errors:?}");
    assert!(
        values(&after, "gpu_ecc_uncorrected", 0).iter().any(|n| *n > 0.0),
        "counting goes on"
    );
    let throttled = values(&batches, "gpu_throttled", 0);
    assert!(
        throttled.iter().all(|percent| (0.0..=100.0).contains(percent)),
        "{throttled:?}"
    );
    let throttled = values(&after, "gpu_throttled", 0);
    assert!(
        throttled.iter().any(|percent| *percent > 0.0 && *percent < 100.0),
        "{throttled:?}"
    );
}

#[test]
fn a_long_interval_empties_the_ring_every_second_and_reads_all_else_at_its_own_pace() {
    let node = Node::new(&gpu('a', STAIRS))
        .with("sample.interval", "\"1m\"")
        .with("publish.interval", "\"1m\"");
    let agent = node.start();
    wait_for(|| (calls_of(&node.nvml_calls(), "nvmlDeviceGetSamples").len() >= 12).then_some(()))
        .expect("the ring is read again and again");
    // Each reading of the ring is two calls: size and samples. Two whole readings only if a minute has passed.
    let whole = calls_of(&node.nvml_calls(), "nvmlDeviceGetMemoryInfo_v2").len();
    assert!((1..=2).contains(&whole), "{whole} whole readings");
    let samples: f64 = datums(&agent.terminate().batches, "gpu_utilization")
        .iter()
        .map(Datum::samples)
        .sum();
    assert!(
        samples >= 12.0,
        "six samples a second for three seconds and more: {samples}"
    );
}
