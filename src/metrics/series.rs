//! Which series a sample feeds. A value that could not be read feeds none: absent is never zero.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use crate::gpu::{GpuSample, GpuState};
use crate::host::HostSample;
use crate::mps::memory::MpsMemory;
use crate::mps::{MpsGpu, MpsState};

use super::Metric;

/// CloudWatch takes no longer value of a dimension.
const MAX_LABEL_CHARS: usize = 1024;

/// A metric and the labels that tell this series of it from the next.
///
/// The node's own dimensions are not part of it: they are added when a window is published, so that samples taken
/// before the node knows who it is are not lost.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Series {
    /// The metric.
    pub metric: Metric,
    /// Label values, in the order of [`super::Entry::labels`].
    pub labels: Vec<Arc<str>>,
}

impl Series {
    /// A series of a metric without labels.
    #[must_use]
    pub fn plain(metric: Metric) -> Self {
        Self {
            metric,
            labels: Vec::new(),
        }
    }

    /// A series of a metric with one label.
    #[must_use]
    pub fn labelled(metric: Metric, label: &Arc<str>) -> Self {
        Self {
            metric,
            labels: vec![Arc::clone(label)],
        }
    }
}

impl std::fmt::Display for Series {
    /// `disk_used_percent{path="/data"}`, the notation operators know from other systems.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.metric.name())?;
        for (label, value) in self.metric.entry().labels.iter().zip(&self.labels) {
            write!(f, "{{{}={value:?}}}", label.as_str())?;
        }
        Ok(())
    }
}

/// One value of one series.
pub type Point = (Series, f64);

/// The points of a host sample.
#[must_use]
pub fn of_host(sample: &HostSample) -> Vec<Point> {
    let mut points = Vec::new();
    push(&mut points, Metric::CpuUsageActive, sample.cpu_usage_active);
    push(&mut points, Metric::MemUsedPercent, sample.mem_used_percent);
    push(&mut points, Metric::SwapUsedPercent, sample.swap_used_percent);
    for disk in &sample.disks {
        let path = label(disk.path.as_os_str().as_bytes());
        points.push((
            Series::labelled(Metric::DiskUsedPercent, &path),
            disk.used_percent,
        ));
        push_labelled(
            &mut points,
            Metric::DiskInodesFree,
            &path,
            disk.inodes_free.map(|n| n as f64),
        );
    }
    for disk in &sample.disk_io {
        let name = label(disk.name.as_bytes());
        points.push((
            Series::labelled(Metric::DiskioReadBytes, &name),
            disk.read_bytes_per_second,
        ));
        points.push((
            Series::labelled(Metric::DiskioWriteBytes, &name),
            disk.write_bytes_per_second,
        ));
    }
    points
}

/// The points of the utilisation ring, each with the time at which the driver took it.
pub fn of_ring(sample: &GpuSample) -> impl Iterator<Item = (Duration, Point)> + use<'_> {
    sample.utilization.iter().map(|ring| {
        let series = Series::labelled(Metric::GpuUtilization, &sample.number);
        (
            Duration::from_micros(ring.unix_us),
            (series, f64::from(ring.percent)),
        )
    })
}

/// The points of one reading of one GPU, but for its ring.
#[must_use]
pub fn of_gpu(sample: &GpuSample) -> Vec<Point> {
    let mut points = Vec::new();
    let gpu = &sample.number;
    if let Some(memory) = &sample.memory {
        push_labelled(
            &mut points,
            Metric::GpuMemoryUtilization,
            gpu,
            memory.used_percent(),
        );
        push_labelled(
            &mut points,
            Metric::GpuMemoryUsed,
            gpu,
            Some(memory.used_bytes as f64),
        );
        push_labelled(
            &mut points,
            Metric::GpuMemoryFree,
            gpu,
            Some(memory.free_bytes as f64),
        );
    }
    push_labelled(&mut points, Metric::GpuPowerDraw, gpu, sample.power_watts);
    push_labelled(
        &mut points,
        Metric::GpuTemperature,
        gpu,
        sample.temperature_celsius,
    );
    push_labelled(
        &mut points,
        Metric::GpuClockSm,
        gpu,
        sample.sm_clock_mhz.map(f64::from),
    );
    push_labelled(&mut points, Metric::GpuThrottled, gpu, sample.throttled_percent);
    push_labelled(
        &mut points,
        Metric::GpuEccUncorrected,
        gpu,
        sample.ecc_uncorrected.map(|n| n as f64),
    );
    points
}

