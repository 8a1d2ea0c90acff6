//! The NVML child process (`gpushare nvml`): the only code that names `nvml-wrapper`.
//!
//! Everything in here may hang: NVML's init, and any call on any GPU. That is why it is a process, and why each
//! GPU has a thread of its own in it: a GPU that hangs silences only itself. Each thread reads its GPU once per
//! interval and sends a [`Reading`](super::wire::Reading); it never has two calls under way.
//!
//! NVML is initialised once and never shut down: the process ends instead, at which the kernel releases
//! everything. That avoids NVML's reference count, a shutdown that hangs, and a wrapper that panics on drop when
//! the library lacks `nvmlShutdown`. A library or driver that changes is met by a fresh process.
//!
//! It must not outlive the agent: it ends when its stream does, and by PDEATHSIG.
//!
//! [`compute_mode`] is another process of the same kind, for one question and one answer.

pub mod compute_mode;
mod device;
mod processes;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use rustix::process::Signal;

use self::device::DeviceReader;
use super::wire::{self, Driver, Fault, FaultKind, FromChild, Setup};
use super::{GpuInfo, GpuUuid, beat};
use crate::metrics::clock;

/// Why the child could not do its work at all.
#[derive(Debug, thiserror::Error)]
pub enum NvmlChildError {
    /// Somebody typed the command.
    #[error("`gpushare nvml` is started by `gpushare run` and has no use of its own; see: gpushare status")]
    NotAChild,
    /// The stream from the agent is unusable.
    #[error("cannot talk to the agent")]
    Stream(#[source] io::Error),
}

/// The stream to the agent, shared by all threads. Frames are written whole.
#[derive(Clone)]
struct Outbox(Arc<Mutex<UnixStream>>);

impl Outbox {
    fn send(&self, message: &FromChild) {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if wire::write_frame(&*stream, message).is_err() {
            leave();
        }
    }

    /// Says why NVML does not work, and ends the process.
    fn give_up(&self, fault: Fault) -> ! {
        self.send(&FromChild::Unavailable(fault));
        leave()
    }
}

/// Ends the process without running any destructor, the library's own included: a thread may be stuck inside NVML
/// and hold its locks. SIGKILL to itself is the exit that runs nothing.
fn leave() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    std::process::abort()
}

/// Runs the child until the agent closes the stream.
pub fn run() -> Result<(), NvmlChildError> {
    let stream = agent_stream()?;
    // The agent may have been killed before this took effect; then the stream has ended, which is noticed below.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let Some(setup) = wire::read_frame::<Setup>(&stream).map_err(NvmlChildError::Stream)? else {
        return Ok(());
    };
    let outbox = Outbox(Arc::new(Mutex::new(
        stream.try_clone().map_err(NvmlChildError::Stream)?,
    )));
    watch_for_the_end(stream)?;
    let nvml = Nvml::builder()
        .lib_path(setup.library.as_os_str())
        .init()
        .unwrap_or_else(|error| outbox.give_up(fault_of_init(&error, &setup.library)));
    // Threads hold devices, which borrow the library; it lives as long as the process.
    let nvml: &'static Nvml = Box::leak(Box::new(nvml));
    let (driver, devices) = enumerate(nvml).unwrap_or_else(|fault| outbox.give_up(fault));
    outbox.send(&FromChild::Ready(driver));
    for (info, device) in devices {
        spawn_reader(nvml, device, &info, &setup, outbox.clone()).map_err(NvmlChildError::Stream)?;
    }
    loop {
        std::thread::park();
    }
}

/// The socket that the agent put in the place of standard input.
fn agent_stream() -> Result<UnixStream, NvmlChildError> {
    let stdin = io::stdin();
    let stat = rustix::fs::fstat(stdin.as_fd()).map_err(|error| NvmlChildError::Stream(error.into()))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Socket {
        return Err(NvmlChildError::NotAChild);
    }
    stdin
        .as_fd()
        .try_clone_to_owned()
        .map(UnixStream::from)
        .map_err(NvmlChildError::Stream)
}

/// The agent sends nothing after the setup: whatever the next read returns, it is the end.
fn watch_for_the_end(stream: UnixStream) -> Result<(), NvmlChildError> {
    std::thread::Builder::new()
        .name("stream".into())
        .spawn(move || {
            let _ = wire::read_frame::<Setup>(&stream);
            leave();
        })
        .map(drop)
        .map_err(NvmlChildError::Stream)
}

