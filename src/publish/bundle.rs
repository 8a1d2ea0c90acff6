//! Windows of the backlog that share a request. Pure.
//!
//! A day of eight GPUs is 1440 windows, and nobody waits for one of them more than for the others: several go into one
//! request, each datum under its own time. Sharing is a hope and no promise. What CloudWatch accepts is settled for all
//! windows of the request; a request that fails settles nothing, and the windows that may be to blame go alone
//! afterwards, or fewer at a time.

use std::collections::{BTreeMap, BTreeSet};

use super::limits::MAX_DATUMS;
use super::plan::Plan;
use super::store::{Waiting, WindowId};
use super::{Batch, size};
use crate::metrics::window::DropReason;

/// Most bytes, before compression, that several windows take together. A request is in memory several times over while it
/// is made, and what the agent has once taken for it, it keeps.
pub const MOST_BYTES: usize = 250_000;

/// Fewer are not worth a trial.
const FEWEST_BYTES: usize = 8_000;

/// Windows that are gathered for one request.
#[derive(Debug)]
pub struct Gathering {
    windows: Vec<(Waiting, Plan)>,
    bytes: usize,
    datums: usize,
}

/// Windows in one request.
#[derive(Debug)]
pub struct Bundle {
    batch: Batch,
    members: Vec<Member>,
}

/// A window in a bundle.
#[derive(Debug)]
pub struct Member {
    /// The window. As long as it is held here, the store does not let it go.
    pub waiting: Waiting,
    /// Its samples in the request.
    pub samples: u64,
    /// Its samples that CloudWatch would refuse, by reason.
    pub refused: BTreeMap<DropReason, u64>,
    /// Its datums in the request.
    datums: usize,
}

impl Gathering {
    /// With its first window, whatever its size. `plan` has one batch.
    #[must_use]
    pub fn new(waiting: Waiting, plan: Plan) -> Self {
        Self {
            bytes: size::of_envelope(plan.namespace()) + bytes(&plan),
            datums: plan.data.len(),
            windows: vec![(waiting, plan)],
        }
    }

    /// Whether one more window like these would fit.
    #[must_use]
    pub fn has_room(&self, most_bytes: usize) -> bool {
        self.bytes + self.bytes / self.windows.len() <= most_bytes
    }

    /// Adds a window, if the request then has no more than `most_bytes`.
    pub fn add(&mut self, waiting: Waiting, plan: Plan, most_bytes: usize) -> Result<(), Plan> {
        let datums = self.datums + plan.data.len();
        let bytes = self.bytes + bytes(&plan);
        if datums > MAX_DATUMS || bytes > most_bytes {
            return Err(plan);
        }
        (self.datums, self.bytes) = (datums, bytes);
        self.windows.push((waiting, plan));
        Ok(())
    }

    /// The names of its windows.
    pub fn ids(&self) -> impl Iterator<Item = WindowId> {
        self.windows.iter().map(|(waiting, _)| waiting.id)
    }

    /// The request, or the plan of the only window: that one goes alone.
    pub fn bundle(mut self) -> Result<Bundle, Plan> {
        match self.windows.pop() {
            Some((_, plan)) if self.windows.is_empty() => return Err(plan),
            last => self.windows.extend(last),
        }
        let mut bundle = Bundle {
            batch: self.windows[0].1.batch(&[]),
            members: Vec::new(),
        };
        for (waiting, plan) in self.windows {
            bundle.members.push(Member {
                waiting,
                samples: plan.data.iter().map(|datum| datum.samples).sum(),
                refused: plan.refused,
                datums: plan.data.len(),
            });
            bundle.batch.metric_data.extend(plan.data);
        }
        Ok(bundle)
    }
}

impl Bundle {
    /// The request.
    #[must_use]
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// Its windows.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The windows of the datums that a reply blames, counted from 1; all, if it blames none.
    #[must_use]
    pub fn blamed(&self, named: &[usize]) -> BTreeSet<WindowId> {
        let mut first = 1;
        let mut blamed = BTreeSet::new();
        for member in &self.members {
            let theirs = first..first + member.datums;
            if named.iter().any(|datum| theirs.contains(datum)) {
                blamed.insert(member.waiting.id);
            }
            first = theirs.end;
        }
        if blamed.is_empty() {
            blamed = self.members.iter().map(|member| member.waiting.id).collect();
        }
        blamed
    }
}

fn bytes(plan: &Plan) -> usize {
    plan.data.iter().map(size::of_datum).sum()
}

/// What may share a request, and how much of it.
#[derive(Clone, Debug)]
pub struct Sharing {
    most_bytes: usize,
    alone: BTreeSet<WindowId>,
}

impl Default for Sharing {
    fn default() -> Self {
        Self {
            most_bytes: MOST_BYTES,
            alone: BTreeSet::new(),
        }
    }
}

impl Sharing {
    /// Most bytes for the windows of one request.
    #[must_use]
    pub fn most_bytes(&self) -> usize {
        self.most_bytes
    }

    /// Whether a window may share its request.
    #[must_use]
    pub fn allows(&self, id: WindowId) -> bool {
        !self.alone.contains(&id)
    }

