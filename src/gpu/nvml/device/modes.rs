//! The settings of a GPU that an administrator may change at any time.

use std::time::{Duration, Instant};

use nvml_wrapper::Device;

use super::{DeviceReader, Item};
use crate::gpu::nvml::compute_mode::from_nvml;
use crate::gpu::wire::{Modes, Reading};

/// The longest time between two looks. Both calls are plain queries: a change is to be seen within one probe of MPS.
const LONGEST: Duration = Duration::from_secs(5);

impl DeviceReader {
    pub(super) fn read_modes(&mut self, reading: &mut Reading) {
        if !self.is_due(self.modes_read, self.process_interval.min(LONGEST)) {
            return;
        }
        let compute_mode = self.ask(Item::ComputeMode, Device::compute_mode).map(from_nvml);
        let mig = self
            .ask(Item::MigMode, Device::mig_mode)
            .map(|mode| mode.current != 0);
        // A GPU that does not answer has not lost its settings.
        if self.fault.is_none() && self.driver_fault.is_none() {
            self.modes_read = Some(Instant::now());
            reading.modes = Some(Modes { compute_mode, mig });
        }
    }
}
