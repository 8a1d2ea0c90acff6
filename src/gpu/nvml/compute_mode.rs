//! `gpushare nvml --gpu UUID --compute-mode [MODE]`: reads the compute mode of one GPU, or sets it and reads it back.
//!
//! A process of its own, because NVML may hang: whoever starts it kills it after a while, and by PDEATHSIG if it is
//! killed itself. NVML is not shut down, for the reasons in [`super`].

use std::path::PathBuf;

use nvml_wrapper::enum_wrappers::device::ComputeMode as NvmlComputeMode;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use rustix::process::Signal;

use super::{describe, fault_of_call, fault_of_init};
use crate::cli::Global;
use crate::commands::{Failure, load_config, print};
use crate::gpu::wire::Fault;
use crate::gpu::{ComputeMode, ComputeModes, GpuUuid};

/// Why the compute mode is not what it should be, or not known.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ComputeModeError {
    /// There is no NVML, or it does not work.
    #[error("{}; mend: {}", .0, .0.mend())]
    Unavailable(Fault),
    /// The driver does not list the GPU.
    #[error("there is no GPU {uuid}; {known}")]
    NoSuchGpu {
        /// The GPU asked for.
        uuid: GpuUuid,
        /// Those that there are.
        known: String,
    },
    /// The GPU does not answer properly.
    #[error("GPU {uuid} cannot be used: {why}; mend: reset it, or replace the node")]
    Broken {
        /// The GPU.
        uuid: GpuUuid,
        /// What NVML says.
        why: String,
    },
    /// The GPU is cut into MIG instances, each of which would be a GPU of its own to MPS.
    #[error(
        "GPU {uuid} has MIG on, and MPS shares whole GPUs only; mend: nvidia-smi -i {uuid} -mig 0, or mps.enabled = false"
    )]
    MigOn {
        /// The GPU.
        uuid: GpuUuid,
    },
    /// The driver does not take this process for an administrator.
    #[error(
        "no permission to set the compute mode of GPU {uuid}: the driver asks for CAP_SYS_ADMIN; mend: run as root, and \
         let the unit keep CAP_SYS_ADMIN"
    )]
    NoPermission {
        /// The GPU.
        uuid: GpuUuid,
    },
    /// The driver does not know such a thing for this GPU.
    #[error(
        "the compute mode of GPU {uuid} cannot be {}: the driver does not support it, as on a vGPU; mend: \
         mps.exclusive_process = false",
        if *set { "set" } else { "read" }
    )]
    NotSupported {
        /// The GPU.
        uuid: GpuUuid,
        /// Whether it was to be set.
        set: bool,
    },
    /// The driver said yes, and did not do it.
    #[error(
        "the compute mode of GPU {uuid} was set to {wished} and reads back {found}; mend: look at nvidia-smi -q -d COMPUTE"
    )]
    Ignored {
        /// The GPU.
        uuid: GpuUuid,
        /// What was set.
        wished: ComputeMode,
        /// What was read.
        found: ComputeMode,
    },
    /// Any other failure.
    #[error("the compute mode of GPU {uuid} cannot be {}: {why}", if *set { "set" } else { "read" })]
    Failed {
        /// The GPU.
        uuid: GpuUuid,
        /// Whether it was to be set.
        set: bool,
        /// What NVML says.
        why: String,
    },
}

impl ComputeModeError {
    /// Whether GPU or driver are not there, so that trying again later may help.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_) | Self::NoSuchGpu { .. } | Self::Broken { .. } | Self::MigOn { .. }
        )
    }
}

/// The command: prints [`ComputeModes`] as a line of JSON. Without `library` the configuration names it.
pub fn command(
    global: &Global,
    uuid: &str,
    wished: Option<ComputeMode>,
    library: Option<PathBuf>,
) -> Result<(), Failure> {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let library = match library {
        Some(library) => library,
        None => load_config(global)?.gpu.nvml_library,
    };
    let nvml = Nvml::builder()
        .lib_path(library.as_os_str())
        .init()
        .map_err(|error| ComputeModeError::Unavailable(fault_of_init(&error, &library)))?;
    let nvml: &'static Nvml = Box::leak(Box::new(nvml));
    let modes = Subject::open(nvml, uuid)?.apply(wished)?;
    let _ = print(&line(modes))?;
    Ok(())
}

