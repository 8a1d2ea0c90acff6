//! Whole texts, as a person sees them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::gpu::inventory::Reason;
use crate::gpu::wire::{Fault, FaultKind};
use crate::gpu::{ChildStatus, GpuInfo, GpuProcess};
use crate::host::{DiskIo, DiskSpace};
use crate::identity::Identity;
use crate::interruption::InterruptionStatus;
use crate::metrics::task::SamplerStatus;
use crate::metrics::window::{DropReason, Ledger};
use crate::mps::protocol::{Client, Server, ServerStatus};
use crate::mps::{LastStep, MpsGpu, MpsState, MpsStatus, Trouble, Warning};
use crate::publish::report::PublishStatus;
use crate::reload::ConfigurationStatus;
use crate::status::{AgentInfo, PublishInfo, problems};

const GIB: u64 = 1 << 30;

/// 2026-01-01T00:00:00Z
const MIDNIGHT: u64 = 1_767_225_600;

/// One hour, two minutes and three seconds after midnight, when the agent started.
const NOW: f64 = MIDNIGHT as f64 + 3_723.4;

fn gpu(number: u32, utilization_percent: f64) -> GpuState {
    GpuState {
        number: number.to_string().into(),
        info: GpuInfo {
            uuid: format!("GPU-{number}").as_str().into(),
            model: "NVIDIA A10G".into(),
            pci_bus_id: format!("00000000:00:{:02X}.0", 0x1b + number),
            nvml_index: number,
            compute_capability: Some((8, 6)),
        },
        health: Health::default(),
        newest: Some(Newest {
            at: NOW - 0.6,
            nvml_seconds: 0.004,
            utilization_percent: Some(utilization_percent),
            memory: Some(Memory {
                total_bytes: 24 * GIB,
                reserved_bytes: GIB / 2,
                used_bytes: 6 * GIB,
                free_bytes: 24 * GIB - GIB / 2 - 6 * GIB,
            }),
            power_watts: Some(71.4),
            temperature_celsius: Some(36.0),
            processes: Some(vec![
                GpuProcess {
                    pid: 4711,
                    memory_bytes: Some(GIB),
                    computes: true,
                };
                3
            ]),
            ..Newest::default()
        }),
    }
}

/// Both GPUs' MPS, verified a minute after the agent started.
fn mps() -> MpsStatus {
    let gpu = |number: u32, clients: &[u32]| MpsGpu {
        number: number.to_string().into(),
        uuid: format!("GPU-{number}").as_str().into(),
        state: MpsState::Ready,
        since: MIDNIGHT + 60,
        last_step: None,
        pid: Some(2000 + number),
        server: Some(Server {
            pid: 2100 + number,
            status: ServerStatus::Active,
            clients: Some(
                clients
                    .iter()
                    .map(|pid| Client {
                        pid: *pid,
                        command: None,
                    })
                    .collect(),
            ),
        }),
        client_limit: Some(48),
        smallest_useful_slices: Some(2),
        restarts: 0,
        probed_at: Some(MIDNIGHT + 3720),
        warnings: Vec::new(),
    };
    MpsStatus {
        enabled: true,
        backend: "systemd".into(),
        gpus: vec![gpu(0, &[4711, 4712, 4713]), gpu(1, &[])],
    }
}

fn host_sample() -> HostSample {
    HostSample {
        cpu_usage_active: Some(12.34),
        mem_used_percent: Some(40.0),
        swap_used_percent: None,
        disks: vec![
            DiskSpace {
                path: "/".into(),
                device: "/dev/nvme0n1p1".into(),
                used_percent: 41.26,
                inodes_free: Some(51_234_567),
                total_bytes: 200 * GIB,
                available_bytes: 117 * GIB + GIB / 2,
            },
            DiskSpace {
                path: "/data".into(),
                device: "/dev/md0".into(),
                used_percent: 3.0,
                inodes_free: None,
                total_bytes: 1024 * GIB,
                available_bytes: 993 * GIB,
            },
        ],
        disk_io: vec![DiskIo {
            name: "nvme0n1".into(),
            read_bytes_per_second: 0.0,
            write_bytes_per_second: 1_572_864.0,
        }],
        stuck_mounts: Vec::new(),
        failing: Vec::new(),
    }
}