    /// A request of any kind was accepted: a fifth more next time.
    pub fn accepted(&mut self) {
        self.most_bytes = (self.most_bytes + self.most_bytes / 5).min(MOST_BYTES);
    }

    /// A bundle was too large, took too long, or failed for what may be the fault of a window in it: half as much next
    /// time. A window that fails for a reason of its own is alone after a few times.
    pub fn failed(&mut self) {
        self.most_bytes = (self.most_bytes / 2).max(FEWEST_BYTES);
    }

    /// CloudWatch found fault with these windows.
    pub fn refused(&mut self, blamed: BTreeSet<WindowId>) {
        self.alone.extend(blamed);
    }

    /// Windows below `oldest` are gone.
    pub fn forget_before(&mut self, oldest: WindowId) {
        self.alone = self.alone.split_off(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::config::Dimension as NodeDimension;
    use crate::identity::Identity;
    use crate::metrics::{ClosedWindow, Metric, Series, Windows};
    use crate::publish::plan::{BatchSettings, Planner};

    fn planner() -> Planner {
        let settings = BatchSettings {
            namespace: "GPUShare".into(),
            dimensions: vec![NodeDimension::InstanceId],
            storage_resolution: 60,
            rollups: Vec::new(),
        };
        let identity = Identity {
            instance_id: Some("i-1".into()),
            ..Identity::default()
        };
        Planner::new(&settings, &identity)
    }

    fn window(disks: usize) -> ClosedWindow {
        let mut windows = Windows::new(Duration::from_secs(1), 10_000);
        windows.advance(Duration::from_mins(100));
        let point = |n| {
            (
                Series::labelled(Metric::DiskUsedPercent, &format!("/{n}").into()),
                1.0,
            )
        };
        windows.record((0..disks).map(point), Duration::ZERO);
        windows.close().remove(0)
    }

    fn waiting(id: u64, disks: usize) -> (Waiting, Plan) {
        let window = window(disks);
        let plan = planner().plan(&window);
        let waiting = Waiting {
            id: WindowId(id),
            window: Arc::new(window),
        };
        (waiting, plan)
    }

    fn add(gathering: &mut Gathering, id: u64, disks: usize, most_bytes: usize) -> bool {
        let (waiting, plan) = waiting(id, disks);
        gathering.add(waiting, plan, most_bytes).is_ok()
    }

    fn gathering(id: u64, disks: usize) -> Gathering {
        let (waiting, plan) = waiting(id, disks);
        Gathering::new(waiting, plan)
    }

    #[test]
    fn c05_windows_share_a_request_up_to_its_bytes_and_datums() {
        let mut by_bytes = gathering(9, 100);
        let one = by_bytes.bytes;
        assert!(by_bytes.has_room(2 * one) && add(&mut by_bytes, 8, 100, 2 * one));
        assert!(!by_bytes.has_room(2 * one) && !add(&mut by_bytes, 7, 100, 2 * one));
        let bundle = by_bytes.bundle().unwrap();
        assert_eq!(
            (bundle.members().len(), bundle.batch().metric_data.len()),
            (2, 200)
        );
        let mut by_datums = gathering(9, 600);
        assert!(!add(&mut by_datums, 8, 401, usize::MAX));
        assert!(add(&mut by_datums, 8, 400, usize::MAX));
    }

    #[test]
    fn a_window_without_company_is_no_bundle() {
        let plan = gathering(1, 900).bundle().unwrap_err();
        assert_eq!(plan.data.len(), 900);
    }

    #[test]
    fn c06_a_reply_blames_the_windows_of_the_datums_that_it_names() {
        let mut gathering = gathering(9, 10);
        assert!(add(&mut gathering, 8, 10, usize::MAX) && add(&mut gathering, 7, 10, usize::MAX));
        let bundle = gathering.bundle().unwrap();
        for (named, blamed) in [
            (vec![10], vec![9]),
            (vec![11], vec![8]),
            (vec![1, 30], vec![9, 7]),
            (vec![], vec![9, 8, 7]),
            (vec![31, 0], vec![9, 8, 7]),
        ] {
            let expected: BTreeSet<WindowId> = blamed.into_iter().map(WindowId).collect();
            assert_eq!(bundle.blamed(&named), expected, "{named:?}");
        }
    }

    #[test]
    fn c05_what_failed_is_halved_and_grows_again() {
        let mut sharing = Sharing::default();
        sharing.failed();
        assert_eq!(sharing.most_bytes(), MOST_BYTES / 2);
        for _ in 0..4 {
            sharing.accepted();
        }
        assert_eq!(sharing.most_bytes(), MOST_BYTES);
        for _ in 0..20 {
            sharing.failed();
        }
        assert_eq!(sharing.most_bytes(), FEWEST_BYTES);
        sharing.refused([WindowId(3), WindowId(5)].into());
        sharing.forget_before(WindowId(4));
        assert_eq!(sharing.alone, [WindowId(5)].into());
        assert!(!sharing.allows(WindowId(5)) && sharing.allows(WindowId(6)));
    }
}
