//! The machine that the agent runs on: puts the parts of a sample together.

use std::sync::Arc;

use super::cpu::CpuMeter;
use super::disk_io::DiskIoMeter;
use super::disk_space::{SpaceSource, Statvfs};
use super::mount_table::MountTable;
use super::plan::Patience;
use super::prober::{SpaceProber, Spaces};
use super::sysinfo::{MemoryMeter, MemoryUse};
use super::{HostSample, HostSettings, HostSource};

/// Reads the local machine. See the module for what it promises.
pub struct LocalHost {
    cpu: CpuMeter,
    memory: MemoryMeter,
    disk_io: DiskIoMeter,
    mounts: MountTable,
    spaces: SpaceProber,
}

impl LocalHost {
    /// Opens nothing and starts no thread yet: what is missing shows in the samples, as absent.
    #[must_use]
    pub fn new(settings: HostSettings) -> Self {
        Self::with_space_source(settings, Arc::new(Statvfs), Patience::USUAL)
    }

    fn with_space_source(settings: HostSettings, source: Arc<dyn SpaceSource>, patience: Patience) -> Self {
        Self {
            cpu: CpuMeter::new(&settings.root_dir),
            memory: MemoryMeter::new(),
            disk_io: DiskIoMeter::new(&settings.root_dir),
            mounts: MountTable::new(&settings),
            spaces: SpaceProber::new(source, settings.root_dir, patience),
        }
    }

    fn failing(&self) -> Vec<String> {
        let meters = [self.cpu.failing(), self.memory.failing(), self.disk_io.failing()];
        let parts = meters.into_iter().flatten();
        let parts = parts.chain(self.mounts.failing()).chain(self.spaces.failing());
        parts.map(str::to_owned).collect()
    }
}

impl HostSource for LocalHost {
    fn sample(&mut self) -> HostSample {
        // Disk space comes last: it may wait, and the rates should keep the caller's rhythm.
        let cpu_usage_active = self.cpu.sample();
        let MemoryUse {
            mem_used_percent,
            swap_used_percent,
        } = self.memory.sample();
        let disk_io = self.disk_io.sample();
        let Spaces { disks, stuck } = self
            .mounts
            .current()
            .map(|mounts| self.spaces.sample(mounts))
            .unwrap_or_default();
        HostSample {
            cpu_usage_active,
            mem_used_percent,
            swap_used_percent,
            disks,
            disk_io,
            stuck_mounts: stuck,
            failing: self.failing(),
        }
    }
}

#[cfg(test)]
mod tests;
