//! Event sets, and the performance monitors that this fake has not.

/// Functions on an event set or a performance sample.
pub(super) mod sets {
    use std::ffi::c_uint;

    use nvml_wrapper_sys::bindings::{
        nvmlEventData_t, nvmlEventSet_t, nvmlEventTypeXidCriticalError, nvmlGpmMetricsGet_t, nvmlGpmSample_t,
    };

    use crate::code::Code;
    use crate::driver;
    use crate::ffi::pointers::Out;
    use crate::ffi::{handle, system_functions};

    system_functions! {
        fn nvmlEventSetCreate(_, set: Out<nvmlEventSet_t>) {
            set.set(std::ptr::without_provenance_mut(driver::create_event_set()))
        }
        fn nvmlEventSetFree(_, set: nvmlEventSet_t) { driver::free_event_set(set.addr()) }
        fn nvmlEventSetWait_v2(_, set: nvmlEventSet_t, data: Out<nvmlEventData_t>, timeout_ms: c_uint) {
            let heard = driver::wait_for_event(set.addr(), timeout_ms)?;
            data.set(nvmlEventData_t {
                device: handle(heard.gpu),
                eventType: nvmlEventTypeXidCriticalError.into(),
                eventData: heard.xid,
                gpuInstanceId: c_uint::MAX,
                computeInstanceId: c_uint::MAX,
            })
        }
        fn nvmlGpmSampleAlloc(_, _sample: Out<nvmlGpmSample_t>) { Err(Code::NOT_SUPPORTED) }
        fn nvmlGpmSampleFree(_, _sample: nvmlGpmSample_t) { Ok(()) }
        fn nvmlGpmMetricsGet(_, _metrics: Out<nvmlGpmMetricsGet_t>) { Err(Code::NOT_SUPPORTED) }
    }
}

/// Functions on a device.
pub(super) mod devices {
    use std::ffi::{c_uint, c_ulonglong};

    use nvml_wrapper_sys::bindings::{
        nvmlEventSet_t, nvmlEventTypeXidCriticalError, nvmlGpmSample_t, nvmlGpmSupport_t,
    };

    use crate::code::Code;
    use crate::driver;
    use crate::ffi::device_functions;
    use crate::ffi::pointers::Out;

    device_functions! {
        fn nvmlDeviceGetSupportedEventTypes(_at, types: Out<c_ulonglong>) {
            types.set(nvmlEventTypeXidCriticalError.into())
        }
        fn nvmlDeviceRegisterEvents(at, types: c_ulonglong, set: nvmlEventSet_t) {
            if types != u64::from(nvmlEventTypeXidCriticalError) {
                return Err(Code::NOT_SUPPORTED);
            }
            driver::register_events(set.addr(), at)
        }
        fn nvmlGpmSampleGet(_at, _sample: nvmlGpmSample_t) { Err(Code::NOT_SUPPORTED) }
        fn nvmlGpmMigSampleGet(_at, _instance: c_uint, _sample: nvmlGpmSample_t) { Err(Code::NOT_SUPPORTED) }
        fn nvmlGpmQueryDeviceSupport(_at, support: Out<nvmlGpmSupport_t>) {
            let mut answer = support.get()?;
            answer.isSupportedDevice = 0;
            support.set(answer)
        }
    }
}
