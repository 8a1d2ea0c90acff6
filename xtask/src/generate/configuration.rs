//! docs/configuration.md from the commented configuration file.
//!
//! The file's conventions, line by line:
//! - `# text`, or `#` alone: prose. It belongs to the next section or key; before the first blank line it is the
//!   introduction of the whole.
//! - `[section]`, `[[section.sub]]`, or the latter behind a `#`: a section.
//! - `key = value`: a key with its default. `#key = value`, no blank after the `#`: a key without one, and an example.
//!   A value may go on over several lines.
//!
//! Every key and section must have prose.

use std::fmt::Write as _;

use anyhow::{Context, bail, ensure};

use super::markdown;

#[derive(Debug, PartialEq)]
struct Section {
    /// Dotted name, as in `publish.rollup`.
    name: String,
    /// Whether it may stand several times: `[[name]]`.
    repeated: bool,
    prose: Vec<String>,
    keys: Vec<Key>,
}

#[derive(Debug, PartialEq)]
struct Key {
    name: String,
    value: String,
    /// Whether the value is the default; else it is an example.
    default: bool,
    prose: Vec<String>,
}

#[derive(Debug, Default, PartialEq)]
struct Document {
    introduction: Vec<String>,
    sections: Vec<Section>,
}

pub(super) fn render(source: &str) -> anyhow::Result<String> {
    let document = parse(source)?;
    let mut text = String::from("# Configuration\n");
    paragraphs(&mut text, &document.introduction);
    for section in &document.sections {
        let (open, close) = if section.repeated {
            ("[[", "]]")
        } else {
            ("[", "]")
        };
        let _ = write!(text, "\n## `{open}{}{close}`\n", section.name);
        paragraphs(&mut text, &section.prose);
        for key in &section.keys {
            render_key(&mut text, section, key);
        }
    }
    Ok(text)
}

fn render_key(text: &mut String, section: &Section, key: &Key) {
    let _ = write!(text, "\n### `{}.{}`\n\n", section.name, key.name);
    let label = if key.default {
        "Default:"
    } else {
        "No default. Example:"
    };
    if key.value.contains('\n') {
        let _ = write!(text, "{label}\n\n```toml\n{} = {}\n```\n", key.name, key.value);
    } else {
        let _ = writeln!(text, "{label} `{}`", key.value);
    }
    // An element of a repeated section has no name of its own, so no variable can point at it.
    if !section.repeated {
        let path = format!("{}.{}", section.name, key.name)
            .to_uppercase()
            .replace('.', "__");
        let _ = write!(text, "\nEnvironment: `GPUSHARE__{path}`\n");
    }
    paragraphs(text, &key.prose);
}

/// Prose lines as paragraphs; an empty line parts two of them.
fn paragraphs(text: &mut String, lines: &[String]) {
    for paragraph in lines
        .split(String::is_empty)
        .filter(|paragraph| !paragraph.is_empty())
    {
        let _ = write!(text, "\n{}\n", markdown::prose(&paragraph.join("\n")));
    }
}

fn parse(source: &str) -> anyhow::Result<Document> {
    let mut document = Document::default();
    let mut prose: Vec<String> = Vec::new();
    let mut introduced = false;
    let mut lines = source.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let at = index + 1;
        match classify(line) {
            Line::Blank if !introduced => {
                introduced = true;
                document.introduction = std::mem::take(&mut prose);
            }
            Line::Blank => prose.push(String::new()),
            Line::Prose(text) => prose.push(text.to_owned()),
            Line::Section { name, repeated } => {
                introduced = true;
                let prose = documented(&mut prose, at, name)?;
                document.sections.push(Section {
                    name: name.to_owned(),
                    repeated,
                    prose,
                    keys: Vec::new(),
                });
            }
            Line::Key { name, value, default } => {
                let section = document
                    .sections
                    .last_mut()
                    .with_context(|| format!("line {at}: `{name}` is in no section"))?;
                let mut rest = lines.by_ref().map(|(_, line)| line);
                let value = whole_value(name, value, default, &mut rest)
                    .with_context(|| format!("line {at}: `{name}` has no readable TOML value"))?;
                let prose = documented(&mut prose, at, name)?;
                section.keys.push(Key {
                    name: name.to_owned(),
                    value,
                    default,
                    prose,
                });
            }
            Line::Other => bail!("line {at}: neither prose (`# text`), section, nor key: {line}"),
        }
    }
    ensure!(
        prose.iter().all(String::is_empty),
        "the prose at the end belongs to no section or key: {prose:?}"
    );
    Ok(document)
}

