//! An NVML that plays GPUs from a scenario file.
//!
//! Built as a shared library it is loaded in place of `libnvidia-ml.so.1`; linked as a Rust library it helps the
//! tests that load it. The keys of a scenario are documented in this crate's `README.md`.
//!
//! | part | job |
//! |---|---|
//! | [`scenario`] | the file: its types and what is wrong with it |
//! | [`track`] | values over time: constants and curves |
//! | `answers`, `fields`, `ring` | what a GPU says at one instant; pure, no clock, no state |
//! | `events` | event sets and which event each has still to deliver; pure |
//! | `driver` | the process-wide state: scenario, init count, faults, hangs, the way through one call |
//! | [`calllog`] | one line per call, for tests to assert on |
//! | `ffi` | the exported C functions; mechanical, the only unsafe code |
//! | [`library`], `elf` | finds the built shared library, and makes copies that lack symbols |
//!
//! Invariants: two processes with one scenario and one epoch give the same answers at the same instant; a panic
//! never crosses into the caller; what NVML marks as unavailable is an error code, never a zero.
//! It must not be loaded by anything but tests and demonstrations, and knows nothing of the program that loads it.

pub mod calllog;
pub mod library;
pub mod scenario;
pub mod track;

mod answers;
mod clock;
mod code;
mod driver;
mod elf;
mod events;
mod ffi;
mod fields;
mod ring;

pub use library::{library_path, library_without};
pub use ring::{RING_CAPACITY, RingSample, utilization_between};
pub use scenario::Scenario;
