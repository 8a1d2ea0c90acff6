//! The scenario file: what the GPUs look like, how they change, what goes wrong and when.
//!
//! Every key is documented in this crate's `README.md`. Unknown keys are refused, and so is anything that could only
//! be a slip of the pen (a GPU that does not exist, a function that the library does not export). All times are
//! milliseconds from the epoch of the scenario. This module reads text and knows no clock.

mod check;
mod parse;

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use crate::track::Track;

pub(crate) use check::{pci_address, version_pair};

/// A whole scenario. [`Scenario::parse`] is the only way to make one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What `nvmlSystemGetDriverVersion` says.
    #[serde(default = "parse::default_driver")]
    pub driver: String,
    /// What `nvmlSystemGetNVMLVersion` says.
    #[serde(default = "parse::default_nvml")]
    pub nvml: String,
    /// CUDA version as `major.minor`.
    #[serde(default = "parse::default_cuda")]
    pub cuda: String,
    /// Whether changing a setting needs `CAP_SYS_ADMIN`, as it does on a real node.
    #[serde(default)]
    pub needs_admin: bool,
    /// How initialisation goes wrong.
    #[serde(default)]
    pub init: Init,
    /// Function name to the code it returns, for any GPU and for calls that concern none.
    #[serde(default)]
    pub errors: BTreeMap<String, u32>,
    /// The GPUs in index order.
    #[serde(default, rename = "gpu")]
    pub gpus: Vec<Gpu>,
    /// GPUs that are lost or need a reset for a while.
    #[serde(default, rename = "fault")]
    pub faults: Vec<Fault>,
    /// Calls that do not return in time.
    #[serde(default, rename = "hang")]
    pub hangs: Vec<Hang>,
    /// XID events.
    #[serde(default, rename = "event")]
    pub events: Vec<Event>,
    /// Times without a driver.
    #[serde(default, rename = "driver_gone")]
    pub driver_gone: Vec<DriverGone>,
}

/// How `nvmlInit` goes wrong, for all or up to `until_ms`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Init {
    /// The code it returns.
    pub error: Option<u32>,
    /// How long it takes before it returns.
    pub hang_ms: Option<Span>,
    /// From here on initialisation works (milliseconds from the epoch).
    pub until_ms: Option<u64>,
}

/// A length of time that may have no end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Span {
    /// Milliseconds.
    Ms(u64),
    /// Never ends: `"forever"`.
    #[default]
    Forever,
}

