//! The exported C functions, one line or a few each, and the only unsafe code.
//!
//! A function names itself, its arguments and its answer; everything else is the driver's. Arguments that are pointers
//! are wrapped in the types of `pointers`, which alone dereference them.

#![expect(
    unsafe_code,
    reason = "a C interface exports unmangled names and writes through the caller's pointers"
)]

mod events;
mod inventory;
mod metrics;
mod pointers;
mod processes;
mod system;

use nvml_wrapper_sys::bindings::nvmlDevice_t;

/// Declares C functions on a device: the answer sees the GPU at the instant of the call.
macro_rules! device_functions {
    ($(fn $name:ident($gpu:ident $(, $argument:ident: $type:ty)*) $answer:block)*) => {
        pub(crate) const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name(
                device: nvml_wrapper_sys::bindings::nvmlDevice_t
                $(, $argument: $type)*
            ) -> nvml_wrapper_sys::bindings::nvmlReturn_t {
                crate::driver::device(stringify!($name), device.addr(), |$gpu| $answer)
            }
        )*
    };
}

/// Declares C functions that concern no device: the answer sees the scenario at the instant of the call.
macro_rules! system_functions {
    ($(fn $name:ident($moment:pat $(, $argument:ident: $type:ty)*) $answer:block)*) => {
        pub(crate) const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name($($argument: $type),*) -> nvml_wrapper_sys::bindings::nvmlReturn_t {
                crate::driver::system(stringify!($name), |$moment| $answer)
            }
        )*
    };
}

use {device_functions, system_functions};

/// The names of all exported functions.
pub(crate) fn exports() -> impl Iterator<Item = &'static str> {
    let modules = [
        system::BARE_NAMES,
        system::NAMES,
        inventory::NAMES,
        metrics::NAMES,
        processes::NAMES,
        events::sets::NAMES,
        events::devices::NAMES,
    ];
    modules.into_iter().flatten().copied()
}

/// The handle of a GPU: its index plus one, so that null is never one.
fn handle(index: usize) -> nvmlDevice_t {
    std::ptr::without_provenance_mut(index + 1)
}
