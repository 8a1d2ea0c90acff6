//! What the tests of the image are driven with: packer, and a simulated EC2.
//!
//! Packer is Debian's 1.6.6, the newest that packages of Debian have; `packer/` is split so that all but its AWS-only lines
//! run with it. EC2 is played by moto, out of the Python package index. Nothing is installed on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::apt::{ARCHIVE, Apt};
use crate::cache::{need, succeed};

/// Where `cargo xtask test` puts the folder of the tools for the tests that need them.
pub const IMAGE_TOOLS_VARIABLE: &str = "GPUSHARE_TEST_IMAGE_TOOLS";

const SUITE: &str = "bookworm";
const COMPONENT: &str = "main";
const PACKAGE: &str = "packer";
const PYTHON_PACKAGES: &str = include_str!("moto.txt");
const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/moto.txt");

/// The tools, in one folder.
#[derive(Clone, Debug)]
pub struct ImageTools {
    folder: PathBuf,
}

impl ImageTools {
    /// Those that `cargo xtask test` found, named by [`IMAGE_TOOLS_VARIABLE`].
    ///
    /// # Panics
    /// When it names none: tests that need them are left out by `cargo xtask test` and nobody else.
    #[must_use]
    #[track_caller]
    pub fn of_this_run() -> Self {
        let folder = std::env::var_os(IMAGE_TOOLS_VARIABLE).unwrap_or_else(|| {
            panic!(
                "{IMAGE_TOOLS_VARIABLE} is not set: run this test by `cargo xtask test --only e2e`, or set it to the \
                 folder tools-* that this leaves in the cache of the tests"
            )
        });
        Self::at(Path::new(&folder)).unwrap_or_else(|error| panic!("{IMAGE_TOOLS_VARIABLE}: {error}"))
    }

    pub(crate) fn at(folder: &Path) -> Result<Self, Error> {
        let tools = Self {
            folder: folder.to_owned(),
        };
        for path in [tools.packer(), tools.python()] {
            if !path.is_file() {
                let mend = "remove its folder and run `cargo xtask test --only e2e` again".to_owned();
                return Err(Error::NoFile { path, mend });
            }
        }
        Ok(tools)
    }

    /// Their folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Packer 1.6.6.
    #[must_use]
    pub fn packer(&self) -> PathBuf {
        self.folder.join("packer")
    }

    /// A Python that has boto3, and moto with its server (`-m moto.server`).
    #[must_use]
    pub fn python(&self) -> PathBuf {
        self.folder.join("python/bin/python")
    }
}

/// What decides about the contents.
pub(crate) fn recipe() -> Vec<String> {
    [SUITE, COMPONENT, PACKAGE, PYTHON_PACKAGES]
        .map(str::to_owned)
        .to_vec()
}

/// All of them, into one folder.
pub(crate) fn fetch(folder: &Path) -> Result<(), Error> {
    need("python3", "python3-venv")?;
    let apt = Apt::new(&folder.join("apt"), &[(ARCHIVE, SUITE, COMPONENT)], &[])?;
    let unpacked = apt.folder().join("unpacked");
    apt.unpack(&[PACKAGE], &unpacked)?;
    fs_err::rename(unpacked.join("usr/bin/packer"), folder.join("packer"))
        .map_err(Error::io("take packer out of its package"))?;
    apt.remove()?;
    let python = folder.join("python");
    // The folder is renamed afterwards: programs of its own are found from `bin/python`, wherever that is.
    let mut environment = Command::new("python3");
    environment.args(["-m", "venv", "--clear"]).arg(&python);
    succeed("make a Python environment", &mut environment)?;
    let mut pip = Command::new(python.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--disable-pip-version-check",
        "--no-compile",
        "--only-binary=:all:",
        "--require-hashes",
        "--requirement",
        REQUIREMENTS,
    ]);
    succeed("download the simulated EC2", &mut pip).map(drop)
}
