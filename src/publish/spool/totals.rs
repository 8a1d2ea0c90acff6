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

impl Totals {
    /// As it is written: its checksum, and what it says. A store below that has none would hand out a flipped bit as
    /// another number.
    pub(super) fn seal(&self) -> String {
        let text = serde_json::to_string(self).expect("numbers and names have a form");
        format!("{:08x} {text}", checksum(text.as_bytes()))
    }

    /// What was written; `None` if it is not that any more.
    pub(super) fn open(sealed: &[u8]) -> Option<Self> {
        let (sum, text) = sealed.split_at_checked(8)?;
        let text = text.strip_prefix(b" ")?;
        let sum = u32::from_str_radix(str::from_utf8(sum).ok()?, 16).ok()?;
        let is_whole = sum == checksum(text);
        is_whole.then(|| serde_json::from_slice(text).ok()).flatten()
    }
}

fn checksum(text: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(text);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c15_a_ledger_with_a_flipped_bit_is_none() {
        let totals = Totals {
            instance: Some("i-a".into()),
            accepted: 1_000_000,
            ..Totals::default()
        };
        let sealed = totals.seal().into_bytes();
        assert_eq!(Totals::open(&sealed), Some(totals.clone()));
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let found = Totals::open(&flipped);
            // A letter of the checksum may be small or large.
            assert!(found.is_none() || found.as_ref() == Some(&totals), "{found:?}");
        }
        assert_eq!(Totals::open(b""), None);
        assert_eq!(Totals::open(b"{}"), None);
    }
}
