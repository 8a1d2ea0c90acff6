//! The keys of a configuration with their values: what two of them differ in.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::raw::Raw;
use super::shape::join;

/// Every dotted key with its value. Lists count as one value.
#[derive(Debug, Clone, PartialEq)]
pub struct Values(BTreeMap<String, Json>);

impl Values {
    pub(super) fn of(raw: &Raw) -> Self {
        let json = serde_json::to_value(raw).expect("structs of strings, numbers and lists are JSON");
        let mut values = BTreeMap::new();
        collect("", json, &mut values);
        Self(values)
    }

    /// The keys whose values differ, in order.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<String> {
        let mine = self
            .0
            .iter()
            .filter(|(key, value)| other.0.get(*key) != Some(*value));
        mine.map(|(key, _)| key.clone()).collect()
    }

    /// TOML that gives the keys with these beginnings the same values. None of them may be a list of tables: everything
    /// else is written in TOML as in JSON.
    #[must_use]
    pub fn as_toml(&self, beginnings: &[&str]) -> String {
        let is_wanted = |key: &str| beginnings.iter().any(|beginning| key.starts_with(beginning));
        // A key without a value is one that is not there.
        let lines = self
            .0
            .iter()
            .filter(|(key, value)| is_wanted(key) && !value.is_null());
        let lines: Vec<String> = lines.map(|(key, value)| format!("{key} = {value}\n")).collect();
        lines.concat()
    }

    /// Whether there is such a key.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }
}

fn collect(key: &str, json: Json, values: &mut BTreeMap<String, Json>) {
    match json {
        Json::Object(fields) => fields
            .into_iter()
            .for_each(|(name, value)| collect(&join(key, &name), value, values)),
        value => drop(values.insert(key.to_owned(), value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_toml_they_are_the_same() {
        let mut raw = Raw::default();
        raw.mps.dir = "/run/a \"quoted\" \\ \u{1}\n\u{fc}".into();
        let text = Values::of(&raw).as_toml(&[""]);
        assert_eq!(toml::from_str::<Raw>(&text).unwrap(), raw, "{text}");
        let again = crate::config::read_kept(&(text + "mps.of_another_version = 1\n")).unwrap();
        assert!(again.values.differing(&Values::of(&raw)).is_empty());
        let text = Values::of(&raw).as_toml(&["gpu.enabled", "node.cluster"]);
        assert_eq!(text, "gpu.enabled = true\n", "a key without a value is left out");
    }
}
