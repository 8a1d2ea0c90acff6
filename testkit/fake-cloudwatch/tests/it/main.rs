//! The fake as its clients see it: the AWS SDK for Rust, a bare socket, and whoever runs the program.

#![expect(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "all of this is test code: clippy exempts only functions with #[test], and values pass the fake unchanged"
)]

mod client;
mod fates;
mod limits;
mod program;
mod protocol;
mod raw;
mod sdk;
