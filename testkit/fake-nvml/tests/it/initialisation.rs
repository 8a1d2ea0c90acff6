//! Initialisation that fails, comes late or hangs, and a driver that goes and comes back.

use std::time::{Duration, Instant};

use fake_nvml::calllog::Outcome::{Entered, Returned};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper_sys::bindings::NvmlLib;

use crate::stage::{NOTICED, Stage, gpu};

#[test]
fn late_driver_is_there_after_its_time() {
    let scenario = format!("[init]\nerror = 9\nuntil_ms = 1500\n{}", gpu(0, ""));
    let Some(stage) = Stage::enter("initialisation::late_driver_is_there_after_its_time", &scenario) else {
        return;
    };
    assert!(matches!(stage.nvml(), Err(NvmlError::DriverNotLoaded)));
    stage.wait_until(1500);
    assert_eq!(
        stage
            .nvml()
            .expect("the driver is there")
            .device_count()
            .expect("count"),
        1
    );
}

#[test]
fn error_of_the_scenario_is_the_one_returned() {
    let Some(stage) = Stage::enter(
        "initialisation::error_of_the_scenario_is_the_one_returned",
        "[init]\nerror = 18",
    ) else {
        return;
    };
    assert!(matches!(stage.nvml(), Err(NvmlError::LibRmVersionMismatch)));
    stage.play("[init]\nerror = 999");
    std::thread::sleep(NOTICED);
    assert!(matches!(stage.nvml(), Err(NvmlError::Unknown)));
}

#[test]
fn hang_is_as_long_as_ordered_and_logged_at_its_beginning() {
    let Some(stage) = Stage::enter(
        "initialisation::hang_is_as_long_as_ordered_and_logged_at_its_beginning",
        "[init]\nhang_ms = 300",
    ) else {
        return;
    };
    let began = Instant::now();
    let nvml = stage.nvml().expect("in the end it works");
    assert!(began.elapsed() >= Duration::from_millis(300));
    drop(nvml);
    let calls: Vec<_> = stage
        .calls()
        .into_iter()
        .map(|call| (call.function, call.outcome))
        .collect();
    assert_eq!(calls[0], ("nvmlInit_v2".to_owned(), Entered));
    assert_eq!(calls[1], ("nvmlInit_v2".to_owned(), Returned(0)));
    assert_eq!(calls.last(), Some(&("nvmlShutdown".to_owned(), Returned(0))));
}

#[test]
#[expect(
    unsafe_code,
    reason = "the wrapper unloads a library whose initialisation failed"
)]
fn scenario_that_does_not_parse_says_why_once() {
    let name = "initialisation::scenario_that_does_not_parse_says_why_once";
    let Some(stage) = Stage::enter(name, "[[gpu]]\ncolour = \"green\"") else {
        return;
    };
    // SAFETY: the library has no load-time code, and the call takes no arguments.
    let lib = unsafe { NvmlLib::new(fake_nvml::library_path()) }.expect("load");
    for _ in 0..2 {
        // SAFETY: as above.
        assert_eq!(unsafe { lib.nvmlInit_v2() }, 999);
        std::thread::sleep(NOTICED);
    }
    let errors = stage.text("stderr");
    assert!(
        errors.contains("scenario.toml") && errors.contains("colour"),
        "{errors}"
    );
    assert_eq!(errors.matches("fake-nvml: ").count(), 1, "{errors}");
}

#[test]
fn driver_that_goes_needs_a_new_initialisation() {
    let scenario = format!("{}[[driver_gone]]\nat_ms = 1200\nclears_ms = 2000\n", gpu(0, ""));
    let Some(stage) = Stage::enter(
        "initialisation::driver_that_goes_needs_a_new_initialisation",
        &scenario,
    ) else {
        return;
    };
    let nvml = stage.nvml().expect("init");
    let device = nvml.device_by_index(0).expect("device");
    assert!(device.power_usage().is_ok());
    stage.wait_until(1200);
    assert!(matches!(device.power_usage(), Err(NvmlError::Uninitialized)));
    stage.wait_until(2000);
    assert!(
        matches!(device.power_usage(), Err(NvmlError::Uninitialized)),
        "it does not heal by itself"
    );
    drop(nvml);
    let nvml = stage.nvml().expect("the new driver");
    assert!(nvml.device_by_index(0).expect("device").power_usage().is_ok());
}

#[test]
#[expect(unsafe_code, reason = "the wrapper initialises once only")]
fn shutdown_is_counted() {
    let Some(stage) = Stage::enter("initialisation::shutdown_is_counted", &gpu(0, "")) else {
        return;
    };
    let nvml = stage.nvml().expect("init");
    let lib = nvml.lib();
    // SAFETY: these calls take no arguments.
    unsafe {
        assert_eq!(lib.nvmlInit_v2(), 0);
        assert_eq!(lib.nvmlShutdown(), 0);
        assert!(nvml.device_count().is_ok(), "one initialisation is left");
        assert_eq!(lib.nvmlShutdown(), 0);
        assert!(matches!(nvml.device_count(), Err(NvmlError::Uninitialized)));
        assert_eq!(lib.nvmlShutdown(), 1);
    }
}
