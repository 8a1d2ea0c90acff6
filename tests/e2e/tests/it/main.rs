//! Nodes that boot, and the product on them.
//!
//! Everything here takes root and a prepared machine; `cargo xtask test` prepares it, or leaves these tests out by
//! name.

#![expect(
    clippy::unwrap_used,
    reason = "all of it is a test: a failure ends it where it happens"
)]

mod harness;
mod image;
mod leftovers;
mod lifetime;
mod mps;
mod package;
mod real_mps;
mod unit;