/// A g5.12xlarge with two GPUs on which nothing is wrong.
fn healthy() -> Snapshot {
    Snapshot {
        configuration: ConfigurationStatus::default(),
        interruption: InterruptionStatus::default(),
        node_waiting_for: None,
        node_mend: None,
        version: 1,
        agent: AgentInfo {
            version: "0.1.0".into(),
            pid: 1234,
            started_at: MIDNIGHT as f64,
            taken_at: NOW,
            sample_seconds: 1.0,
        },
        node: Identity {
            instance_id: Some("i-0123456789abcdef0".into()),
            instance_type: Some("g5.12xlarge".into()),
            region: Some("eu-west-1".into()),
            cluster: Some("production".into()),
            ..Identity::default()
        },
        gpu: GpuStatus {
            enabled: true,
            driver: DriverState::Ready {
                driver_version: "580.95.05".into(),
                cuda_version: Some("13.0".into()),
                unreadable: 0,
            },
            gpus: vec![gpu(0, 37.4), gpu(1, 0.0)],
            kernel_log: KernelLog::Reading,
            child: ChildStatus {
                pid: Some(1240),
                starts: 1,
                ..ChildStatus::default()
            },
        },
        mps: mps(),
        sampler: SamplerStatus {
            ticks: 3723,
            open_window: Some((MIDNIGHT + 3720, 96)),
            series: 31,
            ledger: Ledger {
                collected: 119_232,
                ..Ledger::default()
            },
            host: Some(host_sample()),
            ..SamplerStatus::default()
        },
        publish: an_hour_of_lines(),
        problems: Vec::new(),
    }
}

fn an_hour_of_lines() -> PublishInfo {
    PublishInfo {
        target: "stdout".into(),
        interval_seconds: 60,
        namespace: "GPUShare".into(),
        max_series: 500,
        groups: vec!["host".into(), "gpu".into()],
        done: PublishStatus {
            windows: 62,
            batches: 62,
            datums: 1922,
            samples: 119_136,
            last_window: Some(MIDNIGHT + 3660),
            last_samples: Some(1860),
            ..PublishStatus::default()
        },
        ..PublishInfo::default()
    }
}

/// The table of a snapshot whose problems are found as the agent finds them.
fn table(mut snapshot: Snapshot) -> String {
    snapshot.problems = problems::find(&snapshot);
    render(&snapshot)
}

#[track_caller]
fn assert_text(text: &str, expected: &str) {
    assert!(text == expected, "expected:\n{expected}\nrendered:\n{text}");
}

#[test]
fn a_healthy_node() {
    let expected = r"gpushare 0.1.0 on i-0123456789abcdef0 (g5.12xlarge, eu-west-1, production), pid 1234, up 1h 2m 3s

GPUs    driver 580.95.05, CUDA 13.0; NVML process 1240; XIDs are read
        GPU  MODEL        UTIL  MEMORY                      POWER  TEMP  PROCESSES  HEALTH
        0    NVIDIA A10G  37 %  6.0 GiB of 23.5 GiB (26 %)  71 W   36 C  3          healthy
        1    NVIDIA A10G  0 %   6.0 GiB of 23.5 GiB (26 %)  71 W   36 C  3          healthy

MPS     2 of 2 ready; one daemon per GPU, kept by systemd
        GPU  STATE  SINCE         CLIENTS  SERVER       RESTARTS  LAST STEP
        0    ready  1h 1m 3s ago  3 of 48  2100 active  0         -
        1    ready  1h 1m 3s ago  0 of 48  2101 active  0         -

Host    CPU 12.3 %, memory 40.0 %, swap none
        PATH   USED    FREE       INODES FREE  DEVICE
        /      41.3 %  117.5 GiB  51234567     /dev/nvme0n1p1
        /data  3.0 %   993.0 GiB  -            /dev/md0
        DISK     READ   WRITE
        nvme0n1  0 B/s  1.5 MiB/s

Publish to stdout every 1m, namespace GPUShare; 62 windows, 1922 datums; last 01:01:00Z with 1860 samples
Window  open: 01:02:00Z with 96 samples; 31 series of at most 500
Ledger  119232 samples collected = 119136 published + 96 in the open window + 0 waiting + 0 dropped

No problems.
";
    assert_text(&table(healthy()), expected);
}

