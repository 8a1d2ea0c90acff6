//! What `CloudWatch` would show of the accepted datums. Pure.
//!
//! Datums of one series in one period are merged: counts and sums add up, so a resent datum counts twice, as in the
//! service. Percentiles come from values with their counts by the nearest-rank method: the least value at or below which
//! at least p percent of all samples lie. The service's own method is not published; where the counts decide between two
//! values, nearest rank gives one of them and never something between.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::datum::{AcceptedDatum, Key, StatisticSet};

/// The samples of one series in one period.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// `SampleCount`.
    pub sample_count: f64,
    /// `Sum`.
    pub sum: f64,
    /// `Minimum`.
    pub minimum: f64,
    /// `Maximum`.
    pub maximum: f64,
    /// Values with their counts, ascending. `None` where a statistic set hides them.
    distribution: Option<Vec<(f64, f64)>>,
}

impl Merged {
    /// `Average`; `None` without samples.
    #[must_use]
    pub fn average(&self) -> Option<f64> {
        (self.sample_count > 0.0).then(|| self.sum / self.sample_count)
    }

    /// The percentile `p` (0 to 100). `None` where `CloudWatch` has none either: a statistic set was merged whose samples
    /// are not all alike.
    #[must_use]
    pub fn percentile(&self, p: f64) -> Option<f64> {
        let distribution = self.distribution.as_ref()?;
        let total: f64 = distribution.iter().map(|(_, count)| count).sum();
        let rank = total * p / 100.0;
        let mut below = 0.0;
        for (value, count) in distribution {
            below += count;
            if below >= rank {
                return Some(*value);
            }
        }
        distribution.last().map(|(value, _)| *value)
    }

    fn of(datum: &AcceptedDatum) -> Self {
        let mut distribution: Vec<(f64, f64)> = datum
            .values
            .iter()
            .copied()
            .zip(datum.counts.iter().copied())
            .collect();
        let set = datum.statistics.unwrap_or_else(|| summary(&distribution));
        // One sample, or all alike: the statistic set tells every sample.
        let alike = set.minimum.total_cmp(&set.maximum).is_eq();
        if distribution.is_empty() && (alike || set.sample_count <= 1.0) {
            distribution.push((set.minimum, set.sample_count));
        }
        Self {
            sample_count: set.sample_count,
            sum: set.sum,
            minimum: set.minimum,
            maximum: set.maximum,
            distribution: (!distribution.is_empty()).then_some(distribution),
        }
    }

    fn add(&mut self, other: Self) {
        self.sample_count += other.sample_count;
        self.sum += other.sum;
        self.minimum = self.minimum.min(other.minimum);
        self.maximum = self.maximum.max(other.maximum);
        let both = self.distribution.take().zip(other.distribution);
        self.distribution = both.map(|(mut mine, theirs)| {
            mine.extend(theirs);
            mine
        });
    }

    fn sorted(mut self) -> Self {
        if let Some(distribution) = &mut self.distribution {
            distribution.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        }
        self
    }
}

fn summary(distribution: &[(f64, f64)]) -> StatisticSet {
    let values = || distribution.iter().map(|(value, _)| *value);
    StatisticSet {
        sample_count: distribution.iter().map(|(_, count)| count).sum(),
        sum: distribution.iter().map(|(value, count)| value * count).sum(),
        minimum: values().fold(f64::INFINITY, f64::min),
        maximum: values().fold(f64::NEG_INFINITY, f64::max),
    }
}

/// Statistics of each series in each period; the key's time stamp is the period's start. A period of zero keeps every
/// time stamp apart.
#[must_use]
pub fn merged(accepted: &[AcceptedDatum], period: Duration) -> BTreeMap<Key, Merged> {
    let mut merged: BTreeMap<Key, Merged> = BTreeMap::new();
    for datum in accepted {
        let key = Key {
            series: datum.key.series.clone(),
            timestamp: start_of_period(datum.key.timestamp, period),
        };
        let new = Merged::of(datum);
        match merged.get_mut(&key) {
            Some(old) => old.add(new),
            None => {
                merged.insert(key, new);
            }
        }
    }
    merged
        .into_iter()
        .map(|(key, merged)| (key, merged.sorted()))
        .collect()
}

