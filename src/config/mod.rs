//! The configuration: defaults, a TOML file, the environment and `--set`, read once and validated as a whole.
//!
//! Later layers win: built-in defaults, then the file, then environment variables `GPUSHARE__SECTION__KEY`, then
//! `--set section.key=VALUE`. A value from the environment or `--set` is read as a TOML value and, where it is none,
//! taken as a string; lists are TOML arrays.
//!
//! Invariants:
//! - A [`Config`] cannot be wrong: whoever holds one checks nothing again. Only [`load()`] and [`Config::default`] make
//!   one.
//! - Every problem of every layer is reported in one [`ConfigError`], with its key, its origin and the mend.
//! - The defaults exist once, in `raw.rs`; [`DEFAULT_FILE`] documents them and a test proves the two equal.
//!
//! It must not touch what a value names: whether a directory is writable or a library loads is for the part that
//! uses it.

mod check;
mod choice;
mod error;
mod file;
mod layer;
mod load;
mod raw;
mod shape;
mod typed;
mod validate;
mod values;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use choice::{
    ClientView, Conflict, Dimension, Group, Injection, Limit, MpsBackend, PodIdentity, SlicePolicy, Target,
};
pub use error::{ConfigError, Problem};
pub use load::{DEFAULT_PATH, Loaded, Sources, load, read, read_kept};
pub use values::Values;

/// Every key with its default and its documentation, as it is installed beside the binary.
pub const DEFAULT_FILE: &str = include_str!("../../config/gpushare.toml");

/// The validated configuration, one field per section.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Who this node is.
    pub node: Node,
    /// How often is read.
    pub sample: Sample,
    /// What goes out, where to and how often.
    pub publish: Publish,
    /// The store between the sampler and the publisher.
    pub spool: Spool,
    /// Readings of the host.
    pub host: Host,
    /// Readings of the GPUs.
    pub gpu: Gpu,
    /// NVIDIA's Multi-Process Service.
    pub mps: Mps,
    /// The device plugin.
    pub slices: Slices,
    /// Readings of the pods.
    pub pods: Pods,
    /// The status socket.
    pub status: Status,
    /// The scrape endpoint.
    pub prometheus: Prometheus,
}

/// Overrides of what the node finds out about itself, each 1 to 1024 printable ASCII characters (the limit of a
/// CloudWatch dimension value), and where the agent keeps what must survive a restart.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// EC2 instance id.
    pub instance_id: Option<String>,
    /// AMI id.
    pub image_id: Option<String>,
    /// EC2 instance type.
    pub instance_type: Option<String>,
    /// AWS region.
    pub region: Option<String>,
    /// Auto Scaling group.
    pub auto_scaling_group: Option<String>,
    /// EKS cluster.
    pub cluster: Option<String>,
    /// EKS managed node group.
    pub nodegroup: Option<String>,
    /// Absolute directory of the agent's state.
    pub state_dir: PathBuf,
}

/// Sampling.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Time between two samples: 100 ms to 1 h, never longer than `publish.interval`.
    pub interval: Duration,
}

/// Publishing.
#[derive(Debug, Clone, PartialEq)]
pub struct Publish {
    /// Where windows go.
    pub target: Target,
    /// Length of a window: whole seconds, 1 s to 1 h.
    pub interval: Duration,
    /// CloudWatch namespace: 1 to 255 printable ASCII characters, not starting with `:` or `AWS/`.
    pub namespace: String,
    /// Endpoint in place of the region's own; starts with `http://` or `https://`.
    pub endpoint_url: Option<String>,
    /// Groups of metrics that are published.
    pub groups: BTreeSet<Group>,
    /// Base dimensions, at most 30 (the limit of a CloudWatch metric), without repetition.
    pub dimensions: Vec<Dimension>,
    /// Distinct series in a rolling hour above which new ones are refused: 1 to 100,000.
    pub max_series: usize,
    /// CloudWatch storage resolution in seconds: 1 or 60.
    pub storage_resolution: u8,
    /// Additional series with fewer dimensions.
    pub rollup: Vec<Rollup>,
}

/// Metrics that are published a second time with fewer base dimensions.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollup {
    /// The dimensions that stay, all of them among [`Publish::dimensions`]; none at all is one series for the account.
    pub dimensions: Vec<Dimension>,
    /// Names of the metrics, at least one, each 1 to 255 printable ASCII characters.
    pub metrics: Vec<String>,
}

