//! The samples of one publish interval, kept exactly, and the cap on how many series there may be.
//!
//! A series' window is its distinct values with how often each occurred: what `PutMetricData` takes as `Values`
//! and `Counts`, so that percentiles, minimum and maximum in CloudWatch are those of the samples.
//!
//! A window that has ended is held for a moment ([`LATENESS`]): the driver's utilisation samples carry their own time
//! and arrive up to a second later, and they belong to the window in which they were taken.
//!
//! Invariants: every value in a window is finite and within CloudWatch's range; the number of distinct series in
//! a rolling hour never exceeds the cap, save for the agent's own two, which say what the cap refuses; a sample is
//! in exactly one window or counted as dropped.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::clock::{self, Placement};
use super::series::{Point, Series};
use crate::config::Group;

/// A `MetricDatum` takes at most this many distinct values (the service counts per datum).
pub const MAX_VALUES_PER_DATUM: usize = 150;

/// CloudWatch takes values from -2^360 to 2^360.
const MAX_MAGNITUDE: f64 = f64::from_bits((1023 + 360) << 52);

/// How long a window is held after its end. Readings are taken half a second after the full second at the latest, and
/// take milliseconds; what comes later than this goes into the window that is open.
pub const LATENESS: Duration = Duration::from_millis(750);

/// How long a series counts against the cap after its last sample: CloudWatch bills metrics by the hour.
const SERIES_MEMORY: Duration = Duration::from_hours(1);

/// How many refused series are remembered by name; a blow-up of thousands needs no more to be understood.
pub const MAX_REFUSED_NAMES: usize = 32;

/// The exact distribution of the samples of one series in one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// Distinct values in ascending order, each with how often it occurred.
    counts: Vec<(f64, u32)>,
}

impl Distribution {
    /// The distribution of values with how often each occurred. The values are distinct and finite.
    #[must_use]
    pub fn of_counts(mut counts: Vec<(f64, u32)>) -> Self {
        counts.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self { counts }
    }

    /// Adds one sample. The value is finite.
    fn record(&mut self, value: f64) {
        // -0.0 and 0.0 are one value to a reader and to CloudWatch.
        let value = value + 0.0;
        match self.counts.binary_search_by(|(known, _)| known.total_cmp(&value)) {
            Ok(at) => self.counts[at].1 = self.counts[at].1.saturating_add(1),
            Err(at) => self.counts.insert(at, (value, 1)),
        }
    }

    /// Distinct values in ascending order, each with how often it occurred.
    #[must_use]
    pub fn counts(&self) -> &[(f64, u32)] {
        &self.counts
    }

    /// How many samples there are.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.counts.iter().map(|(_, count)| u64::from(*count)).sum()
    }

    /// The distribution in parts that each fit into one datum. Parts of one distribution are published with the
    /// same timestamp, and CloudWatch merges them into the whole.
    pub fn datums(&self) -> impl Iterator<Item = &[(f64, u32)]> {
        self.counts.chunks(MAX_VALUES_PER_DATUM)
    }
}

/// A window that is over: nothing is added to it any more.
#[derive(Clone, Debug, PartialEq)]
pub struct ClosedWindow {
    /// Its start, a multiple of the publish interval, in Unix seconds: the timestamp of its data.
    pub start: u64,
    /// What was sampled, in the order of the catalogue. Never empty.
    pub series: Vec<(Series, Distribution)>,
}

impl ClosedWindow {
    /// How many samples the window holds over all series.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.series
            .iter()
            .map(|(_, distribution)| distribution.samples())
            .sum()
    }

    /// About how much memory the window takes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        /// Of a series: its labels, and what the allocator adds to two small blocks.
        const LABELS: usize = 64;
        let series = self.series.len() * (size_of::<(Series, Distribution)>() + LABELS);
        let values: usize = self
            .series
            .iter()
            .map(|(_, distribution)| distribution.counts.len())
            .sum();
        series + values * size_of::<(f64, u32)>()
    }
}