fn start_of_period(instant: SystemTime, period: Duration) -> SystemTime {
    let since = instant.duration_since(UNIX_EPOCH).unwrap_or_default();
    let into = since.as_nanos().checked_rem(period.as_nanos()).unwrap_or(0);
    instant - Duration::from_nanos_u128(into)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "sums of small whole numbers are exact")]
mod tests {
    use super::*;
    use crate::datum::Series;

    fn datum(at: u64, values: &[f64], counts: &[f64]) -> AcceptedDatum {
        let series = Series {
            namespace: "N".to_owned(),
            metric: "m".to_owned(),
            dimensions: BTreeMap::new(),
        };
        AcceptedDatum {
            key: Key {
                series,
                timestamp: UNIX_EPOCH + Duration::from_secs(at),
            },
            arrived: UNIX_EPOCH,
            attempt: 0,
            values: values.to_vec(),
            counts: counts.to_vec(),
            statistics: None,
            unit: None,
            storage_resolution: 60,
        }
    }

    fn set(sample_count: f64, sum: f64, minimum: f64, maximum: f64) -> AcceptedDatum {
        let statistics = Some(StatisticSet {
            sample_count,
            sum,
            minimum,
            maximum,
        });
        AcceptedDatum {
            statistics,
            ..datum(0, &[], &[])
        }
    }

    fn only(accepted: &[AcceptedDatum]) -> Merged {
        let all = merged(accepted, Duration::from_mins(1));
        assert_eq!(all.len(), 1);
        all.into_values().next().unwrap()
    }

    #[test]
    fn percentiles_weigh_values_by_their_counts() {
        let minute = only(&[datum(0, &[100.0, 0.0, 50.0], &[1.0, 89.0, 10.0])]);
        let at = |p| minute.percentile(p).unwrap();
        assert_eq!([at(0.0), at(50.0), at(89.0)], [0.0, 0.0, 0.0]);
        assert_eq!(
            [at(89.5), at(99.0), at(99.5), at(100.0)],
            [50.0, 50.0, 100.0, 100.0]
        );
        assert_eq!(minute.average(), Some(6.0));
    }

    #[test]
    fn a_resent_datum_doubles_counts_and_sums_and_nothing_else() {
        let once = only(&[datum(0, &[1.0, 3.0], &[2.0, 2.0])]);
        let twice = only(&[
            datum(0, &[1.0, 3.0], &[2.0, 2.0]),
            datum(0, &[1.0, 3.0], &[2.0, 2.0]),
        ]);
        assert_eq!([twice.sample_count, twice.sum], [8.0, 16.0]);
        assert_eq!([once.minimum, once.maximum], [twice.minimum, twice.maximum]);
        assert_eq!(once.average(), twice.average());
        assert_eq!(once.percentile(99.0), twice.percentile(99.0));
    }

    #[test]
    fn periods_and_time_stamps_are_kept_apart() {
        let accepted = [
            datum(59, &[1.0], &[1.0]),
            datum(60, &[2.0], &[1.0]),
            datum(61, &[3.0], &[1.0]),
        ];
        let minutes = merged(&accepted, Duration::from_mins(1));
        let found: Vec<(u64, f64)> = minutes
            .iter()
            .map(|(key, merged)| {
                (
                    key.timestamp.duration_since(UNIX_EPOCH).unwrap().as_secs(),
                    merged.sum,
                )
            })
            .collect();
        assert_eq!(found, [(0, 1.0), (60, 5.0)]);
        assert_eq!(merged(&accepted, Duration::ZERO).len(), 3);
    }

    #[test]
    fn a_statistic_set_has_percentiles_only_where_it_tells_every_sample() {
        assert_eq!(only(&[set(10.0, 50.0, 0.0, 9.0)]).percentile(50.0), None);
        assert_eq!(only(&[set(10.0, 50.0, 5.0, 5.0)]).percentile(50.0), Some(5.0));
        let mixed = only(&[set(10.0, 50.0, 5.0, 5.0), datum(0, &[1.0], &[30.0])]);
        assert_eq!(
            (mixed.percentile(50.0), mixed.percentile(99.0)),
            (Some(1.0), Some(5.0))
        );
        assert_eq!((mixed.sample_count, mixed.minimum), (40.0, 1.0));
        let hidden = only(&[set(10.0, 50.0, 0.0, 9.0), datum(0, &[1.0], &[1.0])]);
        assert_eq!(hidden.percentile(50.0), None);
    }
}
