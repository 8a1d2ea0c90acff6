//! The frames between the agent and its NVML child.
//!
//! A frame is a length (u32, big endian, what tokio's `LengthDelimitedCodec` speaks) and a postcard-encoded
//! message. Both ends are the same binary, so the encoding needs no version.
//!
//! The agent sends one [`Setup`]; everything else flows from the child. When either end goes away the other
//! sees the end of the stream.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{ComputeMode, GpuInfo, GpuProcess, GpuUuid, Memory};

/// No frame is longer: 950 processes (the most a driver lists) on one GPU need 20 kB.
pub const MAX_FRAME_BYTES: usize = 256 * 1024;

/// What the child needs to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// `gpu.nvml_library`.
    pub library: PathBuf,
    /// `sample.interval`.
    pub interval: Duration,
    /// How often process lists are read: each walks all of the driver's clients under its lock.
    pub process_interval: Duration,
    /// Newest utilisation sample that was seen of each GPU (driver's clock, microseconds since the epoch): a
    /// new child goes on where the old one stopped, as far as the driver's ring reaches back.
    pub seen: Vec<(GpuUuid, u64)>,
}

/// What the child says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromChild {
    /// NVML works; sent once, first.
    Ready(Driver),
    /// NVML does not work, or does not any more. The child exits after this.
    Unavailable(Fault),
    /// One GPU was read.
    Read(Box<Reading>),
}

/// The driver and its GPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Driver {
    /// `nvmlSystemGetDriverVersion`.
    pub driver_version: String,
    /// `nvmlSystemGetCudaDriverVersion_v2`.
    pub cuda_version: Option<String>,
    /// The GPUs that could be identified.
    pub gpus: Vec<GpuInfo>,
    /// How many more the driver counts but cannot open (lost before the child started).
    pub unreadable: u32,
}

/// One reading of one GPU, raw: counters are running totals of the driver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Whose.
    pub uuid: GpuUuid,
    /// When it began, `CLOCK_MONOTONIC`.
    pub at: Duration,
    /// How long NVML took for it.
    pub took: Duration,
    /// Whether everything was read, or the utilisation ring alone, which must be emptied more often.
    pub whole: bool,
    /// Every sample of the utilisation ring since the reading before.
    pub utilization: Vec<RingSample>,
    /// Timestamp of the newest of them.
    pub newest_sample: Option<u64>,
    /// Device memory.
    pub memory: Option<Memory>,
    /// Milliwatts.
    pub power_milliwatts: Option<u64>,
    /// Degrees Celsius.
    pub temperature_celsius: Option<i64>,
    /// Megahertz.
    pub sm_clock_mhz: Option<u32>,
    /// How the GPU was held back.
    pub throttle: Option<Throttle>,
    /// Volatile uncorrectable ECC errors since the driver was loaded.
    pub ecc_uncorrected_total: Option<u64>,
    /// NVML field 230; 0 = none needed.
    pub recovery_action: Option<u32>,
    /// Processes on the GPU, every `process_interval`.
    pub processes: Option<Vec<GpuProcess>>,
    /// Its settings, every few seconds.
    pub modes: Option<Modes>,
    /// What NVML answered instead of data.
    pub fault: Option<GpuFault>,
}

impl Reading {
    /// A reading in which nothing was read yet.
    #[must_use]
    pub fn new(uuid: GpuUuid, at: Duration) -> Self {
        Self {
            uuid,
            at,
            took: Duration::ZERO,
            whole: true,
            utilization: Vec::new(),
            newest_sample: None,
            memory: None,
            power_milliwatts: None,
            temperature_celsius: None,
            sm_clock_mhz: None,
            throttle: None,
            ecc_uncorrected_total: None,
            recovery_action: None,
            processes: None,
            modes: None,
            fault: None,
        }
    }
}

/// One sample of utilisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingSample {
    /// When the driver took it, microseconds since the Unix epoch: names the window it belongs to.
    pub unix_us: u64,
    /// Percent.
    pub percent: u32,
}

/// Settings of a GPU that an administrator may change at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Modes {
    /// `nvmlDeviceGetComputeMode`.
    pub compute_mode: Option<ComputeMode>,
    /// `nvmlDeviceGetMigMode`, the current one; absent on a GPU that knows no MIG.
    pub mig: Option<bool>,
}

