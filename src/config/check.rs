//! Reads single values of the configuration: text in, value out, or a problem with its mend.
//!
//! Every routine takes the dotted key and returns a value even where it noted a problem, so that one run judges all
//! keys. Such a stand-in never leaves the module: with a problem there is no [`super::Config`].

use std::path::PathBuf;
use std::time::Duration;

use super::choice::Choice;
use super::error::Problem;
use super::shape::nearest;
use super::typed::Given;

/// The longest interval: beyond an hour an alarm is of no use, and CloudWatch's own minute is long gone.
const LONGEST: Duration = Duration::from_hours(1);

/// `sockaddr_un.sun_path` holds 108 bytes, the last of which is NUL.
const SOCKET_PATH_BYTES: usize = 107;

/// Notes the problems of a configuration while its values are read.
pub(super) struct Checker<'a> {
    pub(super) given: &'a Given,
    pub(super) problems: &'a mut Vec<Problem>,
}

impl Checker<'_> {
    /// Notes that the value of `key` is wrong.
    pub(super) fn refuse(&mut self, key: &str, message: impl Into<String>, mend: impl Into<String>) {
        let given = self.given.get(key);
        self.problems.push(Problem {
            key: Some(key.to_owned()),
            value: given.map(|given| given.shown.clone()),
            origin: given.map_or_else(|| "the built-in default".to_owned(), |given| given.origin.clone()),
            message: message.into(),
            mend: mend.into(),
        });
    }

    /// Whether nothing is wrong with `key` or an element of it, so that it may be compared with others.
    pub(super) fn is_sound(&self, key: &str) -> bool {
        let concerns = |problem: &Problem| {
            let rest = problem.key.as_deref().and_then(|wrong| wrong.strip_prefix(key));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
        };
        !self.problems.iter().any(concerns)
    }

    /// A duration from `shortest` to one hour.
    pub(super) fn duration(&mut self, key: &str, text: &str, shortest: Duration) -> Duration {
        let (message, mend) = match parse_duration(text) {
            Err(reason) => reason,
            Ok(Duration::ZERO) => not_positive(),
            Ok(value) if value < shortest => {
                let least = humantime::format_duration(shortest);
                (
                    format!("must be at least {least}"),
                    format!("write \"{least}\" or more"),
                )
            }
            Ok(value) if value > LONGEST => (
                "must not be longer than an hour".to_owned(),
                "write \"1h\" or less".to_owned(),
            ),
            Ok(value) => return value,
        };
        self.refuse(key, message, mend);
        shortest
    }

    /// A size in bytes, of at least `least`.
    pub(super) fn size(&mut self, key: &str, text: &str, least: u64) -> u64 {
        match text.trim().parse::<bytesize::ByteSize>() {
            Ok(size) if size.as_u64() >= least => size.as_u64(),
            Ok(_) => {
                self.refuse(
                    key,
                    format!("must be at least {}", bytesize::ByteSize(least)),
                    "write a size such as \"64MiB\"",
                );
                least
            }
            Err(_) => {
                self.refuse(
                    key,
                    "is not a size",
                    "write a number and a unit, such as \"64MiB\"",
                );
                least
            }
        }
    }

    /// A whole number within a range that fits the target type.
    pub(super) fn count<T: TryFrom<u64> + Default>(
        &mut self,
        key: &str,
        value: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> T {
        let fitting = range.contains(&value).then(|| T::try_from(value).ok()).flatten();
        fitting.unwrap_or_else(|| {
            let (least, most) = range.into_inner();
            self.refuse(
                key,
                "is out of range",
                format!("write a whole number from {least} to {most}"),
            );
            T::default()
        })
    }

    /// One word of a closed set.
    pub(super) fn choice<T: Choice>(&mut self, key: &str, text: &str) -> T {
        self.one_of(key, text).unwrap_or(T::ALL[0])
    }

    /// Several words of a closed set, each at most once and in their order.
    pub(super) fn choices<T: Choice + PartialEq>(&mut self, key: &str, words: &[String]) -> Vec<T> {
        let mut chosen = Vec::new();
        for (index, word) in words.iter().enumerate() {
            let element = format!("{key}[{index}]");
            match self.one_of(&element, word) {
                Some(value) if chosen.contains(&value) => {
                    self.refuse(&element, "is listed twice", "remove one of the two");
                }
                value => chosen.extend(value),
            }
        }
        chosen
    }

    fn one_of<T: Choice>(&mut self, key: &str, text: &str) -> Option<T> {
        let found = T::ALL.iter().copied().find(|choice| choice.word() == text);
        if found.is_none() {
            let words = T::ALL.iter().map(|choice| choice.word());
            let mend = nearest(text, words.clone()).map_or_else(
                || {
                    format!(
                        "write one of {}",
                        words
                            .map(|word| format!("\"{word}\""))
                            .collect::<Vec<_>>()
                            .join(", ")
                    )
                },
                |near| format!("did you mean \"{near}\"?"),
            );
            self.refuse(key, "is not a known choice", mend);
        }
        found
    }

    /// An absolute path.
    pub(super) fn path(&mut self, key: &str, text: &str) -> PathBuf {
        if !text.starts_with('/') {
            self.refuse(key, "must be an absolute path", "write the path from / on");
        } else if text.contains('\0') {
            self.refuse(key, "holds a NUL character", "remove it");
        }
        PathBuf::from(text)
    }

    /// The path of a unix socket.
    pub(super) fn socket(&mut self, key: &str, text: &str) -> PathBuf {
        let path = self.path(key, text);
        if text.len() > SOCKET_PATH_BYTES {
            let message = format!("is {} bytes long, and a socket's path may have 107", text.len());
            self.refuse(key, message, "choose a shorter directory");
        }
        path
    }

    /// A program or library: an absolute path, or a bare name that the system looks up.
    pub(super) fn lookup_name(&mut self, key: &str, text: &str) -> PathBuf {
        if text.is_empty() || text.contains('\0') || (text.contains('/') && !text.starts_with('/')) {
            self.refuse(
                key,
                "is neither a bare name nor an absolute path",
                "write the name alone or the path from / on",
            );
        }
        PathBuf::from(text)
    }

    /// Text that CloudWatch takes as a name or dimension value: ASCII without control characters, not blank, at most
    /// `longest` characters.
    pub(super) fn name(&mut self, key: &str, text: &str, longest: usize) -> String {
        if text.trim().is_empty() {
            self.refuse(key, "must not be empty", "write a name, or leave the key out");
        } else if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            self.refuse(
                key,
                "may hold printable ASCII characters only",
                "remove the others",
            );
        } else if text.len() > longest {
            self.refuse(
                key,
                format!("is {} characters long", text.len()),
                format!("write at most {longest}"),
            );
        }
        text.to_owned()
    }
}

fn not_positive() -> (String, String) {
    (
        "must be longer than zero".to_owned(),
        "write a duration such as \"1s\"".to_owned(),
    )
}

/// A duration, or what is wrong with the text and its mend.
fn parse_duration(text: &str) -> Result<Duration, (String, String)> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err(not_positive());
    }
    match text.parse::<f64>() {
        Ok(0.0) => Err(not_positive()),
        Ok(number) if number.is_finite() => Err(("has no unit".to_owned(), format!("write \"{text}s\""))),
        _ => humantime::parse_duration(text).map_err(|_| {
            let mend = "write a number and a unit, such as \"500ms\", \"1s\" or \"2m\"";
            ("is not a duration".to_owned(), mend.to_owned())
        }),
    }
}
