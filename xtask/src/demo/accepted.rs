//! What CloudWatch accepted, put together by window.
//!
//! A window may come in several requests, and a request may be looked at between two of them: parts are joined by
//! the time stamp of their data. A request that was accepted and lost its answer is sent again: what it brings is
//! shown twice, as CloudWatch has it twice, and counted once.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, SystemTime};

use fake_cloudwatch::{AcceptedDatum, Attempt, FakeCloudWatch};

/// Windows that are kept whole, those that arrived last.
const KEPT: usize = 5;

/// A window, as far as it has arrived.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) start: SystemTime,
    pub(super) datums: Vec<AcceptedDatum>,
    pub(super) end: SystemTime,
    /// When the last part of it came.
    pub(super) arrived: SystemTime,
    pub(super) traffic: Traffic,
}

impl Window {
    pub(super) fn samples(&self) -> f64 {
        samples(&self.datums)
    }
}

/// Requests and their bytes, heads included on the wire only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) requests: usize,
    /// Bodies before compression.
    pub(super) bytes: usize,
    pub(super) wire_bytes: usize,
}

impl Traffic {
    pub(super) fn of<'a>(attempts: impl IntoIterator<Item = &'a Attempt>) -> Self {
        attempts.into_iter().fold(Self::default(), |sum, attempt| Self {
            requests: sum.requests + 1,
            bytes: sum.bytes + attempt.body_bytes.unwrap_or(0),
            wire_bytes: sum.wire_bytes + attempt.wire_bytes,
        })
    }
}

/// Follows a CloudWatch.
pub(super) struct Accepted {
    interval: Duration,
    /// In the order of their arrival, the last one last.
    windows: Vec<Window>,
    /// Starts of all windows so far.
    starts: BTreeSet<SystemTime>,
    /// Every datum so far, by its hash: the data of a long demo need not stay in memory.
    known: HashSet<u64>,
    pub(super) datums: usize,
    /// Samples of the datums that came for the first time.
    pub(super) samples: f64,
    /// Samples of those that had come before.
    pub(super) repeated: f64,
}

impl Accepted {
    /// Of windows of this length.
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            windows: Vec::new(),
            starts: BTreeSet::new(),
            known: HashSet::new(),
            datums: 0,
            samples: 0.0,
            repeated: 0.0,
        }
    }

    /// Takes what has arrived since the last look away from it; returns the windows of which something arrived.
    pub(super) fn look(&mut self, cloudwatch: &FakeCloudWatch) -> Vec<Window> {
        let datums = cloudwatch.take_accepted();
        self.take(datums, &cloudwatch.attempts())
    }

    fn take(&mut self, datums: Vec<AcceptedDatum>, attempts: &[Attempt]) -> Vec<Window> {
        self.datums += datums.len();
        for datum in &datums {
            let samples: f64 = datum.counts.iter().sum();
            if self.known.insert(hash(datum)) {
                self.samples += samples;
            } else {
                self.repeated += samples;
            }
        }
        let mut arrived: BTreeMap<SystemTime, Vec<AcceptedDatum>> = BTreeMap::new();
        for datum in datums {
            arrived.entry(datum.key.timestamp).or_default().push(datum);
        }
        let starts: Vec<SystemTime> = arrived.keys().copied().collect();
        for (start, datums) in arrived {
            self.add(start, datums, attempts);
        }
        self.windows.sort_by_key(|window| window.arrived);
        let fresh = self
            .windows
            .iter()
            .filter(|window| starts.contains(&window.start));
        let fresh = fresh.cloned().collect();
        self.windows.drain(..self.windows.len().saturating_sub(KEPT));
        fresh
    }

    fn add(&mut self, start: SystemTime, mut datums: Vec<AcceptedDatum>, attempts: &[Attempt]) {
        self.starts.insert(start);
        let known = self.windows.iter().position(|window| window.start == start);
        if let Some(known) = known.map(|at| self.windows.remove(at)) {
            datums.splice(0..0, known.datums);
        }
        let arrived = datums.iter().map(|datum| datum.arrived).max();
        let numbers: BTreeSet<u64> = datums.iter().map(|datum| datum.attempt).collect();
        let brought = attempts
            .iter()
            .filter(|attempt| numbers.contains(&attempt.number));
        self.windows.push(Window {
            start,
            end: start + self.interval,
            arrived: arrived.unwrap_or(start),
            traffic: Traffic::of(brought),
            datums,
        });
    }

    /// How many windows there have been so far.
    pub(super) fn count(&self) -> usize {
        self.starts.len()
    }

    /// The windows that arrived last, in that order.
    pub(super) fn last(&self) -> &[Window] {
        &self.windows
    }

    /// The one with the most samples of these: the end cuts the very last one short.
    pub(super) fn fullest(&self) -> Option<&Window> {
        let fullest = |one: &&Window, other: &&Window| one.samples().total_cmp(&other.samples());
        self.windows.iter().max_by(fullest)
    }

    /// The latest in time of these.
    pub(super) fn newest(&self) -> Option<&Window> {
        self.windows.iter().max_by_key(|window| window.start)
    }
}