fn line(modes: ComputeModes) -> String {
    serde_json::to_string(&modes).expect("two names are valid JSON") + "\n"
}

/// The GPU in question.
struct Subject {
    uuid: GpuUuid,
    device: Device<'static>,
}

impl Subject {
    /// Finds a GPU that MPS could share.
    fn open(nvml: &'static Nvml, uuid: &str) -> Result<Self, ComputeModeError> {
        let device = match nvml.device_by_uuid(uuid) {
            Ok(device) => device,
            Err(NvmlError::NotFound | NvmlError::InvalidArg) => return Err(no_such_gpu(nvml, uuid)),
            Err(error) => return Err(of_call(uuid.into(), &error, false)),
        };
        let uuid = GpuUuid::from(uuid);
        match device.mig_mode() {
            Ok(mode) if mode.current != 0 => Err(ComputeModeError::MigOn { uuid }),
            // Most GPUs know no MIG, and old drivers none at all.
            _ => Ok(Self { uuid, device }),
        }
    }

    fn apply(mut self, wished: Option<ComputeMode>) -> Result<ComputeModes, ComputeModeError> {
        let before = self.read()?;
        let Some(wished) = wished else {
            return Ok(ComputeModes { before, now: before });
        };
        // Asking for what is there already would need a permission for nothing.
        if wished != before {
            self.device
                .set_compute_mode(to_nvml(wished))
                .map_err(|error| of_call(self.uuid.clone(), &error, true))?;
        }
        let now = self.read()?;
        if now == wished {
            return Ok(ComputeModes { before, now });
        }
        let (uuid, found) = (self.uuid, now);
        Err(ComputeModeError::Ignored { uuid, wished, found })
    }

    fn read(&self) -> Result<ComputeMode, ComputeModeError> {
        let answer = self.device.compute_mode();
        answer
            .map(from_nvml)
            .map_err(|error| of_call(self.uuid.clone(), &error, false))
    }
}

/// The error that names the GPUs that there are.
fn no_such_gpu(nvml: &'static Nvml, uuid: &str) -> ComputeModeError {
    let count = match nvml.device_count() {
        Ok(count) => count,
        Err(error) => return ComputeModeError::Unavailable(fault_of_call(&error)),
    };
    let known: Vec<String> = (0..count)
        .filter_map(|index| nvml.device_by_index(index).ok()?.uuid().ok())
        .collect();
    let known = if known.is_empty() {
        "the driver sees none; look at: dmesg | grep -i nvrm".into()
    } else {
        format!("the driver sees {}", known.join(", "))
    };
    let uuid = uuid.into();
    ComputeModeError::NoSuchGpu { uuid, known }
}

/// What a call that failed on the GPU means. `set`: it was to change something.
fn of_call(uuid: GpuUuid, error: &NvmlError, set: bool) -> ComputeModeError {
    match error {
        NvmlError::NoPermission if set => ComputeModeError::NoPermission { uuid },
        NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_) => {
            ComputeModeError::NotSupported { uuid, set }
        }
        NvmlError::GpuLost | NvmlError::ResetRequired => ComputeModeError::Broken {
            uuid,
            why: describe(error),
        },
        error => match super::driver_fault(error) {
            Some(fault) => ComputeModeError::Unavailable(fault),
            None => ComputeModeError::Failed {
                uuid,
                set,
                why: describe(error),
            },
        },
    }
}

/// Ours for NVML's.
pub(super) fn from_nvml(mode: NvmlComputeMode) -> ComputeMode {
    match mode {
        NvmlComputeMode::Default => ComputeMode::Default,
        NvmlComputeMode::ExclusiveThread => ComputeMode::ExclusiveThread,
        NvmlComputeMode::Prohibited => ComputeMode::Prohibited,
        NvmlComputeMode::ExclusiveProcess => ComputeMode::ExclusiveProcess,
    }
}

fn to_nvml(mode: ComputeMode) -> NvmlComputeMode {
    match mode {
        ComputeMode::Default => NvmlComputeMode::Default,
        ComputeMode::ExclusiveThread => NvmlComputeMode::ExclusiveThread,
        ComputeMode::Prohibited => NvmlComputeMode::Prohibited,
        ComputeMode::ExclusiveProcess => NvmlComputeMode::ExclusiveProcess,
    }
}
