//! The daemon's defaults, with the traps of the real parser.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::version::Version;

/// A device as a setting names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Ordinal(u32),
    Uuid(String),
}

/// Why a device is not a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSubject {
    /// The log says so.
    InvalidOrdinal,
    /// Nobody says so.
    Silent,
}

/// An ordinal of 0 to 31, or, from 580 on, a whole UUID.
pub(super) fn subject(word: &str, version: Version) -> Result<Subject, NoSubject> {
    if let Ok(ordinal) = word.parse::<i64>() {
        let valid = u32::try_from(ordinal).ok().filter(|ordinal| *ordinal < 32);
        return valid.map(Subject::Ordinal).ok_or(NoSubject::InvalidOrdinal);
    }
    if version.is_cuda_13() && is_uuid(word) {
        Ok(Subject::Uuid(word.to_owned()))
    } else {
        Err(NoSubject::Silent)
    }
}

fn is_uuid(word: &str) -> bool {
    let Some(digits) = word.strip_prefix("GPU-").or_else(|| word.strip_prefix("MIG-")) else {
        return false;
    };
    let groups: Vec<&str> = digits.split('-').collect();
    let hex = |group: &str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && groups.into_iter().all(hex)
}

/// The percentage that the start of the word makes (`50%`, `1e1`), if it is in (0, 100].
pub(super) fn percentage(word: &str) -> Option<f64> {
    let number = |end: usize| word.get(..end)?.parse::<f64>().ok();
    let hexadecimal = |digits: &str| i32::from_str_radix(digits, 16).ok().map(f64::from);
    let value = match word.strip_prefix("0x").and_then(hexadecimal) {
        Some(value) => value,
        None => (1..=word.len()).rev().find_map(number)?,
    };
    (value > 0.0 && value <= 100.0).then_some(value)
}

/// The limit in bytes that the real parser makes of `word`; none where it leaves the device without one.
///
/// It reads an unsigned number (a minus sign wraps around) and looks at the one letter behind it: `G`, else mebibytes.
pub(crate) fn limit(word: &str) -> Option<u64> {
    let (negative, digits) = match word.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, word),
    };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    if end == 0 {
        return None;
    }
    // More than fits is the most that fits.
    let value: u64 = digits[..end].parse().unwrap_or(u64::MAX);
    let value = if negative { value.wrapping_neg() } else { value };
    let unit = digits[end..].chars().next();
    let shift = if matches!(unit, Some('G' | 'g')) { 30 } else { 20 };
    Some(value << shift).filter(|bytes| *bytes > 0)
}

/// As the command line shows a limit: whole gibibytes from one on, rounded down.
pub(super) fn show_limit(bytes: u64) -> String {
    if bytes >= 1 << 30 {
        format!("{}G", bytes >> 30)
    } else {
        format!("{}M", bytes >> 20)
    }
}

/// What a server starts with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub(super) percentage: f64,
    pub(super) limits: BTreeMap<Subject, u64>,
    pub(super) priority: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            percentage: 100.0,
            limits: BTreeMap::new(),
            priority: 0,
        }
    }
}

impl Settings {
    /// A zero limit is none.
    pub(super) fn set_limit(&mut self, subject: Subject, bytes: Option<u64>) {
        match bytes {
            Some(bytes) => self.limits.insert(subject, bytes),
            None => self.limits.remove(&subject),
        };
    }

    /// The settings as one message to a server.
    pub(super) fn message(&self, uuids: &[&str]) -> String {
        let mut text = format!("DEFAULTS {} {}", self.percentage, self.priority);
        for (subject, bytes) in &self.limits {
            let ordinal = match subject {
                Subject::Ordinal(ordinal) => usize::try_from(*ordinal).ok(),
                Subject::Uuid(uuid) => uuids.iter().position(|known| known == uuid),
            };
            if let Some(ordinal) = ordinal.filter(|ordinal| *ordinal < uuids.len()) {
                let _ = write!(text, "\n{ordinal} {bytes}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u16) -> Version {
        number.try_into().unwrap()
    }

    #[test]
    fn a_limit_has_the_traps_of_the_real_parser() {
        let shown = |word: &str| limit(word).map(show_limit);
        let cases = [
            ("2G", "2G"),
            ("3000M", "2G"),
            ("11500M", "11G"),
            ("512M", "512M"),
            ("100", "100M"),
            ("1500K", "1G"),
            ("2147483648", "2097152G"),
            ("1.5G", "1M"),
            ("2T", "2M"),
            ("-1G", "17179869183G"),
            ("2048MB", "2G"),
            ("500m", "500M"),
            ("3g", "3G"),
            ("99999999999999999999G", "17179869183G"),
        ];
        for (word, expected) in cases {
            assert_eq!(shown(word).as_deref(), Some(expected), "{word}");
        }
        assert_eq!(shown("0G"), None);
        assert_eq!(shown("abc"), None);
    }

    #[test]
    fn a_percentage_is_the_number_at_the_start_of_the_word() {
        assert_eq!(percentage("50%"), Some(50.0));
        assert_eq!(percentage("1e1"), Some(10.0));
        assert_eq!(percentage("14.28"), Some(14.28));
        assert_eq!(percentage("0x10"), Some(16.0));
        for wrong in ["0", "101", "abc", "-5", "", "nan"] {
            assert_eq!(percentage(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_uuid_names_a_device_from_580_on() {
        let uuid = "GPU-0123abcd-0123-0123-0123-0123456789ab";
        assert_eq!(subject(uuid, version(550)), Err(NoSubject::Silent));
        assert_eq!(subject(uuid, version(580)), Ok(Subject::Uuid(uuid.to_owned())));
        assert_eq!(subject("GPU-0123abcd", version(595)), Err(NoSubject::Silent));
        assert_eq!(subject("31", version(550)), Ok(Subject::Ordinal(31)));
        assert_eq!(subject("32", version(550)), Err(NoSubject::InvalidOrdinal));
        assert_eq!(subject("-1", version(550)), Err(NoSubject::InvalidOrdinal));
    }
}