impl Publish {
    /// Series that the rollups add.
    #[must_use]
    pub fn rollup_series(&self) -> usize {
        self.rollup.iter().map(|rollup| rollup.metrics.len()).sum()
    }
}

/// The spool.
#[derive(Debug, Clone, PartialEq)]
pub struct Spool {
    /// Absolute directory of the spool.
    pub dir: PathBuf,
    /// Size above which the oldest windows are dropped, in bytes.
    pub max_bytes: u64,
    /// Free space on the spool's file system below which it does not grow, in bytes.
    pub min_free_bytes: u64,
}

/// Host readings.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// Absolute directory under which `/proc` and `/sys` are looked for.
    pub root_dir: PathBuf,
    /// Absolute mount points that are left out, each with everything mounted below it: `/run` covers `/run/lock`,
    /// not `/running`.
    pub exclude_mounts: Vec<String>,
    /// File system types that are left out; an entry that ends in `*` covers every type that starts with the rest.
    pub exclude_fs_types: Vec<String>,
}

/// GPU readings.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpu {
    /// Whether GPUs are looked for at all.
    pub enabled: bool,
    /// NVML: an absolute path, or a bare library name for the dynamic linker.
    pub nvml_library: PathBuf,
    /// Absolute path of the kernel log in which faults are looked for.
    pub kmsg: PathBuf,
}

/// MPS supervision.
#[derive(Debug, Clone, PartialEq)]
pub struct Mps {
    /// Whether MPS is kept running.
    pub enabled: bool,
    /// Who keeps it running.
    pub backend: MpsBackend,
    /// Absolute directory of the daemons' own directories, one per GPU.
    pub dir: PathBuf,
    /// Absolute directory of what pods see, one per GPU.
    pub client_dir: PathBuf,
    /// The control daemon: an absolute path, or a bare name that is looked up in `PATH`.
    pub control_binary: PathBuf,
    /// Whether the GPU is put into compute mode `EXCLUSIVE_PROCESS`.
    pub exclusive_process: bool,
    /// Whether clients of several users share one server.
    pub multi_user: bool,
    /// Time between two probes: 100 ms to 1 h.
    pub probe_interval: Duration,
    /// Time without MPS after which a GPU's slices become unhealthy, at most 1 h.
    pub grace: Duration,
    /// What a pod sees of the daemon's directory.
    pub client_view: ClientView,
}

/// The device plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct Slices {
    /// Whether slices are offered to the kubelet; never without [`Mps::enabled`].
    pub enabled: bool,
    /// Kubernetes extended resource name, `domain/name`.
    pub resource: String,
    /// Slices of one GPU: 1 to 100, because MPS limits threads in whole per cent.
    pub per_gpu: u32,
    /// Absolute directory of the kubelet.
    pub kubelet_dir: PathBuf,
    /// Which GPU is preferred.
    pub policy: SlicePolicy,
    /// How a container gets its share.
    pub injection: Injection,
    /// Absolute directory of CDI files.
    pub cdi_dir: PathBuf,
    /// Whether threads are limited to the share.
    pub threads: Limit,
    /// Whether memory is limited to the share.
    pub memory: Limit,
    /// Time after boot in which a GPU may be missing before its slices become unhealthy, at most 1 h.
    pub boot_grace: Duration,
    /// What to do about another plugin for the same GPUs.
    pub conflict: Conflict,
}

/// Pod readings.
#[derive(Debug, Clone, PartialEq)]
pub struct Pods {
    /// Whether GPU use is attributed to pods.
    pub enabled: bool,
    /// Time between two readings: 100 ms to 1 h.
    pub interval: Duration,
    /// What `PodName` names.
    pub identity: PodIdentity,
    /// Absolute directory of procfs.
    pub proc_dir: PathBuf,
    /// Absolute directory of the kubelet's container log links.
    pub container_log_dir: PathBuf,
}

/// The status socket.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Absolute path of the socket, at most 107 bytes (`sockaddr_un` less its final NUL).
    pub socket: PathBuf,
}

/// The scrape endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Prometheus {
    /// Where to listen; absent = off.
    pub listen: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        load::built_in()
    }
}
