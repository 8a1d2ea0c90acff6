//! Who keeps the daemons' processes: the seam between the reconciler and systemd, or plain child processes.

use std::future::Future;

use crate::gpu::GpuUuid;

/// What the backend knows about the process of one GPU's daemon (`gpushare mps run`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// There is none, and none is being started.
    Inactive,
    /// Started, and not READY yet.
    Starting,
    /// READY was said.
    Running {
        /// Its process id.
        pid: u32,
    },
    /// On its way out.
    Stopping,
    /// It ended and is not started again by the backend.
    Failed(Ended),
}

/// How a daemon's process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The backend's word for it, such as systemd's `Result`.
    pub result: String,
}

/// The backend cannot do its work.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub struct BackendError {
    /// What it cannot do, and why.
    pub what: String,
    /// What an operator does about it.
    pub mend: String,
}

/// Starts and watches one process per GPU. Every call ends within a few seconds, whatever is behind it.
pub trait Backend: Send {
    /// How the daemon's process is.
    fn unit(&mut self, gpu: &GpuUuid) -> impl Future<Output = Result<Unit, BackendError>> + Send;

    /// Starts it. Success = the start was ordered.
    fn start(&mut self, gpu: &GpuUuid) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Stops it in order, and restores the GPU's compute mode.
    fn stop(&mut self, gpu: &GpuUuid) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Ends it and starts it anew.
    fn restart(&mut self, gpu: &GpuUuid) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Lets it set the compute mode and the pods' view again (SIGHUP). Clients are not disturbed.
    fn reload(&mut self, gpu: &GpuUuid) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// How its process has failed is of no interest any more.
    fn forget(&mut self, gpu: &GpuUuid) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// The GPUs for which there is a process, wished or not.
    fn known(&mut self) -> impl Future<Output = Result<Vec<GpuUuid>, BackendError>> + Send;

    /// Resolves when a process may have changed its state. Cancel-safe.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
}
