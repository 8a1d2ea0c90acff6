//! The scenarios that ship with the kit.

use std::path::{Path, PathBuf};

use fake_nvml::Scenario;
use nvml_wrapper::enum_wrappers::device::Sampling;
use nvml_wrapper::error::NvmlError;

use crate::stage::{NOTICED, Stage};

fn shipped() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let entries = fs_err::read_dir(dir).expect("the scenarios");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    paths
}

#[test]
fn all_are_valid_and_named_after_instance_types() {
    let counts = shipped().into_iter().map(|path| {
        let text = fs_err::read_to_string(&path).expect("readable");
        let scenario = Scenario::parse(&text).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
        (
            path.file_stem().expect("name").to_string_lossy().into_owned(),
            scenario.gpus.len(),
        )
    });
    let expected = [("g4dn.xlarge", 1), ("g5.12xlarge", 4), ("p5.48xlarge", 8)];
    assert_eq!(
        counts.collect::<Vec<_>>(),
        expected.map(|(name, count)| (name.to_owned(), count))
    );
}

#[test]
fn all_play_and_each_gpu_answers() {
    let Some(stage) = Stage::enter_late("scenarios::all_play_and_each_gpu_answers", "", 600_000) else {
        return;
    };
    for path in shipped() {
        let text = fs_err::read_to_string(&path).expect("readable");
        let scenario = Scenario::parse(&text).expect("valid");
        stage.play(&text);
        std::thread::sleep(NOTICED);
        let nvml = stage.nvml().expect("init");
        for (index, gpu) in (0..).zip(&scenario.gpus) {
            let device = nvml.device_by_index(index).expect("device");
            assert_eq!(device.name().expect("name"), gpu.name);
            assert!(device.utilization_rates().expect("utilisation").gpu <= 100);
            let memory = device.memory_info().expect("memory");
            assert_eq!(memory.used + memory.free + memory.reserved, memory.total);
            let listed = device.running_compute_processes().expect("processes").len();
            assert_eq!(listed, gpu.processes.len());
            match device.samples(Sampling::GpuUtilization, None) {
                Ok(samples) => assert!(gpu.ring && !samples.is_empty()),
                Err(error) => assert!(!gpu.ring && matches!(error, NvmlError::NotFound), "{error}"),
            }
        }
    }
}
