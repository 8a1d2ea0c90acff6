//! The built shared library, used through `nvml-wrapper` as a real program uses NVML.

mod compute_mode;
mod devices;
mod events;
mod initialisation;
mod library;
mod processes;
mod samples;
mod scenarios;
mod stage;
mod trouble;
