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
