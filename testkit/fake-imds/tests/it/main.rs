//! The fake as its clients see it: the AWS SDK for Rust, a bare socket, and whoever runs the program.

#![expect(
    clippy::unwrap_used,
    reason = "all of this is test code: clippy exempts only functions with #[test]"
)]

mod program;
mod protocol;
mod raw;
mod sdk;
mod troubles;
