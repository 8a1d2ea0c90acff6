//! The GPUs of the node: what they report and how they are.
//!
//! NVML and its init can hang for ever, so nothing of it runs in this process. The parts:
//!
//! * [`nvml`]: the child process, the only code that names `nvml-wrapper`;
//! * [`wire`]: the frames between the two;
//! * [`compute_mode`]: who may compute on a GPU;
//! * [`child`]: starts the child, talks to it, kills it;
//! * [`plan`]: when to do which (pure);
//! * [`inventory`]: which GPUs there are, their sticky numbers, their health (pure);
//! * [`rates`]: rates and differences from raw readings (pure);
//! * [`health`]: fault classes of XIDs (pure);
//! * [`kmsg`]: XIDs from the kernel log;
//! * [`task`]: the loop that joins them.

pub mod child;
pub mod compute_mode;
pub mod health;
pub mod inventory;
pub mod kmsg;
pub mod nvml;
pub mod plan;
pub mod rates;
pub mod task;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use compute_mode::{ComputeMode, ComputeModes};
pub use inventory::{GpuState, Health};

/// The driver's name for a physical GPU, such as `GPU-5f9a…`. It survives resets and reboots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GpuUuid(pub Arc<str>);

impl std::fmt::Display for GpuUuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for GpuUuid {
    fn from(uuid: &str) -> Self {
        Self(uuid.into())
    }
}

/// What does not change about a GPU while the driver is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuInfo {
    /// `nvmlDeviceGetUUID`.
    pub uuid: GpuUuid,
    /// `nvmlDeviceGetName`, such as "NVIDIA A10G".
    pub model: String,
    /// `nvmlDeviceGetPciInfo_v3`, such as `00000000:00:1B.0`: joins the kernel log to the GPU.
    pub pci_bus_id: String,
    /// Position in NVML's enumeration. Changes when a GPU is lost; not an identity.
    pub nvml_index: u32,
    /// `nvmlDeviceGetCudaComputeCapability`, such as (8, 6); absent while the GPU has not been seen by this agent.
    #[serde(default)]
    pub compute_capability: Option<(u32, u32)>,
}

/// Device memory in bytes, from `nvmlDeviceGetMemoryInfo_v2`. total = reserved + used + free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Physical memory.
    pub total_bytes: u64,
    /// What the driver and the firmware keep for themselves.
    pub reserved_bytes: u64,
    /// What is allocated, without the reserved part.
    pub used_bytes: u64,
    /// What can still be allocated.
    pub free_bytes: u64,
}

impl Memory {
    /// Used share of what can be allocated at all, in percent. `None` on a GPU that reports no such memory.
    #[must_use]
    pub fn used_percent(&self) -> Option<f64> {
        let allocatable = self.total_bytes.saturating_sub(self.reserved_bytes);
        (allocatable > 0).then(|| 100.0 * self.used_bytes as f64 / allocatable as f64)
    }
}

/// A process that holds a context on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuProcess {
    /// Process id in the host's pid namespace.
    pub pid: u32,
    /// Its memory on this GPU in bytes; `None` where the driver does not say.
    pub memory_bytes: Option<u64>,
    /// Whether it stands in the compute or the MPS list; one that does not only draws.
    #[serde(default)]
    pub computes: bool,
}

/// One reading of one GPU, ready to be published. `None` and empty mean "not read", never zero.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuSample {
    /// The sticky `GPUNumber`.
    pub number: Arc<str>,
    /// Utilisation: every sample of the driver's ring since the reading before, with its own time.
    pub utilization: Vec<wire::RingSample>,
    /// Device memory.
    pub memory: Option<Memory>,
    /// Power draw in watts.
    pub power_watts: Option<f64>,
    /// Die temperature in degrees Celsius.
    pub temperature_celsius: Option<f64>,
    /// Clock of the streaming multiprocessors in megahertz.
    pub sm_clock_mhz: Option<u32>,
    /// Share of the time since the reading before in which the GPU was slowed down, in percent.
    pub throttled_percent: Option<f64>,
    /// Uncorrectable memory errors since the reading before.
    pub ecc_uncorrected: Option<u64>,
    /// The processes on the GPU, in the readings that brought their lists.
    pub processes: Option<Vec<GpuProcess>>,
}

impl GpuSample {
    /// A sample in which nothing was read yet.
    #[must_use]
    pub fn new(number: Arc<str>) -> Self {
        Self {
            number,
            utilization: Vec::new(),
            memory: None,
            power_watts: None,
            temperature_celsius: None,
            sm_clock_mhz: None,
            throttled_percent: None,
            ecc_uncorrected: None,
            processes: None,
        }
    }
}

/// What the GPU task tells the sampler. The channel is bounded and the sender waits: an event is never lost
/// between the two.
#[derive(Clone, Debug, PartialEq)]
pub enum GpuEvent {
    /// A GPU was read.
    Sampled(GpuSample),
    /// The kernel log named an XID of the GPU with this number.
    XidSeen(Arc<str>),
}

/// The GPU side of the node as the status shows it, and as later parts decide on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuStatus {
    /// `gpu.enabled`.
    pub enabled: bool,
    /// What the driver is doing.
    pub driver: DriverState,
    /// Every GPU that was seen since the node booted, by number.
    pub gpus: Vec<GpuState>,
    /// Whether XIDs are being read; the reason when they are not.
    pub kernel_log: KernelLog,
    /// The NVML child.
    pub child: ChildStatus,
}

/// State of the NVIDIA driver, with the time since it has been so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DriverState {
    /// Switched off by `gpu.enabled = false`.
    #[default]
    Off,
    /// The first answer is not there yet.
    Starting,
    /// NVML answers.
    Ready {
        /// `nvmlSystemGetDriverVersion`.
        driver_version: String,
        /// `nvmlSystemGetCudaDriverVersion_v2` as "12.8"; absent where unsupported.
        cuda_version: Option<String>,
        /// GPUs that the driver counts but cannot open.
        #[serde(default)]
        unreadable: u32,
    },
    /// NVML does not work; asked again for ever, with back-off.
    Unavailable {
        /// What is wrong, and what would mend it.
        fault: wire::Fault,
    },
    /// NVML does not answer.
    Stuck,
}

impl DriverState {
    /// Whether NVML answers.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }
}

/// Where XIDs come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum KernelLog {
    /// Not opened yet, or switched off with the GPUs.
    #[default]
    Off,
    /// Being read.
    Reading,
    /// Cannot be read: XIDs are absent, not zero.
    Unreadable {
        /// What is wrong.
        reason: String,
    },
}

/// The NVML child process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildStatus {
    /// Its process id, while there is one.
    pub pid: Option<u32>,
    /// How often one was started.
    pub starts: u64,
    /// How often one was killed because it was stuck.
    pub killed: u64,
    /// Children that survived SIGKILL (stuck in the kernel) and still exist.
    pub abandoned: u32,
}

/// How often the driver is asked for something: with every sample, and at least once a second, because its ring of
/// utilisation samples holds about twelve seconds and a driver that hangs must be noticed whatever the interval.
#[must_use]
pub fn beat(interval: Duration) -> Duration {
    interval.min(Duration::from_secs(1))
}

/// How long NVML may be silent before a GPU counts as stuck: two beats and a second, so that one slow call is no
/// alarm.
#[must_use]
pub fn silence_limit(interval: Duration) -> Duration {
    2 * beat(interval) + Duration::from_secs(1)
}
