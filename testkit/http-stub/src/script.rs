//! Reads scripts from TOML and reports all their mistakes together.
//!
//! The fakes share the keys that say when a rule is in force; each reads the keys of its own fates through [`Keys`].
//! A key that nobody read is a mistake: a misspelt `times` would otherwise turn three faults into endless ones.

use std::time::{Duration, SystemTime};

use crate::clock::parse_rfc3339;
use crate::schedule::Rule;

/// What is wrong with a script.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// It is not TOML.
    #[error("read the script as TOML")]
    Syntax(#[from] toml::de::Error),
    /// Keys that are unknown, missing or wrong: one sentence each.
    #[error("the script is refused: {}", .0.join("; "))]
    Refused(Vec<String>),
}

/// A span of refused connections: from then on, until then if ever.
pub type Refusal = (Duration, Option<Duration>);

/// The keys of one table. Reading takes them out; [`Keys::finish`] reports what is left.
#[derive(Debug)]
pub struct Keys {
    place: String,
    table: toml::Table,
    problems: Vec<String>,
}

impl Keys {
    /// The whole document.
    pub fn document(text: &str) -> Result<Self, ScriptError> {
        Ok(Self {
            place: "the script".to_owned(),
            table: text.parse()?,
            problems: Vec::new(),
        })
    }

    /// Notes a mistake of this table.
    pub fn complain(&mut self, what: &str) {
        self.problems.push(format!("{}: {what}", self.place));
    }

    /// Text under this key.
    pub fn text(&mut self, key: &str) -> Option<String> {
        match self.table.remove(key)? {
            toml::Value::String(text) => Some(text),
            _ => self.wrong(key, "text in quotes"),
        }
    }

    /// `true` or `false` under this key.
    pub fn flag(&mut self, key: &str) -> Option<bool> {
        match self.table.remove(key)? {
            toml::Value::Boolean(flag) => Some(flag),
            _ => self.wrong(key, "true or false"),
        }
    }

    /// A whole number in these bounds under this key.
    pub fn whole(&mut self, key: &str, least: i64, most: i64) -> Option<i64> {
        match self.table.remove(key)? {
            toml::Value::Integer(number) if (least..=most).contains(&number) => Some(number),
            _ => self.wrong(key, &format!("a whole number from {least} to {most}")),
        }
    }

    /// Milliseconds under this key.
    pub fn millis(&mut self, key: &str) -> Option<Duration> {
        let number = self.whole(key, 0, i64::from(u32::MAX))?;
        Some(Duration::from_millis(number.unsigned_abs()))
    }

    /// An instant in quotes, as RFC 3339 writes it, under this key.
    pub fn instant(&mut self, key: &str) -> Option<SystemTime> {
        let text = self.text(key)?;
        parse_rfc3339(&text).or_else(|| self.wrong(key, "an instant like \"2026-01-31T12:00:00Z\""))
    }

    /// The table under this key, to be given back by [`Keys::absorb`].
    pub fn table(&mut self, key: &str) -> Option<Self> {
        match self.table.remove(key)? {
            toml::Value::Table(table) => Some(self.part(key.to_owned(), table)),
            _ => self.wrong(key, "a table"),
        }
    }

    /// The tables under `[[key]]`, to be given back by [`Keys::absorb`].
    pub fn tables(&mut self, key: &str) -> Vec<Self> {
        let Some(value) = self.table.remove(key) else {
            return Vec::new();
        };
        let toml::Value::Array(array) = value else {
            self.wrong::<()>(key, "a list of tables");
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (index, value) in array.into_iter().enumerate() {
            match value {
                toml::Value::Table(table) => tables.push(self.part(format!("{key} {}", index + 1), table)),
                _ => self.complain(&format!("`{key}` must be a list of tables")),
            }
        }
        tables
    }

    /// Takes over the mistakes of a part, those about its unread keys included.
    pub fn absorb(&mut self, mut part: Self) {
        part.refuse_unread();
        self.problems.append(&mut part.problems);
    }

    /// The names of all keys that were not yet read.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.table.keys().cloned().collect()
    }

    /// Nothing more will be read: are there mistakes?
    pub fn finish(mut self) -> Result<(), ScriptError> {
        self.refuse_unread();
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(ScriptError::Refused(self.problems))
        }
    }

    fn part(&self, name: String, table: toml::Table) -> Self {
        let place = if self.place == "the script" {
            name
        } else {
            format!("{}, {name}", self.place)
        };
        Self {
            place,
            table,
            problems: Vec::new(),
        }
    }

    fn wrong<T>(&mut self, key: &str, expected: &str) -> Option<T> {
        self.complain(&format!("`{key}` must be {expected}"));
        None
    }

    fn refuse_unread(&mut self) {
        for name in self.names() {
            self.complain(&format!("`{name}` means nothing here"));
        }
        self.table.clear();
    }
}

