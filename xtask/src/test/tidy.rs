//! The rules of the tree that neither the compiler nor clippy knows.
//!
//! Each rule is a pure function of a file's path and text. The words that the rules look for are put together so that
//! this file does not break them itself.

use std::path::Path;

use anyhow::bail;

use crate::workspace::Workspace;

/// Lines of a Rust file without its tests. DESIGN aims at 400; beyond 600 a file does two jobs.
const MAX_LINES: usize = 600;
/// Names that say nothing about what is inside.
const VAGUE_MODULES: [&str; 7] = [
    "utils", "util", "common", "helpers", "helper", "manager", "managers",
];
/// Crates with one home: the crate, as it is named in code, and the paths that may name it.
const ONE_HOME: [(&str, &[&str]); 4] = [
    (concat!("nvml", "_wrapper"), &["src/gpu/nvml", "testkit/"]),
    (concat!("sys", "info"), &["src/host/"]),
    (
        concat!("aws_sdk_", "cloudwatch"),
        &["src/publish/cloudwatch", "testkit/"],
    ),
    (concat!("rusq", "lite"), &["src/publish/spool/sqlite.rs"]),
];
/// First components of the absolute paths at which people and CI systems keep a checkout.
const CHECKOUT_ROOTS: [&str; 7] = ["Users", "builds", "github", "home", "root", "work", "workspace"];

pub(super) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let files = workspace.files()?;
    let mut findings = Vec::new();
    for file in &files {
        let bytes = fs_err::read(workspace.path(file))?;
        // A file that is not text has nothing to read for these rules.
        if let Ok(text) = String::from_utf8(bytes) {
            findings.extend(check(file, &text));
        }
    }
    println!("{} files looked at", files.len());
    if findings.is_empty() {
        return Ok(());
    }
    bail!(
        "{} things are untidy:\n  {}",
        findings.len(),
        findings.join("\n  ")
    )
}

/// All that one file breaks, each as `path:line: what, and the mend`.
fn check(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if is_rust(path) {
        findings.extend(too_long(path, text));
        findings.extend(vague_name(path));
    }
    for (index, line) in text.lines().enumerate() {
        let found = if is_rust(path) {
            rust_line(path, line)
        } else {
            None
        };
        if let Some(what) = found.or_else(|| checkout_path(line)) {
            findings.push(format!("{path}:{}: {what}", index + 1));
        }
    }
    findings
}

fn is_rust(path: &str) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|extension| extension == "rs")
}

fn too_long(path: &str, text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let opens_tests =
        |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{');
    let code = lines.windows(2).position(opens_tests).unwrap_or(lines.len());
    (code > MAX_LINES)
        .then(|| format!("{path}: {code} lines without tests, {MAX_LINES} are the most; split it"))
}

fn vague_name(path: &str) -> Option<String> {
    let vague = path
        .split('/')
        .map(|part| part.trim_end_matches(".rs"))
        .find(|part| VAGUE_MODULES.contains(part))?;
    Some(format!(
        "{path}: `{vague}` says nothing; name the module after what it holds"
    ))
}

fn rust_line(path: &str, line: &str) -> Option<String> {
    let code = line.trim_start();
    if code.starts_with("//") {
        return None;
    }
    if code.starts_with(concat!("#[", "ignore")) {
        return Some("an ignored test is never seen to fail; make it able to run, or remove it".to_owned());
    }
    if contains_word(code, concat!("todo", "!")) || contains_word(code, concat!("unimplemented", "!")) {
        return Some("unfinished code is not committed".to_owned());
    }
    if let Some(name) = inline_module(code).filter(|name| VAGUE_MODULES.contains(name)) {
        return Some(format!(
            "`mod {name}` says nothing; name the module after what it holds"
        ));
    }
    away_from_home(path, code)
}

/// The name in `mod NAME;` or `pub(crate) mod NAME {`.
fn inline_module(code: &str) -> Option<&str> {
    let declared = match code.split_once("mod ") {
        Some(("", rest)) => rest,
        Some((visibility, rest)) if visibility.starts_with("pub") && visibility.ends_with(' ') => rest,
        _ => return None,
    };
    Some(declared.trim_end_matches([';', '{', '}', ' ']))
}

fn away_from_home(path: &str, code: &str) -> Option<String> {
    let (name, homes) = ONE_HOME.iter().find(|(name, homes)| {
        let named = contains_word(code, &format!("{name}::")) || contains_word(code, &format!("use {name}"));
        named && !homes.iter().any(|home| path.starts_with(home))
    })?;
    Some(format!(
        "`{name}` may be named only below {}",
        homes.join(" and ")
    ))
}

/// Whether `word` occurs and is not the tail of a longer name or path.
fn contains_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        before.is_none_or(|before| !before.is_alphanumeric() && before != '_' && before != ':')
    })
}

