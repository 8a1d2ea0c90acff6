//! rpm and deb out of `packaging/nfpm.yaml`, by nfpm.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::architecture::Architecture;
use crate::python::Tool;
use crate::workspace::{Workspace, stdout_of, succeed};

/// The formats.
pub(super) const FORMATS: [&str; 2] = ["rpm", "deb"];

/// The configuration file that packages come with.
pub(super) const CONFIG: &str = "packaging/config.toml";

/// What stands as a variable in `packaging/nfpm.yaml`, and the sources of all the rest.
pub(super) struct Package<'a> {
    /// Files that the packages hold and that are not built.
    pub(super) sources: &'a Path,
    pub(super) binary: &'a Path,
    /// The configuration file, as it is installed where there is none.
    pub(super) config: &'a Path,
    pub(super) architecture: Architecture,
    pub(super) version: &'a str,
    /// The time of every file, in seconds since 1970.
    pub(super) epoch: &'a str,
}

impl Package<'_> {
    /// Makes this file.
    pub(super) fn make(&self, workspace: &Workspace, format: &str, file: &Path) -> anyhow::Result<()> {
        let mut nfpm = workspace.program(Tool::Nfpm.fetch(workspace)?.join("bin/nfpm"));
        nfpm.current_dir(self.sources)
            .args([
                "package",
                "--config=packaging/nfpm.yaml",
                "--packager",
                format,
                "--target",
            ])
            .arg(file)
            .env("GPUSHARE_ARCH", self.architecture.goarch())
            .env("GPUSHARE_VERSION", self.version)
            .env("GPUSHARE_BINARY", self.binary)
            .env("GPUSHARE_CONFIG", self.config)
            .env("SOURCE_DATE_EPOCH", self.epoch);
        succeed(&mut nfpm)
    }

    /// The usual name of the file. A version before another is `1.0.0~rc.1` in both formats.
    pub(super) fn file_name(&self, format: &str) -> PathBuf {
        let version = self.version.replace('-', "~");
        PathBuf::from(match format {
            "rpm" => format!("gpushare-{version}-1.{}.rpm", self.architecture.name()),
            _ => format!("gpushare_{version}-1_{}.deb", self.architecture.goarch()),
        })
    }
}

/// The date of the commit, or `SOURCE_DATE_EPOCH` where it is set, as for sources without git.
pub(super) fn epoch(workspace: &Workspace) -> anyhow::Result<String> {
    if let Ok(set) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(set);
    }
    let args = ["-c", "safe.directory=*", "log", "-1", "--format=%ct"];
    let said = stdout_of(workspace.program("git").args(args)).context(
        "ask git for the date of the commit; without git set SOURCE_DATE_EPOCH to seconds since 1970",
    )?;
    Ok(said.trim().to_owned())
}