/// Why samples were given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// One series more than `publish.max_series` in an hour.
    SeriesLimit,
    /// Not a number, infinite, or beyond what CloudWatch takes.
    InvalidValue,
    /// A closed window was pushed out of a full queue in memory, while the spool's disk was of no use.
    QueueFull,
    /// A closed window was pushed out of a spool that may not grow.
    SpoolFull,
    /// A closed window could not be read from the spool again.
    SpoolDamaged,
    /// A version of the agent with other metrics left it in the spool.
    UnknownMetric,
    /// A dimension's value is empty or blank.
    DimensionEmpty,
    /// A dimension's value is not ASCII.
    DimensionNotAscii,
    /// A dimension's value has a control character.
    DimensionControl,
    /// A dimension's value has more than 1024 characters.
    DimensionTooLong,
    /// More than 30 dimensions.
    TooManyDimensions,
    /// Older than the two weeks that CloudWatch takes.
    TooOld,
    /// CloudWatch refused the datum.
    Refused,
}

impl DropReason {
    /// What was wrong, to follow "12 samples lost: ".
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SeriesLimit => "one series more than publish.max_series",
            Self::InvalidValue => "not a number that CloudWatch takes",
            Self::QueueFull => "windows could be neither published in time nor spooled",
            Self::SpoolFull => "the spool was full of windows that could not be published",
            Self::SpoolDamaged => "windows in the spool were damaged, or removed with its file",
            Self::UnknownMetric => "metrics in the spool that this version does not have",
            Self::DimensionEmpty => "the value of a dimension is empty",
            Self::DimensionNotAscii => "the value of a dimension is not ASCII",
            Self::DimensionControl => "the value of a dimension has a control character",
            Self::DimensionTooLong => "the value of a dimension has more than 1024 characters",
            Self::TooManyDimensions => "more than 30 dimensions",
            Self::TooOld => "older than the two weeks that CloudWatch takes",
            Self::Refused => "refused by CloudWatch",
        }
    }
}

/// What has become of every sample so far: collected = in windows + dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Samples taken.
    pub collected: u64,
    /// Samples given up, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
    /// Series that the cap refused, by name; the first few.
    ///
    /// At most [`MAX_REFUSED_NAMES`].
    pub refused_series: Vec<String>,
}

impl Ledger {
    /// Counts samples as given up.
    pub fn drop_samples(&mut self, reason: DropReason, samples: u64) {
        *self.dropped.entry(reason).or_default() += samples;
    }

    /// Samples given up for any reason.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }
}

/// A window that still takes samples.
#[derive(Debug)]
struct Window {
    start: u64,
    series: HashMap<Series, Distribution>,
}

impl Window {
    fn close(self) -> Option<ClosedWindow> {
        let mut series: Vec<_> = self.series.into_iter().collect();
        series.sort_by(|a, b| a.0.cmp(&b.0));
        for (_, distribution) in &mut series {
            // It may wait for hours.
            distribution.counts.shrink_to_fit();
        }
        (!series.is_empty()).then_some(ClosedWindow {
            start: self.start,
            series,
        })
    }

    fn samples(&self) -> u64 {
        self.series.values().map(Distribution::samples).sum()
    }
}

/// The open window, the one before it while it is held, and the cap on series.
#[derive(Debug)]
pub struct Windows {
    interval: Duration,
    max_series: usize,
    /// `None` until the first sample.
    open: Option<Window>,
    /// The window before, and the wall time until which it is held.
    held: Option<(Window, Duration)>,
    /// When each series was last seen, by the monotonic clock.
    seen: HashMap<Series, Duration>,
    /// Whether another window was opened since `seen` was last rid of what is too old.
    has_rolled: bool,
    ledger: Ledger,
}

