//! Whether EC2 is about to take this instance away.
//!
//! * [`notice`]: what the metadata service says about it, and what that means (pure);
//! * [`task`]: asks it, on spot instances alone.
//!
//! A notice of a spot interruption comes two minutes before the end, a rebalance recommendation earlier or never. What
//! waits on the disk goes with the instance, so the sampler closes the open window at once and the publisher sends
//! everything as fast as it is accepted: both look at the [`InterruptionStatus`].

pub mod notice;
pub mod task;

use serde::{Deserialize, Serialize};

pub use notice::Notice;

/// What EC2 has announced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InterruptionStatus {
    /// The instance will be terminated, stopped or hibernated.
    pub notice: Option<Notice>,
    /// The instance is likely to be interrupted: when that was said, Unix seconds.
    pub rebalance: Option<u64>,
}