#[test]
fn a_lost_gpu_a_mount_that_does_not_answer_and_refused_series() {
    let mut snapshot = healthy();
    let lost = &mut snapshot.gpu.gpus[1];
    lost.newest = None;
    lost.health = Health {
        reasons: vec![Reason::Lost],
        since: Some(MIDNIGHT + 3600),
    };
    let gone = &mut snapshot.mps.gpus[1];
    (gone.state, gone.since) = (MpsState::NoDriver, MIDNIGHT + 3600);
    (gone.pid, gone.server) = (None, None);
    gone.last_step = Some(LastStep {
        step: "stop the daemon".into(),
        why: "its GPU is gone".into(),
        at: MIDNIGHT + 3600,
    });
    // The other one answers slowly, and has listed no processes yet.
    let slow = snapshot.gpu.gpus[0].newest.as_mut().unwrap();
    slow.at = NOW - 3.5;
    slow.processes = None;
    snapshot.gpu.child.starts = 3;
    snapshot.gpu.child.killed = 1;
    snapshot.sampler.host.as_mut().unwrap().stuck_mounts = vec![PathBuf::from("/mnt/efs")];
    snapshot.publish.max_series = 31;
    snapshot.publish.pending_windows = 1;
    snapshot.publish.pending_samples = 1800;
    let ledger = &mut snapshot.sampler.ledger;
    ledger.collected += 1800 + 250;
    ledger.dropped = BTreeMap::from([(DropReason::SeriesLimit, 240), (DropReason::InvalidValue, 10)]);
    ledger.refused_series = ["/a", "/b"]
        .map(|path| format!("disk_used_percent{{path={path:?}}}"))
        .into();
    snapshot.sampler.host_late = 4;
    snapshot.sampler.clock_steps = 2;
    snapshot.sampler.last_clock_step = Some(-4.25);
    let expected = r#"gpushare 0.1.0 on i-0123456789abcdef0 (g5.12xlarge, eu-west-1, production), pid 1234, up 1h 2m 3s

GPUs    driver 580.95.05, CUDA 13.0; NVML process 1240 (number 3, 1 killed); XIDs are read
        GPU  MODEL        UTIL  MEMORY                      POWER  TEMP  PROCESSES  HEALTH
        0    NVIDIA A10G  37 %  6.0 GiB of 23.5 GiB (26 %)  71 W   36 C  -          healthy (values are 3s old)
        1    NVIDIA A10G  -     -                           -      -     -          lost (fallen off the bus), since 01:00:00Z

MPS     1 of 2 ready; one daemon per GPU, kept by systemd
        GPU  STATE      SINCE         CLIENTS  SERVER       RESTARTS  LAST STEP
        0    ready      1h 1m 3s ago  3 of 48  2100 active  0         -
        1    no driver  2m 3s ago     -        -            0         01:00:00Z stop the daemon (its GPU is gone)

Host    CPU 12.3 %, memory 40.0 %, swap none; late 4 time(s)
        PATH   USED    FREE       INODES FREE  DEVICE
        /      41.3 %  117.5 GiB  51234567     /dev/nvme0n1p1
        /data  3.0 %   993.0 GiB  -            /dev/md0
        DISK     READ   WRITE
        nvme0n1  0 B/s  1.5 MiB/s

Publish to stdout every 1m, namespace GPUShare; 62 windows, 1922 datums; last 01:01:00Z with 1860 samples
Window  open: 01:02:00Z with 96 samples; 31 series of at most 31
Ledger  121282 samples collected = 119136 published + 96 in the open window + 1800 waiting + 250 dropped (one series more than publish.max_series: 240; not a number that CloudWatch takes: 10)
Clock   stepped 2 time(s), last by -4.2 s

Problems
  ! GPU 1 (GPU-1): lost (fallen off the bus)
    mend: drain the node; reset the GPU or replace the node
  ! more than 31 series: 2 refused since the start, the first disk_used_percent{path="/a"}
    mend: raise publish.max_series, or exclude what makes so many (host.exclude_mounts)
  ! 10 samples lost since the start: not a number that CloudWatch takes
    mend: look at the driver: it reports values out of range
  ! the file system at /mnt/efs does not answer
    mend: mend the mount, or add it to host.exclude_mounts
"#;
    assert_text(&table(snapshot), expected);
}

