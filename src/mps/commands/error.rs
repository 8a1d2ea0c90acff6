//! Why `gpushare mps quit` and `gpushare mps restart` fail, and what an operator does about it.

use std::io;

use crate::gpu::GpuUuid;
use crate::mps::Trouble;
use crate::mps::argument::GpuArgumentError;
use crate::mps::backend::BackendError;
use crate::mps::compute_mode::RestoreError;
use crate::mps::control::ControlError;
use crate::mps::directories::PathTooLong;
use crate::mps::supervisor::SupervisorError;
use crate::mps::units::unit_name;

/// Why MPS was not ended, or not started again.
#[derive(Debug, thiserror::Error)]
pub enum MpsCommandError {
    /// The argument names no GPU.
    #[error(transparent)]
    Argument(#[from] GpuArgumentError),
    /// `mps.dir` is too long.
    #[error(transparent)]
    PathTooLong(#[from] PathTooLong),
    /// It cannot be remembered that it is stopped on purpose.
    #[error("it cannot be noted whether MPS is to stay stopped; mend: {mend}")]
    Mark {
        /// What to do.
        mend: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The process that keeps the daemon cannot be seen or ended.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    /// A daemon without that process cannot be ended.
    #[error("{0}; mend: {mend}", mend = .0.mend())]
    Control(ControlError),
    /// MPS has ended, and the GPU is not as it was before.
    #[error(
        "MPS has ended on {gpu}, but its compute mode is not restored; mend: nvidia-smi -i {gpu} -c DEFAULT"
    )]
    Restore {
        /// The GPU.
        gpu: GpuUuid,
        /// Why not.
        #[source]
        source: RestoreError,
    },
    /// It survives SIGKILL.
    #[error(
        "process {pid} (gpushare mps run) survives SIGKILL: it is stuck in the driver; mend: reboot the node"
    )]
    Stuck {
        /// Its process id.
        pid: u32,
    },
    /// Its directory cannot be made, or what it left cannot be ended.
    #[error("{}; mend: {}", .0.why, .0.mend)]
    Trouble(Trouble),
    /// systemd does not stop the unit.
    #[error("{unit} cannot be stopped; mend: {mend}")]
    Unit {
        /// Its name.
        unit: String,
        /// What to do.
        mend: String,
        /// Why not.
        #[source]
        source: BackendError,
    },
    /// systemd has not stopped the unit in time.
    #[error("{unit} has not stopped within {} s; mend: systemctl kill -s KILL {unit}", super::UNIT_LIMIT.as_secs())]
    UnitStays {
        /// Its name.
        unit: String,
    },
    /// There is nothing to start again.
    #[error(
        "MPS does not run on {gpu}; mend: the agent (gpushare run) starts it where mps.enabled is true, and gpushare \
         status says why it has not"
    )]
    NotRunning {
        /// The GPU.
        gpu: GpuUuid,
    },
    /// Clients would be lost.
    #[error(
        "{gpu} has MPS clients, which a restart would end: {clients}; mend: end them first, or give --force to lose them"
    )]
    HasClients {
        /// The GPU.
        gpu: GpuUuid,
        /// Their pids and commands.
        clients: String,
    },
    /// Clients may be lost.
    #[error(
        "it cannot be seen whether {gpu} has MPS clients: {why}; mend: give --force to lose those that it has"
    )]
    ClientsUnknown {
        /// The GPU.
        gpu: GpuUuid,
        /// Why not.
        why: String,
    },
    /// Nobody has started it again.
    #[error(
        "MPS has ended on {gpu}, and does not answer again after {} s{}; mend: see that the agent runs (gpushare \
         status), and look at journalctl -u {} (the agent's own log, with mps.backend = \"process\")",
        super::START_LIMIT.as_secs(), after_colon(why.as_deref()), unit_name(gpu)
    )]
    NotBack {
        /// The GPU.
        gpu: GpuUuid,
        /// How far it has come.
        why: Option<String>,
    },
}

fn after_colon(why: Option<&str>) -> String {
    why.map(|why| format!(": {why}")).unwrap_or_default()
}

impl MpsCommandError {
    /// 1 failed, 64 usage, 69 unavailable, 78 configuration.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Argument(error) => error.exit_code(),
            Self::PathTooLong(_) => 78,
            Self::NotRunning { .. } => 69,
            _ => 1,
        }
    }
}
