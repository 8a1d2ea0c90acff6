//! Values over time, as a scenario writes them: a constant, or points joined by straight lines.
//!
//! Pure: the time is an argument. Before its first point a curve has the first value, after its last the last one.

use serde::Deserialize;

/// A number, or a curve of `[ms, value]` points.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "a number, or a list of [ms, value] points")]
pub enum Track {
    /// The same at all times.
    Constant(f64),
    /// Points in order of time (milliseconds from the epoch), joined by straight lines.
    Curve(Vec<(f64, f64)>),
}

impl Track {
    /// The value `ms` milliseconds after the epoch; the curve starts again every `period_ms`, where given.
    #[must_use]
    pub fn at(&self, ms: f64, period_ms: Option<u64>) -> f64 {
        match self {
            Self::Constant(value) => *value,
            Self::Curve(points) => interpolate(points, wrap(ms, period_ms).1),
        }
    }

    /// The area under the track from the epoch to `ms`, in value x seconds; 0 before the epoch.
    #[must_use]
    pub fn integral(&self, ms: f64, period_ms: Option<u64>) -> f64 {
        if ms <= 0.0 {
            return 0.0;
        }
        match self {
            Self::Constant(value) => value * ms / 1e3,
            Self::Curve(points) => {
                let (turns, rest) = wrap(ms, period_ms);
                let turn = period_ms.map_or(0.0, |period| area(points, period as f64));
                (turns * turn + area(points, rest)) / 1e3
            }
        }
    }

    /// The values that the track names, for checks of range.
    pub(crate) fn values(&self) -> impl Iterator<Item = f64> {
        let (constant, points) = match self {
            Self::Constant(value) => (Some(*value), &[][..]),
            Self::Curve(points) => (None, points.as_slice()),
        };
        constant.into_iter().chain(points.iter().map(|&(_, value)| value))
    }

    /// Whether the points are there, start at 0 or later, and follow each other in time.
    pub(crate) fn is_in_order(&self) -> bool {
        match self {
            Self::Constant(_) => true,
            Self::Curve(points) => {
                points.first().is_some_and(|first| first.0 >= 0.0)
                    && points.windows(2).all(|pair| pair[0].0 <= pair[1].0)
            }
        }
    }
}

/// How many whole periods have passed, and the time within the present one.
fn wrap(ms: f64, period_ms: Option<u64>) -> (f64, f64) {
    match period_ms {
        Some(period) if period > 0 => {
            let period = period as f64;
            ((ms / period).floor(), ms.rem_euclid(period))
        }
        _ => (0.0, ms),
    }
}

fn interpolate(points: &[(f64, f64)], ms: f64) -> f64 {
    // The first point later than `ms`: of two points at one instant (a step) the second counts from that instant.
    let next = points.partition_point(|point| point.0 <= ms);
    match (next.checked_sub(1).map(|i| points[i]), points.get(next)) {
        (Some((t0, v0)), Some(&(t1, v1))) => v0 + (v1 - v0) * (ms - t0) / (t1 - t0),
        (Some((_, value)), None) | (None, Some(&(_, value))) => value,
        (None, None) => 0.0,
    }
}

/// The area under the points from 0 to `ms`, in value x milliseconds.
fn area(points: &[(f64, f64)], ms: f64) -> f64 {
    let mut area = 0.0;
    let mut last = (0.0, points.first().map_or(0.0, |point| point.1));
    for &(t, v) in points.iter().filter(|point| point.0 <= ms) {
        area += f64::midpoint(last.1, v) * (t - last.0);
        last = (t, v);
    }
    area + f64::midpoint(last.1, interpolate(points, ms)) * (ms - last.0)
}

#[cfg(test)]
mod tests {
    use super::Track;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn curve_is_flat_outside_its_points_and_straight_between_them() {
        let curve = Track::Curve(vec![(1000.0, 10.0), (3000.0, 50.0)]);
        assert!(close(curve.at(-5.0, None), 10.0));
        assert!(close(curve.at(2000.0, None), 30.0));
        assert!(close(curve.at(9000.0, None), 50.0));
    }

    #[test]
    fn step_takes_the_later_value_at_its_instant() {
        let curve = Track::Curve(vec![(0.0, 0.0), (1000.0, 0.0), (1000.0, 80.0), (2000.0, 80.0)]);
        assert!(close(curve.at(999.9, None), 0.0));
        assert!(close(curve.at(1000.0, None), 80.0));
    }

    #[test]
    fn period_starts_the_curve_again() {
        let curve = Track::Curve(vec![(0.0, 0.0), (1000.0, 100.0)]);
        assert!(close(curve.at(2250.0, Some(1000)), 25.0));
    }

    #[test]
    fn integral_counts_whole_periods_and_the_rest() {
        let curve = Track::Curve(vec![(0.0, 0.0), (1000.0, 100.0)]);
        assert!(close(curve.integral(1000.0, None), 50.0));
        assert!(close(curve.integral(2500.0, Some(1000)), 50.0 + 50.0 + 12.5));
        assert!(close(Track::Constant(71.0).integral(2000.0, None), 142.0));
        assert!(close(curve.integral(-1.0, None), 0.0));
    }

    #[test]
    fn points_out_of_order_are_noticed() {
        assert!(!Track::Curve(vec![]).is_in_order());
        assert!(!Track::Curve(vec![(5.0, 1.0), (4.0, 1.0)]).is_in_order());
        assert!(Track::Curve(vec![(5.0, 1.0), (5.0, 2.0)]).is_in_order());
    }
}