impl Windows {
    /// No window is open until the first [`Windows::advance`].
    #[must_use]
    pub fn new(interval: Duration, max_series: usize) -> Self {
        Self {
            interval,
            max_series,
            open: None,
            held: None,
            seen: HashMap::new(),
            has_rolled: false,
            ledger: Ledger::default(),
        }
    }

    /// Moves on to the window that holds `wall`, and returns those that take no more samples, oldest first, without
    /// the empty ones.
    pub fn advance(&mut self, wall: Duration) -> Vec<ClosedWindow> {
        let mut done = Vec::new();
        let placement = self.open.as_ref().map_or_else(
            || Placement::Roll(clock::window_start(wall, self.interval)),
            |open| clock::place(open.start, wall, self.interval),
        );
        if let Placement::Roll(start) = placement {
            self.has_rolled = true;
            done.extend(self.held.take().and_then(|(held, _)| held.close()));
            let fresh = Window {
                start,
                series: HashMap::new(),
            };
            self.held = self
                .open
                .replace(fresh)
                .map(|over| (over, Duration::from_secs(start) + LATENESS));
        }
        // A clock that was stepped back must not keep it for an hour.
        let over = |until: Duration| wall >= until || wall + self.interval < until;
        if self.held.as_ref().is_some_and(|(_, until)| over(*until)) {
            done.extend(self.held.take().and_then(|(held, _)| held.close()));
        }
        done
    }

    /// When [`Windows::advance`] has something to do at the latest, if a window is held.
    #[must_use]
    pub fn held_until(&self) -> Option<Duration> {
        self.held.as_ref().map(|(_, until)| *until)
    }

    /// Adds samples to the open window. `monotonic` is the time for the cap's rolling hour.
    ///
    /// Returns the names of series that the cap refused for the first time.
    pub fn record(&mut self, points: impl IntoIterator<Item = Point>, monotonic: Duration) -> Vec<String> {
        if std::mem::take(&mut self.has_rolled) {
            self.forget_old(monotonic);
        }
        let mut refused = Vec::new();
        for point in points {
            self.put(point, None, monotonic, &mut refused);
        }
        refused
    }

    /// Adds samples that carry their own wall time to the window they belong to, while it takes samples.
    pub fn record_at(
        &mut self,
        points: impl IntoIterator<Item = (Duration, Point)>,
        monotonic: Duration,
    ) -> Vec<String> {
        let mut refused = Vec::new();
        for (taken, point) in points {
            self.put(point, Some(taken), monotonic, &mut refused);
        }
        refused
    }

    fn put(&mut self, point: Point, taken: Option<Duration>, monotonic: Duration, refused: &mut Vec<String>) {
        let (series, value) = point;
        self.ledger.collected += 1;
        if !value.is_finite() || value.abs() > MAX_MAGNITUDE {
            self.ledger.drop_samples(DropReason::InvalidValue, 1);
        } else if self.admit(&series, monotonic) {
            let window = self.window_of(taken);
            window.series.entry(series).or_default().record(value);
        } else {
            self.ledger.drop_samples(DropReason::SeriesLimit, 1);
            self.remember_refused(&series, refused);
        }
    }

    fn window_of(&mut self, taken: Option<Duration>) -> &mut Window {
        let open = self.open.get_or_insert_with(|| Window {
            start: 0,
            series: HashMap::new(),
        });
        match (&mut self.held, taken) {
            (Some((held, _)), Some(taken)) if taken < Duration::from_secs(open.start) => held,
            _ => open,
        }
    }

    /// Closes every window early, oldest first. The next [`Windows::advance`] opens another.
    pub fn close(&mut self) -> Vec<ClosedWindow> {
        let held = self.held.take().map(|(held, _)| held);
        held.into_iter()
            .chain(self.open.take())
            .filter_map(Window::close)
            .collect()
    }

    /// What has become of every sample.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Start of the open window in Unix seconds, and the samples that are not closed yet, those of a held window
    /// included.
    #[must_use]
    pub fn open(&self) -> Option<(u64, u64)> {
        let open = self.open.as_ref()?;
        let held = self.held.as_ref().map_or(0, |(held, _)| held.samples());
        Some((open.start, open.samples() + held))
    }

