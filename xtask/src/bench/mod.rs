//! `cargo xtask bench`: what the agent costs, measured from outside on the release build.
//!
//! Job: size of the binary, time from exec to READY, cost of one tick, memory and CPU in steady state at 8 simulated
//! GPUs; requests, bytes and the bill at 1, 4 and 8; memory and CPU over many publishes; memory in an outage; how
//! soon MPS is back and what watching it costs; what the spool costs, how a day is replayed from it, and whether anything grows while CloudWatch comes and goes. Written to
//! docs/benchmarks.md beside the budgets, with the machine, the commit and the command.
//! Invariants: every figure comes from this run on this machine, save those that are named as another's; figures of
//! several runs are the median with the least and the greatest; a measurement that fails ends the command, and the
//! document stays as it was.
//! It must not read what the agent says about itself: the kernel and the simulated CloudWatch are the witnesses. Whether
//! MPS is verified is the one thing that it alone knows.

mod command;
mod cost;
mod machine;
mod mps;
mod node;
mod outage;
mod publishing;
mod pushes;
mod ready;
mod replay;
mod report;
mod soak;
mod spool;
mod spooling;
mod steady;
mod subject;
mod supervising;
mod tick;
mod traffic;

pub(crate) use command::{Options, run};
