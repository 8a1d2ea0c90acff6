//! `cargo xtask test`: everything that CI runs, in the order of its cost.
//!
//! Invariants: the first step that fails ends the run, is named, and so is the command that repeats it alone; the tests
//! come last, so that the closing lines of the whole are the test runner's own summary. Nothing here changes a file of
//! the repository.

mod ceiling;
mod deny;
mod runner;
mod steps;
mod tidy;

pub(crate) use steps::{Options, run};
