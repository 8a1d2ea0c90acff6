//! The shared library as a file: what it exports, and copies that export less.

use std::collections::BTreeSet;
use std::io;

use fake_nvml::{library, library_path, library_without};
use nvml_wrapper::error::NvmlError;

use crate::stage::{Stage, gpu};

#[test]
fn exports_are_those_that_scenarios_may_name() {
    let found = library::symbols_of(&library_path()).expect("built");
    let nvml: BTreeSet<&str> = found
        .iter()
        .map(String::as_str)
        .filter(|name| name.starts_with("nvml"))
        .collect();
    assert_eq!(nvml, library::exports().collect::<BTreeSet<_>>());
}

#[test]
fn absent_symbol_fails_its_own_call_only() {
    let Some(stage) = Stage::enter("library::absent_symbol_fails_its_own_call_only", &gpu(0, "")) else {
        return;
    };
    let old = stage.path("libold.so");
    library_without(
        &library_path(),
        &old,
        &["nvmlDeviceGetSamples", "nvmlDeviceGetPowerUsage"],
    )
    .expect("copy");
    let nvml = Stage::nvml_at(&old).expect("init");
    let device = nvml.device_by_index(0).expect("device");
    assert!(matches!(
        device.power_usage(),
        Err(NvmlError::FailedToLoadSymbol(_))
    ));
    assert!(device.enforced_power_limit().is_ok());
}

#[test]
fn symbol_that_is_not_there_cannot_be_hidden() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let error = library_without(
        &library_path(),
        &dir.path().join("libold.so"),
        &["nvmlNoSuchCall"],
    )
    .expect_err("no such symbol");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("nvmlNoSuchCall"), "{error}");
}
