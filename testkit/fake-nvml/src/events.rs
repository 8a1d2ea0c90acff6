//! Event sets: which GPUs a client listens to, and which XID it has still to hear of.
//!
//! Pure: the driver keeps the sets and does the waiting.

use std::collections::BTreeMap;

use crate::answers::Moment;

/// Time of an event in microseconds since 1970 and its place in the scenario, which orders those of one instant.
type Position = (u64, usize);

/// One `nvmlEventSet_t`.
#[derive(Debug, Default)]
pub(crate) struct EventSet {
    /// GPU index to the last event delivered; at first the instant of the registration.
    heard: BTreeMap<usize, Position>,
}

/// What a wait returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) gpu: usize,
    pub(crate) xid: u64,
}

impl EventSet {
    /// From now on the set hears of XIDs on this GPU.
    pub(crate) fn register(&mut self, gpu: usize, now_us: u64) {
        self.heard.entry(gpu).or_insert((now_us, usize::MAX));
    }

    /// The GPUs it listens to.
    pub(crate) fn gpus(&self) -> impl Iterator<Item = usize> {
        self.heard.keys().copied()
    }

    /// The next event due. NVML keeps one XID per GPU: of several before a wait, each is reported with the last one.
    pub(crate) fn next(&mut self, moment: &Moment<'_>) -> Option<Heard> {
        let due = |position: &Position| position.0 <= moment.now_us;
        let events = moment.scenario.events.iter().enumerate();
        let placed: Vec<(Position, usize, u64)> = events
            .map(|(place, event)| {
                (
                    (
                        moment.epoch_us.saturating_add(event.at_ms.saturating_mul(1000)),
                        place,
                    ),
                    event.gpu,
                    event.xid,
                )
            })
            .filter(|(position, ..)| due(position))
            .collect();
        let new = placed
            .iter()
            .filter(|(at, gpu, _)| self.heard.get(gpu).is_some_and(|last| at > last));
        let &(at, gpu, _) = new.min_by_key(|event| event.0)?;
        self.heard.insert(gpu, at);
        let newest = placed
            .iter()
            .filter(|event| event.1 == gpu)
            .max_by_key(|event| event.0)?;
        Some(Heard { gpu, xid: newest.2 })
    }
}

#[cfg(test)]
mod tests {
    use super::{EventSet, Heard};
    use crate::answers::Moment;
    use crate::scenario::Scenario;

    #[test]
    fn each_event_is_heard_once_with_the_last_xid() {
        let gpu = "[[gpu]]\nuuid = \"GPU-1\"\nname = \"T4\"\npci = \"0000:00:1e.0\"\nmemory_mib = 1\n";
        let event = |ms, xid| format!("[[event]]\ngpu = 0\nat_ms = {ms}\nxid = {xid}\n");
        let scenario = Scenario::parse(&format!(
            "{gpu}{}{}{}",
            event(5, 13),
            event(10, 31),
            event(10, 79)
        ))
        .expect("valid");
        let at = |ms: u64| Moment {
            scenario: &scenario,
            epoch_us: 0,
            now_us: ms * 1000,
        };
        let mut set = EventSet::default();
        set.register(0, 6000);
        assert_eq!(
            set.next(&at(9)),
            None,
            "what was before the registration is not heard"
        );
        assert_eq!(set.next(&at(10)), Some(Heard { gpu: 0, xid: 79 }));
        assert_eq!(set.next(&at(10)), Some(Heard { gpu: 0, xid: 79 }));
        assert_eq!(set.next(&at(99)), None);
    }
}
