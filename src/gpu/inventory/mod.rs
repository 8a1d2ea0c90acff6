//! Which GPUs the node has, their sticky numbers, and how each one is.
//!
//! Pure: it is told what was observed and when, and does no I/O. A GPU that was seen since the node booted never
//! vanishes from the inventory; it becomes unhealthy.

mod numbers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::health::{self, XidClass};
use super::rates::Totals;
use super::wire::{Driver, GpuFault, Reading};
use super::{ComputeMode, GpuInfo, GpuProcess, GpuSample, GpuUuid, Memory};

pub use numbers::Numbers;

/// The driver may take a moment to form its verdict after an XID; until then its "no action" proves nothing.
const VERDICT_DELAY: Duration = Duration::from_secs(5);

/// Seconds for which a utilisation holds in the status while the ring has nothing newer.
const RING_HOLDS: f64 = 1.0;

/// One GPU as the status shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GpuState {
    /// The sticky `GPUNumber`.
    pub number: Arc<str>,
    /// Its identity and model; the model is empty while the GPU has not been seen by this agent.
    pub info: GpuInfo,
    /// How it is.
    pub health: Health,
    /// Its newest reading; absent until the first, and when the GPU stopped answering.
    pub newest: Option<Newest>,
}

impl GpuState {
    /// Whether the GPU can be used.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.health.reasons.is_empty()
    }

    /// Whether the driver does not answer for it.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.health.reasons.contains(&Reason::Stuck)
    }
}

/// Why a GPU cannot be used; no reason = healthy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Every reason that holds now.
    pub reasons: Vec<Reason>,
    /// Since when there has been one, Unix seconds.
    pub since: Option<u64>,
}

impl Health {
    fn set(&mut self, reason: Reason, holds: bool, wall: Duration) {
        match (holds, self.reasons.iter().position(|known| *known == reason)) {
            (true, None) => self.reasons.push(reason),
            (false, Some(at)) => drop(self.reasons.remove(at)),
            _ => return,
        }
        self.since = if self.reasons.is_empty() {
            None
        } else {
            self.since.or(Some(wall.as_secs()))
        };
    }

    fn clear(&mut self, unwanted: impl Fn(&Reason) -> bool) {
        self.reasons.retain(|reason| !unwanted(reason));
        if self.reasons.is_empty() {
            self.since = None;
        }
    }
}

/// One reason why a GPU cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// It has fallen off the bus (NVML error 15).
    Lost,
    /// It must be reset (NVML error 16).
    ResetRequired,
    /// Every NVML call on it fails.
    Failing,
    /// The driver does not list it any more.
    Missing,
    /// The driver does not answer for it.
    Stuck,
    /// The driver is gone or does not start.
    DriverUnavailable,
    /// The kernel log named an XID that only a reset or a replacement mends.
    Xid {
        /// Its number.
        xid: u32,
        /// Its class.
        class: XidClass,
    },
    /// The driver's own verdict (NVML field 230).
    RecoveryAction {
        /// What the driver asks for.
        action: String,
    },
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost => f.write_str("lost (fallen off the bus)"),
            Self::ResetRequired => f.write_str("needs a reset"),
            Self::Failing => f.write_str("every NVML call fails"),
            Self::Missing => f.write_str("missing"),
            Self::Stuck => f.write_str("driver stuck"),
            Self::DriverUnavailable => f.write_str("no driver"),
            Self::Xid {
                xid,
                class: XidClass::Broken,
            } => write!(f, "XID {xid}, replace the node"),
            Self::Xid { xid, .. } => write!(f, "XID {xid}, needs a reset"),
            Self::RecoveryAction { action } => write!(f, "driver asks: {action}"),
        }
    }
}

/// The newest reading of a GPU, for the status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Newest {
    /// When, Unix seconds with fraction.
    pub at: f64,
    /// How long NVML took, in seconds.
    pub nvml_seconds: f64,
    /// Mean of the utilisation samples of this reading, in percent.
    pub utilization_percent: Option<f64>,
    /// Device memory.
    pub memory: Option<Memory>,
    /// Watts.
    pub power_watts: Option<f64>,
    /// Degrees Celsius.
    pub temperature_celsius: Option<f64>,
    /// Processes, as of the newest list.
    pub processes: Option<Vec<GpuProcess>>,
    /// When that list was read, Unix seconds with fraction.
    #[serde(default)]
    pub processes_at: Option<f64>,
    /// Who may compute on it.
    #[serde(default)]
    pub compute_mode: Option<ComputeMode>,
    /// Whether it is cut into MIG instances; absent on a GPU that knows no MIG.
    #[serde(default)]
    pub mig: Option<bool>,
    /// When these two were read, Unix seconds with fraction.
    #[serde(default)]
    pub modes_at: Option<f64>,
}

struct Gpu {
    state: GpuState,
    totals: Totals,
    /// Newest utilisation sample, driver's clock.
    newest_sample: Option<u64>,
    /// When it was last heard of, monotonic.
    heard: Duration,
    xid_at: Option<Duration>,
    /// Whether the driver listed it last time.
    listed: bool,
}