/// Reads all `[[rule]]` tables: when they are in force, and through `read_fate` what they do. That gets the name of the
/// fate and the rule's other keys, and returns `None` for a name that it does not know.
pub fn rules<F>(document: &mut Keys, read_fate: impl Fn(&str, &mut Keys) -> Option<F>) -> Vec<Rule<F>> {
    let mut rules = Vec::new();
    for mut keys in document.tables("rule") {
        let when = when(&mut keys);
        let Some(name) = keys.text("fate") else {
            keys.complain("`fate` is missing");
            document.absorb(keys);
            continue;
        };
        if let Some(fate) = read_fate(&name, &mut keys) {
            rules.push(when.with(fate));
        } else {
            keys.complain(&format!("there is no fate {name:?}"));
            // Which of its other keys would be right cannot be known.
            keys.table.clear();
        }
        document.absorb(keys);
    }
    rules
}

fn when(keys: &mut Keys) -> Rule<()> {
    let (from, to) = span(keys);
    let times = keys.whole("times", 1, i64::from(u32::MAX));
    let percent = keys.whole("percent", 0, 100).unwrap_or(100);
    let seed = keys.whole("seed", 0, i64::MAX).unwrap_or(0);
    Rule {
        fate: (),
        times: times.and_then(|times| u32::try_from(times).ok()),
        from,
        to,
        percent: u8::try_from(percent).unwrap_or(100),
        seed: seed.unsigned_abs(),
    }
}

/// Reads all `[[refuse]]` tables: the spans in which connections are refused.
pub fn refusals(document: &mut Keys) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for mut keys in document.tables("refuse") {
        refusals.push(span(&mut keys));
        document.absorb(keys);
    }
    refusals
}

fn span(keys: &mut Keys) -> Refusal {
    let from = keys.millis("from_ms").unwrap_or_default();
    let to = keys.millis("to_ms");
    if to.is_some_and(|to| to <= from) {
        keys.complain("`to_ms` must be later than `from_ms`");
    }
    (from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Rule<u16>>, ScriptError> {
        let mut document = Keys::document(text)?;
        let rules = rules(&mut document, |name, keys| match name {
            "error" => Some(
                keys.whole("status", 400, 599)
                    .map_or(500, |status| u16::try_from(status).unwrap()),
            ),
            _ => None,
        });
        refusals(&mut document);
        document.finish().map(|()| rules)
    }

    fn complaint(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn a_rule_has_its_fate_and_its_time() {
        let text = "[[rule]]\nfate = \"error\"\nstatus = 503\ntimes = 2\nfrom_ms = 5\nto_ms = 9\npercent = 30\nseed = 4";
        let rule = Rule::first(2, 503)
            .percent(30, 4)
            .starting(Duration::from_millis(5));
        let rule = Rule {
            to: Some(Duration::from_millis(9)),
            ..rule
        };
        assert_eq!(read(text).unwrap(), [rule]);
        assert_eq!(read("").unwrap(), []);
    }

    #[test]
    fn every_mistake_is_named_with_its_place() {
        let text =
            "ruel = 1\n[[rule]]\nfate = \"error\"\ntims = 3\nstatus = 99\n[[rule]]\n[[refuse]]\nto_ms = 0";
        let said = complaint(text);
        for part in [
            "the script: `ruel` means nothing here",
            "rule 1: `tims` means nothing here",
            "rule 1: `status` must be a whole number from 400 to 599",
            "rule 2: `fate` is missing",
            "refuse 1: `to_ms` must be later than `from_ms`",
        ] {
            assert!(said.contains(part), "{part} is not in: {said}");
        }
    }

    #[test]
    fn wrong_types_and_unknown_fates_are_refused() {
        assert!(
            complaint("[[rule]]\nfate = \"eror\"\nstatus = 500")
                .ends_with("rule 1: there is no fate \"eror\"")
        );
        assert!(complaint("[[rule]]\nfate = 1").contains("`fate` must be text in quotes"));
        assert!(complaint("rule = 1").contains("`rule` must be a list of tables"));
        assert!(complaint("rule = [1]").contains("`rule` must be a list of tables"));
        assert!(complaint("[[rule]]\nfate = \"error\"\npercent = 101").contains("from 0 to 100"));
        assert!(matches!(read("[[rule").unwrap_err(), ScriptError::Syntax(_)));
    }
}
