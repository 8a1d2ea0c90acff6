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
    /// `/proc/sys/kernel/random/boot_id` when this was last written.
    pub boot_id: String,
    /// Number of each GPU.
    pub gpus: BTreeMap<GpuUuid, u32>,
}

impl Numbers {
    /// Gives every GPU in `present` a number, and returns whether anything changed.
    ///
    /// A new GPU gets its NVML index if that is free, else the lowest free number. Numbers of absent GPUs stay
    /// taken, with one exception: after a reboot in which none of the known GPUs came back, the instance runs on
    /// other hardware (it was stopped and started, or an image was made of it), and numbering starts afresh.
    pub fn assign(&mut self, boot_id: &str, present: &[GpuInfo]) -> bool {
        let before = self.clone();
        let none_came_back = !present.iter().any(|gpu| self.gpus.contains_key(&gpu.uuid));
        if self.boot_id != boot_id && !present.is_empty() && none_came_back {
            self.gpus.clear();
        }
        boot_id.clone_into(&mut self.boot_id);
        for gpu in present {
            if !self.gpus.contains_key(&gpu.uuid) {
                let number = self.free_number(gpu.nvml_index);
                self.gpus.insert(gpu.uuid.clone(), number);
            }
        }
        *self != before
    }

    fn free_number(&self, wanted: u32) -> u32 {
        let free = |number: &u32| !self.gpus.values().any(|taken| taken == number);
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
        }
    }

    fn numbers_of(numbers: &Numbers) -> Vec<(&str, u32)> {
        numbers
            .gpus
            .iter()
            .map(|(uuid, number)| (&*uuid.0, *number))
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
        numbers.assign("boot 2", &[gpu("x", 0), gpu("y", 1)]);
        assert_eq!(numbers_of(&numbers), [("x", 0), ("y", 1)]);
    }

    #[test]
    fn a_reboot_in_which_one_gpu_stayed_away_keeps_the_numbers() {
        let mut numbers = Numbers::default();
        numbers.assign("boot 1", &[gpu("a", 0), gpu("b", 1)]);
        numbers.assign("boot 2", &[gpu("b", 0)]);
        assert_eq!(numbers_of(&numbers), [("a", 0), ("b", 1)]);
        assert!(
            !Numbers {
                boot_id: "boot 2".into(),
                ..numbers.clone()
            }
            .assign("boot 2", &[])
        );
    }
}
