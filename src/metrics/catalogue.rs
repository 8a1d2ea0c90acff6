//! The metric catalogue: `metrics/catalogue.toml`, embedded, and the enum through which code names a metric.
//!
//! A metric that is in one and not in the other is a failing test, so that what the documentation lists is what
//! the agent can publish.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::config::Group;

/// The catalogue file, from which the documentation is generated too.
pub const CATALOGUE: &str = include_str!("../../metrics/catalogue.toml");

macro_rules! metrics {
    ($($variant:ident = $name:literal),+ $(,)?) => {
        /// A metric of the catalogue. The catalogue says what each one means.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[expect(missing_docs, reason = "the meaning of every metric stands in metrics/catalogue.toml")]
        pub enum Metric { $(#[serde(rename = $name)] $variant),+ }

        impl Metric {
            /// Every metric, in the catalogue's order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name under which CloudWatch knows the metric.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

metrics! {
    CpuUsageActive = "cpu_usage_active",
    MemUsedPercent = "mem_used_percent",
    SwapUsedPercent = "swap_used_percent",
    DiskUsedPercent = "disk_used_percent",
    DiskInodesFree = "disk_inodes_free",
    DiskioReadBytes = "diskio_read_bytes",
    DiskioWriteBytes = "diskio_write_bytes",
    GpuUtilization = "gpu_utilization",
    GpuMemoryUtilization = "gpu_memory_utilization",
    GpuMemoryUsed = "gpu_memory_used",
    GpuPowerDraw = "gpu_power_draw",
    GpuTemperature = "gpu_temperature",
    GpuHealthy = "gpu_healthy",
    MpsReady = "mps_ready",
    GpuMemoryFree = "gpu_memory_free",
    GpuClockSm = "gpu_clock_sm",
    GpuThrottled = "gpu_throttled",
    GpuXidErrors = "gpu_xid_errors",
    GpuEccUncorrected = "gpu_ecc_uncorrected",
    GpuDriverStuck = "gpu_driver_stuck",
    ClockSkewSeconds = "clock_skew_seconds",
    PublishBacklogBytes = "publish_backlog_bytes",
    MpsClients = "mps_clients",
    MpsRestarts = "mps_restarts",
    GpuMemoryMpsOverhead = "gpu_memory_mps_overhead",
    GpuMemoryUnattributed = "gpu_memory_unattributed",
    PublishBacklogSeconds = "publish_backlog_seconds",
    DatapointsDropped = "datapoints_dropped",
}

impl Metric {
    /// The metric of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|metric| metric.name() == name)
    }

    /// What the catalogue says about the metric.
    #[must_use]
    pub fn entry(self) -> &'static Entry {
        &ENTRIES[self as usize]
    }
}

/// One entry of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The metric.
    pub name: Metric,
    /// The group of `publish.groups` that switches it on.
    pub group: Group,
    /// Its unit in CloudWatch.
    pub unit: Unit,
    /// Which node dimensions its series carry.
    pub scope: Scope,
    /// The dimensions that tell its series apart, in the order of [`crate::metrics::Series::labels`].
    pub labels: Vec<Label>,
    /// Where the number comes from.
    pub source: String,
    /// What the number says.
    pub meaning: String,
}

/// The units of `MetricDatum.Unit` that the catalogue uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, Deserialize)]
#[expect(missing_docs, reason = "CloudWatch's own names")]
pub enum Unit {
    Percent,
    Bytes,
    #[serde(rename = "Bytes/Second")]
    BytesPerSecond,
    Count,
    Seconds,
    None,
}

impl Unit {
    /// The unit as CloudWatch spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Percent => "Percent",
            Self::Bytes => "Bytes",
            Self::BytesPerSecond => "Bytes/Second",
            Self::Count => "Count",
            Self::Seconds => "Seconds",
            Self::None => "None",
        }
    }
}

/// Which dimensions of the node a series carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The base dimensions: those of `publish.dimensions` that are known.
    Node,
    /// `InstanceId` alone.
    Instance,
}

/// A dimension that tells the series of one metric apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Label {
    /// The sticky number of a GPU.
    #[serde(rename = "GPUNumber")]
    GpuNumber,
    /// A mount point.
    #[serde(rename = "path")]
    Path,
    /// A block device.
    #[serde(rename = "name")]
    Name,
}

impl Label {
    /// The dimension's name in CloudWatch.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GpuNumber => "GPUNumber",
            Self::Path => "path",
            Self::Name => "name",
        }
    }
}

static ENTRIES: LazyLock<Vec<Entry>> =
    LazyLock::new(|| parse(CATALOGUE).expect("the embedded catalogue parses: proved by a test"));

fn parse(text: &str) -> Result<Vec<Entry>, toml::de::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        metric: Vec<Entry>,
    }
    toml::from_str::<File>(text).map(|file| file.metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_and_the_code_name_the_same_metrics_in_the_same_order() {
        let listed: Vec<Metric> = parse(CATALOGUE).unwrap().iter().map(|entry| entry.name).collect();
        assert_eq!(listed, Metric::ALL);
    }

    #[test]
    fn every_entry_is_found_under_its_own_metric() {
        for metric in Metric::ALL {
            assert_eq!(metric.entry().name, *metric);
        }
    }

    #[test]
    fn names_and_texts_are_fit_for_cloudwatch_and_for_readers() {
        for entry in ENTRIES.iter() {
            let name = entry.name.name();
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
            assert!(entry.meaning.ends_with('.'), "{name}: the meaning is a sentence");
            assert!(!entry.source.is_empty(), "{name}: a number without a source");
        }
    }
}