    /// Distinct series in the last hour, to the precision of a window.
    #[must_use]
    pub fn series(&self) -> usize {
        self.seen.len()
    }

    fn admit(&mut self, series: &Series, now: Duration) -> bool {
        if let Some(seen) = self.seen.get_mut(series) {
            *seen = now;
            return true;
        }
        if self.seen.len() >= self.max_series {
            self.forget_old(now);
        }
        let room = self.seen.len() < self.max_series || series.metric.entry().group == Group::Agent;
        if room {
            self.seen.insert(series.clone(), now);
        }
        room
    }

    fn forget_old(&mut self, now: Duration) {
        self.seen
            .retain(|_, seen| now.saturating_sub(*seen) < SERIES_MEMORY);
    }

    fn remember_refused(&mut self, series: &Series, fresh: &mut Vec<String>) {
        let names = &mut self.ledger.refused_series;
        if names.len() < MAX_REFUSED_NAMES {
            let name = series.to_string();
            if !names.contains(&name) {
                names.push(name.clone());
                fresh.push(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metric;

    const MINUTE: Duration = Duration::from_mins(1);

    fn windows(max_series: usize) -> Windows {
        let mut windows = Windows::new(MINUTE, max_series);
        windows.advance(Duration::from_mins(10));
        windows
    }

    fn cpu(value: f64) -> Point {
        (Series::plain(Metric::CpuUsageActive), value)
    }

    /// The one window; rolls over a window's end keep it for [`LATENESS`].
    fn only(mut closed: Vec<ClosedWindow>) -> ClosedWindow {
        assert_eq!(closed.len(), 1);
        closed.remove(0)
    }

    fn disk(path: &str) -> Point {
        (Series::labelled(Metric::DiskUsedPercent, &path.into()), 1.0)
    }

    #[test]
    fn a_window_holds_exactly_its_samples() {
        let mut windows = windows(10);
        windows.record(
            [cpu(3.0), cpu(1.5), cpu(3.0), cpu(-0.0), cpu(0.0)],
            Duration::ZERO,
        );
        let closed = only(windows.advance(Duration::from_secs(661)));
        assert_eq!(closed.start, 600);
        assert_eq!(closed.series[0].1.counts(), [(0.0, 2), (1.5, 1), (3.0, 2)]);
        assert_eq!(closed.samples(), 5);
    }

    #[test]
    fn an_empty_window_is_not_published() {
        let mut windows = windows(10);
        assert_eq!(windows.advance(Duration::from_secs(661)), []);
        assert_eq!(windows.advance(Duration::from_secs(721)), []);
        assert_eq!(windows.close(), []);
    }

    #[test]
    fn closing_early_keeps_the_true_sample_count_and_the_start() {
        let mut windows = windows(10);
        windows.record([cpu(1.0), cpu(2.0)], Duration::ZERO);
        let closed = only(windows.close());
        assert_eq!((closed.start, closed.samples()), (600, 2));
        assert_eq!(windows.close(), [], "closed once");
    }

    #[test]
    fn more_values_than_a_datum_takes_are_split_and_none_is_lost() {
        let mut windows = windows(10);
        windows.record((0..301_u16).map(|n| cpu(f64::from(n))), Duration::ZERO);
        let closed = only(windows.close());
        let parts: Vec<usize> = closed.series[0].1.datums().map(<[_]>::len).collect();
        assert_eq!(parts, [150, 150, 1]);
        assert_eq!(closed.samples(), 301);
    }

    #[test]
    fn what_cloudwatch_would_refuse_is_counted_not_kept() {
        let mut windows = windows(10);
        windows.record(
            [
                cpu(f64::NAN),
                cpu(f64::INFINITY),
                cpu(-2_f64.powi(361)),
                cpu(2_f64.powi(360)),
            ],
            Duration::ZERO,
        );
        assert_eq!(windows.ledger().dropped[&DropReason::InvalidValue], 3);
        assert_eq!(only(windows.close()).samples(), 1);
    }

    #[test]
    fn the_cap_refuses_by_name_and_says_each_name_once() {
        let mut windows = windows(2);
        let refused = windows.record([disk("/a"), disk("/b"), disk("/c"), disk("/c")], Duration::ZERO);
        assert_eq!(refused, ["disk_used_percent{path=\"/c\"}"]);
        assert!(windows.record([disk("/c")], Duration::ZERO).is_empty());
        assert_eq!(windows.ledger().dropped[&DropReason::SeriesLimit], 3);
        assert_eq!(windows.ledger().collected, 5);
        assert_eq!(only(windows.close()).series.len(), 2);
    }

    #[test]
    fn what_says_that_samples_are_dropped_is_not_dropped_itself() {
        let mut windows = windows(1);
        let dropped = (Series::plain(Metric::DatapointsDropped), 1.0);
        let refused = windows.record([disk("/a"), disk("/b"), dropped], Duration::ZERO);
        assert_eq!(refused, ["disk_used_percent{path=\"/b\"}"]);
        assert_eq!(only(windows.close()).samples(), 2);
    }

    #[test]
    fn a_series_of_long_ago_counts_no_more_although_there_is_room() {
        let mut windows = windows(10);
        windows.record([disk("/a"), disk("/b")], Duration::ZERO);
        windows.advance(Duration::from_mins(71));
        windows.record([disk("/b")], Duration::from_hours(1));
        assert_eq!(windows.series(), 1);
    }

    #[test]
    fn a_series_that_was_gone_for_an_hour_makes_room() {
        let mut windows = windows(1);
        windows.record([disk("/a")], Duration::ZERO);
        assert_eq!(windows.record([disk("/b")], Duration::from_mins(59)).len(), 1);
        assert!(windows.record([disk("/b")], Duration::from_hours(1)).is_empty());
        assert_eq!(windows.series(), 1);
        let closed = only(windows.close());
        assert_eq!(closed.series.len(), 2, "what was admitted stays in its window");
    }

    #[test]
    fn a_sample_that_arrives_late_is_in_the_window_in_which_it_was_taken() {
        let mut windows = windows(10);
        windows.record([cpu(1.0)], Duration::ZERO);
        assert_eq!(windows.advance(Duration::from_mins(11)), [], "held");
        assert_eq!(windows.held_until(), Some(Duration::from_mins(11) + LATENESS));
        let taken = |seconds| Duration::from_secs_f64(seconds);
        windows.record_at(
            [(taken(659.9), cpu(2.0)), (taken(660.1), cpu(3.0))],
            Duration::ZERO,
        );
        assert_eq!(windows.open(), Some((660, 3)));
        let closed = only(windows.advance(taken(660.8)));
        assert_eq!(closed.series[0].1.counts(), [(1.0, 1), (2.0, 1)]);
        windows.record_at([(taken(659.9), cpu(4.0))], Duration::ZERO);
        let closed = only(windows.close());
        assert_eq!(closed.start, 660);
        assert_eq!(
            closed.series[0].1.counts(),
            [(3.0, 1), (4.0, 1)],
            "later than that: where it still counts"
        );
    }

    #[test]
    fn g23_a_clock_that_is_stepped_does_not_keep_a_window() {
        let mut windows = windows(10);
        windows.record([cpu(1.0)], Duration::ZERO);
        assert_eq!(windows.advance(Duration::from_mins(11)), []);
        windows.record([cpu(2.0)], Duration::ZERO);
        let starts = |closed: Vec<ClosedWindow>| closed.iter().map(|window| window.start).collect::<Vec<_>>();
        assert_eq!(starts(windows.advance(Duration::from_hours(2))), [600]);
        assert_eq!(starts(windows.advance(Duration::from_hours(1))), [660]);
    }
}
