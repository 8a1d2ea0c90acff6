//! cargo-deny: found, or built into `target/tools`, then run on deny.toml.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::workspace::{Workspace, succeed};

/// What is built when there is none; deny.toml is written for it.
const PINNED: &str = "0.20.2";
/// Older ones stop at the `cargo metadata` of today's cargo, or know deny.toml's older shape only.
const OLDEST: (u64, u64) = (0, 16);

pub(super) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let tool = find_or_install(workspace)?;
    succeed(
        workspace
            .program(tool)
            .args(["--locked", "check", "bans", "licenses", "sources"]),
    )
}

fn find_or_install(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let root = workspace.target("tools");
    let own = root.join("bin/cargo-deny");
    if version_of(&own).is_some_and(|found| recent(&found)) {
        return Ok(own);
    }
    let installed = PathBuf::from("cargo-deny");
    if version_of(&installed).is_some_and(|found| recent(&found)) {
        return Ok(installed);
    }
    println!(
        "no cargo-deny {}.{} or newer here: building {PINNED}, which takes a minute or two",
        OLDEST.0, OLDEST.1
    );
    // A debug build without the default features (a C TLS stack, the advisory fetcher) costs a third of the time.
    let args = [
        "install",
        "cargo-deny",
        "--version",
        PINNED,
        "--locked",
        "--no-default-features",
        "--debug",
    ];
    succeed(workspace.cargo(args).arg("--root").arg(&root)).with_context(|| {
        format!("cargo-deny is missing: `cargo install cargo-deny --version {PINNED} --locked` where crates.io can be reached")
    })?;
    Ok(own)
}

/// What `cargo-deny --version` prints; none where it cannot be run.
fn version_of(tool: &Path) -> Option<String> {
    let output = Command::new(tool)
        .arg("--version")
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Whether "cargo-deny 0.20.2" is new enough.
fn recent(version: &str) -> bool {
    let Some(numbers) = version.strip_prefix("cargo-deny ") else {
        return false;
    };
    let mut parts = numbers.split('.').map_while(|part| part.parse::<u64>().ok());
    matches!((parts.next(), parts.next()), (Some(major), Some(minor)) if (major, minor) >= OLDEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(recent(&format!("cargo-deny {PINNED}")));
        assert!(
            recent("cargo-deny 0.16.0") && recent("cargo-deny 1.0.0-rc.1") && recent("cargo-deny 0.100.0")
        );
        assert!(!recent("cargo-deny 0.14.2") && !recent("cargo-deny 0.9.0"));
        assert!(!recent("") && !recent("cargo-deny") && !recent("deny 0.20.2"));
    }

    #[test]
    fn a_tool_that_is_not_there_has_no_version() {
        assert_eq!(version_of(Path::new("/nonexistent/cargo-deny")), None);
    }
}
