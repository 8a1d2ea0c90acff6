//! `cargo xtask demo`: the agent at work, on any Linux machine, with neither a GPU nor AWS.
//!
//! Job: build the agent, start it on the GPUs of this machine or on four simulated ones, with a simulated CloudWatch and
//! instance metadata service, keep MPS on them, and show its live status and every window that CloudWatch accepted, until Ctrl-C or for
//! `--seconds N`; then the sum of it all.
//! Invariants: exit code 0 means that the status answered, at least one window was accepted, no sample is missing and the
//! agent ended well, with every MPS daemon quit; all files are in `target/demo`; no process is left behind; nothing is sent off this machine.
//! It must not take the agent's word for what was published: windows, bytes and percentiles are those of what the
//! simulated CloudWatch accepted.

mod accepted;
mod command;
mod digest;
mod ledger;
mod mps;
mod nvml;
mod screen;
mod stage;
mod summary;

pub(crate) use command::{Options, run};
