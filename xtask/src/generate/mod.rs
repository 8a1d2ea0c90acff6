//! `cargo xtask gen`: the documents that are made from what the agent itself reads.
//!
//! Job: docs/configuration.md from config/gpushare.toml, docs/metrics.md from metrics/catalogue.toml.
//! Invariants: the same source gives the same bytes; a source that breaks its conventions is an error that names the
//! line, never a document with a hole. With `--check` nothing is written.

mod command;
mod configuration;
mod markdown;
mod metrics;

pub(crate) use command::{Options, check, run};