/// One GPU.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
    pub uuid: String,
    /// Product name.
    pub name: String,
    /// PCI bus id, `domain:bus:device.function` in hexadecimal.
    pub pci: String,
    /// Decides which fields exist and the default compute capability.
    #[serde(default)]
    pub architecture: Architecture,
    /// `major.minor`; by default that of the architecture.
    pub compute_capability: Option<String>,
    /// Board serial number; without it the call is not supported.
    pub serial: Option<String>,
    /// `/dev/nvidia<minor>`; by default the index.
    pub minor: Option<u32>,
    /// CUDA cores; without it the call is not supported.
    pub cores: Option<u32>,
    /// All memory of the board, MiB.
    pub memory_mib: u64,
    /// What the driver keeps for itself, MiB.
    #[serde(default)]
    pub reserved_mib: u64,
    /// Memory in use, MiB; by default the sum over the running processes.
    pub used_mib: Option<Track>,
    /// After this time every curve of this GPU starts again.
    pub period_ms: Option<u64>,
    /// GPU utilisation, percent.
    #[serde(default = "parse::zero")]
    pub utilization: Track,
    /// Memory-controller utilisation, percent.
    #[serde(default = "parse::zero")]
    pub memory_busy: Track,
    /// Encoder utilisation, percent.
    #[serde(default = "parse::zero")]
    pub encoder: Track,
    /// Decoder utilisation, percent.
    #[serde(default = "parse::zero")]
    pub decoder: Track,
    /// Samples a second that the driver's ring takes.
    #[serde(default = "parse::default_ring_hz")]
    pub ring_hz: u32,
    /// Whether the ring has samples at all.
    #[serde(default = "parse::yes")]
    pub ring: bool,
    /// Power draw, W.
    #[serde(default = "parse::default_power")]
    pub power_watts: Track,
    /// Enforced power limit, W.
    #[serde(default = "parse::default_power_limit")]
    pub power_limit_watts: f64,
    /// GPU temperature, degrees Celsius.
    #[serde(default = "parse::default_temperature")]
    pub temperature: Track,
    /// Memory temperature, degrees Celsius; without it field 82 is not supported.
    pub memory_temperature: Option<Track>,
    /// SM clock, MHz.
    #[serde(default = "parse::default_sm_clock")]
    pub sm_clock_mhz: Track,
    /// Memory clock, MHz.
    #[serde(default = "parse::default_memory_clock")]
    pub memory_clock_mhz: Track,
    /// Highest SM clock, MHz.
    #[serde(default = "parse::default_max_sm_clock")]
    pub max_sm_clock_mhz: u32,
    /// Bit mask of the reasons that hold the clocks down; by default idle or none.
    pub throttle_reasons: Option<u64>,
    /// Whether the memory has ECC.
    #[serde(default = "parse::yes")]
    pub ecc: bool,
    /// MIG: absent = not capable, false = off, true = on.
    pub mig: Option<bool>,
    /// The compute mode while nobody has set another.
    #[serde(default)]
    pub compute_mode: ComputeMode,
    /// Whether setting the compute mode says success and changes nothing.
    #[serde(default)]
    pub ignores_compute_mode: bool,
    /// `NVLink` links; 0 where there are none.
    #[serde(default)]
    pub nvlinks: u32,
    /// `PCIe` generation in use.
    #[serde(default = "parse::default_pcie_generation")]
    pub pcie_generation: u32,
    /// `PCIe` lanes in use.
    #[serde(default = "parse::default_pcie_width")]
    pub pcie_width: u32,
    /// What the field ids answer, over the defaults.
    #[serde(default, deserialize_with = "parse::field_ids")]
    pub fields: BTreeMap<u32, Field>,
    /// Function name to the code it returns for this GPU.
    #[serde(default)]
    pub errors: BTreeMap<String, u32>,
    /// By how many processes a list grows after its size was asked.
    #[serde(default)]
    pub grow_per_call: u32,
    /// Processes on the GPU.
    #[serde(default, rename = "process")]
    pub processes: Vec<Process>,
}

/// Generations of GPUs that EKS nodes have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the variants are product names")]
pub enum Architecture {
    Volta,
    Turing,
    #[default]
    Ampere,
    Ada,
    Hopper,
    Blackwell,
}

/// Who may use a GPU for computing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComputeMode {
    /// Any number of processes.
    #[default]
    Default,
    /// One thread of one process; drivers of today know it no more.
    ExclusiveThread,
    /// Nobody.
    Prohibited,
    /// One process, such as an MPS server.
    ExclusiveProcess,
}

impl ComputeMode {
    /// `nvmlComputeMode_t`.
    pub(crate) fn number(self) -> u32 {
        use nvml_wrapper_sys::bindings as sys;
        match self {
            Self::Default => sys::nvmlComputeMode_enum_NVML_COMPUTEMODE_DEFAULT,
            Self::ExclusiveThread => sys::nvmlComputeMode_enum_NVML_COMPUTEMODE_EXCLUSIVE_THREAD,
            Self::Prohibited => sys::nvmlComputeMode_enum_NVML_COMPUTEMODE_PROHIBITED,
            Self::ExclusiveProcess => sys::nvmlComputeMode_enum_NVML_COMPUTEMODE_EXCLUSIVE_PROCESS,
        }
    }
}

