//! The real agent, from a real configuration file, against a library that plays the GPUs: only the ends are fake.
//!
//! Test names start with the row of the failure table that they prove (`g10_…`); `docs/behaviours.md` lists them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::float_cmp,
    reason = "all of it is a test: a failure ends it where it happens, and published values are exact"
)]

mod gpu;
mod harness;
mod identity;
mod input;
mod life;
mod mps;
mod outage;
mod publish;
mod supervision;