/// The points that say how a GPU is, due every tick whether the driver answers or not.
///
/// `xids` is the number of XIDs since the tick before, `None` where the kernel log cannot be read.
#[must_use]
pub fn of_gpu_state(state: &GpuState, xids: Option<u32>) -> Vec<Point> {
    let mut points = Vec::new();
    let gpu = &state.number;
    push_labelled(
        &mut points,
        Metric::GpuHealthy,
        gpu,
        Some(flag(state.is_healthy())),
    );
    push_labelled(
        &mut points,
        Metric::GpuDriverStuck,
        gpu,
        Some(flag(state.is_stuck())),
    );
    push_labelled(&mut points, Metric::GpuXidErrors, gpu, xids.map(f64::from));
    points
}

/// The points that say how MPS is on a GPU, due every tick. `restarts` is their number since the tick before.
#[must_use]
pub fn of_mps(gpu: &MpsGpu, restarts: u64) -> Vec<Point> {
    let ready = flag(gpu.state == MpsState::Ready);
    // A daemon that does not answer has not lost its clients: nobody knows how many there are.
    let answers = !matches!(gpu.state, MpsState::NoDriver | MpsState::Down(_));
    let server = gpu.server.as_ref().filter(|_| answers);
    let listed = server.and_then(|server| server.clients.as_ref());
    let clients = listed.map(|clients| clients.len() as f64);
    let number = &gpu.number;
    let mut points = Vec::new();
    push_labelled(&mut points, Metric::MpsReady, number, Some(ready));
    push_labelled(&mut points, Metric::MpsClients, number, clients);
    push_labelled(&mut points, Metric::MpsRestarts, number, Some(restarts as f64));
    points
}

/// The points of a GPU's memory that belongs to no pod.
#[must_use]
pub fn of_mps_memory(gpu: &Arc<str>, memory: &MpsMemory) -> Vec<Point> {
    let mut points = Vec::new();
    for (metric, bytes) in [
        (Metric::GpuMemoryMpsOverhead, memory.overhead_bytes),
        (Metric::GpuMemoryUnattributed, memory.unattributed_bytes),
    ] {
        push_labelled(&mut points, metric, gpu, bytes.map(|bytes| bytes as f64));
    }
    points
}

/// A name of the node as a label that CloudWatch takes: ASCII without control characters, at most 1024 of them, and
/// not blank. Any other byte is written as `\xNN`; what is too long is cut; what is blank is `-`.
fn label(name: &[u8]) -> Arc<str> {
    let mut fit = String::with_capacity(name.len());
    for byte in name {
        let length = fit.len();
        match byte {
            b' '..=b'~' => fit.push(char::from(*byte)),
            _ => {
                let _ = write!(fit, "\\x{byte:02x}");
            }
        }
        if fit.len() > MAX_LABEL_CHARS {
            // Never half of an escape.
            fit.truncate(length);
            break;
        }
    }
    if fit.trim().is_empty() {
        return "-".into();
    }
    fit.into()
}

fn flag(on: bool) -> f64 {
    if on { 1.0 } else { 0.0 }
}

fn push(points: &mut Vec<Point>, metric: Metric, value: Option<f64>) {
    points.extend(value.map(|value| (Series::plain(metric), value)));
}