impl Gpu {
    /// What a reading says about the health of its GPU.
    fn judge(&mut self, reading: &Reading, wall: Duration, monotonic: Duration) {
        let health = &mut self.state.health;
        health.set(Reason::Stuck, false, wall);
        // A reading of the ring alone asks too little to clear a fault.
        if reading.whole || reading.fault.is_some() {
            let is = |fault| reading.fault == Some(fault);
            health.set(Reason::Lost, is(GpuFault::Lost), wall);
            health.set(Reason::ResetRequired, is(GpuFault::ResetRequired), wall);
            health.set(Reason::Failing, is(GpuFault::Failing), wall);
        }
        if let Some(value) = reading.recovery_action {
            apply_verdict(health, value, wall);
            let formed = self
                .xid_at
                .is_none_or(|at| monotonic.saturating_sub(at) >= VERDICT_DELAY);
            if formed && health::recovery_action(value).is_none() {
                health.clear(|reason| matches!(reason, Reason::Xid { .. }));
            }
        }
    }
}

/// The GPUs of this node.
pub struct Inventory {
    boot_id: String,
    numbers: Numbers,
    gpus: BTreeMap<GpuUuid, Gpu>,
}

impl Inventory {
    /// What was known before: `numbers` as the agent kept them, and the node's current boot id.
    ///
    /// GPUs that were numbered in this same boot are part of the inventory at once, so that one that is gone
    /// after a restart of the agent is missed.
    #[must_use]
    pub fn new(numbers: Numbers, boot_id: String) -> Self {
        let mut inventory = Self {
            boot_id,
            numbers,
            gpus: BTreeMap::new(),
        };
        for (uuid, number) in inventory.numbers.seen_in(&inventory.boot_id) {
            let info = GpuInfo {
                uuid,
                model: String::new(),
                pci_bus_id: String::new(),
                nvml_index: number,
                compute_capability: None,
            };
            inventory.insert(info, Duration::ZERO);
        }
        inventory
    }

    /// The driver answered with its list of GPUs. Returns the numbers when they must be written down again.
    pub fn driver_ready(&mut self, driver: &Driver, wall: Duration, monotonic: Duration) -> Option<&Numbers> {
        let changed = self.numbers.assign(&self.boot_id, &driver.gpus);
        if changed {
            let kept = &self.numbers;
            self.gpus.retain(|uuid, _| kept.of(uuid).is_some());
        }
        for gpu in self.gpus.values_mut() {
            gpu.listed = false;
        }
        for info in &driver.gpus {
            self.insert(info.clone(), monotonic);
        }
        for gpu in self.gpus.values_mut().filter(|gpu| !gpu.listed) {
            gpu.state.newest = None;
            gpu.state.health.set(Reason::Missing, true, wall);
            // What the driver does not list it cannot be stuck on, nor say anything about.
            for reason in [
                Reason::DriverUnavailable,
                Reason::Stuck,
                Reason::Lost,
                Reason::ResetRequired,
                Reason::Failing,
            ] {
                gpu.state.health.set(reason, false, wall);
            }
        }
        changed.then_some(&self.numbers)
    }

    fn insert(&mut self, info: GpuInfo, monotonic: Duration) {
        let Some(number) = self.numbers.of(&info.uuid) else {
            return;
        };
        let number: Arc<str> = number.to_string().into();
        let gpu = self.gpus.entry(info.uuid.clone()).or_insert_with(|| Gpu {
            state: GpuState {
                number,
                info: info.clone(),
                health: Health::default(),
                newest: None,
            },
            totals: Totals::default(),
            newest_sample: None,
            heard: monotonic,
            xid_at: None,
            listed: true,
        });
        // A reset needs the driver to let go of the GPU, so one that was away comes back without its old faults.
        let was_away = gpu.state.health.reasons.iter().any(|reason| {
            matches!(
                reason,
                Reason::Lost | Reason::ResetRequired | Reason::Missing | Reason::DriverUnavailable
            )
        });
        gpu.state.health.clear(|reason| match reason {
            Reason::Missing | Reason::DriverUnavailable => true,
            Reason::Xid { .. } => was_away,
            _ => false,
        });
        gpu.state.info = info;
        gpu.listed = true;
        gpu.heard = monotonic;
    }

    /// NVML as a whole does not work.
    pub fn driver_unavailable(&mut self, wall: Duration) {
        for gpu in self.gpus.values_mut() {
            gpu.state.newest = None;
            gpu.state.health.set(Reason::Stuck, false, wall);
            gpu.state.health.set(Reason::DriverUnavailable, true, wall);
        }
    }

    /// NVML as a whole does not answer.
    pub fn driver_stuck(&mut self, wall: Duration) {
        for gpu in self.gpus.values_mut().filter(|gpu| gpu.listed) {
            gpu.state.health.set(Reason::Stuck, true, wall);
        }
    }

