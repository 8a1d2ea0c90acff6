//! What a GPU says at one instant: a pure function of the scenario and the time.
//!
//! Nothing here knows C types, keeps state or reads a clock.

use crate::clock::ms_between;
use crate::code::{Answer, Code};
use crate::ring::{self, RingSample, whole};
use crate::scenario::{Fault, FaultKind, Gpu, List, Process, Scenario};
use crate::track::Track;

const MIB: u64 = 1 << 20;

/// The calls that a GPU waiting for a reset refuses unless the scenario names others: those about work on it. What
/// its board controllers know (temperature, power, identity, memory size, fields) it still tells.
const NEEDS_ENGINES: [&str; 9] = [
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetSamples",
    "nvmlDeviceGetEncoderUtilization",
    "nvmlDeviceGetDecoderUtilization",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetProcessUtilization",
    "nvmlDeviceGetProcessesUtilizationInfo",
];

/// A scenario at an instant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) epoch_us: u64,
    pub(crate) now_us: u64,
}

/// One of its GPUs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GpuAt<'a> {
    pub(crate) moment: Moment<'a>,
    pub(crate) index: usize,
    pub(crate) gpu: &'a Gpu,
}

/// Frame-buffer memory in bytes; the three parts add up to `total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    pub(crate) reserved: u64,
    pub(crate) used: u64,
    pub(crate) free: u64,
}

/// One process's share of the SMs in the newest sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessShare {
    pub(crate) pid: u32,
    pub(crate) unix_us: u64,
    pub(crate) sm_percent: u32,
}

impl<'a> Moment<'a> {
    /// Milliseconds since the epoch.
    pub(crate) fn ms(&self) -> f64 {
        ms_between(self.epoch_us, self.now_us)
    }

    /// Whether now is at or after `from_ms` and before `to_ms`.
    pub(crate) fn within(&self, from_ms: u64, to_ms: Option<u64>) -> bool {
        let ms = self.ms();
        ms >= from_ms as f64 && to_ms.is_none_or(|to| ms < to as f64)
    }

    /// The GPU of that index; a handle outlives its GPU where the scenario was changed.
    pub(crate) fn gpu(&self, index: usize) -> Answer<GpuAt<'a>> {
        let gpu = self.scenario.gpus.get(index).ok_or(Code::GPU_IS_LOST)?;
        Ok(GpuAt {
            moment: *self,
            index,
            gpu,
        })
    }

    /// The GPU for which `is_it` holds, if it can be reached by `function`.
    pub(crate) fn find(&self, function: &str, is_it: impl Fn(&Gpu) -> bool) -> Answer<GpuAt<'a>> {
        let index = self.scenario.gpus.iter().position(is_it).ok_or(Code::NOT_FOUND)?;
        let gpu = self.gpu(index)?;
        gpu.refusal(function).map_or(Ok(gpu), Err)
    }

    /// The code that the scenario orders for `function`, whatever it is about.
    pub(crate) fn refusal(&self, function: &str) -> Option<Code> {
        self.scenario.errors.get(function).copied().map(Code)
    }
}

impl<'a> GpuAt<'a> {
    /// Why `function` fails on this GPU now.
    pub(crate) fn refusal(&self, function: &str) -> Option<Code> {
        let fault = self.faults().find(|fault| concerns(fault, function));
        let ordered = self.gpu.errors.get(function).copied().map(Code);
        fault
            .map(|fault| code_of(fault.kind))
            .or(ordered)
            .or_else(|| self.moment.refusal(function))
    }

    /// Whether a fault of this kind is active.
    pub(crate) fn suffers(&self, kind: FaultKind) -> bool {
        self.faults().any(|fault| fault.kind == kind)
    }

