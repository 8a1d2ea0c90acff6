//! The ledger of all runs on one node, as it is kept beside its windows. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::metrics::window::DropReason;

/// What became of the samples of one node so far, those that wait left aside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Totals {
    /// Whose: the instance id; absent on a machine that is no instance.
    pub(super) instance: Option<String>,
    /// When the first run began, Unix seconds.
    pub(super) since: u64,
    /// How many runs there were, this one included.
    pub(super) runs: u64,
    /// Samples that arrived.
    pub(super) accepted: u64,
    /// Samples of the windows that are on the disk: those that are found missing were damaged.
    pub(super) waiting: u64,
    /// Samples given up, by reason.
    pub(super) dropped: BTreeMap<DropReason, u64>,
    /// Boots in which this instance wrote records before it knew its name.
    pub(super) boots: BTreeSet<String>,
}