    /// A GPU was read. Returns the sample to publish; `None` for a GPU that is not known.
    pub fn read(&mut self, reading: &Reading, wall: Duration, monotonic: Duration) -> Option<GpuSample> {
        let gpu = self.gpus.get_mut(&reading.uuid)?;
        gpu.heard = monotonic;
        gpu.newest_sample = reading.newest_sample.or(gpu.newest_sample);
        gpu.judge(reading, wall, monotonic);
        let sample = gpu.totals.derive(Arc::clone(&gpu.state.number), reading);
        let lost = reading.fault == Some(GpuFault::Lost);
        gpu.state.newest = (!lost).then(|| newest(reading, &sample, gpu.state.newest.take(), wall));
        Some(sample)
    }

    /// Marks every listed GPU stuck that has been silent for longer than `limit`. Returns their number.
    pub fn mark_silent(&mut self, limit: Duration, wall: Duration, monotonic: Duration) -> usize {
        let mut silent = 0;
        for gpu in self.gpus.values_mut().filter(|gpu| gpu.listed) {
            if monotonic.saturating_sub(gpu.heard) > limit {
                gpu.state.health.set(Reason::Stuck, true, wall);
                silent += 1;
            }
        }
        silent
    }

    /// The kernel log named an XID. Returns the number of the GPU; `None` for a PCI address that is not known.
    pub fn xid(&mut self, pci: &str, xid: u32, wall: Duration, monotonic: Duration) -> Option<Arc<str>> {
        let gpu = self
            .gpus
            .values_mut()
            .find(|gpu| same_pci(&gpu.state.info.pci_bus_id, pci))?;
        let class = health::classify(xid);
        if class.is_fatal() {
            gpu.xid_at = Some(monotonic);
            gpu.state.health.set(Reason::Xid { xid, class }, true, wall);
        }
        Some(Arc::clone(&gpu.state.number))
    }

    /// Whether a GPU of this boot is lost or not listed, so that enumerating afresh may bring it back.
    #[must_use]
    pub fn incomplete(&self) -> bool {
        let gone = |reason: &Reason| matches!(reason, Reason::Lost | Reason::Missing);
        self.gpus
            .values()
            .any(|gpu| gpu.state.health.reasons.iter().any(gone))
    }

    /// Every GPU, by number.
    #[must_use]
    pub fn states(&self) -> Vec<GpuState> {
        let mut gpus: Vec<_> = self.gpus.values().map(|gpu| gpu.state.clone()).collect();
        gpus.sort_by_key(|gpu| self.numbers.of(&gpu.info.uuid));
        gpus
    }

    /// Newest utilisation sample of each GPU, for the next child.
    #[must_use]
    pub fn seen(&self) -> Vec<(GpuUuid, u64)> {
        self.gpus
            .iter()
            .filter_map(|(uuid, gpu)| Some((uuid.clone(), gpu.newest_sample?)))
            .collect()
    }
}

fn apply_verdict(health: &mut Health, value: u32, wall: Duration) {
    let verdict = health::recovery_action(value).map(|action| Reason::RecoveryAction {
        action: action.into(),
    });
    // The new one first: a GPU whose verdict changes has been unhealthy all the while.
    if let Some(verdict) = &verdict {
        health.set(verdict.clone(), true, wall);
    }
    health.clear(|known| matches!(known, Reason::RecoveryAction { .. }) && Some(known) != verdict.as_ref());
}

fn newest(reading: &Reading, sample: &GpuSample, before: Option<Newest>, wall: Duration) -> Newest {
    let ring = &sample.utilization;
    let mean = ring.iter().map(|sample| f64::from(sample.percent)).sum::<f64>() / ring.len() as f64;
    // Readings may come faster than ring samples do: what is less than a second old still holds.
    let known = before
        .as_ref()
        .filter(|newest| wall.as_secs_f64() - newest.at < RING_HOLDS)
        .and_then(|newest| newest.utilization_percent);
    let utilization_percent = if ring.is_empty() { known } else { Some(mean) };
    let before = match before {
        Some(before) if !reading.whole => {
            return Newest {
                utilization_percent,
                ..before
            };
        }
        before => before,
    };
    let at = wall.as_secs_f64();
    let mut newest = Newest {
        at,
        nvml_seconds: reading.took.as_secs_f64(),
        utilization_percent,
        memory: sample.memory,
        power_watts: sample.power_watts,
        temperature_celsius: sample.temperature_celsius,
        ..before.unwrap_or_default()
    };
    // Read less often than the rest; what was read before holds until then.
    if let Some(processes) = &reading.processes {
        newest.processes = Some(processes.clone());
        newest.processes_at = Some(at);
    }
    if let Some(modes) = reading.modes {
        newest.compute_mode = modes.compute_mode;
        newest.mig = modes.mig;
        newest.modes_at = Some(at);
    }
    newest
}

/// Whether two spellings name one PCI device: NVML writes `00000000:61:00.0`, the kernel log `0000:61:00`.
fn same_pci(nvml: &str, kernel: &str) -> bool {
    fn parts(address: &str) -> Option<(u32, u32, u32)> {
        let address = address.split('.').next()?;
        let mut fields = address
            .split(':')
            .map(|field| u32::from_str_radix(field, 16).ok());
        Some((fields.next()??, fields.next()??, fields.next()??))
    }
    parts(nvml).is_some() && parts(nvml) == parts(kernel)
}

#[cfg(test)]
mod tests;
