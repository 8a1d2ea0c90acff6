//! Where a GPU's memory is: what the MPS server keeps, and what nobody can be named for. Pure.

use crate::gpu::GpuProcess;

/// The parts of a GPU's memory that belong to no pod. What cannot be known is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MpsMemory {
    /// What the MPS servers themselves hold. Absent without a server that NVML lists, or without its memory.
    pub overhead_bytes: Option<u64>,
    /// What is in use and belongs to no process that NVML lists. Absent where one of them holds an unknown amount.
    pub unattributed_bytes: Option<u64>,
}

/// The parts, from all processes on a GPU, its memory in use, and the process ids of its MPS servers.
///
/// A server is told by its process id, which the control daemon names: a pod can give its processes any name.
#[must_use]
pub fn mps_memory(processes: &[GpuProcess], used_bytes: Option<u64>, servers: &[u32]) -> MpsMemory {
    let ours: Vec<GpuProcess> = processes
        .iter()
        .filter(|process| servers.contains(&process.pid))
        .copied()
        .collect();
    let overhead_bytes = if ours.is_empty() { None } else { sum(&ours) };
    // The lists are read a moment after the total: what was allocated in between makes nothing negative.
    let unattributed_bytes = used_bytes
        .zip(sum(processes))
        .map(|(used, attributed)| used.saturating_sub(attributed));
    MpsMemory {
        overhead_bytes,
        unattributed_bytes,
    }
}

/// What some processes hold together, if it is known of each.
fn sum(processes: &[GpuProcess]) -> Option<u64> {
    processes.iter().try_fold(0, |total: u64, process| {
        Some(total.saturating_add(process.memory_bytes?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, memory_bytes: impl Into<Option<u64>>) -> GpuProcess {
        GpuProcess {
            pid,
            memory_bytes: memory_bytes.into(),
            computes: true,
        }
    }

    fn parts(processes: &[GpuProcess], used: Option<u64>, servers: &[u32]) -> (Option<u64>, Option<u64>) {
        let memory = mps_memory(processes, used, servers);
        (memory.overhead_bytes, memory.unattributed_bytes)
    }

    #[test]
    fn the_parts_add_up_to_what_is_in_use() {
        let list = [process(10, 30), process(11, 500), process(12, 400)];
        assert_eq!(parts(&list, Some(1_000), &[10]), (Some(30), Some(70)));
        assert_eq!(parts(&list, Some(1_000), &[10, 11]), (Some(530), Some(70)));
        assert_eq!(parts(&list, Some(930), &[10]), (Some(30), Some(0)));
        assert_eq!(parts(&[], Some(8), &[10]), (None, Some(8)), "an idle GPU");
    }

    #[test]
    fn what_is_not_known_is_absent_and_nothing_is_negative() {
        let list = [process(10, 30), process(11, None)];
        assert_eq!(parts(&list, Some(1_000), &[10]), (Some(30), None));
        assert_eq!(parts(&list, Some(1_000), &[11]), (None, None));
        assert_eq!(parts(&[process(10, 30)], None, &[10]), (Some(30), None));
        assert_eq!(parts(&[process(10, 30)], Some(20), &[10]), (Some(30), Some(0)));
        assert_eq!(
            parts(&[process(10, u64::MAX), process(11, 1)], Some(20), &[]),
            (None, Some(0))
        );
    }

    #[test]
    fn a_server_that_is_not_known_or_not_listed_has_no_overhead_not_even_zero() {
        let list = [process(11, 500)];
        assert_eq!(parts(&list, Some(500), &[]), (None, Some(0)));
        assert_eq!(parts(&list, Some(500), &[10]), (None, Some(0)));
    }
}