fn push_labelled(points: &mut Vec<Point>, metric: Metric, label: &Arc<str>, value: Option<f64>) {
    points.extend(value.map(|value| (Series::labelled(metric, label), value)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Memory;
    use crate::gpu::wire::RingSample;
    use crate::host::{DiskIo, DiskSpace};
    use crate::mps::Trouble;
    use crate::mps::protocol::{Client, Server, ServerStatus};

    fn texts(points: &[Point]) -> Vec<String> {
        points
            .iter()
            .map(|(series, value)| format!("{series} {value}"))
            .collect()
    }

    #[test]
    fn what_could_not_be_read_feeds_no_series() {
        assert_eq!(of_host(&HostSample::default()), []);
        assert_eq!(of_gpu(&GpuSample::new("0".into())), []);
    }

    #[test]
    fn a_label_is_what_cloudwatch_takes_whatever_the_mount_is_called() {
        for (name, expected) in [
            ("/var/lib/a b~", "/var/lib/a b~"),
            ("/donn\u{e9}es", r"/donn\xc3\xa9es"),
            ("/a\tb\u{7f}", r"/a\x09b\x7f"),
            ("", "-"),
            (" ", "-"),
        ] {
            assert_eq!(&*label(name.as_bytes()), expected, "{name:?}");
        }
        assert_eq!(&*label(b"/\xff"), r"/\xff");
        assert_eq!(label(&[b'x'; 1024]).len(), 1024);
        assert_eq!(label(&[b'x'; 1025]).len(), 1024);
        let cut = label(&[0xc3; 300]);
        assert_eq!((cut.len(), &cut[1020..]), (1024, r"\xc3"));
        let cut = label(&[b"/".as_slice(), &[0xc3; 300]].concat());
        assert_eq!((cut.len(), &cut[1017..]), (1021, r"\xc3"), "no half escape");
    }

    #[test]
    fn a_full_host_sample_feeds_every_host_metric() {
        let sample = HostSample {
            cpu_usage_active: Some(12.5),
            mem_used_percent: Some(30.0),
            swap_used_percent: Some(0.0),
            disks: vec![DiskSpace {
                path: "/".into(),
                device: "/dev/nvme0n1p1".into(),
                used_percent: 41.0,
                inodes_free: Some(9),
                total_bytes: 100,
                available_bytes: 59,
            }],
            disk_io: vec![DiskIo {
                name: "nvme0n1".into(),
                read_bytes_per_second: 512.0,
                write_bytes_per_second: 0.0,
            }],
            stuck_mounts: vec![],
            failing: vec![],
        };
        assert_eq!(
            texts(&of_host(&sample)),
            [
                "cpu_usage_active 12.5",
                "mem_used_percent 30",
                "swap_used_percent 0",
                "disk_used_percent{path=\"/\"} 41",
                "disk_inodes_free{path=\"/\"} 9",
                "diskio_read_bytes{name=\"nvme0n1\"} 512",
                "diskio_write_bytes{name=\"nvme0n1\"} 0",
            ]
        );
    }

    #[test]
    fn memory_is_relative_to_what_can_be_allocated() {
        let mut sample = GpuSample::new("3".into());
        sample.memory = Some(Memory {
            total_bytes: 1000,
            reserved_bytes: 200,
            used_bytes: 400,
            free_bytes: 400,
        });
        sample.ecc_uncorrected = Some(2);
        assert_eq!(
            texts(&of_gpu(&sample)),
            [
                "gpu_memory_utilization{GPUNumber=\"3\"} 50",
                "gpu_memory_used{GPUNumber=\"3\"} 400",
                "gpu_memory_free{GPUNumber=\"3\"} 400",
                "gpu_ecc_uncorrected{GPUNumber=\"3\"} 2",
            ]
        );
    }

    fn mps(state: MpsState, clients: Option<usize>) -> MpsGpu {
        let client = Client {
            pid: 7,
            command: None,
        };
        MpsGpu {
            number: "3".into(),
            uuid: "GPU-3".into(),
            state,
            since: 0,
            last_step: None,
            pid: None,
            server: clients.map(|clients| Server {
                pid: 6,
                status: ServerStatus::Active,
                clients: Some(vec![client; clients]),
            }),
            client_limit: None,
            smallest_useful_slices: None,
            restarts: 17,
            probed_at: None,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn mps_is_ready_or_not_and_its_clients_are_counted_while_it_answers() {
        let trouble = || Trouble {
            why: String::new(),
            mend: String::new(),
        };
        let said = |state, clients| {
            let texts = texts(&of_mps(&mps(state, clients), 2));
            assert!(
                texts.contains(&"mps_restarts{GPUNumber=\"3\"} 2".to_owned()),
                "{texts:?}"
            );
            let value = |name: &str| {
                let start = format!("{name}{{GPUNumber=\"3\"}} ");
                texts
                    .iter()
                    .find_map(|text| text.strip_prefix(&start)?.parse::<u32>().ok())
            };
            (value("mps_ready"), value("mps_clients"))
        };
        assert_eq!(said(MpsState::Ready, Some(5)), (Some(1), Some(5)));
        assert_eq!(said(MpsState::Ready, Some(0)), (Some(1), Some(0)));
        assert_eq!(said(MpsState::Degraded(trouble()), Some(4)), (Some(0), Some(4)));
        assert_eq!(said(MpsState::Starting, None), (Some(0), None));
        let mut unread = mps(MpsState::Ready, Some(4));
        unread.server.as_mut().unwrap().clients = None;
        let texts = texts(&of_mps(&unread, 0));
        assert!(
            texts.iter().all(|text| !text.starts_with("mps_clients")),
            "{texts:?}"
        );
        assert_eq!(said(MpsState::Down(trouble()), Some(4)), (Some(0), None));
        assert_eq!(said(MpsState::NoDriver, Some(4)), (Some(0), None));
    }

    #[test]
    fn memory_that_is_not_known_feeds_no_series() {
        let memory = MpsMemory {
            overhead_bytes: None,
            unattributed_bytes: Some(0),
        };
        assert_eq!(
            texts(&of_mps_memory(&"3".into(), &memory)),
            ["gpu_memory_unattributed{GPUNumber=\"3\"} 0"]
        );
    }

    #[test]
    fn every_ring_sample_is_a_point_with_its_own_time() {
        let mut sample = GpuSample::new("3".into());
        sample.utilization = vec![RingSample {
            unix_us: 1_500_000,
            percent: 10,
        }];
        let points: Vec<_> = of_ring(&sample).collect();
        assert_eq!(points[0].0, Duration::from_millis(1_500));
        assert_eq!(
            texts(&[points[0].1.clone()]),
            ["gpu_utilization{GPUNumber=\"3\"} 10"]
        );
    }
}
