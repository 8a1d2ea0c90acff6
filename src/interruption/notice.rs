//! What the metadata service says about the end of a spot instance. Pure.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// So long before the end the open window is closed once more: an instance that hibernates gets no signal, and one that
/// is terminated may not have the time that a signal gives.
const LAST_CALL: Duration = Duration::from_secs(10);

/// Characters of an action; those of today have at most nine.
const LONGEST_ACTION: usize = 32;

/// An announced interruption.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// `terminate`, `stop` or `hibernate`.
    pub action: String,
    /// When, Unix seconds by EC2's clock; absent if that cannot be read.
    pub at: Option<u64>,
}

/// An answer that is no notice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not a notice of EC2, it starts with {start:?}")]
pub struct NotANotice {
    start: String,
}

impl NotANotice {
    fn of(text: &str) -> Self {
        Self {
            start: text.chars().take(40).collect(),
        }
    }
}

#[derive(Deserialize)]
struct RawInterruption {
    action: String,
    time: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct RawRebalance {
    #[serde(rename = "noticeTime")]
    notice_time: String,
}

impl Notice {
    /// Reads `spot/instance-action`. A time that cannot be read makes no notice void.
    ///
    /// # Errors
    /// It is not JSON, or without an action.
    pub fn parse(text: &str) -> Result<Self, NotANotice> {
        let raw: RawInterruption = serde_json::from_str(text).map_err(|_| NotANotice::of(text))?;
        let is_action = (1..=LONGEST_ACTION).contains(&raw.action.len())
            && raw
                .action
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_action {
            return Err(NotANotice::of(text));
        }
        Ok(Self {
            action: raw.action,
            at: raw.time.and_then(|time| unix_seconds(time.as_str()?)),
        })
    }

    /// When the open window is to be closed once more, in Unix seconds by EC2's clock.
    #[must_use]
    pub fn last_call(&self) -> Option<u64> {
        self.at.map(|at| at.saturating_sub(LAST_CALL.as_secs()))
    }
}

/// Reads `events/recommendations/rebalance`: when it was recommended, Unix seconds.
///
/// # Errors
/// It is not JSON, or without a time.
pub fn rebalance(text: &str) -> Result<u64, NotANotice> {
    let raw: RawRebalance = serde_json::from_str(text).map_err(|_| NotANotice::of(text))?;
    unix_seconds(&raw.notice_time).ok_or_else(|| NotANotice::of(text))
}

fn unix_seconds(text: &str) -> Option<u64> {
    let time = humantime::parse_rfc3339(text.trim()).ok()?;
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c17_an_interruption_is_read_whatever_its_time_says() {
        for (text, action, at) in [
            (
                r#"{"action":"terminate","time":"2017-09-18T08:22:00Z"}"#,
                "terminate",
                Some(1_505_722_920),
            ),
            (
                r#"{"action": "hibernate", "time": "2017-09-18T08:22:00Z", "more": 1}"#,
                "hibernate",
                Some(1_505_722_920),
            ),
            (r#"{"action":"stop","time":"soon"}"#, "stop", None),
            (r#"{"action":"stop","time":7}"#, "stop", None),
            (r#"{"action":"vaporise"}"#, "vaporise", None),
        ] {
            let notice = Notice::parse(text).unwrap();
            assert_eq!((notice.action.as_str(), notice.at), (action, at), "{text}");
        }
        assert_eq!(
            Notice::parse(r#"{"action":"stop","time":"1970-01-01T00:02:00Z"}"#)
                .unwrap()
                .last_call(),
            Some(110)
        );
    }

    #[test]
    fn c17_what_is_no_notice_is_refused_in_words() {
        let long = format!(r#"{{"action":"{}"}}"#, "x".repeat(33));
        for text in [
            "",
            "<html>Welcome</html>",
            "{}",
            r#"{"action":""}"#,
            r#"{"action":1}"#,
            r#"{"action":"a\nb"}"#,
            &long,
        ] {
            let refused = Notice::parse(text).unwrap_err().to_string();
            assert!(
                refused.starts_with("the answer is not a notice of EC2"),
                "{refused}"
            );
        }
    }

    #[test]
    fn c17_a_recommendation_has_a_time() {
        assert_eq!(
            rebalance(r#"{"noticeTime":"2020-10-26T00:00:00Z"}"#),
            Ok(1_603_670_400)
        );
        for text in [
            "[]",
            r#"{"noticeTime":"soon"}"#,
            r#"{"noticeTime":"1969-12-31T00:00:00Z"}"#,
        ] {
            assert!(rebalance(text).is_err(), "{text}");
        }
    }
}
