//! The clock of a fake, which tests can set, and the date formats of HTTP (RFC 9110) and `SigV4`.
//!
//! Instants are clamped to the years 1970 to 9999: no answer of a fake may fail because a test set an odd date.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// 9999-12-31T23:59:59Z, the last second that RFC 3339 can write.
const LAST_SECOND: u64 = 253_402_300_799;

/// What a fake takes for the present.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Clock {
    /// That of the machine.
    #[default]
    Real,
    /// That of the machine, so many seconds ahead; behind when negative.
    Ahead(i64),
    /// Stands still.
    Fixed(SystemTime),
}

impl Clock {
    /// The present.
    #[must_use]
    pub fn now(self) -> SystemTime {
        match self {
            Self::Real => SystemTime::now(),
            Self::Ahead(seconds) => shift(SystemTime::now(), seconds),
            Self::Fixed(instant) => instant,
        }
    }
}

/// `instant`, later by so many seconds; unmoved where the sum cannot be held.
#[must_use]
pub fn shift(instant: SystemTime, seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    let moved = if seconds < 0 {
        instant.checked_sub(by)
    } else {
        instant.checked_add(by)
    };
    moved.unwrap_or(instant)
}

/// Seconds since 1970, negative before.
#[must_use]
pub fn epoch_seconds(instant: SystemTime) -> f64 {
    match instant.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

/// `2026-01-31T12:00:00Z`.
#[must_use]
pub fn rfc3339(instant: SystemTime) -> String {
    humantime::format_rfc3339_seconds(writable(instant)).to_string()
}

/// `2026-01-31T12:00:00.250Z`.
#[must_use]
pub fn rfc3339_millis(instant: SystemTime) -> String {
    humantime::format_rfc3339_millis(writable(instant)).to_string()
}

/// Reads what [`rfc3339`] writes.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}

/// The value of a `Date` header: `Sat, 31 Jan 2026 12:00:00 GMT`.
#[must_use]
pub fn http_date(instant: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let text = rfc3339(instant);
    let seconds = writable(instant)
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let weekday = DAYS
        .iter()
        .cycle()
        .nth(usize::try_from(seconds / 86_400 % 7).unwrap_or(0))
        .unwrap_or(&DAYS[0]);
    let month = text[5..7]
        .parse::<usize>()
        .ok()
        .and_then(|number| MONTHS.get(number - 1));
    let (year, day, time) = (&text[0..4], &text[8..10], &text[11..19]);
    format!(
        "{weekday}, {day} {} {year} {time} GMT",
        month.unwrap_or(&MONTHS[0])
    )
}

/// Reads the value of an `X-Amz-Date` header, `20260131T120000Z`.
#[must_use]
pub fn parse_amz_date(text: &str) -> Option<SystemTime> {
    let plain = text.len() == 16 && text.is_ascii();
    let (date, time) = plain.then(|| text.split_at(8))?;
    let time = time.strip_prefix('T')?.strip_suffix('Z')?;
    parse_rfc3339(&format!(
        "{}-{}-{}T{}:{}:{}Z",
        &date[0..4],
        &date[4..6],
        &date[6..8],
        &time[0..2],
        &time[2..4],
        &time[4..6]
    ))
}

fn writable(instant: SystemTime) -> SystemTime {
    instant.clamp(UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(LAST_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn dates_are_written_as_http_writes_them() {
        assert_eq!(http_date(at(0)), "Thu, 01 Jan 1970 00:00:00 GMT");
        // The example of RFC 9110, section 5.6.7.
        assert_eq!(http_date(at(784_111_777)), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(at(u64::MAX / 4)), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(
            http_date(UNIX_EPOCH - Duration::from_secs(5)),
            "Thu, 01 Jan 1970 00:00:00 GMT"
        );
    }

    #[test]
    fn signing_dates_are_read_and_odd_ones_are_not() {
        assert_eq!(parse_amz_date("19941106T084937Z"), Some(at(784_111_777)));
        for odd in [
            "",
            "19941106T084937",
            "19941106 084937Z",
            "1994110éT08493Z",
            "19941306T084937Z",
        ] {
            assert_eq!(parse_amz_date(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_clock_can_be_set_ahead_behind_and_still() {
        let real = SystemTime::now();
        assert!(Clock::Ahead(3600).now() >= real + Duration::from_hours(1));
        assert!(Clock::Ahead(-3600).now() < real);
        assert_eq!(Clock::Fixed(at(7)).now(), at(7));
        assert_eq!(shift(at(7), i64::MAX), at(7));
    }
}
