//! The host: processor, memory, swap, disk space and disk I/O of the node, read once per tick.
//!
//! A [`HostSource`] gives one [`HostSample`] per call. [`LocalHost`] reads the machine it runs on.
//!
//! Invariants:
//! - What cannot be read is absent. A zero is a measured zero, and no value is handed out twice.
//! - One entry per real device, however often it is mounted.
//! - [`HostSource::sample`] returns within its grace period (50 ms) even when a file system hangs.
//! - At most five threads exist for disk space, whatever hangs.
//!
//! This module does not know metric names, dimensions or the publisher, and it never triggers an automount.

mod cpu;
mod disk_io;
mod disk_space;
mod fault;
mod local;
mod mount_table;
mod mounts;
mod plan;
mod prober;
mod sysinfo;
pub mod task;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use local::LocalHost;

/// What the host looked like at one instant; whatever could not be read is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostSample {
    /// Percent of processor time since the previous sample that was not idle, over all processors: 0 to 100.
    ///
    /// From the first line of `/proc/stat`. Defined as the CloudWatch agent defines it, 100 minus idle: time
    /// waiting for I/O and time stolen by the hypervisor count as active, guest time counts once. Absent in
    /// the first sample, after a failed read, and when no clock tick (10 ms) has passed.
    pub cpu_usage_active: Option<f64>,
    /// Percent of memory in use, 0 to 100: `MemTotal` less `MemAvailable`, over `MemTotal` of `/proc/meminfo`.
    pub mem_used_percent: Option<f64>,
    /// Percent of swap in use, 0 to 100: `SwapTotal` less `SwapFree`, over `SwapTotal`. Absent without swap.
    pub swap_used_percent: Option<f64>,
    /// Space of every mounted device that answered since the previous sample, in the order of mounting.
    pub disks: Vec<DiskSpace>,
    /// Throughput of every physical disk since the previous sample, by name. Empty in the first sample.
    pub disk_io: Vec<DiskIo>,
    /// Mount points whose file system has not answered for two seconds. They are asked again once it has.
    pub stuck_mounts: Vec<PathBuf>,
    /// Parts of the host whose newest reading failed, as the log names them: `cpu`, `disk I/O`, `mounts`.
    pub failing: Vec<String>,
}

/// Space of one file system, from statvfs(2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskSpace {
    /// The shortest mount point of the device, as the node's processes see it (without `root_dir`).
    pub path: PathBuf,
    /// Mount source as in mountinfo, such as `/dev/nvme0n1p1` or `server:/export`.
    pub device: String,
    /// Percent used as df(1) counts it, 0 to 100, not rounded: used / (used + available to non-root), with
    /// used = `f_blocks - f_bfree` and available = `f_bavail`.
    pub used_percent: f64,
    /// Free inodes (`f_ffree`), those reserved for root included, as in the CloudWatch agent's
    /// `disk_inodes_free`. Absent where the file system has no fixed set of inodes (btrfs, vfat).
    pub inodes_free: Option<u64>,
    /// Size in bytes: `f_blocks * f_frsize`.
    pub total_bytes: u64,
    /// Bytes that a process without privileges can still write: `f_bavail * f_frsize`.
    pub available_bytes: u64,
}

/// Throughput of one physical disk, from `/proc/diskstats`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskIo {
    /// Kernel name, such as `nvme0n1`.
    pub name: String,
    /// Bytes per second read from the device since the previous sample.
    pub read_bytes_per_second: f64,
    /// Bytes per second written to the device since the previous sample.
    pub write_bytes_per_second: f64,
}

/// Where host samples come from.
pub trait HostSource: Send + 'static {
    /// Reads the host once. Blocks for milliseconds at most, so it belongs on a thread that may block, and
    /// reports each value once: rates and the processor cover the time since the previous call.
    fn sample(&mut self) -> HostSample;
}

/// What [`LocalHost`] reads and what it leaves out; the `[host]` section of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSettings {
    /// Where the host's root is mounted; `/` outside containers and tests. Holds `proc` and `sys`.
    pub root_dir: PathBuf,
    /// Mount points to leave out, each with everything below it: `/run` leaves out `/run/lock`, not `/runner`.
    pub exclude_mounts: Vec<String>,
    /// File system types to leave out: a name, or a prefix followed by `*`. `autofs` is always left out,
    /// because a look at it would mount what it stands for.
    pub exclude_fs_types: Vec<String>,
}
