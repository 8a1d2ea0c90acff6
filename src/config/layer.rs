//! The three layers over the defaults (file, environment, `--set`) as sources of the `config` crate.
//!
//! A layer is read and its syntax judged before the layers are merged, so that the problems of all three come out
//! together; collecting one can therefore not fail. Each value carries its own origin. Nothing here knows types.

use std::collections::BTreeMap;

use config::{Map, Source, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeFloat, DeInteger, DeTable, DeValue};

use super::error::{Problem, harmless};
use super::shape::{Lookup, Shape};

/// What one layer says.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    table: Map<String, Value>,
    /// Origin -> the text as it was given, for single values that were read as TOML but may have been meant as a
    /// string (a cluster named `2024`).
    pub(super) verbatim: BTreeMap<String, String>,
}

/// The prefix that makes an environment variable configuration. `GPUSHARE_LOG` (one underscore) is none.
pub(super) const PREFIX: &str = "GPUSHARE__";

impl Layer {
    /// The layer of a parsed file. `origin_at` names the place of a byte offset in it.
    pub(super) fn of_file(table: DeTable<'_>, origin_at: &dyn Fn(usize) -> String) -> Self {
        Self {
            table: table_from_toml(table, origin_at),
            verbatim: BTreeMap::new(),
        }
    }

    /// The layer of the environment; variables without the prefix are none of our business.
    pub(super) fn of_environment(
        variables: &[(String, String)],
        shape: &Shape,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut layer = Self::default();
        for (name, text) in variables {
            let Some(path) = name.strip_prefix(PREFIX) else {
                continue;
            };
            let key = path
                .split("__")
                .collect::<Vec<_>>()
                .join(".")
                .to_ascii_lowercase();
            let origin = format!("environment variable {}", harmless(name));
            if text.contains(char::REPLACEMENT_CHARACTER) {
                problems.push(Problem::of_source(
                    origin,
                    "is not UTF-8",
                    "set it again in UTF-8",
                ));
            } else {
                layer.add(&key, text, origin, shape, problems);
            }
        }
        layer
    }

    /// The layer of the `--set` options, in their order: a later one wins.
    pub(super) fn of_settings(settings: &[String], shape: &Shape, problems: &mut Vec<Problem>) -> Self {
        let mut layer = Self::default();
        for setting in settings {
            match setting.split_once('=') {
                Some((key, text)) => {
                    let key = key.trim();
                    layer.add(key, text, format!("--set {}", harmless(key)), shape, problems);
                }
                None => problems.push(Problem::of_source(
                    format!("--set {}", harmless(setting)),
                    "has no '='",
                    "write --set section.key=VALUE",
                )),
            }
        }
        layer
    }

    fn add(&mut self, key: &str, text: &str, origin: String, shape: &Shape, problems: &mut Vec<Problem>) {
        // An unknown key goes no further: its depth is not bounded, that of known ones is.
        if let Lookup::Unknown(suggestion) = shape.lookup(key) {
            problems.push(Problem::unknown_key(key, origin, suggestion));
            return;
        }
        let kind = match DeValue::parse(text.trim()).map(Spanned::into_inner) {
            // As it was typed, not as TOML would write the date.
            Err(_) | Ok(DeValue::Datetime(_)) => text.into(),
            Ok(parsed) => from_toml(parsed, &|_| origin.clone()),
        };
        let value = Value::new(Some(&origin), kind);
        if !matches!(value.kind, ValueKind::Table(_) | ValueKind::Array(_)) {
            self.verbatim.insert(origin.clone(), text.to_owned());
        }
        let table = key.rsplit('.').fold(value, |inner, name| {
            Value::new(None, Map::from([(name.to_owned(), inner)]))
        });
        if let ValueKind::Table(table) = table.kind {
            merge(&mut self.table, table);
        }
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.table.clone())
    }

    // The crate's own merge takes a top-level key for a path expression: a quoted key such as "a[999999999]" would
    // have it allocate a list of that length.
    fn collect_to(&self, cache: &mut Value) -> Result<(), config::ConfigError> {
        if let ValueKind::Table(table) = &mut cache.kind {
            merge(table, self.table.clone());
        }
        Ok(())
    }
}

/// Sections are merged key by key; anything else is replaced, lists included.
fn merge(below: &mut Map<String, Value>, above: Map<String, Value>) {
    for (key, mut value) in above {
        match (below.get_mut(&key).map(|old| &mut old.kind), &mut value.kind) {
            (Some(ValueKind::Table(old)), ValueKind::Table(new)) => merge(old, std::mem::take(new)),
            _ => {
                below.insert(key, value);
            }
        }
    }
}

fn table_from_toml(table: DeTable<'_>, origin_at: &dyn Fn(usize) -> String) -> Map<String, Value> {
    table
        .into_iter()
        .map(|(key, value)| {
            // The place of the key, because that of a section's value is its first line.
            let origin = origin_at(key.span().start);
            let kind = from_toml(value.into_inner(), origin_at);
            (key.into_inner().into_owned(), Value::new(Some(&origin), kind))
        })
        .collect()
}

fn from_toml(value: DeValue<'_>, origin_at: &dyn Fn(usize) -> String) -> ValueKind {
    match value {
        DeValue::String(text) => ValueKind::String(text.into_owned()),
        DeValue::Integer(number) => integer(&number),
        DeValue::Float(number) => ValueKind::Float(float(&number)),
        DeValue::Boolean(flag) => ValueKind::Boolean(flag),
        // No key takes a date; as a string it is refused, or accepted where any string is.
        DeValue::Datetime(date) => ValueKind::String(date.to_string()),
        DeValue::Array(elements) => {
            let element = |element: Spanned<DeValue<'_>>| {
                let origin = origin_at(element.span().start);
                Value::new(Some(&origin), from_toml(element.into_inner(), origin_at))
            };
            ValueKind::Array(elements.into_iter().map(element).collect())
        }
        DeValue::Table(table) => ValueKind::Table(table_from_toml(table, origin_at)),
    }
}

/// A number beyond 64 bits becomes a float, which no key takes: it is refused as what it is, a wrong number.
fn integer(number: &DeInteger<'_>) -> ValueKind {
    match i64::from_str_radix(number.as_str(), number.radix()) {
        Ok(value) => ValueKind::I64(value),
        Err(_) => ValueKind::Float(number.as_str().parse().unwrap_or(f64::INFINITY)),
    }
}

fn float(number: &DeFloat<'_>) -> f64 {
    number.as_str().parse().unwrap_or(f64::NAN)
}
