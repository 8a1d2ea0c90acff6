//! An EC2 instance metadata service that speaks `IMDSv2` only, and answers, stays silent or lies on script.
//!
//! | part | job |
//! |---|---|
//! | [`service`] | [`FakeImds`]: starts, is scripted, is asked |
//! | [`node`] | the instance that it describes |
//! | [`trouble`] | everything that can go wrong, for which paths |
//! | [`script`] | the script file; its keys are documented in this crate's `README.md` |
//! | [`request`] | the log: every request, whatever became of it |
//! | `pages` | what stands under which path at an instant; pure |
//! | `tokens` | session tokens: given, checked, expired; pure but for the instants handed in |
//! | `desk` | the way of one request |
//!
//! Invariants: nothing but a token is given to a request without a valid one; every request is in the log before
//! anything happens to it.
//! It must not fall back to `IMDSv1`: a client that does would pass here and fail on every node that requires tokens.

pub mod node;
pub mod request;
pub mod script;
pub mod service;
pub mod trouble;

mod desk;
mod pages;
mod tokens;

pub use http_stub::{Clock, Rule};
pub use node::{Credentials, Expiry, Node, SpotAction};
pub use request::{Request, TokenUse};
pub use script::Script;
pub use service::FakeImds;
pub use trouble::{Fate, Trouble};
