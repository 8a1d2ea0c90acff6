//! Whom to ask for disk space and when to give up: pure decisions, without clock and threads.

use std::path::PathBuf;
use std::time::Duration;

use super::mounts::Mount;

/// How long a file system may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// What one sample waits for all file systems together.
    pub(super) grace: Duration,
    /// After this long without an answer a mount is stuck. Also the age at which an answer is too old to use.
    pub(super) deadline: Duration,
    /// So many threads may hang in the kernel beside the one in use.
    pub(super) max_abandoned: usize,
}

impl Patience {
    /// A healthy statvfs takes microseconds, a slow network one milliseconds; a tick is one second.
    pub(super) const USUAL: Self = Self {
        grace: Duration::from_millis(50),
        deadline: Duration::from_secs(2),
        max_abandoned: 4,
    };

    pub(super) fn is_overdue(&self, waited: Duration) -> bool {
        waited >= self.deadline
    }

    /// What becomes of a call that has not been answered for `waited`.
    pub(super) fn fate(&self, waited: Duration, abandoned: usize) -> Fate {
        if !self.is_overdue(waited) {
            Fate::Wait
        } else if abandoned < self.max_abandoned {
            Fate::Abandon
        } else {
            Fate::Endure
        }
    }
}

/// What becomes of an unanswered call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It may still answer in time.
    Wait,
    /// Its thread is left to itself and a new one goes on with the other mounts.
    Abandon,
    /// Too many threads hang already: nothing is asked until one of them returns.
    Endure,
}

/// The mounts to ask, the likely to answer first: one that is slow or hangs then delays only those after it.
///
/// Devices in `hanging` are left out. Those in `slow` come last, in its order; network file systems before them.
pub(super) fn asking_order(mounts: &[Mount], hanging: &[String], slow: &[String]) -> Vec<Mount> {
    let mut order: Vec<Mount> = mounts
        .iter()
        .filter(|mount| !hanging.contains(&mount.device_number))
        .cloned()
        .collect();
    order.sort_by_key(|mount| {
        let slowness = slow.iter().position(|device| *device == mount.device_number);
        (
            slowness.map_or(0, |position| position + 1),
            !mount.is_on_block_device(),
        )
    });
    order
}

/// The mount points of the devices in `hanging`; a device that is no longer mounted is nobody's concern.
pub(super) fn stuck_mounts(mounts: &[Mount], hanging: &[String]) -> Vec<PathBuf> {
    mounts
        .iter()
        .filter(|mount| hanging.contains(&mount.device_number))
        .map(|mount| mount.mount_point.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(number: u32, source: &str) -> Mount {
        Mount {
            mount_point: format!("/m{number}").into(),
            device_number: format!("0:{number}"),
            source: source.into(),
            fs_type: "any".into(),
        }
    }

    fn devices(numbers: &[u32]) -> Vec<String> {
        numbers.iter().map(|number| format!("0:{number}")).collect()
    }

    #[test]
    fn a_call_waits_then_is_abandoned_then_endured() {
        let usual = Patience::USUAL;
        for (waited_ms, abandoned, fate) in [
            (0, 0, Fate::Wait),
            (1999, 4, Fate::Wait),
            (2000, 0, Fate::Abandon),
            (2000, 3, Fate::Abandon),
            (2000, 4, Fate::Endure),
            (9000, 5, Fate::Endure),
        ] {
            assert_eq!(
                usual.fate(Duration::from_millis(waited_ms), abandoned),
                fate,
                "{waited_ms} {abandoned}"
            );
        }
    }

    #[test]
    fn block_devices_come_first_and_slow_ones_last_in_turn() {
        let mounts = [
            mount(1, "server:/a"),
            mount(2, "/dev/a"),
            mount(3, "/dev/b"),
            mount(4, "server:/b"),
            mount(5, "/dev/c"),
        ];
        for (hanging, slow, expected) in [
            (&[][..], &[][..], &[2, 3, 5, 1, 4][..]),
            (&[1], &[], &[2, 3, 5, 4]),
            (&[], &[2, 1], &[3, 5, 4, 2, 1]),
            (&[2], &[1, 2], &[3, 5, 4, 1]),
            (&[1, 2, 3, 4, 5], &[1], &[]),
        ] {
            let order = asking_order(&mounts, &devices(hanging), &devices(slow));
            let numbers: Vec<String> = order.into_iter().map(|mount| mount.device_number).collect();
            assert_eq!(numbers, devices(expected), "{hanging:?} {slow:?}");
        }
    }

    #[test]
    fn only_what_is_still_mounted_is_stuck() {
        let mounts = [mount(1, "server:/a"), mount(2, "/dev/a")];
        assert_eq!(stuck_mounts(&mounts, &devices(&[1, 9])), [PathBuf::from("/m1")]);
        assert!(stuck_mounts(&mounts, &[]).is_empty());
    }
}