/// How a GPU was held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Throttle {
    /// Total nanoseconds for power, temperature, board limit and reliability (NVML fields 74, 75, 77, 79); a
    /// reason that the GPU does not count is absent.
    Totals([Option<u64>; 4]),
    /// At this instant (`nvmlDeviceGetCurrentClocksThrottleReasons`).
    Now(bool),
}

/// Why one GPU does not answer properly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuFault {
    /// `NVML_ERROR_GPU_IS_LOST` (15).
    Lost,
    /// `NVML_ERROR_RESET_REQUIRED` (16).
    ResetRequired,
    /// Not one call succeeded, and at least one failed for no known reason.
    Failing,
}

/// Why NVML as a whole does not work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The class, by which it is counted and acted on.
    pub kind: FaultKind,
    /// What the library or the loader said.
    pub detail: String,
}

/// The classes of [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// There is no such library: no driver installed, or not yet.
    LibraryMissing,
    /// The file is there, but is not NVML.
    NotNvml,
    /// `NVML_ERROR_DRIVER_NOT_LOADED` (9), or the driver went away (1).
    DriverNotLoaded,
    /// `NVML_ERROR_LIB_RM_VERSION_MISMATCH` (18): the library was upgraded, the kernel module was not.
    VersionMismatch,
    /// `NVML_ERROR_NO_PERMISSION` (4): device files or cgroup.
    NoPermission,
    /// The child ended without a word.
    ChildDied,
    /// Any other code.
    Other,
}

impl Fault {
    /// What an operator does about it.
    #[must_use]
    pub fn mend(&self) -> &'static str {
        match self.kind {
            FaultKind::LibraryMissing => {
                "install the NVIDIA driver, use the accelerated AMI, or set gpu.enabled = false on a node without GPUs"
            }
            FaultKind::NotNvml => "point gpu.nvml_library at the driver's libnvidia-ml.so.1",
            FaultKind::DriverNotLoaded => "wait for the driver to load, or look at: dmesg | grep -i nvrm",
            FaultKind::VersionMismatch => {
                "reload the kernel module (or reboot): the driver was upgraded on disk"
            }
            FaultKind::NoPermission => "check DeviceAllow= of the unit and the modes of /dev/nvidia*",
            FaultKind::ChildDied => "look at the journal around this time",
            FaultKind::Other => "look at: dmesg | grep -i nvrm, and nvidia-smi",
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.kind {
            FaultKind::LibraryMissing => "no NVML library",
            FaultKind::NotNvml => "not an NVML library",
            FaultKind::DriverNotLoaded => "NVIDIA driver not loaded",
            FaultKind::VersionMismatch => "driver and library versions differ",
            FaultKind::NoPermission => "no permission to use the driver",
            FaultKind::ChildDied => "NVML process died",
            FaultKind::Other => "NVML failed",
        };
        write!(f, "{what}: {}", self.detail)
    }
}

/// Writes one frame, in one piece so that threads that share the stream do not interleave.
pub fn write_frame<T: Serialize>(mut to: impl Write, message: &T) -> io::Result<()> {
    let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    to.write_all(&frame)
}

/// Reads one frame; `None` at the end of the stream.
pub fn read_frame<T: DeserializeOwned>(mut from: impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes"),
        ));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    decode(&body).map(Some)
}

/// Decodes the body of one frame.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    postcard::from_bytes(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_as_it_went() {
        let message = FromChild::Unavailable(Fault {
            kind: FaultKind::VersionMismatch,
            detail: "18".into(),
        });
        let mut stream = Vec::new();
        write_frame(&mut stream, &message).unwrap();
        let mut read = stream.as_slice();
        assert_eq!(read_frame::<FromChild>(&mut read).unwrap(), Some(message));
        assert_eq!(read_frame::<FromChild>(&mut read).unwrap(), None);
    }

    #[test]
    fn garbage_and_torn_frames_are_errors_not_panics() {
        let huge = [0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(
            read_frame::<FromChild>(huge.as_slice()).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        let torn = [0, 0, 0, 9, 1, 2];
        assert_eq!(
            read_frame::<FromChild>(torn.as_slice()).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        let nonsense = [0, 0, 0, 2, 77, 77];
        assert_eq!(
            read_frame::<FromChild>(nonsense.as_slice()).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }
}
