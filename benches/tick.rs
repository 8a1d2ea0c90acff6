//! What one tick costs: a host sample and the readings of eight GPUs, into the windows. Time and allocations.
//!
//! Prints `name=value` lines, which `cargo xtask bench` quotes.
#![expect(unsafe_code, reason = "counting allocations takes a global allocator")]
#![expect(clippy::print_stdout, reason = "the figures are the output")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gpushare::config::Config;
use gpushare::gpu::inventory::{Inventory, Numbers};
use gpushare::gpu::wire::{Driver, Reading, RingSample, Throttle};
use gpushare::gpu::{GpuInfo, GpuProcess, Memory};
use gpushare::host::{HostSettings, HostSource, LocalHost};
use gpushare::metrics::{Windows, series};

const GPUS: u32 = 8;
const TICKS: u64 = 2_000;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let host = Config::default().host;
    let mut source = LocalHost::new(HostSettings {
        root_dir: host.root_dir,
        exclude_mounts: host.exclude_mounts,
        exclude_fs_types: host.exclude_fs_types,
    });
    let mut inventory = inventory();
    let mut windows = Windows::new(Duration::from_mins(1), 500);
    let mut costs = Vec::new();
    for tick in 0..TICKS {
        let now = Duration::from_secs(1_000_000 + tick);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let begun = Instant::now();
        let sample = source.sample();
        let host_done = begun.elapsed();
        let mut points = series::of_host(&sample);
        for gpu in 0..GPUS {
            let read = inventory
                .read(&reading(gpu, tick, now), now, now)
                .expect("a known GPU");
            points.extend(series::of_gpu(&read));
            points.extend(series::of_ring(&read).map(|(_, point)| point));
        }
        for state in inventory.states() {
            points.extend(series::of_gpu_state(&state, Some(0)));
        }
        windows.advance(now);
        windows.record(points, now);
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        costs.push((begun.elapsed(), host_done, allocations));
    }
    let median = |pick: fn(&(Duration, Duration, u64)) -> u64| {
        let mut picked: Vec<u64> = costs.iter().map(pick).collect();
        picked.sort_unstable();
        picked[picked.len() / 2]
    };
    println!("ticks={TICKS} gpus={GPUS} series={}", windows.series());
    println!(
        "tick_us_median={} (the host sample included)",
        median(|cost| micros(cost.0))
    );
    println!("host_sample_us_median={}", median(|cost| micros(cost.1)));
    println!("allocations_median={}", median(|cost| cost.2));
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn inventory() -> Inventory {
    let gpus = (0..GPUS).map(|nvml_index| GpuInfo {
        uuid: uuid(nvml_index).as_str().into(),
        model: "NVIDIA H100 80GB HBM3".into(),
        pci_bus_id: format!("00000000:{nvml_index:02X}:00.0"),
        nvml_index,
        compute_capability: Some((9, 0)),
    });
    let driver = Driver {
        driver_version: "580.95.05".into(),
        cuda_version: Some("13.0".into()),
        gpus: gpus.collect(),
        unreadable: 0,
    };
    let mut inventory = Inventory::new(Numbers::default(), "boot".into());
    inventory.driver_ready(&driver, Duration::ZERO, Duration::ZERO);
    inventory
}

fn uuid(gpu: u32) -> String {
    format!("GPU-00000000-0000-0000-0000-{gpu:012}")
}

/// A reading whose every value changes from tick to tick, as the least favourable GPU's would.
fn reading(gpu: u32, tick: u64, now: Duration) -> Reading {
    let mut reading = Reading::new(uuid(gpu).as_str().into(), now);
    let wobble = (tick * 7 + u64::from(gpu) * 13) % 100;
    let percent = u32::try_from(wobble).unwrap_or(0);
    let unix_us = u64::try_from(now.as_micros()).unwrap_or(0);
    reading.utilization = (0..6)
        .map(|n| RingSample {
            unix_us,
            percent: (percent + n * 5) % 101,
        })
        .collect();
    reading.memory = Some(Memory {
        total_bytes: 80 << 30,
        reserved_bytes: 1 << 29,
        used_bytes: wobble << 29,
        free_bytes: (80 << 30) - (wobble << 29) - (1 << 29),
    });
    reading.power_milliwatts = Some(100_000 + wobble * 1_371);
    reading.temperature_celsius = i64::try_from(30 + wobble / 3).ok();
    reading.sm_clock_mhz = Some(1_200 + percent);
    reading.throttle = Some(Throttle::Totals([tick * 1_000_000, 0, 0, 0].map(Some)));
    reading.ecc_uncorrected_total = Some(0);
    reading.recovery_action = Some(0);
    reading.processes = Some(vec![GpuProcess {
        pid: 4_242,
        memory_bytes: Some(wobble << 29),
        computes: true,
    }]);
    reading
}
