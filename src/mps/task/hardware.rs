//! What the inventory says about a GPU, as far as MPS is concerned. Pure.

use std::time::Duration;

use super::MpsSettings;
use crate::gpu::inventory::Reason;
use crate::gpu::wire::FaultKind;
use crate::gpu::{ComputeMode, DriverState, GpuState};
use crate::mps::plan::Device;
use crate::mps::{Trouble, Warning, limits};

/// What a reading of the compute mode takes on its way here, after it was set.
pub(super) const READING_DELAY: Duration = Duration::from_secs(10);

/// What is known of a GPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    /// Why MPS cannot be on it at all.
    pub(crate) refusal: Option<Trouble>,
    /// Why no container may start on it although MPS works.
    pub(crate) objection: Option<Trouble>,
    /// The most clients that it takes.
    pub(crate) client_limit: Option<u32>,
    /// See [`crate::mps::MpsGpu::smallest_useful_slices`].
    pub(crate) smallest_useful_slices: Option<u32>,
    /// What to tell about that.
    pub(crate) small_slices: Option<Warning>,
    /// Whether its compute mode is `EXCLUSIVE_PROCESS`.
    pub(crate) is_exclusive: Option<bool>,
}

/// Whether there is a GPU.
pub(super) fn device(driver: &DriverState, state: &GpuState) -> Device {
    match driver {
        DriverState::Off | DriverState::Starting | DriverState::Stuck => Device::Unknown,
        DriverState::Unavailable { fault } => match fault.kind {
            // Nothing that runs on the GPU has to notice that.
            FaultKind::ChildDied | FaultKind::Other => Device::Unknown,
            FaultKind::DriverNotLoaded => Device::Gone,
            FaultKind::LibraryMissing
            | FaultKind::NotNvml
            | FaultKind::VersionMismatch
            | FaultKind::NoPermission => Device::NoDriver,
        },
        DriverState::Ready { .. } => {
            let reasons = &state.health.reasons;
            if reasons.contains(&Reason::Lost) {
                Device::Gone
            } else if reasons.contains(&Reason::Missing) {
                missing(driver)
            } else if reasons.contains(&Reason::DriverUnavailable) {
                Device::NoDriver
            } else {
                Device::Here
            }
        }
    }
}

/// A GPU that the driver counts and cannot open has no name: any that is missing may be the one.
fn missing(driver: &DriverState) -> Device {
    if lists_all(driver) {
        Device::Gone
    } else {
        Device::Unknown
    }
}

/// Whether the driver answers, and names every GPU that it counts: only then is one that it does not name not there.
pub(super) fn lists_all(driver: &DriverState) -> bool {
    matches!(driver, DriverState::Ready { unreadable: 0, .. })
}

/// What MPS can be on this GPU.
pub(crate) fn judge(settings: &MpsSettings, driver: &DriverState, state: &GpuState) -> Verdict {
    let newest = state.newest.as_ref();
    let client_limit = state
        .info
        .compute_capability
        .and_then(|capability| limits::client_limit(capability, major(driver)));
    let memory = newest.and_then(|newest| newest.memory);
    let allocatable = memory.map(|memory| memory.total_bytes.saturating_sub(memory.reserved_bytes));
    let sliced = allocatable.zip(settings.slices);
    Verdict {
        refusal: refusal(driver, state, client_limit),
        objection: client_limit.and_then(|limit| too_many_slices(settings, state, limit)),
        client_limit,
        smallest_useful_slices: sliced
            .and_then(|(bytes, per_gpu)| limits::smallest_useful_slices(bytes, per_gpu)),
        small_slices: sliced
            .and_then(|(bytes, per_gpu)| limits::small_slices(bytes, per_gpu, &state.info.model)),
        is_exclusive: newest
            .and_then(|newest| newest.compute_mode)
            .map(|mode| mode == ComputeMode::ExclusiveProcess),
    }
}

fn refusal(driver: &DriverState, state: &GpuState, client_limit: Option<u32>) -> Option<Trouble> {
    if state.newest.as_ref().and_then(|newest| newest.mig) == Some(true) {
        return Some(Trouble {
            why: "MIG is on: one daemon per MIG instance is not supported".into(),
            mend: format!(
                "switch MIG off (nvidia-smi -i {} -mig 0), or set mps.enabled = false on nodes with MIG",
                state.info.uuid
            ),
        });
    }
    // A GPU that this agent has not seen has no capability to judge by.
    state.info.compute_capability?;
    client_limit.is_none().then(|| Trouble {
        why: format!(
            "{} is too old for MPS (driver {})",
            state.info.model,
            major(driver)
        ),
        mend: "use a newer GPU, or set mps.enabled = false".into(),
    })
}

fn too_many_slices(settings: &MpsSettings, state: &GpuState, limit: u32) -> Option<Trouble> {
    let per_gpu = settings.slices?;
    let error = limits::check_slices(per_gpu, limit, &state.info.model).err()?;
    Some(Trouble {
        why: format!("slices.per_gpu = {per_gpu} is more than the {limit} MPS clients that the GPU takes"),
        mend: error.to_string(),
    })
}

/// The first number of the driver's version.
fn major(driver: &DriverState) -> u32 {
    match driver {
        DriverState::Ready { driver_version, .. } => {
            let first = driver_version.split('.').next().unwrap_or_default();
            first.parse().unwrap_or_default()
        }
        _ => 0,
    }
}
