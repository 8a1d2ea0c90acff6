//! Why a configuration was refused: every problem at once, each with its key, its origin and the mend.
//!
//! A problem is text for the person who has to mend it; nothing here decides what is a problem.

use std::fmt;

/// More problems than this are counted, not listed: the first screen is what gets read.
const LISTED: usize = 50;

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted key, such as `publish.interval`; absent where the problem is no single key's (a syntax error).
    pub key: Option<String>,
    /// The refused value as it was given; absent for unknown keys and for problems without a key.
    pub value: Option<String>,
    /// Where the value came from: `FILE:LINE`, `environment variable NAME` or `--set KEY`.
    pub origin: String,
    /// What is wrong, to be read after the key and the value.
    pub message: String,
    /// What to write instead.
    pub mend: String,
}

impl Problem {
    /// A problem of a source as a whole rather than of one key.
    pub(super) fn of_source(
        origin: impl Into<String>,
        message: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            key: None,
            value: None,
            origin: origin.into(),
            message: message.into(),
            mend: mend.into(),
        }
    }

    /// A key that no part of gpushare reads.
    pub(super) fn unknown_key(
        key: impl Into<String>,
        origin: impl Into<String>,
        suggestion: Option<String>,
    ) -> Self {
        let mend = suggestion.map_or_else(
            || "remove it".to_owned(),
            |known| format!("did you mean {known}?"),
        );
        Self {
            key: Some(key.into()),
            value: None,
            origin: origin.into(),
            message: "unknown key".to_owned(),
            mend,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            value,
            origin,
            message,
            mend,
        } = self;
        let Some(key) = key else {
            return write!(f, "{origin}: {message}; {mend}");
        };
        write!(f, "{}", harmless(key))?;
        if let Some(value) = value {
            write!(f, " = {}", abridged(value))?;
        }
        write!(f, ": {message}; {mend} (from {origin})")
    }
}

/// A name from outside, fit for a terminal: a quoted TOML key or a variable may hold anything.
pub(super) fn harmless(name: &str) -> String {
    abridged(name).escape_debug().to_string()
}

/// Cuts text that would push the message off the screen.
fn abridged(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// A configuration that cannot be used: all that is wrong with it.
///
/// Its text has one line per problem after a heading, and is meant to be shown as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    /// Orders the problems by key; those of whole sources come first and keep their order. The caller has at least one.
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by(|a, b| a.key.cmp(&b.key));
        Self { problems }
    }

    /// The problems, ordered by key; never empty.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "the configuration has {count} problem{plural}:")?;
        for problem in self.problems.iter().take(LISTED) {
            write!(f, "\n  {problem}")?;
        }
        if count > LISTED {
            write!(f, "\n  and {} more", count - LISTED)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(key: &str) -> Problem {
        Problem::unknown_key(key, "--set x", None)
    }

    #[test]
    fn a_long_list_is_cut_and_counted() {
        let text = ConfigError::new((0..60).map(|n| unknown(&format!("k{n:02}"))).collect()).to_string();
        assert_eq!(text.lines().count(), 1 + LISTED + 1);
        assert!(
            text.starts_with("the configuration has 60 problems:\n  k00: unknown key"),
            "{text}"
        );
        assert!(text.ends_with("\n  and 10 more"), "{text}");
    }

    #[test]
    fn control_characters_and_endless_keys_do_not_reach_the_terminal() {
        let text = unknown("\u{1b}[31mred").to_string();
        assert_eq!(text, "\\u{1b}[31mred: unknown key; remove it (from --set x)");
        assert!(unknown(&"k".repeat(5000)).to_string().len() < 150);
    }

    #[test]
    fn problems_of_a_whole_source_come_first() {
        let error = ConfigError::new(vec![
            unknown("a"),
            Problem::of_source("f.toml:1:2", "bad", "mend it"),
        ]);
        assert_eq!(error.problems()[0].to_string(), "f.toml:1:2: bad; mend it");
    }
}
