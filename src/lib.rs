//! gpushare turns an EKS GPU node into a shared-GPU node that can be seen.
//!
//! This is the code map; `ARCHITECTURE.md` tells how data flows.
//!
//! | module | job |
//! |---|---|
//! | [`cli`], [`commands`] | the command line, exit codes |
//! | [`agent`] | configuration -> tasks -> READY -> stop |
//! | [`reload`] | another configuration for the running agent |
//! | [`config`] | raw values from file, environment and `--set` -> validated [`config::Config`] |
//! | [`identity`] | who this node is |
//! | [`interruption`] | whether EC2 takes this spot instance away |
//! | [`gpu`] | the GPUs, read by a child process that may hang |
//! | [`host`] | processor, memory, swap, disks |
//! | [`aws_http`] | the HTTP client under every call to AWS |
//! | [`mps`] | NVIDIA MPS on every GPU, supervised and verified |
//! | [`metrics`] | catalogue, series, windows, the sampler |
//! | [`publish`] | batches and where they go |
//! | [`status`] | snapshot, socket, table |
//! | [`check`] | what is wrong with this node |
//! | [`systemd`], [`log`] | the two that listen to us |
//!
//! Dependencies point one way: adapters and tasks use plans and types. Files named `plan.rs`, and all of
//! [`metrics`] but its task, do no I/O and know no clock.

pub mod agent;
pub mod aws_http;
pub mod check;
pub mod cli;
pub mod commands;
pub mod config;
pub mod gpu;
pub mod host;
pub mod identity;
pub mod interruption;
pub mod log;
pub mod metrics;
pub mod mps;
pub mod publish;
pub mod reload;
mod signals;
pub mod status;
pub mod systemd;
