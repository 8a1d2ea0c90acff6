//! Which keys there are and what kind of value each takes, derived from the raw structs and their defaults.
//!
//! One derived description serves three uses: it names unknown keys, it suggests the nearest known one, and it words
//! "wrong type" in the operator's terms. It holds no key of its own, so that it cannot disagree with `raw.rs`.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::raw::{Raw, RawRollup};

/// What a key takes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    /// Keys below it.
    Section(BTreeMap<String, Shape>),
    /// Any number of values of one shape.
    List(Box<Shape>),
    /// `true` or `false`.
    Flag,
    /// A whole number, zero or more.
    Count,
    /// A string.
    Text,
    /// A string with a number and a unit of time.
    Duration,
    /// A string with a number and a unit of bytes, or a plain number of bytes.
    Size,
}

/// The outcome of looking a dotted key up.
pub(super) enum Lookup {
    /// The key exists.
    Known,
    /// It does not; perhaps this one was meant.
    Unknown(Option<String>),
}

impl Shape {
    /// The shape of the whole configuration.
    pub(super) fn of_config() -> Self {
        let mut raw = Raw::default();
        // The list is empty by default; one element shows what its elements look like.
        raw.publish.rollup.push(RawRollup {
            dimensions: vec![String::new()],
            metrics: vec![String::new()],
        });
        let json = serde_json::to_value(raw).expect("structs of strings, numbers and lists are JSON");
        Self::of_value("", &json)
    }

    fn of_value(key: &str, default: &Json) -> Self {
        match default {
            Json::Object(fields) => Self::Section(
                fields
                    .iter()
                    .map(|(k, v)| (k.clone(), Self::of_value(k, v)))
                    .collect(),
            ),
            Json::Array(elements) => Self::List(Box::new(
                elements
                    .first()
                    .map_or(Self::Text, |first| Self::of_value("", first)),
            )),
            Json::Bool(_) => Self::Flag,
            Json::Number(_) => Self::Count,
            // Byte counts carry their unit in the key: the naming rule of the whole configuration.
            Json::String(_) if key.ends_with("_bytes") => Self::Size,
            Json::String(text) if humantime::parse_duration(text).is_ok() => Self::Duration,
            // Null is a key without a default: all of those are strings.
            Json::String(_) | Json::Null => Self::Text,
        }
    }

    /// What a value of the wrong type should have been, and how to write one.
    pub(super) const fn wanted(&self) -> (&'static str, &'static str) {
        match self {
            Self::Section(_) => ("must be a section", "write its keys below a [section] line"),
            Self::List(_) => ("must be a list", "write it in brackets, such as [\"a\", \"b\"]"),
            Self::Flag => ("must be true or false", "write true or false, without quotes"),
            Self::Count => (
                "must be a whole number, zero or more",
                "write digits only, without quotes or unit",
            ),
            Self::Text => ("must be a string", "put it in quotes"),
            Self::Duration => ("must be a duration", "write a duration such as \"1s\""),
            Self::Size => ("must be a size in bytes", "write a size such as \"64MiB\""),
        }
    }

    /// Looks a dotted key up from the root.
    pub(super) fn lookup(&self, key: &str) -> Lookup {
        let mut here = self;
        let mut parent = String::new();
        for name in key.split('.') {
            let Self::Section(fields) = here else {
                // Below a key that takes a value: that key was meant.
                return Lookup::Unknown(Some(parent));
            };
            let Some(next) = fields.get(name) else {
                return Lookup::Unknown(self.suggest(key, &parent, fields, name));
            };
            parent = join(&parent, name);
            here = next;
        }
        Lookup::Known
    }

    /// What was most likely meant by `key`, whose part `name` is unknown among the `fields` of `parent`: a sibling of
    /// nearly that name before the same name in another section.
    pub(super) fn suggest(
        &self,
        key: &str,
        parent: &str,
        fields: &BTreeMap<String, Self>,
        name: &str,
    ) -> Option<String> {
        let Some(sibling) = nearest(name, fields.keys().map(String::as_str)) else {
            return self.suggest_anywhere(key);
        };
        let corrected = join(parent, sibling);
        let rest = key.get(join(parent, name).len()..).unwrap_or_default();
        let whole = format!("{corrected}{rest}");
        Some(if self.keys().contains(&whole) {
            whole
        } else {
            corrected
        })
    }

