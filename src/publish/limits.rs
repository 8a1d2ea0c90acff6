//! What `PutMetricData` takes. Pure.
//!
//! One datum that CloudWatch does not take makes it refuse the whole request, so whatever can be known beforehand
//! is sorted out here and counted by reason. Every number is from the API reference of `PutMetricData`,
//! `MetricDatum` and `Dimension`. Values that are no numbers never come this far: `metrics::window` refuses them.

use std::time::Duration;

use super::Datum;
use crate::metrics::window::DropReason;

/// Most datums in a request.
pub const MAX_DATUMS: usize = 1000;

/// Most bytes in a request before compression: AWS takes 1 MB; the rest is room for headers, should they count.
pub const MAX_BYTES: usize = 950_000;

/// Most dimensions of a datum.
pub const MAX_DIMENSIONS: usize = 30;

/// Most characters of a dimension's value.
pub const MAX_DIMENSION_VALUE: usize = 1024;

/// Data older than two weeks is refused. An hour less, because it still has to wait its turn and to travel.
pub const MAX_AGE: Duration = Duration::from_hours(14 * 24 - 1);

/// Data further ahead than this is refused.
pub const MAX_AHEAD: Duration = Duration::from_hours(2);

/// Why CloudWatch would refuse a datum, if it would.
#[must_use]
pub fn refusal(datum: &Datum) -> Option<DropReason> {
    if datum.dimensions.len() > MAX_DIMENSIONS {
        return Some(DropReason::TooManyDimensions);
    }
    let mut values = datum.dimensions.iter().map(|dimension| &dimension.value);
    values.find_map(|value| dimension_refusal(value))
}

/// Why CloudWatch would refuse a dimension's value, if it would.
#[must_use]
pub fn dimension_refusal(value: &str) -> Option<DropReason> {
    if value.trim().is_empty() {
        Some(DropReason::DimensionEmpty)
    } else if !value.is_ascii() {
        Some(DropReason::DimensionNotAscii)
    } else if value.bytes().any(|byte| byte.is_ascii_control()) {
        Some(DropReason::DimensionControl)
    } else if value.len() > MAX_DIMENSION_VALUE {
        Some(DropReason::DimensionTooLong)
    } else {
        None
    }
}

/// Whether a window is too old for CloudWatch, both times in Unix seconds, `now` by the server's clock if that is
/// known.
#[must_use]
pub fn is_too_old(start: u64, now: u64) -> bool {
    start < oldest_start(now)
}

/// The start of the oldest window that is not too old, in Unix seconds.
#[must_use]
pub fn oldest_start(now: u64) -> u64 {
    now.saturating_sub(MAX_AGE.as_secs())
}

/// Whether a window is too far ahead for CloudWatch, both times in Unix seconds, `now` by the server's clock.
#[must_use]
pub fn is_too_new(start: u64, now: u64) -> bool {
    start.saturating_sub(now) >= MAX_AHEAD.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Unit;
    use crate::publish::{Dimension, Timestamp};

    fn datum(values: &[&str]) -> Datum {
        let dimension = |value: &&str| Dimension {
            name: "path".into(),
            value: (*value).into(),
        };
        Datum {
            metric_name: "disk_used_percent",
            dimensions: values.iter().map(dimension).collect(),
            timestamp: Timestamp(0),
            values: vec![1.0],
            counts: vec![1.0],
            unit: Unit::Percent,
            storage_resolution: 60,
            samples: 1,
        }
    }

    #[test]
    fn c07_what_cloudwatch_would_refuse_has_a_reason() {
        let long = "x".repeat(1025);
        let longest = "x".repeat(1024);
        let table = [
            ("/data", None),
            ("a b", None),
            (longest.as_str(), None),
            ("", Some(DropReason::DimensionEmpty)),
            (" \t", Some(DropReason::DimensionEmpty)),
            ("/données", Some(DropReason::DimensionNotAscii)),
            ("/a\nb", Some(DropReason::DimensionControl)),
            ("/a\u{7f}", Some(DropReason::DimensionControl)),
            (long.as_str(), Some(DropReason::DimensionTooLong)),
        ];
        for (value, expected) in table {
            assert_eq!(refusal(&datum(&[value])), expected, "{value:?}");
        }
        assert_eq!(refusal(&datum(&["x"; 30])), None);
        assert_eq!(refusal(&datum(&["x"; 31])), Some(DropReason::TooManyDimensions));
    }

    #[test]
    fn c09_data_is_too_old_an_hour_before_cloudwatch_says_so() {
        let now = 100 * 24 * 3600;
        assert!(!is_too_old(now - MAX_AGE.as_secs(), now));
        assert!(is_too_old(now - MAX_AGE.as_secs() - 1, now));
        assert!(!is_too_old(now + 7200, now), "the future is not old");
    }
}
