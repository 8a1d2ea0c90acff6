//! MPS as units of a real systemd: both unit files as a package installs them, the agent with its one capability, and
//! `fake-mps` and `fake-nvml` in the places of the driver's programs. In [`real_mps`] the daemon is NVIDIA's.

mod agent;
mod ends;
mod operator;
mod real_mps;
pub(crate) mod scene;
mod starts;