#[test]
fn m12_a_fault_is_in_the_table_among_the_problems_and_in_the_line_of_systemd() {
    let mut snapshot = healthy();
    let small = Warning {
        what: "a slice is too small".into(),
        mend: "ask for 2".into(),
    };
    for gpu in &mut snapshot.mps.gpus {
        gpu.warnings.push(small.clone());
    }
    let faulty = &mut snapshot.mps.gpus[0];
    faulty.state = MpsState::Degraded(Trouble {
        why: "a client's fault has stopped its server".into(),
        mend: "gpushare mps restart GPU".into(),
    });
    (faulty.since, faulty.restarts) = (MIDNIGHT + 3719, 2);
    faulty.server.as_mut().unwrap().status = ServerStatus::Fault;
    let text = table(snapshot.clone());
    let expected = "\
MPS     1 of 2 ready; one daemon per GPU, kept by systemd
        GPU  STATE     SINCE         CLIENTS  SERVER       RESTARTS  LAST STEP
        0    degraded  4s ago        3 of 48  2100 fault   2         -
        1    ready     1h 1m 3s ago  0 of 48  2101 active  0         -
        note: a slice is too small: ask for 2
";
    assert!(text.contains(expected), "{text}");
    let problem = "  ! GPU 0: MPS is degraded: a client's fault has stopped its server\n    mend: gpushare mps restart 0\n";
    assert!(text.contains(problem), "{text}");
    let line = problems::summary(&snapshot);
    assert!(
        line.contains("2/2 GPUs healthy, driver 580.95.05, MPS 1/2 ready"),
        "{line}"
    );
}

#[test]
fn no_driver_on_a_node_that_does_not_know_its_name() {
    let mut snapshot = healthy();
    snapshot.node = Identity::default();
    snapshot.gpu = GpuStatus {
        enabled: true,
        driver: DriverState::Unavailable {
            fault: Fault {
                kind: FaultKind::LibraryMissing,
                detail: "libnvidia-ml.so.1: cannot open shared object file: No such file or directory".into(),
            },
        },
        kernel_log: KernelLog::Unreadable {
            reason: "Permission denied (os error 13)".into(),
        },
        ..GpuStatus::default()
    };
    snapshot.mps.gpus.clear();
    // Five seconds after the start: nothing was sampled yet.
    snapshot.agent.taken_at = MIDNIGHT as f64 + 5.0;
    snapshot.sampler = SamplerStatus::default();
    snapshot.publish.done = PublishStatus::default();
    let expected = r"gpushare 0.1.0 on instance not known, pid 1234, up 5s

GPUs    none, trying again: no NVML library: libnvidia-ml.so.1: cannot open shared object file: No such file or directory

MPS     waiting for GPUs; daemons are kept by systemd

Host    no sample yet

Publish to stdout every 1m, namespace GPUShare; 0 windows, 0 datums; none yet
Window  open: none with 0 samples; 0 series of at most 500
Ledger  0 samples collected = 0 published + 0 in the open window + 0 waiting + 0 dropped

Problems
  ! no NVML library: libnvidia-ml.so.1: cannot open shared object file: No such file or directory
    mend: install the NVIDIA driver, use the accelerated AMI, or set gpu.enabled = false on a node without GPUs
  ! XIDs cannot be seen: Permission denied (os error 13)
    mend: give the agent CAP_SYSLOG, or point gpu.kmsg at a log it may read
  ! the instance is not known: series carry no InstanceId
    mend: enable the instance metadata service with tokens (IMDSv2; hop limit 2 if the agent runs in a container), or set what is missing in [node]
";
    assert_text(&table(snapshot), expected);
}

#[test]
fn states_of_the_driver_in_one_line_each() {
    let line = |driver: DriverState, pid: Option<u32>| {
        let gpu = GpuStatus {
            enabled: true,
            driver,
            kernel_log: KernelLog::Reading,
            child: ChildStatus {
                pid,
                starts: 1,
                ..ChildStatus::default()
            },
            ..GpuStatus::default()
        };
        super::driver(&gpu)
    };
    assert_eq!(line(DriverState::Off, None), "off (gpu.enabled = false)");
    assert_eq!(
        line(DriverState::Starting, Some(7)),
        "waiting for NVML; NVML process 7; XIDs are read"
    );
    assert_eq!(
        line(DriverState::Stuck, None),
        "the driver does not answer; no NVML process; XIDs are read"
    );
}
