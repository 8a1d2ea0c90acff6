//! `cargo xtask dist`: the release as rpm and deb, for x86-64 and aarch64, built on either.
//!
//! | file | job |
//! |---|---|
//! | `command` | the command: what is built, in which order, and the table at the end |
//! | `architecture` | the names that each tool has for an architecture |
//! | `standard_library`, `debian_rust` | Rust's standard library for another architecture, and where it is had |
//! | `build` | the release binary, against the C library of Amazon Linux 2023 |
//! | `gate` | refuses a binary that would not start there |
//! | `nfpm` | the packages, by nfpm |
//! | `testing` | packages of the debug build, for the tests on booted nodes |
//!
//! Invariants: the same sources, toolchain and pins give the same bytes, whatever the folder, the user and the time;
//! what does not pass the gate is not packaged; everything lies below `target/dist`.

mod architecture;
mod build;
mod command;
mod debian_rust;
mod gate;
mod nfpm;
mod standard_library;
mod testing;

pub(crate) use command::{Options, run};
pub(crate) use testing::make as make_packages_of_tests;
