//! `cargo xtask test`: everything that CI runs, in the order of its cost.
//!
//! Invariants: the first step that fails ends the run, is named, and so is the command that repeats it alone; the tests
//! come last, in one run, so that the closing lines of the whole are the test runner's own summary. Nothing here
//! changes a file of the repository. A test that cannot run on this machine is never green: it is left out by name.

mod ceiling;
mod deny;
mod machine;
mod runner;
mod shell;
mod steps;
mod tidy;

pub(crate) use steps::{Options, run};
