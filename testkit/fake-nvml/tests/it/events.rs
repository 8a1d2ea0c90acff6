//! XID events.

use std::time::{Duration, Instant};

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;

use crate::stage::{Stage, gpu};

#[test]
fn wait_blocks_for_its_time_or_until_an_event() {
    let scenario = format!(
        "{}{}[[event]]\nat_ms = 1500\ngpu = 1\nxid = 31\n",
        gpu(0, ""),
        gpu(1, "")
    );
    let Some(stage) = Stage::enter("events::wait_blocks_for_its_time_or_until_an_event", &scenario) else {
        return;
    };
    let nvml = stage.nvml().expect("init");
    let xid = EventTypes::CRITICAL_XID_ERROR;
    let set = nvml.create_event_set().expect("set");
    let set = nvml
        .device_by_index(0)
        .expect("0")
        .register_events(xid, set)
        .expect("register");
    let set = nvml
        .device_by_index(1)
        .expect("1")
        .register_events(xid, set)
        .expect("register");
    let began = Instant::now();
    assert!(matches!(set.wait(50), Err(NvmlError::Timeout)));
    assert!(began.elapsed() >= Duration::from_millis(50));
    let event = set.wait(20_000).expect("the event");
    assert_eq!(event.device.index().expect("index"), 1);
    assert!(
        matches!(event.event_data, Some(XidError::Value(31))),
        "{:?}",
        event.event_data
    );
    assert!(matches!(set.wait(0), Err(NvmlError::Timeout)), "it is told once");
}

#[test]
fn wait_on_a_lost_gpu_returns_at_once() {
    let scenario = format!(
        "{}[[fault]]\ngpu = 0\nkind = \"lost\"\nat_ms = 1500\n",
        gpu(0, "")
    );
    let Some(stage) = Stage::enter("events::wait_on_a_lost_gpu_returns_at_once", &scenario) else {
        return;
    };
    let nvml = stage.nvml().expect("init");
    let set = nvml.create_event_set().expect("set");
    let device = nvml.device_by_index(0).expect("device");
    let set = device
        .register_events(EventTypes::CRITICAL_XID_ERROR, set)
        .expect("register");
    for _ in 0..2 {
        assert!(matches!(set.wait(20_000), Err(NvmlError::GpuLost)));
    }
}