    fn faults(&self) -> impl Iterator<Item = &'a Fault> {
        let (moment, index) = (self.moment, self.index);
        let faults = self.moment.scenario.faults.iter();
        faults.filter(move |fault| fault.gpu == index && moment.within(fault.at_ms, fault.clears_ms))
    }

    /// The value of one of this GPU's tracks now.
    pub(crate) fn track(&self, track: &Track) -> f64 {
        track.at(self.moment.ms(), self.gpu.period_ms)
    }

    /// The area under one of this GPU's tracks so far, in value x seconds.
    pub(crate) fn integral(&self, track: &Track) -> f64 {
        track.integral(self.moment.ms(), self.gpu.period_ms)
    }

    /// GPU and memory-controller utilisation, percent. Not there while MIG is on.
    pub(crate) fn utilization(&self) -> Answer<(u32, u32)> {
        self.unless_mig()?;
        Ok((
            whole(self.track(&self.gpu.utilization)),
            whole(self.track(&self.gpu.memory_busy)),
        ))
    }

    /// Power draw, mW.
    pub(crate) fn power_mw(&self) -> u32 {
        whole(self.track(&self.gpu.power_watts) * 1e3)
    }

    /// Enforced power limit, mW.
    pub(crate) fn power_limit_mw(&self) -> u32 {
        whole(self.gpu.power_limit_watts * 1e3)
    }

    /// The bit mask of reasons that hold the clocks down.
    pub(crate) fn throttle_reasons(&self) -> u64 {
        let idle = self.track(&self.gpu.utilization) <= 0.0;
        let gpu_idle = nvml_wrapper_sys::bindings::nvmlClocksThrottleReasonGpuIdle;
        self.gpu
            .throttle_reasons
            .unwrap_or(if idle { u64::from(gpu_idle) } else { 0 })
    }

    /// P0 under load, P8 at rest.
    pub(crate) fn performance_state(&self) -> u32 {
        if self.track(&self.gpu.utilization) > 0.0 {
            0
        } else {
            8
        }
    }

    /// The memory as version 2 of the call counts it: what is reserved is not used.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be 0 to the capacity"
    )]
    pub(crate) fn memory(&self) -> Memory {
        let total = self.gpu.memory_mib * MIB;
        let reserved = self.gpu.reserved_mib * MIB;
        let used = match &self.gpu.used_mib {
            Some(track) => (self.track(track) * MIB as f64) as u64,
            None => {
                self.running()
                    .filter_map(|process| process.memory_mib)
                    .sum::<u64>()
                    * MIB
            }
        };
        let used = used.min(total - reserved);
        Memory {
            total,
            reserved,
            used,
            free: total - reserved - used,
        }
    }

    /// The processes that run now.
    pub(crate) fn running(&self) -> impl Iterator<Item = &'a Process> {
        let moment = self.moment;
        self.gpu
            .processes
            .iter()
            .filter(move |process| moment.within(process.from_ms, process.to_ms))
    }

    /// Process id and memory in bytes (absent where the driver does not know) of those in `list`.
    pub(crate) fn processes(&self, list: List) -> Vec<(u32, Option<u64>)> {
        let listed = self.running().filter(|process| process.lists.contains(&list));
        listed
            .map(|process| (process.pid, process.memory_mib.map(|mib| mib * MIB)))
            .collect()
    }

    /// The shares of processes that did work, if the newest sample is later than `last_seen_us`.
    pub(crate) fn process_shares(&self, last_seen_us: u64) -> Answer<Vec<ProcessShare>> {
        self.unless_mig()?;
        let unix_us = ring::newest_us(self.gpu, self.moment.epoch_us, self.moment.now_us);
        let shares = self.running().filter_map(|process| {
            let sm_percent = whole(self.track(process.utilization.as_ref()?));
            Some(ProcessShare {
                pid: process.pid,
                unix_us,
                sm_percent,
            })
        });
        let new: Vec<_> = shares
            .filter(|share| share.sm_percent > 0 && share.unix_us > last_seen_us)
            .collect();
        if new.is_empty() {
            Err(Code::NOT_FOUND)
        } else {
            Ok(new)
        }
    }

    /// What the ring holds of `track`, newer than `last_seen_us`, oldest first; an empty ring is "not found".
    pub(crate) fn ring(&self, track: &Track, last_seen_us: u64) -> Answer<Vec<RingSample>> {
        let mut samples = ring::held(self.gpu, track, self.moment.epoch_us, self.moment.now_us);
        samples.retain(|sample| sample.unix_us > last_seen_us);
        if samples.is_empty() {
            Err(Code::NOT_FOUND)
        } else {
            Ok(samples)
        }
    }

    /// Refuses what the driver cannot tell of a GPU that is cut into MIG instances.
    pub(crate) fn unless_mig(&self) -> Answer<()> {
        if self.gpu.mig == Some(true) {
            Err(Code::NOT_SUPPORTED)
        } else {
            Ok(())
        }
    }
}

