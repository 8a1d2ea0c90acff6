//! Booted nodes for tests: a real systemd, from PID 1 to the journal, in a container of `systemd-nspawn`.
//!
//! Job: what a test of an installed unit needs. [`Node::boot`] starts a node of a [`Spec`] in about a second; commands
//! run in it, its files are seen from outside, it reboots, and it is gone when the test is.
//! Invariants: a node changes nothing outside itself, whatever it runs; nothing of it (process, mount, file, control
//! group) is left when it is dropped, when the test panics, or when somebody kills the test; a test that cannot have
//! its node fails and says why. [`Cache::prepare`] fetches what the tests need, once; `cargo xtask test` calls it
//! before they run and leaves them out by name, with its reason, where it fails.
//!
//! | module | job |
//! |---|---|
//! | `cache` | what is fetched once: the root file system below every node, NVIDIA's MPS, packer |
//! | `root`, `mps`, `image_tools` | how each of them is made |
//! | `apt` | packages of Debian, fetched and not installed |
//! | `spec` | what a node is made of |
//! | `holder` | namespaces and mounts, by `holder.sh`: the part that cleans up |
//! | `node` | the node itself |
//! | `inside` | commands in a node |
//! | `family` | its processes as seen from outside |
//! | `built` | the programs of this workspace, as built |
#![expect(
    clippy::panic,
    reason = "a harness: what a test needs and does not get ends the test, and the message says why"
)]

mod apt;
mod built;
mod cache;
mod error;
mod family;
mod holder;
mod image_tools;
mod inside;
mod mps;
mod node;
mod packages;
mod root;
mod spec;

pub use apt::Apt;
pub use built::built;
pub use cache::Cache;
pub use error::Error;
pub use image_tools::{IMAGE_TOOLS_VARIABLE, ImageTools};
pub use inside::{Ran, Running};
pub use mps::{REAL_MPS_VARIABLE, RealMps};
pub use node::{Node, PATIENCE};
pub use packages::{Edition, PACKAGES_VARIABLE, Packages};
pub use spec::Spec;
