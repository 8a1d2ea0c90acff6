//! The programs of the fake, run as a node runs the real ones: each measured fact has a test.

#![expect(
    clippy::unwrap_used,
    reason = "all of this is test code: clippy exempts only functions with #[test]"
)]

mod answers;
mod clients;
mod files;
mod kit_api;
mod outages;
mod servers;
mod stage;
mod start;
mod versions;