fn concerns(fault: &Fault, function: &str) -> bool {
    match (&fault.functions, fault.kind) {
        (Some(functions), _) => functions.iter().any(|name| name == function),
        (None, FaultKind::Lost) => true,
        (None, FaultKind::ResetRequired) => NEEDS_ENGINES.contains(&function),
    }
}

fn code_of(kind: FaultKind) -> Code {
    match kind {
        FaultKind::Lost => Code::GPU_IS_LOST,
        FaultKind::ResetRequired => Code::RESET_REQUIRED,
    }
}

#[cfg(test)]
mod tests {
    use super::{Memory, Moment};
    use crate::code::Code;
    use crate::scenario::Scenario;

    const EPOCH: u64 = 1_700_000_000_000_000;

    fn scenario(keys: &str) -> Scenario {
        let head = "[[gpu]]\nuuid = \"GPU-1\"\nname = \"T4\"\npci = \"0000:00:1e.0\"\nmemory_mib = 100\n";
        Scenario::parse(&format!("{head}{keys}")).expect("valid")
    }

    fn at(scenario: &Scenario, ms: u64) -> Moment<'_> {
        Moment {
            scenario,
            epoch_us: EPOCH,
            now_us: EPOCH + ms * 1000,
        }
    }

    #[test]
    fn memory_parts_add_up_and_used_leaves_out_the_reserve() {
        let scenario = scenario("reserved_mib = 10\n[[gpu.process]]\npid = 1\nmemory_mib = 30\n");
        let memory = at(&scenario, 0).gpu(0).expect("there").memory();
        let mib = 1 << 20;
        assert_eq!(
            memory,
            Memory {
                total: 100 * mib,
                reserved: 10 * mib,
                used: 30 * mib,
                free: 60 * mib
            }
        );
    }

    #[test]
    fn fault_holds_from_its_start_up_to_its_end() {
        let scenario = scenario("[[fault]]\ngpu = 0\nkind = \"lost\"\nat_ms = 100\nclears_ms = 200\n");
        let refusal = |ms| {
            at(&scenario, ms)
                .gpu(0)
                .expect("there")
                .refusal("nvmlDeviceGetName")
        };
        assert_eq!(refusal(99), None);
        assert_eq!(refusal(100), Some(Code::GPU_IS_LOST));
        assert_eq!(refusal(200), None);
    }

    #[test]
    fn reset_required_leaves_the_board_sensors_readable() {
        let scenario = scenario("[[fault]]\ngpu = 0\nkind = \"reset_required\"\nat_ms = 0\n");
        let moment = at(&scenario, 5);
        let gpu = moment.gpu(0).expect("there");
        assert_eq!(gpu.refusal("nvmlDeviceGetSamples"), Some(Code::RESET_REQUIRED));
        assert_eq!(gpu.refusal("nvmlDeviceGetTemperature"), None);
    }

    #[test]
    fn shares_are_those_of_busy_processes_and_only_new() {
        let scenario = scenario(
            "[[gpu.process]]\npid = 7\nutilization = 25\n[[gpu.process]]\npid = 8\nutilization = 0\n[[gpu.process]]\npid = 9\n",
        );
        let moment = at(&scenario, 1000);
        let gpu = moment.gpu(0).expect("there");
        let shares = gpu.process_shares(0).expect("one works");
        assert_eq!(shares.iter().map(|share| share.pid).collect::<Vec<_>>(), [7]);
        assert_eq!(gpu.process_shares(shares[0].unix_us), Err(Code::NOT_FOUND));
    }
}
