//! shellcheck, from the Python Package Index, on every shell script of the repository.

use std::path::Path;

use anyhow::ensure;

use crate::python::Tool;
use crate::workspace::{Workspace, succeed};

pub(super) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let mut with_line = Vec::new();
    let mut without = Vec::new();
    for file in workspace.files()? {
        match script(&file, &fs_err::read(workspace.path(&file))?) {
            Some(Script::NamesItsShell) => with_line.push(file),
            Some(Script::Sh) => without.push(file),
            None => {}
        }
    }
    ensure!(
        !with_line.is_empty(),
        "no shell script was found: the rule that looks for them is wrong"
    );
    let shellcheck = Tool::Shellcheck.fetch(workspace)?.join("bin/shellcheck");
    succeed(workspace.program(&shellcheck).arg("--").args(&with_line))?;
    if !without.is_empty() {
        succeed(
            workspace
                .program(&shellcheck)
                .args(["--shell=sh", "--"])
                .args(&without),
        )?;
    }
    println!("{} scripts", with_line.len() + without.len());
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Script {
    /// Its first line says which shell it is for.
    NamesItsShell,
    /// A file for `sh`, which whoever starts it names.
    Sh,
}

fn script(path: &str, bytes: &[u8]) -> Option<Script> {
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if first.starts_with(b"#!") {
        let line = String::from_utf8_lossy(first);
        let shell = line.rsplit(['/', ' ']).next()?;
        return ["sh", "bash", "dash"]
            .contains(&shell)
            .then_some(Script::NamesItsShell);
    }
    let extension = Path::new(path).extension()?;
    (extension == "sh").then_some(Script::Sh)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_known_by_their_first_line_or_their_name() {
        for line in ["#!/bin/sh", "#!/usr/bin/env bash"] {
            let text = format!("{line}\nexit\n");
            assert_eq!(
                script("tool", text.as_bytes()),
                Some(Script::NamesItsShell),
                "{line}"
            );
        }
        assert_eq!(script("a/b.sh", b"exit\n"), Some(Script::Sh));
        for (path, text) in [
            ("a.py", "#!/usr/bin/env python3\n"),
            ("a.rs", "fn f() {}"),
            ("a", ""),
        ] {
            assert_eq!(script(path, text.as_bytes()), None, "{path}");
        }
    }
}
