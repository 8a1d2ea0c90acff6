//! `cargo xtask demo`: the agent at work, on any Linux machine.
//!
//! Job: build the agent, start it on the GPUs of this machine or on four simulated ones, and show its live status and
//! every window that it closes, until Ctrl-C or for `--seconds N`.
//! Invariants: exit code 0 means that the status answered, at least one window was printed and the agent ended well;
//! all files are in `target/demo`; no process is left behind.
//! It must not compute anything that the agent publishes: what is shown is read from the agent's own output.

mod command;
mod digest;
mod nvml;
mod screen;
mod windows;

pub(crate) use command::{Options, run};
