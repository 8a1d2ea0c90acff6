//! Memory and swap, from sysinfo; the only file that names that crate.
//!
//! sysinfo reads `/proc/meminfo` of this process whatever `root_dir` is. Memory belongs to the machine and not
//! to a mount namespace, so the figures are right all the same.

use std::io;
use std::path::{Path, PathBuf};

use sysinfo::{MemoryRefreshKind, System};

use super::fault::{FaultLog, HostError};

/// Percentages, 0 to 100; absent where unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct MemoryUse {
    pub(super) mem_used_percent: Option<f64>,
    pub(super) swap_used_percent: Option<f64>,
}

/// Reads memory and swap. The `System` is kept, because making one reads `/proc/stat` to its end.
pub(super) struct MemoryMeter {
    /// Absent until sysinfo could be started.
    system: Option<System>,
    meminfo: PathBuf,
    fault: FaultLog,
}

impl MemoryMeter {
    pub(super) fn new() -> Self {
        Self {
            system: None,
            meminfo: PathBuf::from("/proc/meminfo"),
            fault: FaultLog::new("memory"),
        }
    }

    pub(super) fn sample(&mut self) -> MemoryUse {
        let reading = read(&mut self.system, &self.meminfo);
        self.fault.note(reading).unwrap_or_default()
    }

    /// Its name, while it cannot be read.
    pub(super) fn failing(&self) -> Option<&'static str> {
        self.fault.failing()
    }
}

fn read(kept: &mut Option<System>, meminfo: &Path) -> Result<MemoryUse, HostError> {
    // sysinfo swallows a failed read and keeps the old figures, so the file is tried first.
    fs_err::File::open(meminfo).map_err(HostError::Read)?;
    let system = match kept {
        Some(system) => system,
        None => kept.insert(System::new().map_err(|error| HostError::Read(io::Error::other(error)))?),
    };
    system.refresh_memory_specifics(MemoryRefreshKind::everything());
    let mem_used_percent = used_percent(system.total_memory(), system.available_memory());
    let swap_used_percent = used_percent(system.total_swap(), system.free_swap());
    match mem_used_percent {
        Some(_) => Ok(MemoryUse {
            mem_used_percent,
            swap_used_percent,
        }),
        None => Err(HostError::NoFigure {
            path: meminfo.to_owned(),
            what: "the size of memory",
        }),
    }
}

fn used_percent(total: u64, free: u64) -> Option<f64> {
    // Not sysinfo's own used figures: they subtract unchecked, and the two lines are not read at one instant.
    let used = total.saturating_sub(free);
    (total > 0).then(|| 100.0 * used as f64 / total as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_in_use() {
        assert_eq!(used_percent(1000, 877), Some(12.3));
        assert_eq!(used_percent(1000, 0), Some(100.0));
        assert_eq!(used_percent(1000, 1001), Some(0.0));
        assert_eq!(used_percent(0, 0), None, "no swap is not zero percent of it");
    }

    #[test]
    fn this_machine_agrees_with_its_meminfo() {
        let MemoryUse {
            mem_used_percent,
            swap_used_percent,
        } = MemoryMeter::new().sample();
        let used = mem_used_percent.unwrap();
        assert!(used > 0.0 && used < 100.0, "{used}");
        let meminfo = fs_err::read_to_string("/proc/meminfo").unwrap();
        let no_swap = meminfo
            .lines()
            .any(|line| line.split_whitespace().take(2).eq(["SwapTotal:", "0"]));
        assert_eq!(swap_used_percent.is_none(), no_swap);
    }

    #[test]
    fn an_unreadable_meminfo_is_absent_and_not_the_last_figure() {
        let mut meter = MemoryMeter::new();
        assert!(meter.sample().mem_used_percent.is_some());
        meter.meminfo = PathBuf::from("/nonexistent/meminfo");
        assert_eq!(meter.sample(), MemoryUse::default());
        assert!(meter.fault.is_failing());
    }
}
