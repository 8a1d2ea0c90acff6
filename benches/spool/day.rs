//! Windows as a node of GPUs fills them in a minute: samples every second, the driver's ring six times as often.
//!
//! What counts is how many distinct values a series has and how well they deflate. Utilisation and temperature are
//! whole numbers that wander, memory moves in steps, power and rates never repeat themselves, health is constant.

use std::collections::BTreeMap;
use std::sync::Arc;

use fastrand::Rng;
use gpushare::metrics::{ClosedWindow, Distribution, Metric, Series};

/// Series of a GPU in the default groups.
const PER_GPU: usize = 6;
/// Series of the host and of the agent beside them.
const PER_HOST: usize = 8;
/// A minute's samples.
const SAMPLES: u32 = 60;
/// Samples a second in the driver's ring.
const RING: u32 = 6;

/// A node.
pub(crate) struct Node {
    series: Vec<(Series, Kind)>,
    rng: Rng,
}

/// How a series behaves.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Whole percents from the ring, up and down with the step of a training job.
    Utilization,
    /// A share that moves in steps.
    Share,
    /// Bytes that move in steps.
    Bytes,
    /// Milliwatts, or whatever else never repeats itself.
    Noise,
    /// Whole degrees.
    Degrees,
    /// Always the same.
    Constant,
}

impl Node {
    /// One with so many series: as many GPUs as they suffice for, the host, and disks for the rest.
    pub(crate) fn new(series: usize) -> Self {
        let host = [
            ("cpu_usage_active", None, Kind::Noise),
            ("mem_used_percent", None, Kind::Noise),
            ("disk_used_percent", Some("/"), Kind::Share),
            ("disk_inodes_free", Some("/"), Kind::Bytes),
            ("diskio_read_bytes", Some("nvme0n1"), Kind::Noise),
            ("diskio_write_bytes", Some("nvme0n1"), Kind::Noise),
            ("publish_backlog_seconds", None, Kind::Constant),
            ("datapoints_dropped", None, Kind::Constant),
        ];
        let mut all: Vec<_> = host
            .into_iter()
            .map(|(name, label, kind)| (self::series(name, label), kind))
            .collect();
        let gpus = series.saturating_sub(PER_HOST) / PER_GPU;
        for gpu in 0..gpus {
            all.extend(of_gpu(&gpu.to_string()));
        }
        for disk in 1..=series.saturating_sub(all.len()) {
            let name = format!("nvme{disk}n1");
            all.push((self::series("diskio_write_bytes", Some(&name)), Kind::Noise));
        }
        assert_eq!(all.len(), series, "a node has at least {PER_HOST} series");
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        Self {
            series: all,
            rng: Rng::with_seed(7),
        }
    }

    /// What is sampled in the minute that begins at `start`, in Unix seconds.
    pub(crate) fn minute(&mut self, start: u64) -> ClosedWindow {
        let Self { series, rng } = self;
        let series = series.iter();
        ClosedWindow {
            start,
            series: series
                .map(|(series, kind)| (series.clone(), kind.minute(rng)))
                .collect(),
        }
    }
}

fn of_gpu(gpu: &str) -> [(Series, Kind); PER_GPU] {
    [
        ("gpu_utilization", Kind::Utilization),
        ("gpu_memory_utilization", Kind::Share),
        ("gpu_memory_used", Kind::Bytes),
        ("gpu_power_draw", Kind::Noise),
        ("gpu_temperature", Kind::Degrees),
        ("gpu_healthy", Kind::Constant),
    ]
    .map(|(name, kind)| (series(name, Some(gpu)), kind))
}

fn series(name: &str, label: Option<&str>) -> Series {
    let metric = Metric::named(name).expect("a metric of the catalogue");
    label.map_or_else(
        || Series::plain(metric),
        |label| Series::labelled(metric, &Arc::from(label)),
    )
}

impl Kind {
    fn minute(self, rng: &mut Rng) -> Distribution {
        let samples = if self == Self::Utilization {
            SAMPLES * RING
        } else {
            SAMPLES
        };
        let base = rng.f64();
        let mut counts = BTreeMap::<u64, (f64, u32)>::new();
        for n in 0..samples {
            let value = self.sample(base, f64::from(n) / f64::from(samples), rng);
            counts.entry(value.to_bits()).or_insert((value, 0)).1 += 1;
        }
        Distribution::of_counts(counts.into_values().collect())
    }

    /// The sample at this part of the minute.
    fn sample(self, base: f64, part: f64, rng: &mut Rng) -> f64 {
        // A job whose step takes a third of a minute.
        let swing = (part * 3.0 * std::f64::consts::TAU).sin();
        let step = (part * 10.0).floor();
        match self {
            Self::Utilization => (80.0 + 15.0 * swing + 5.0 * rng.f64()).round(),
            Self::Share => (base + step) / 81_559.0 * 100.0,
            Self::Bytes => (base * 70e3).floor() * 1_048_576.0 + step * 67_108_864.0,
            Self::Noise => ((base * 300.0 + 200.0 * swing.abs() + rng.f64() * 9.0) * 1000.0).round() / 1000.0,
            Self::Degrees => (55.0 + 2.5 * swing + base).round(),
            Self::Constant => 1.0,
        }
    }
}
