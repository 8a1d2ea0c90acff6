//! Merged layers -> raw structs: unknown keys and wrong types are found here, all of them in one pass.
//!
//! The `config` crate would cast leniently (1 to true, "5" to 5), which hides mistakes in a file, so the merged values
//! are held against the [`Shape`] instead and only what fits is handed to serde. What does not fit becomes a problem
//! and its key falls back to the default, so that validation can still judge the rest.

use std::collections::BTreeMap;

use config::{Map, Value, ValueKind};
use serde_json::Value as Json;

use super::error::Problem;
use super::raw::Raw;
use super::shape::{Shape, join};

/// Key -> what was given for it, for the messages of validation.
pub(super) type Given = BTreeMap<String, GivenValue>;

/// One value as it was given.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct GivenValue {
    pub(super) origin: String,
    pub(super) shown: String,
}

/// Reads the merged layers, noting what was given and what is wrong with it.
pub(super) struct Typing<'a> {
    pub(super) shape: &'a Shape,
    /// Origin -> original text of single values from the environment and `--set`.
    pub(super) verbatim: BTreeMap<String, String>,
    pub(super) given: Given,
    pub(super) problems: Vec<Problem>,
}

impl Typing<'_> {
    /// The raw configuration; keys with a problem keep their default.
    pub(super) fn raw(&mut self, merged: Value) -> Raw {
        let shape = self.shape;
        let json = self
            .value("", merged, shape)
            .unwrap_or_else(|| Json::Object(serde_json::Map::new()));
        deserialize(json).unwrap_or_else(|problem| {
            self.problems.push(problem);
            Raw::default()
        })
    }

    /// The value as JSON where it fits the shape; otherwise a problem was noted.
    fn value(&mut self, key: &str, value: Value, shape: &Shape) -> Option<Json> {
        let origin = origin_of(&value);
        self.given.insert(
            key.to_owned(),
            GivenValue {
                origin: origin.clone(),
                shown: shown(&value.kind),
            },
        );
        match (shape, value.kind) {
            (Shape::Section(fields), ValueKind::Table(table)) => Some(self.section(key, table, fields)),
            (Shape::List(element), ValueKind::Array(elements)) => self.list(key, elements, element),
            (Shape::Flag, ValueKind::Boolean(flag)) => Some(flag.into()),
            (Shape::Count, ValueKind::I64(number)) if number >= 0 => Some(number.into()),
            (Shape::Duration | Shape::Size, ValueKind::I64(number)) => Some(number.to_string().into()),
            (Shape::Text | Shape::Duration | Shape::Size, ValueKind::String(text)) => Some(text.into()),
            (_, kind) => self.given_verbatim(&origin, shape).or_else(|| {
                let (message, mend) = shape.wanted();
                self.problems.push(Problem {
                    key: Some(key.to_owned()),
                    value: Some(shown(&kind)),
                    origin,
                    message: message.to_owned(),
                    mend: mend.to_owned(),
                });
                None
            }),
        }
    }

    fn section(&mut self, key: &str, table: Map<String, Value>, fields: &BTreeMap<String, Shape>) -> Json {
        let mut section = serde_json::Map::new();
        // Sorted, because the crate's maps are in random order.
        for (name, value) in table.into_iter().collect::<BTreeMap<_, _>>() {
            let below = join(key, &name);
            let Some(shape) = fields.get(&name) else {
                let suggestion = self.shape.suggest(&below, key, fields, &name);
                self.problems
                    .push(Problem::unknown_key(below, origin_of(&value), suggestion));
                continue;
            };
            section.extend(self.value(&below, value, shape).map(|json| (name, json)));
        }
        Json::Object(section)
    }

    /// Every element is looked at, so that each wrong one is named; one wrong element refuses the list.
    fn list(&mut self, key: &str, elements: Vec<Value>, shape: &Shape) -> Option<Json> {
        let typed: Vec<Option<Json>> = elements
            .into_iter()
            .enumerate()
            .map(|(index, element)| self.value(&format!("{key}[{index}]"), element, shape))
            .collect();
        typed.into_iter().collect::<Option<Vec<_>>>().map(Json::Array)
    }

    /// `--set node.cluster=2024` means the string: the shell left nothing to tell the two apart by.
    fn given_verbatim(&self, origin: &str, shape: &Shape) -> Option<Json> {
        let is_text = matches!(shape, Shape::Text | Shape::Duration | Shape::Size);
        self.verbatim
            .get(origin)
            .filter(|_| is_text)
            .map(|text| text.as_str().into())
    }
}

/// serde has the last word: should a value fit the shape and yet not its field, it is refused by name all the same.
fn deserialize(json: Json) -> Result<Raw, Problem> {
    serde_path_to_error::deserialize(json).map_err(|error| Problem {
        key: Some(error.path().to_string()),
        value: None,
        origin: "the merged configuration".to_owned(),
        message: error.inner().to_string(),
        mend: "see the documented example file".to_owned(),
    })
}

/// Where a value came from; every layer says so for all but the root.
fn origin_of(value: &Value) -> String {
    value.origin().unwrap_or_default().to_owned()
}

/// The value as an operator would write it, on one line and without control characters.
fn shown(kind: &ValueKind) -> String {
    match kind {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(elements) => {
            let elements: Vec<String> = elements.iter().map(|element| shown(&element.kind)).collect();
            format!("[{}]", elements.join(", "))
        }
        ValueKind::Table(_) => "{...}".to_owned(),
        scalar => scalar.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_refuses_what_slips_through_and_names_the_key() {
        let unknown = deserialize(serde_json::json!({"publish": {"bogus": 1}})).unwrap_err();
        assert_eq!(unknown.key.as_deref(), Some("publish.bogus"));
        let wrong = deserialize(serde_json::json!({"gpu": {"enabled": 1}})).unwrap_err();
        assert_eq!(wrong.key.as_deref(), Some("gpu.enabled"));
        assert!(wrong.message.contains("expected a boolean"), "{}", wrong.message);
    }

    #[test]
    fn values_are_shown_as_they_are_written() {
        let list = ValueKind::Array(vec![Value::new(None, "a\n"), Value::new(None, 5_i64)]);
        assert_eq!(shown(&list), r#"["a\n", 5]"#);
        assert_eq!(shown(&ValueKind::Boolean(true)), "true");
    }
}