/// What one field id answers.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// A gauge, or where the ramp begins.
    pub value: Option<f64>,
    /// A counter that grows at this rate.
    pub ramp_per_s: Option<f64>,
    /// The field's own return code.
    pub error: Option<u32>,
    /// Up to here the default answers (milliseconds from the epoch).
    #[serde(default)]
    pub from_ms: u64,
}

/// One process on a GPU.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// What `nvmlSystemGetProcessName` says; without it the process is not found.
    pub name: Option<String>,
    /// Memory, MiB; without it the driver says "not available".
    pub memory_mib: Option<u64>,
    /// The lists it stands in.
    #[serde(default = "parse::compute_list")]
    pub lists: Vec<List>,
    /// SM utilisation, percent; without it the process has no utilisation samples.
    pub utilization: Option<Track>,
    /// From when (milliseconds from the epoch).
    #[serde(default)]
    pub from_ms: u64,
    /// Until when (milliseconds from the epoch); without it for ever.
    pub to_ms: Option<u64>,
}

/// NVML's three lists of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum List {
    /// `nvmlDeviceGetComputeRunningProcesses`.
    Compute,
    /// `nvmlDeviceGetMPSComputeRunningProcesses`.
    Mps,
    /// `nvmlDeviceGetGraphicsRunningProcesses`.
    Graphics,
}

/// A GPU that is lost or needs a reset.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Index of the GPU.
    pub gpu: usize,
    /// What is wrong.
    pub kind: FaultKind,
    /// Since when (milliseconds from the epoch).
    pub at_ms: u64,
    /// Until when (milliseconds from the epoch); without it for ever.
    pub clears_ms: Option<u64>,
    /// The functions that fail; by default all (lost), or those that need the engines (reset required).
    pub functions: Option<Vec<String>>,
}

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Calls return `GPU_IS_LOST` (15).
    Lost,
    /// Calls return `RESET_REQUIRED` (16).
    ResetRequired,
}

/// A call that does not return in time.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hang {
    /// The function.
    pub function: String,
    /// Only on this GPU (index).
    pub gpu: Option<usize>,
    /// Calls that begin from here on hang (milliseconds from the epoch).
    #[serde(default)]
    pub at_ms: u64,
    /// Calls that begin from here on do not.
    pub until_ms: Option<u64>,
    /// For how long; without it for ever.
    #[serde(default)]
    pub ms: Span,
    /// How many calls hang, per load of the library; without it all.
    pub times: Option<u32>,
}

/// One XID event.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When (milliseconds from the epoch).
    pub at_ms: u64,
    /// Index of the GPU.
    pub gpu: usize,
    /// The XID.
    pub xid: u64,
}

/// A time without a driver: it is unloaded, perhaps replaced, and loaded again.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriverGone {
    /// Since when (milliseconds from the epoch).
    pub at_ms: u64,
    /// Until when; without it for ever.
    pub clears_ms: Option<u64>,
    /// What calls return to a process that was initialised before.
    #[serde(default = "parse::uninitialized")]
    pub error: u32,
    /// What `nvmlInit` returns meanwhile.
    #[serde(default = "parse::driver_not_loaded")]
    pub init_error: u32,
}

/// Why a text is not a scenario.
#[derive(Debug)]
pub enum ScenarioError {
    /// Not TOML, an unknown key, or a value of the wrong type.
    Syntax(toml::de::Error),
    /// Well formed, but it cannot be played; one line per fault.
    Meaning(Vec<String>),
}

impl Scenario {
    /// Reads a scenario and checks all of it.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text).map_err(ScenarioError::Syntax)?;
        let faults = check::faults(&scenario);
        if faults.is_empty() {
            Ok(scenario)
        } else {
            Err(ScenarioError::Meaning(faults))
        }
    }
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(_) => write!(
                f,
                "the scenario is not valid TOML or has a key of the wrong name or type"
            ),
            Self::Meaning(faults) => write!(f, "the scenario cannot be played: {}", faults.join("; ")),
        }
    }
}

impl std::error::Error for ScenarioError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Syntax(source) => Some(source),
            Self::Meaning(_) => None,
        }
    }
}
