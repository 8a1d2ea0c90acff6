//! Packages of the debug build, for the tests that install them: a release would take minutes, and the packages differ
//! in nothing but the binary. They do not pass the gate: nodes of the tests have another C library.

use std::path::Path;

use anyhow::Context;
use e2e::{Edition, Packages};

use super::architecture::Architecture;
use super::nfpm::{CONFIG, FORMATS, Package};
use crate::workspace::Workspace;

/// What the newer version's configuration file has more than the older one's.
const ANOTHER_LINE: &str = "#\n# This file is another one in every version.\n";

/// Makes those that tests need in this folder, unless they are there and newer than what they are made of.
pub(crate) fn make(workspace: &Workspace, folder: &Path) -> anyhow::Result<()> {
    let agent = workspace.target("debug/gpushare");
    if Packages::at(folder, &agent).is_ok() {
        return Ok(());
    }
    println!("packaging the debug build");
    fs_err::create_dir_all(folder)?;
    let (sources, shipped) = (workspace.path(""), workspace.path(CONFIG));
    let changed = folder.join("config.toml");
    fs_err::write(&changed, fs_err::read_to_string(&shipped)? + ANOTHER_LINE)?;
    let here = Architecture::of_this_machine();
    for edition in Edition::ALL {
        let package = Package {
            sources: &sources,
            binary: &agent,
            config: if edition == Edition::New {
                &changed
            } else {
                &shipped
            },
            architecture: if edition == Edition::Foreign {
                here.other()
            } else {
                here
            },
            version: edition.version(),
            epoch: "0",
        };
        for format in FORMATS {
            package.make(workspace, format, &folder.join(edition.file(format)))?;
        }
    }
    Packages::at(folder, &agent)
        .map(drop)
        .context("look at the packages that nfpm made")
}
