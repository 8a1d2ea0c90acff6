//! `cargo xtask bench`: what the agent costs, measured from outside on the release build.
//!
//! Job: size of the binary, time from exec to READY, cost of one tick, memory and CPU in steady state at 8 simulated
//! GPUs; written to docs/benchmarks.md beside the budgets, with the machine and the command.
//! Invariants: every figure comes from this run on this machine; figures of several runs are the median with the least
//! and the greatest; a measurement that fails ends the command, and the document stays as it was.
//! It must not read what the agent says about itself: the kernel is the witness.

mod command;
mod machine;
mod ready;
mod report;
mod steady;
mod tick;

pub(crate) use command::{Options, run};