/// A path that exists only where somebody keeps a checkout is wrong everywhere else.
fn checkout_path(line: &str) -> Option<String> {
    let root = CHECKOUT_ROOTS.iter().find(|root| {
        let path = format!("/{root}/");
        line.match_indices(&path).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            before.is_none_or(|before| " \t\"'`(=:,<>[".contains(before))
        })
    })?;
    Some(format!(
        "`/{root}/…` is a path of one machine; write it relative to the repository"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(path: &str, text: &str) -> bool {
        !check(path, text).is_empty()
    }

    #[test]
    fn a_long_file_is_found_and_its_tests_do_not_count() {
        let long = "fn f() {}\n".repeat(MAX_LINES + 1);
        assert!(check("src/a.rs", &long)[0].contains("601 lines without tests"));
        let tested = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert!(!broken("src/a.rs", &tested));
        assert!(!broken("docs/a.md", &long));
    }

    #[test]
    fn ignored_tests_and_unfinished_code_are_found_with_their_line() {
        let ignored = format!("#[test]\n    {}ignore = \"slow\"]\nfn f() {{}}\n", "#[");
        assert!(check("tests/a.rs", &ignored)[0].starts_with("tests/a.rs:2: an ignored test"));
        assert!(broken("src/a.rs", &format!("fn f() {{ {}!() }}", "todo")));
        assert!(!broken(
            "src/a.rs",
            &format!("// {}!() would be wrong here", "todo")
        ));
    }

    #[test]
    fn vague_modules_are_found_as_files_and_as_declarations() {
        assert!(
            broken("src/utils.rs", "")
                && broken("src/gpu/common/mod.rs", "")
                && broken("tests/helpers.rs", "")
        );
        assert!(broken("src/a.rs", "pub(crate) mod manager {") && broken("src/a.rs", "mod utils;"));
        assert!(!broken("src/commons.rs", "mod command;\nlet common = 1;"));
    }

    #[test]
    fn a_crate_with_one_home_is_refused_elsewhere() {
        let nvml = format!("use {}_wrapper::Nvml;", "nvml");
        assert!(broken("src/agent.rs", &nvml) && broken("src/gpu/mod.rs", &nvml));
        assert!(!broken("src/gpu/nvml.rs", &nvml) && !broken("testkit/fake-nvml/tests/it/load.rs", &nvml));
        let host = format!("let s = {}info::System::new();", "sys");
        assert!(broken("src/gpu/nvml.rs", &host) && !broken("src/host/local.rs", &host));
        assert!(!broken(
            "src/status/mod.rs",
            &format!("rustix::system::{}info()", "sys")
        ));
    }

    #[test]
    fn paths_of_one_machine_are_found_in_any_text() {
        for root in CHECKOUT_ROOTS {
            assert!(
                broken("README.md", &format!("see `/{root}/me/gpushare`")),
                "{root}"
            );
            assert!(
                !broken(
                    "README.md",
                    &format!("https://example.org/{root}/x and <dir>{root}/")
                ),
                "{root}"
            );
        }
        assert!(!broken("README.md", "/var/lib/gpushare and /run/gpushare"));
    }
}
