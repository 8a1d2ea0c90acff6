//! What an NVML child says within a limit.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Finding;
use crate::config::Config;
use crate::gpu::child::{Child, ChildEvent};
use crate::gpu::wire::{FromChild, Modes, Setup};
use crate::gpu::{GpuUuid, Memory};
use crate::log;

/// NVML init takes seconds where no persistence daemon runs; longer is a finding.
const NVML_LIMIT: Duration = Duration::from_secs(15);

/// The first reading of a GPU takes milliseconds; a GPU that hangs is not waited for.
const READING_LIMIT: Duration = Duration::from_secs(5);

/// What was asked of NVML.
pub(super) struct Asked {
    /// The child's first word, or why there was none.
    pub(super) first: Result<FromChild, String>,
    /// What was read of those GPUs that answered in time.
    pub(super) readings: BTreeMap<GpuUuid, Seen>,
}

/// What the first reading of a GPU says of it.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) memory: Option<Memory>,
    pub(super) modes: Option<Modes>,
}

/// Starts an NVML child and listens to it: to its first word, and where `readings` are wished to one of every GPU.
pub(super) fn ask(config: &Config, readings: bool) -> Asked {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(listen(config, readings)),
        Err(error) => Asked {
            first: Err(error.to_string()),
            readings: BTreeMap::new(),
        },
    }
}

async fn listen(config: &Config, readings: bool) -> Asked {
    let mut asked = Asked {
        first: Err(String::new()),
        readings: BTreeMap::new(),
    };
    let setup = Setup {
        library: config.gpu.nvml_library.clone(),
        interval: config.sample.interval,
        process_interval: config.pods.interval,
        seen: Vec::new(),
    };
    let mut child = match Child::start(&setup, &[]) {
        Ok(child) => child,
        Err(error) => {
            asked.first = Err(log::chain(&error));
            return asked;
        }
    };
    let limit = NVML_LIMIT.as_secs();
    asked.first = tokio::time::timeout(NVML_LIMIT, next(&mut child))
        .await
        .unwrap_or_else(|_| {
            Err(format!(
                "NVML has not answered for {limit} s: the driver is stuck"
            ))
        });
    if let (Ok(FromChild::Ready(driver)), true) = (&asked.first, readings) {
        let gpus = driver.gpus.len();
        let _ = tokio::time::timeout(READING_LIMIT, read(&mut child, gpus, &mut asked.readings)).await;
    }
    asked
}

/// Until every GPU was read as a whole once, or no more is to come.
async fn read(child: &mut Child, gpus: usize, readings: &mut BTreeMap<GpuUuid, Seen>) {
    while readings.len() < gpus {
        match next(child).await {
            // Settings are read with the first whole reading; one that failed says nothing.
            Ok(FromChild::Read(reading)) if reading.whole && reading.fault.is_none() => {
                let seen = Seen {
                    memory: reading.memory,
                    modes: reading.modes,
                };
                readings.insert(reading.uuid, seen);
            }
            Ok(FromChild::Unavailable(_)) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

async fn next(child: &mut Child) -> Result<FromChild, String> {
    loop {
        match child.event().await {
            ChildEvent::Said(message) => return Ok(message),
            ChildEvent::Silenced(_) => {}
            ChildEvent::Gone(Ok(status)) => return Err(format!("the NVML process ended with {status}")),
            ChildEvent::Gone(Err(error)) => return Err(error.to_string()),
        }
    }
}

/// Whether there are GPUs.
pub(super) fn finding(first: &Result<FromChild, String>) -> Finding {
    match first {
        Ok(FromChild::Ready(driver)) if driver.gpus.is_empty() => Finding::error(
            "gpu",
            format!("driver {} sees no GPU", driver.driver_version),
            "look at: dmesg | grep -i nvrm; set gpu.enabled = false on a node without GPUs",
        ),
        Ok(FromChild::Ready(driver)) => {
            let gpus = driver.gpus.len();
            let found = format!(
                "driver {}, {gpus} x {}",
                driver.driver_version, driver.gpus[0].model
            );
            match driver.unreadable {
                0 => Finding::ok("gpu", found),
                lost => Finding::error(
                    "gpu",
                    format!("{found}; {lost} more cannot be opened"),
                    "replace the node",
                ),
            }
        }
        Ok(FromChild::Unavailable(fault)) => Finding::error("gpu", fault.to_string(), fault.mend()),
        Ok(FromChild::Read(_)) => {
            Finding::error("gpu", "the NVML process sent readings first", "report this bug")
        }
        Err(error) => Finding::error("gpu", error, "look at: dmesg | grep -i nvrm"),
    }
}
