//! The agent as a child of these tools: its configuration, its life, and what the kernel says about it.
//!
//! Invariants: an agent that was started here does not outlive the command, however the command ends (Ctrl-C, an error,
//! a panic; with util-linux's `setpriv` even a kill); nothing it does reaches outside the directory given to it.

mod cloud;
mod interrupt;
mod mps;
mod process;
pub(crate) mod procfs;
mod settings;

pub(crate) use cloud::Cloud;
pub(crate) use interrupt::Interrupt;
pub(crate) use mps::{PlayedMps, SERVER, may_set_modes, quit_all, verified_servers, with_processes};
pub(crate) use process::{Agent, Launch, STOP_BUDGET, Stopped, in_path, output_within};
pub(crate) use settings::{ALL_GROUPS, MpsSettings, Settings};