type Devices = Vec<(GpuInfo, Device<'static>)>;

fn enumerate(nvml: &'static Nvml) -> Result<(Driver, Devices), Fault> {
    let count = nvml.device_count().map_err(|error| fault_of_call(&error))?;
    let mut devices = Devices::new();
    let mut unreadable = 0;
    for index in 0..count {
        match identify(nvml, index) {
            Ok(device) => devices.push(device),
            Err(error) => {
                if let Some(fault) = driver_fault(&error) {
                    return Err(fault);
                }
                tracing::debug!(nvml_index = index, %error, "the driver counts a GPU that cannot be opened");
                unreadable += 1;
            }
        }
    }
    let driver = Driver {
        driver_version: nvml.sys_driver_version().unwrap_or_else(|_| "unknown".into()),
        cuda_version: nvml.sys_cuda_driver_version().ok().map(cuda_version),
        gpus: devices.iter().map(|(info, _)| info.clone()).collect(),
        unreadable,
    };
    Ok((driver, devices))
}

fn identify(nvml: &'static Nvml, nvml_index: u32) -> Result<(GpuInfo, Device<'static>), NvmlError> {
    let device = nvml.device_by_index(nvml_index)?;
    let info = GpuInfo {
        uuid: GpuUuid(device.uuid()?.into()),
        model: device.name().unwrap_or_else(|_| "unknown model".into()),
        pci_bus_id: device.pci_info().map(|pci| pci.bus_id).unwrap_or_default(),
        nvml_index,
        compute_capability: compute_capability(&device),
    };
    Ok((info, device))
}

fn compute_capability(device: &Device<'static>) -> Option<(u32, u32)> {
    let capability = device.cuda_compute_capability().ok()?;
    Some((
        u32::try_from(capability.major).ok()?,
        u32::try_from(capability.minor).ok()?,
    ))
}

fn cuda_version(raw: i32) -> String {
    use nvml_wrapper::{cuda_driver_version_major, cuda_driver_version_minor};
    format!(
        "{}.{}",
        cuda_driver_version_major(raw),
        cuda_driver_version_minor(raw)
    )
}

fn spawn_reader(
    nvml: &'static Nvml,
    device: Device<'static>,
    info: &GpuInfo,
    setup: &Setup,
    outbox: Outbox,
) -> io::Result<()> {
    let seen = setup
        .seen
        .iter()
        .find(|(uuid, _)| *uuid == info.uuid)
        .map(|(_, at)| *at);
    let mut reader = DeviceReader::new(nvml, device, info.uuid.clone(), seen, setup);
    let interval = setup.interval;
    let beat = beat(interval);
    std::thread::Builder::new()
        .name(format!("gpu-{}", info.nvml_index))
        .spawn(move || {
            let mut whole = true;
            loop {
                match reader.read(whole) {
                    Ok(reading) => outbox.send(&FromChild::Read(Box::new(reading))),
                    Err(fault) => outbox.give_up(fault),
                }
                // Half an interval off the window's edge, so that a slewing clock moves no reading over it.
                let now = clock::wall_now();
                let until_whole = clock::until_next(now, interval, interval / 2);
                let until_ring = clock::until_next(now, beat, beat / 2);
                whole = until_whole <= until_ring;
                std::thread::sleep(until_whole.min(until_ring));
            }
        })?;
    Ok(())
}

/// The fault of an init that failed.
fn fault_of_init(error: &NvmlError, library: &Path) -> Fault {
    let library = library.display();
    let kind = match error {
        // The loader's own words are all that tells a library that is missing from one that is broken.
        NvmlError::LibloadingError(loader) if loader.to_string().contains("No such file") => {
            FaultKind::LibraryMissing
        }
        NvmlError::LibloadingError(_) | NvmlError::FailedToLoadSymbol(_) => FaultKind::NotNvml,
        _ => return fault_of_call(error),
    };
    let detail = match error {
        NvmlError::FailedToLoadSymbol(_) => format!("{library} has no nvmlInit_v2"),
        NvmlError::LibloadingError(loader) => loader.to_string(),
        other => other.to_string(),
    };
    Fault { kind, detail }
}

/// The fault of a call that failed and is not about one GPU.
fn fault_of_call(error: &NvmlError) -> Fault {
    driver_fault(error).unwrap_or_else(|| Fault {
        kind: FaultKind::Other,
        detail: describe(error),
    })
}

/// The fault, if the code says that the driver as a whole is gone or unusable.
fn driver_fault(error: &NvmlError) -> Option<Fault> {
    let kind = match error {
        NvmlError::Uninitialized | NvmlError::DriverNotLoaded => FaultKind::DriverNotLoaded,
        NvmlError::LibRmVersionMismatch => FaultKind::VersionMismatch,
        NvmlError::NoPermission => FaultKind::NoPermission,
        _ => return None,
    };
    Some(Fault {
        kind,
        detail: describe(error),
    })
}

/// The error with the return code that the wrapper has no name for.
fn describe(error: &NvmlError) -> String {
    match error {
        NvmlError::UnexpectedVariant(code) => format!("NVML return code {code}"),
        other => other.to_string(),
    }
}

/// How often something that a GPU does not support is asked for again: a driver change may bring it.
const ASK_AGAIN: Duration = Duration::from_hours(1);
