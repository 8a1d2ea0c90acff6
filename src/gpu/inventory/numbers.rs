//! `GPUNumber`, sticky by UUID.
//!
//! CloudWatch dashboards and alarms know a GPU by its number. NVML's own index moves when a GPU is lost, so a
//! number once given is kept, over restarts of the agent and reboots of the node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::gpu::{GpuInfo, GpuUuid};

/// Which GPU has which number, as it is kept in `<node.state_dir>/gpus.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers {
    gpus: BTreeMap<GpuUuid, Numbered>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Numbered {
    number: u32,
    /// `/proc/sys/kernel/random/boot_id` when the driver last listed the GPU.
    seen_in_boot: String,
}

impl Numbers {
    /// The number of a GPU, if it has one.
    #[must_use]
    pub fn of(&self, uuid: &GpuUuid) -> Option<u32> {
        self.gpus.get(uuid).map(|gpu| gpu.number)
    }

    /// The GPU that has a number.
    #[must_use]
    pub fn gpu(&self, number: u32) -> Option<&GpuUuid> {
        let mut gpus = self.gpus.iter();
        gpus.find_map(|(uuid, gpu)| (gpu.number == number).then_some(uuid))
    }

    /// Every GPU that has a number, in the order of the numbers.
    #[must_use]
    pub fn by_number(&self) -> BTreeMap<u32, &GpuUuid> {
        self.gpus.iter().map(|(uuid, gpu)| (gpu.number, uuid)).collect()
    }

    /// The GPUs that the driver has listed in this boot, with their numbers.
    #[must_use]
    pub fn seen_in(&self, boot_id: &str) -> Vec<(GpuUuid, u32)> {
        let seen = self.gpus.iter().filter(|(_, gpu)| gpu.seen_in_boot == boot_id);
        seen.map(|(uuid, gpu)| (uuid.clone(), gpu.number)).collect()
    }

    /// Gives every GPU in `present` a number, and returns whether anything changed.
    ///
    /// A new GPU gets its NVML index if that is free, else the lowest free number. Numbers of absent GPUs stay
    /// taken, with one exception: after a reboot in which none of the known GPUs came back, the instance runs on
    /// other hardware (it was stopped and started, or an image was made of it), and numbering starts afresh.
    pub fn assign(&mut self, boot_id: &str, present: &[GpuInfo]) -> bool {
        let before = self.clone();
        let none_came_back = !present.iter().any(|gpu| self.gpus.contains_key(&gpu.uuid));
        if !present.is_empty() && none_came_back && self.seen_in(boot_id).is_empty() {
            self.gpus.clear();
        }
        for gpu in present {
            let number = self
                .of(&gpu.uuid)
                .unwrap_or_else(|| self.free_number(gpu.nvml_index));
            self.gpus.insert(
                gpu.uuid.clone(),
                Numbered {
                    number,
                    seen_in_boot: boot_id.to_owned(),
                },
            );
        }
        *self != before
    }

    fn free_number(&self, wanted: u32) -> u32 {
        let free = |number: &u32| !self.gpus.values().any(|taken| taken.number == *number);
        std::iter::once(wanted)
            .chain(0..=u32::MAX)
            .find(free)
            .unwrap_or(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(uuid: &str, index: u32) -> GpuInfo {
        GpuInfo {
            uuid: uuid.into(),
            model: String::new(),
            pci_bus_id: String::new(),
            nvml_index: index,
            compute_capability: None,
        }
    }

    fn numbers_of(numbers: &Numbers) -> Vec<(&str, u32)> {
        numbers
            .gpus
            .iter()
            .map(|(uuid, gpu)| (&*uuid.0, gpu.number))
            .collect()
    }

    #[test]
    fn a_lost_gpu_renumbers_nobody() {
        let mut numbers = Numbers::default();
        assert!(numbers.assign("boot", &[gpu("a", 0), gpu("b", 1), gpu("c", 2)]));
        assert!(!numbers.assign("boot", &[gpu("a", 0), gpu("c", 1)]));
        assert_eq!(numbers_of(&numbers), [("a", 0), ("b", 1), ("c", 2)]);
    }

    #[test]
    fn a_replacement_takes_a_number_that_nobody_has() {
        let mut numbers = Numbers::default();
        numbers.assign("boot", &[gpu("a", 0), gpu("b", 1)]);
        numbers.assign("boot", &[gpu("a", 0), gpu("x", 1)]);
        assert_eq!(numbers_of(&numbers), [("a", 0), ("b", 1), ("x", 2)]);
    }

    #[test]
    fn other_hardware_after_a_reboot_starts_afresh() {
        let mut numbers = Numbers::default();
        numbers.assign("boot 1", &[gpu("a", 0), gpu("b", 1)]);
        assert!(
            !numbers.assign("boot 2", &[]),
            "no GPU yet says nothing about the hardware"
        );
        numbers.assign("boot 2", &[gpu("x", 0), gpu("y", 1)]);
        assert_eq!(numbers_of(&numbers), [("x", 0), ("y", 1)]);
    }

    #[test]
    fn a_gpu_that_stayed_away_at_a_reboot_keeps_its_number_and_is_not_of_this_boot() {
        let mut numbers = Numbers::default();
        numbers.assign("boot 1", &[gpu("a", 0), gpu("b", 1)]);
        assert!(numbers.assign("boot 2", &[gpu("b", 0)]));
        assert_eq!(numbers_of(&numbers), [("a", 0), ("b", 1)]);
        assert_eq!(numbers.seen_in("boot 2"), [("b".into(), 1)]);
    }
}