/// Of series, window and values: two datums of one window, as those of more than 150 values, share no value.
fn hash(datum: &AcceptedDatum) -> u64 {
    let mut hasher = DefaultHasher::new();
    datum.key.hash(&mut hasher);
    let numbers = datum.values.iter().chain(&datum.counts);
    numbers.for_each(|number| number.to_bits().hash(&mut hasher));
    hasher.finish()
}

fn samples(datums: &[AcceptedDatum]) -> f64 {
    datums.iter().flat_map(|datum| &datum.counts).sum()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use fake_cloudwatch::{Key, Series};
    use std::time::UNIX_EPOCH;

    const TEN: Duration = Duration::from_secs(10);

    pub(in super::super) fn datum(
        metric: &str,
        dimensions: &[(&str, &str)],
        values: &[f64],
        unit: &str,
    ) -> AcceptedDatum {
        let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        AcceptedDatum {
            key: Key {
                series: Series {
                    namespace: "N".to_owned(),
                    metric: metric.to_owned(),
                    dimensions: dimensions.iter().map(text).collect(),
                },
                timestamp: UNIX_EPOCH,
            },
            arrived: UNIX_EPOCH + Duration::from_secs(12),
            attempt: 0,
            values: values.to_vec(),
            counts: vec![2.0; values.len()],
            statistics: None,
            unit: Some(unit.to_owned()),
            storage_resolution: 60,
        }
    }

    fn at(start: u64, arrived: u64, attempt: u64) -> AcceptedDatum {
        let mut datum = datum("m", &[], &[1.0, 2.0, 3.0], "Count");
        datum.key.timestamp = UNIX_EPOCH + Duration::from_secs(start);
        datum.arrived = UNIX_EPOCH + Duration::from_secs(arrived);
        datum.attempt = attempt;
        datum
    }

    fn starts(windows: &[Window]) -> Vec<u64> {
        let seconds = |window: &Window| window.start.duration_since(UNIX_EPOCH).unwrap().as_secs();
        windows.iter().map(seconds).collect()
    }

    #[test]
    fn parts_of_a_window_are_joined_and_counted_once() {
        let mut accepted = Accepted::new(TEN);
        assert!(accepted.take(Vec::new(), &[]).is_empty() && accepted.newest().is_none());
        let mut other = at(0, 12, 0);
        other.key.series.metric = "other".to_owned();
        accepted.take(vec![other], &[]);
        let fresh = accepted.take(vec![at(0, 13, 1), at(10, 21, 2)], &[]);
        assert_eq!(starts(&fresh), [0, 10]);
        let times = [fresh[0].end, fresh[0].arrived];
        assert_eq!(
            times,
            [10, 13].map(|second| UNIX_EPOCH + Duration::from_secs(second))
        );
        assert_eq!((fresh[0].datums.len(), accepted.datums), (2, 3));
        assert_eq!((fresh[0].samples(), accepted.samples), (12.0, 18.0));
        assert_eq!((accepted.count(), accepted.repeated), (2, 0.0));
        assert_eq!(starts(&[accepted.fullest().unwrap().clone()]), [0]);
    }

    #[test]
    fn what_is_sent_again_counts_once_and_what_only_looks_alike_does_not() {
        let mut accepted = Accepted::new(TEN);
        accepted.take(vec![at(0, 12, 0), at(10, 22, 1)], &[]);
        let again = accepted.take(vec![at(0, 13, 2)], &[]);
        assert_eq!((accepted.samples, accepted.repeated), (12.0, 6.0));
        assert_eq!((again[0].samples(), accepted.datums), (12.0, 3), "both are shown");
        // The rest of a series with more values than a datum takes, and another count of the same values.
        let (mut rest, mut counts) = (at(0, 13, 3), at(0, 13, 3));
        rest.values = vec![4.0, 5.0, 6.0];
        counts.counts = vec![1.0, 1.0, 1.0];
        accepted.take(vec![rest, counts], &[]);
        assert_eq!((accepted.samples, accepted.repeated), (21.0, 6.0));
    }

    #[test]
    fn windows_stand_in_the_order_of_arrival_and_the_newest_in_time_is_known() {
        let mut accepted = Accepted::new(TEN);
        let late: Vec<_> = (1..=6).map(|n| at(n * 10, 100 + n, n)).collect();
        accepted.take(vec![at(90, 101, 0)], &[]);
        accepted.take(late, &[]);
        assert_eq!(starts(accepted.last()), [20, 30, 40, 50, 60]);
        assert_eq!(accepted.count(), 7);
        let mut accepted = Accepted::new(TEN);
        accepted.take(vec![at(90, 101, 0), at(80, 102, 1)], &[]);
        assert_eq!(starts(accepted.last()), [90, 80]);
        assert_eq!(starts(&[accepted.newest().unwrap().clone()]), [90]);
    }
}
