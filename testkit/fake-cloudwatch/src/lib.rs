//! A `CloudWatch` that takes `PutMetricData` as the AWS SDK for Rust sends it, and is stricter than any other fake.
//!
//! It decodes Smithy RPC v2 CBOR, enforces every documented limit on the uncompressed body, answers errors so that the
//! SDK maps them as it maps the service's, goes wrong on script, and keeps what it accepted for tests to compare. The
//! scripts are documented in this crate's `README.md`.
//!
//! | part | job |
//! |---|---|
//! | [`service`] | [`FakeCloudWatch`]: starts, is scripted, is asked |
//! | [`datum`] | what was accepted: the types that tests compare |
//! | [`statistics`] | what `CloudWatch` would show of it: percentiles and merged statistics; pure |
//! | [`fate`] | everything that can go wrong, and its keys in a script |
//! | [`attempt`] | the log: every request that arrived, whatever became of it |
//! | `gate`, `decode`, `limits` | what is wrong with a head, body to datums, what is wrong with those; pure |
//! | `refusal` | error answers as the service words and frames them; pure |
//! | `desk` | the way of one request: authorise, decode, check, commit, answer |
//! | `views` | what a person or a program sees of it over HTTP |
//!
//! Invariants: a request is accepted as a whole or not at all; what is accepted is stored before its answer goes out;
//! every request to the operation is in the log before anything happens to it.
//! It must not be lenient: a request that the service might refuse is refused here.

pub mod attempt;
pub mod datum;
pub mod fate;
pub mod service;
pub mod statistics;

mod decode;
mod desk;
mod gate;
mod limits;
mod refusal;
mod store;
mod views;

pub use attempt::Attempt;
pub use datum::{AcceptedDatum, Key, Series, StatisticSet, keys};
pub use fate::{Fate, Script};
pub use http_stub::{Clock, Rule};
pub use service::FakeCloudWatch;
pub use statistics::{Merged, merged};
