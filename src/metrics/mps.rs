//! What MPS is, as points: its state each tick, its memory with each list of processes.

use std::collections::HashMap;

use super::series::{self, Point};
use crate::gpu::{GpuSample, GpuUuid};
use crate::mps::memory::mps_memory;
use crate::mps::{MpsGpu, MpsStatus};

/// Restarts that were counted so far, by GPU.
#[derive(Debug, Default)]
pub struct Restarts(HashMap<GpuUuid, u64>);

impl Restarts {
    /// How MPS is on each GPU that it supervises; nothing while it is switched off.
    pub fn tick(&mut self, status: &MpsStatus) -> Vec<Point> {
        if !status.enabled {
            return Vec::new();
        }
        let mut points = Vec::new();
        for gpu in &status.gpus {
            // The totals count from the agent's start, and so do we.
            let before = self.0.insert(gpu.uuid.clone(), gpu.restarts).unwrap_or(0);
            points.extend(series::of_mps(gpu, gpu.restarts.saturating_sub(before)));
        }
        points
    }
}

/// The memory of a reading that brought the lists of processes.
#[must_use]
pub fn memory(status: &MpsStatus, sample: &GpuSample) -> Vec<Point> {
    let Some(processes) = &sample.processes else {
        return Vec::new();
    };
    let gpu = status.gpus.iter().find(|gpu| gpu.number == sample.number);
    let servers: Vec<u32> = gpu.and_then(server_pid).into_iter().collect();
    let used = sample.memory.map(|memory| memory.used_bytes);
    series::of_mps_memory(&sample.number, &mps_memory(processes, used, &servers))
}

fn server_pid(gpu: &MpsGpu) -> Option<u32> {
    Some(gpu.server.as_ref()?.pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{GpuProcess, Memory};
    use crate::mps::MpsState;
    use crate::mps::protocol::{Server, ServerStatus};

    fn gpu(number: u32, restarts: u64) -> MpsGpu {
        MpsGpu {
            number: number.to_string().into(),
            uuid: format!("GPU-{number}").as_str().into(),
            state: MpsState::Ready,
            since: 0,
            last_step: None,
            pid: None,
            server: Some(Server {
                pid: 10 + number,
                status: ServerStatus::Active,
                clients: Some(Vec::new()),
            }),
            client_limit: None,
            smallest_useful_slices: None,
            restarts,
            probed_at: None,
            warnings: Vec::new(),
        }
    }

    fn status(gpus: Vec<MpsGpu>) -> MpsStatus {
        MpsStatus {
            enabled: true,
            gpus,
            ..MpsStatus::default()
        }
    }

    fn restarts(points: &[Point]) -> Vec<String> {
        points
            .iter()
            .map(|(series, value)| format!("{series} {value}"))
            .filter(|text| text.starts_with("mps_restarts"))
            .collect()
    }

    #[test]
    fn restarts_are_those_since_the_tick_before_never_a_running_total() {
        let mut status = status(vec![gpu(0, 0), gpu(1, 2)]);
        let mut counted = Restarts::default();
        let ones = |zero: u64, one: u64| {
            [
                format!("mps_restarts{{GPUNumber=\"0\"}} {zero}"),
                format!("mps_restarts{{GPUNumber=\"1\"}} {one}"),
            ]
        };
        assert_eq!(
            restarts(&counted.tick(&status)),
            ones(0, 2),
            "before the first tick"
        );
        assert_eq!(restarts(&counted.tick(&status)), ones(0, 0));
        status.gpus[0].restarts = 3;
        assert_eq!(restarts(&counted.tick(&status)), ones(3, 0));
        assert_eq!(restarts(&counted.tick(&status)), ones(0, 0));
        // A reconciler that counts afresh takes nothing back.
        status.gpus[0].restarts = 1;
        assert_eq!(restarts(&counted.tick(&status)), ones(0, 0));
        status.gpus[0].restarts = 2;
        assert_eq!(restarts(&counted.tick(&status)), ones(1, 0));
    }

    #[test]
    fn nothing_is_said_of_mps_while_it_is_switched_off() {
        let mut counted = Restarts::default();
        let mut status = status(vec![gpu(0, 0)]);
        assert!(!counted.tick(&status).is_empty());
        status.enabled = false;
        assert_eq!(counted.tick(&status), []);
        assert_eq!(counted.tick(&MpsStatus::default()), [], "before the first status");
    }

    #[test]
    fn memory_is_told_of_the_server_of_that_gpu_when_there_are_lists() {
        let status = status(vec![gpu(0, 0), gpu(1, 0)]);
        let mut sample = GpuSample::new("1".into());
        sample.memory = Some(Memory {
            total_bytes: 1_000,
            reserved_bytes: 0,
            used_bytes: 600,
            free_bytes: 400,
        });
        assert_eq!(memory(&status, &sample), [], "not read");
        let process = |pid, bytes| GpuProcess {
            pid,
            memory_bytes: Some(bytes),
            computes: true,
        };
        sample.processes = Some(vec![process(10, 500), process(11, 30)]);
        let texts: Vec<String> = memory(&status, &sample)
            .iter()
            .map(|(series, value)| format!("{series} {value}"))
            .collect();
        assert_eq!(
            texts,
            [
                "gpu_memory_mps_overhead{GPUNumber=\"1\"} 30",
                "gpu_memory_unattributed{GPUNumber=\"1\"} 70",
            ]
        );
    }
}