/// The prose that has gathered for `name`.
fn documented(prose: &mut Vec<String>, at: usize, name: &str) -> anyhow::Result<Vec<String>> {
    let prose = std::mem::take(prose);
    ensure!(
        !prose.iter().all(String::is_empty),
        "line {at}: `{name}` has no prose before it"
    );
    Ok(prose)
}

enum Line<'a> {
    Blank,
    Prose(&'a str),
    Section {
        name: &'a str,
        repeated: bool,
    },
    Key {
        name: &'a str,
        value: &'a str,
        default: bool,
    },
    Other,
}

fn classify(line: &str) -> Line<'_> {
    let line = line.trim_end();
    if line.is_empty() {
        return Line::Blank;
    }
    if line == "#" {
        return Line::Prose("");
    }
    if let Some(text) = line.strip_prefix("# ") {
        return Line::Prose(text);
    }
    let (code, default) = line.strip_prefix('#').map_or((line, true), |code| (code, false));
    if let Some(name) = code.strip_prefix("[[").and_then(|rest| rest.strip_suffix("]]")) {
        return Line::Section { name, repeated: true };
    }
    if let Some(name) = code.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return Line::Section {
            name,
            repeated: false,
        };
    }
    match code.split_once(" = ") {
        Some((name, value)) if !name.contains(char::is_whitespace) => Line::Key { name, value, default },
        _ => Line::Other,
    }
}

/// Takes lines until the value is complete. A comment in it goes with it.
fn whole_value(
    name: &str,
    first: &str,
    default: bool,
    rest: &mut dyn Iterator<Item = &str>,
) -> anyhow::Result<String> {
    let mut value = first.to_owned();
    loop {
        let Err(error) = toml::from_str::<toml::Table>(&format!("{name} = {value}")) else {
            return Ok(value);
        };
        // Only an open bracket goes on; anything else that is wrong stays wrong.
        let next = if first.starts_with('[') { rest.next() } else { None };
        let Some(line) = next else {
            return Err(error.into());
        };
        let line = if default {
            line
        } else {
            line.strip_prefix('#').unwrap_or(line)
        };
        value = format!("{value}\n{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"# What every key does.
# Second line.

# Where the data go.
#
# A second paragraph.
[publish]
# How often, from `1s` up.
interval = "60s"

# Which mounts <not> to read.
exclude = [
    "/run", # and below
    "/boot",
]

# Another place.
#endpoint_url = "https://example.org"

# More series.
#[[publish.rollup]]
# By these.
#dimensions = ["InstanceType"]
"#;

    #[test]
    fn every_part_lands_where_it_belongs() {
        let wanted = "\
# Configuration

What every key does.
Second line.

## `[publish]`

Where the data go.

A second paragraph.

### `publish.interval`

Default: `\"60s\"`

Environment: `GPUSHARE__PUBLISH__INTERVAL`

How often, from `1s` up.

### `publish.exclude`

Default:

```toml
exclude = [
    \"/run\", # and below
    \"/boot\",
]
```

Environment: `GPUSHARE__PUBLISH__EXCLUDE`

Which mounts \\<not> to read.

### `publish.endpoint_url`

No default. Example: `\"https://example.org\"`

Environment: `GPUSHARE__PUBLISH__ENDPOINT_URL`

Another place.

## `[[publish.rollup]]`

More series.

### `publish.rollup.dimensions`

No default. Example: `[\"InstanceType\"]`

By these.
";
        assert_eq!(render(SAMPLE).unwrap(), wanted);
    }

    #[test]
    fn a_commented_value_may_go_on_too() {
        let source = "# Intro.\n\n# S.\n[s]\n# K.\n#k = [\n#    1,\n#]\n";
        assert_eq!(parse(source).unwrap().sections[0].keys[0].value, "[\n    1,\n]");
    }

    #[test]
    fn what_breaks_the_conventions_is_named_with_its_line() {
        let error = |body: &str| format!("{:#}", render(&format!("# Intro.\n\n{body}")).unwrap_err());
        assert_eq!(
            error("# S.\n[s]\nkey = 1\n"),
            "line 5: `key` has no prose before it"
        );
        assert_eq!(error("[s]\n"), "line 3: `s` has no prose before it");
        assert_eq!(error("# K.\nkey = 1\n"), "line 4: `key` is in no section");
        assert!(
            error("# S.\n[s]\n# K.\nkey = nope\n").starts_with("line 6: `key` has no readable TOML value")
        );
        assert!(
            error("# S.\n[s]\n# K.\nkey = [1,\n").starts_with("line 6: `key` has no readable TOML value")
        );
        assert_eq!(
            error("#wrong\n"),
            "line 3: neither prose (`# text`), section, nor key: #wrong"
        );
        assert!(
            error("# S.\n[s]\n# Left over.\n")
                .starts_with("the prose at the end belongs to no section or key")
        );
    }
}
