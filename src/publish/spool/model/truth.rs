//! The naive model: every window that was ever pushed, what became of it, and what a disk must hold.

use std::collections::{BTreeMap, BTreeSet};

use crate::metrics::window::DropReason;
use crate::metrics::{ClosedWindow, Distribution, Metric, Series};
use crate::publish::spool::origin::Origin;
use crate::publish::spool::totals::Totals;

/// A window's number: 0 for the one that was pushed first.
pub(super) type Seq = usize;

/// The values of a window lie between its number times this and the next one's.
const SPREAD: f64 = 1e6;

/// A window like no other.
pub(super) fn window(seq: Seq, start: u64, values: u16) -> ClosedWindow {
    let value = |n: u32| seq as f64 * SPREAD + f64::from(n * 7919 % 999_983) + 0.25;
    let counts = (0..u32::from(values)).map(|n| (value(n), n % 3 + 1)).collect();
    let disk = Series::labelled(Metric::DiskUsedPercent, &format!("/{seq}").into());
    let series = vec![
        (
            Series::plain(Metric::CpuUsageActive),
            Distribution::of_counts(counts),
        ),
        (disk, Distribution::of_counts(vec![(value(0), 1)])),
    ];
    ClosedWindow { start, series }
}

/// Which one it is.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "its own values are small and positive"
)]
pub(super) fn seq(window: &ClosedWindow) -> Seq {
    (window.series[0].1.counts()[0].0 / SPREAD) as Seq
}

/// What became of a window's samples.
#[derive(Clone, Debug, Default)]
pub(super) struct Fate {
    pub(super) accepted: u64,
    pub(super) dropped: BTreeMap<DropReason, u64>,
}

impl Fate {
    pub(super) fn settled(&self) -> u64 {
        self.accepted + self.dropped.values().sum::<u64>()
    }

    pub(super) fn drop(&mut self, reason: DropReason, samples: u64) {
        if samples > 0 {
            *self.dropped.entry(reason).or_default() += samples;
        }
    }
}

/// A record on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) seq: Seq,
    pub(super) origin: Origin,
}

/// What a disk holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OnDisk {
    pub(super) records: BTreeMap<u64, Stored>,
    pub(super) rows: BTreeMap<Option<String>, Totals>,
}

impl OnDisk {
    pub(super) fn holds(&self, seq: Seq) -> bool {
        self.records.values().any(|stored| stored.seq == seq)
    }

    /// The keys of the records that belong to a node: those that name it, and those without a name that were written in
    /// a boot of it, which records or its ledger name. A machine that is no instance owns what was written on it without
    /// a name.
    pub(super) fn owned(&self, here: &Origin) -> BTreeSet<u64> {
        let keys = self.records.iter();
        let row = self.rows.get(&here.instance).filter(|_| here.instance.is_some());
        let boots: BTreeSet<&str> = keys
            .clone()
            .filter(|(_, stored)| here.instance.is_some() && stored.origin.instance == here.instance)
            .map(|(_, stored)| stored.origin.boot.as_str())
            .chain([here.boot.as_str()])
            .chain(row.iter().flat_map(|row| row.boots.iter().map(String::as_str)))
            .collect();
        let owns = |origin: &Origin| match (&here.instance, &origin.instance) {
            (here, Some(_)) => *here == origin.instance,
            (Some(_), None) => boots.contains(origin.boot.as_str()),
            (None, None) => here.boot == origin.boot || here.machine == origin.machine,
        };
        keys.filter(|(_, stored)| owns(&stored.origin))
            .map(|(key, _)| *key)
            .collect()
    }
}
