//! Calls that hang, GPUs that are lost or need a reset.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fake_nvml::calllog::Outcome;
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{Sampling, TemperatureSensor};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;

use crate::stage::{Stage, gpu};

const TEMPERATURE: &str = "nvmlDeviceGetTemperature";

/// What happened to the temperature call on GPU 0 so far.
fn outcomes(stage: &Stage) -> Vec<Outcome> {
    let calls = stage
        .calls()
        .into_iter()
        .filter(|call| call.function == TEMPERATURE && call.gpu == Some(0));
    calls.map(|call| call.outcome).collect()
}

fn wait_for(stage: &Stage, expected: &[Outcome]) {
    let end = Instant::now() + Duration::from_secs(10);
    while outcomes(stage) != expected {
        assert!(
            Instant::now() < end,
            "expected {expected:?}, found {:?}",
            outcomes(stage)
        );
        thread::sleep(Duration::from_millis(5));
    }
}

fn temperature(nvml: &Nvml, index: u32) -> Result<u32, NvmlError> {
    nvml.device_by_index(index)?.temperature(TemperatureSensor::Gpu)
}

#[test]
fn hang_holds_up_one_call_and_nothing_else() {
    let hang = format!("[[hang]]\nfunction = \"{TEMPERATURE}\"\ngpu = 0\nms = 1000\ntimes = 1\n");
    let scenario = format!("{}{}{hang}", gpu(0, ""), gpu(1, ""));
    let Some(stage) = Stage::enter("trouble::hang_holds_up_one_call_and_nothing_else", &scenario) else {
        return;
    };
    let nvml = Arc::new(stage.nvml().expect("init"));
    let stuck = thread::spawn({
        let nvml = Arc::clone(&nvml);
        move || temperature(&nvml, 0)
    });
    wait_for(&stage, &[Outcome::Entered]);
    assert!(temperature(&nvml, 1).is_ok(), "the other GPU answers");
    assert!(
        nvml.device_by_index(0).expect("device").power_usage().is_ok(),
        "other calls answer"
    );
    assert_eq!(outcomes(&stage), [Outcome::Entered], "still stuck");
    assert!(stuck.join().expect("no panic").is_ok());
    assert!(temperature(&nvml, 0).is_ok(), "it hangs once");
    assert_eq!(
        outcomes(&stage),
        [Outcome::Entered, Outcome::Returned(0), Outcome::Returned(0)]
    );
}

#[test]
fn hang_without_a_length_never_ends() {
    let hang = format!("[[hang]]\nfunction = \"{TEMPERATURE}\"\n");
    let scenario = format!("{}{hang}", gpu(0, ""));
    let Some(stage) = Stage::enter("trouble::hang_without_a_length_never_ends", &scenario) else {
        return;
    };
    let nvml = Arc::new(stage.nvml().expect("init"));
    let stuck = thread::spawn({
        let nvml = Arc::clone(&nvml);
        move || temperature(&nvml, 0)
    });
    wait_for(&stage, &[Outcome::Entered]);
    thread::sleep(Duration::from_millis(300));
    assert!(!stuck.is_finished());
    assert_eq!(outcomes(&stage), [Outcome::Entered]);
}

#[test]
fn lost_gpu_fails_alone_and_comes_back() {
    let scenario = format!(
        "{}{}[[fault]]\ngpu = 1\nkind = \"lost\"\nat_ms = 0\nclears_ms = 2000\n",
        gpu(0, ""),
        gpu(1, "")
    );
    let Some(stage) = Stage::enter("trouble::lost_gpu_fails_alone_and_comes_back", &scenario) else {
        return;
    };
    let nvml = stage.nvml().expect("init");
    assert_eq!(nvml.device_count().expect("count"), 2, "a lost GPU still counts");
    assert!(matches!(nvml.device_by_index(1), Err(NvmlError::GpuLost)));
    assert!(matches!(nvml.device_by_uuid("GPU-1"), Err(NvmlError::GpuLost)));
    assert!(temperature(&nvml, 0).is_ok());
    stage.wait_until(2000);
    assert!(temperature(&nvml, 1).is_ok());
}

#[test]
fn reset_required_fails_some_calls_and_field_230_says_so() {
    let scenario = format!(
        "{}[[fault]]\ngpu = 0\nkind = \"reset_required\"\nat_ms = 0\n",
        gpu(0, "utilization = 5")
    );
    let Some(stage) = Stage::enter_late(
        "trouble::reset_required_fails_some_calls_and_field_230_says_so",
        &scenario,
        5_000,
    ) else {
        return;
    };
    let nvml = stage.nvml().expect("init");
    let device = nvml.device_by_index(0).expect("device");
    assert!(matches!(
        device.samples(Sampling::GpuUtilization, None),
        Err(NvmlError::ResetRequired)
    ));
    assert!(device.temperature(TemperatureSensor::Gpu).is_ok());
    let fields = device.field_values_for(&[FieldId(230)]).expect("batch");
    let action = fields.into_iter().next().expect("one").expect("supported").value;
    assert!(matches!(action, Ok(SampleValue::U32(1))), "{action:?}");
}