    fn suggest_anywhere(&self, key: &str) -> Option<String> {
        let known = self.keys();
        let last = key.rsplit('.').next();
        let namesake = known
            .iter()
            .find(|known| known.rsplit('.').next() == last)
            .map(String::as_str);
        namesake
            .or_else(|| nearest(key, known.iter().map(String::as_str)))
            .map(str::to_owned)
    }

    /// Every known dotted key, sections included.
    fn keys(&self) -> Vec<String> {
        let Self::Section(fields) = self else {
            return Vec::new();
        };
        fields
            .iter()
            .flat_map(|(name, field)| {
                let below = field.keys().into_iter().map(move |key| join(name, &key));
                std::iter::once(name.clone()).chain(below)
            })
            .collect()
    }
}

/// Joins a key to its section; the root section has no name.
pub(super) fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.to_owned()
    } else {
        format!("{parent}.{name}")
    }
}

/// The candidate with the fewest edits, if few enough that a slip of the fingers explains them.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Longer than any key; the comparison costs the product of the two lengths.
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let word = word.to_ascii_lowercase();
    let tolerated = (word.len() / 3).max(1);
    candidates
        .map(|known| {
            (
                strsim::damerau_levenshtein(&word, &known.to_ascii_lowercase()),
                known,
            )
        })
        .filter(|(edits, _)| *edits <= tolerated)
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
impl Shape {
    /// Every known key, for a test elsewhere.
    pub(super) fn all_keys(&self) -> Vec<String> {
        self.keys()
    }

    /// Every key of a configuration that sets all of them.
    pub(super) fn keys_of(json: &Json) -> Vec<String> {
        Self::of_value("", json).keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suggestion(key: &str) -> Option<String> {
        match Shape::of_config().lookup(key) {
            Lookup::Known => panic!("{key} is a known key"),
            Lookup::Unknown(suggestion) => suggestion,
        }
    }

    #[test]
    fn the_shape_follows_the_raw_defaults() {
        let Shape::Section(sections) = Shape::of_config() else {
            panic!("the root is a section")
        };
        let field = |section: &str, key: &str| match &sections[section] {
            Shape::Section(fields) => fields[key].clone(),
            other => panic!("[{section}] is {other:?}"),
        };
        assert_eq!(field("sample", "interval"), Shape::Duration);
        assert_eq!(field("spool", "max_bytes"), Shape::Size);
        assert_eq!(field("publish", "max_series"), Shape::Count);
        assert_eq!(field("publish", "endpoint_url"), Shape::Text);
        assert_eq!(field("gpu", "enabled"), Shape::Flag);
        assert_eq!(field("prometheus", "listen"), Shape::Text);
        assert_eq!(field("publish", "groups"), Shape::List(Box::new(Shape::Text)));
        assert!(
            matches!(field("publish", "rollup"), Shape::List(element) if matches!(*element, Shape::Section(_)))
        );
    }

    #[test]
    fn no_default_text_is_taken_for_a_duration() {
        fn durations(prefix: &str, shape: &Shape, found: &mut Vec<String>) {
            match shape {
                Shape::Section(fields) => {
                    for (name, field) in fields {
                        durations(&join(prefix, name), field, found);
                    }
                }
                Shape::Duration => found.push(prefix.to_owned()),
                _ => {}
            }
        }
        let mut found = Vec::new();
        durations("", &Shape::of_config(), &mut found);
        let expected = [
            "mps.grace",
            "mps.probe_interval",
            "pods.interval",
            "publish.interval",
            "sample.interval",
            "slices.boot_grace",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_nearest_key_is_suggested() {
        assert_eq!(
            suggestion("publish.intervall").as_deref(),
            Some("publish.interval")
        );
        assert_eq!(suggestion("pubish.interval").as_deref(), Some("publish.interval"));
        assert_eq!(suggestion("pubish").as_deref(), Some("publish"));
        assert_eq!(
            suggestion("sample.max_series").as_deref(),
            Some("publish.max_series")
        );
        assert_eq!(suggestion("namespace").as_deref(), Some("publish.namespace"));
        assert_eq!(
            suggestion("sample.interval.seconds").as_deref(),
            Some("sample.interval")
        );
        assert_eq!(
            suggestion("publish.Interval").as_deref(),
            Some("publish.interval")
        );
        assert_eq!(suggestion("colour.scheme"), None);
        assert_eq!(suggestion(&"x".repeat(100_000)), None);
    }
}
