//! NVIDIA's own MPS programs, out of Debian's `non-free`, without installing anything.
//!
//! Version 550 is the newest whose control daemon runs on a machine with neither a GPU nor a driver. Its server does
//! not: without a driver it ends with status 1 at once. The programs are fetched by whoever runs the tests and are no
//! part of this project.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::apt::{ARCHIVE, Apt};

/// Where `cargo xtask test` puts the path of the control program for the tests that need it.
pub const REAL_MPS_VARIABLE: &str = "GPUSHARE_TEST_REAL_MPS";

/// The file name of the control program.
pub(crate) const CONTROL: &str = "nvidia-cuda-mps-control";
const SERVER: &str = "nvidia-cuda-mps-server";
const SUITE: &str = "trixie";

/// The control daemon and the server, side by side in one folder: the daemon looks for the server in `PATH`.
#[derive(Clone, Debug)]
pub struct RealMps {
    control: PathBuf,
}

impl RealMps {
    /// Those that `cargo xtask test` found, named by [`REAL_MPS_VARIABLE`].
    ///
    /// # Panics
    /// When it names none: tests that need it are left out by `cargo xtask test` and nobody else.
    #[must_use]
    pub fn of_this_run() -> Self {
        let path = std::env::var_os(REAL_MPS_VARIABLE).unwrap_or_else(|| {
            panic!(
                "{REAL_MPS_VARIABLE} is not set: run this test by `cargo xtask test --only e2e`, or set it to NVIDIA's \
                 {CONTROL}"
            )
        });
        Self::at(Path::new(&path)).unwrap_or_else(|error| panic!("{REAL_MPS_VARIABLE}: {error}"))
    }

    pub(crate) fn at(control: &Path) -> Result<Self, Error> {
        for path in [control, &control.with_file_name(SERVER)] {
            if !path.is_file() {
                let mend = "remove its folder and run `cargo xtask test --only e2e` again".to_owned();
                return Err(Error::NoFile {
                    path: path.to_owned(),
                    mend,
                });
            }
        }
        Ok(Self {
            control: control.to_owned(),
        })
    }

    /// The control program, which is daemon and client.
    #[must_use]
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// The server, which ends at once where there is no driver.
    #[must_use]
    pub fn server(&self) -> PathBuf {
        self.control.with_file_name(SERVER)
    }

    /// The folder of both, for `PATH`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.control.parent().unwrap_or(&self.control)
    }
}

/// What decides about the contents.
pub(crate) fn recipe() -> Vec<String> {
    [SUITE, "non-free", "nvidia-cuda-mps"].map(str::to_owned).to_vec()
}

/// Takes the two programs out of their package; needs no root.
pub(crate) fn fetch(folder: &Path) -> Result<(), Error> {
    let apt = Apt::new(&folder.join("apt"), &[(ARCHIVE, SUITE, "non-free")], &[])?;
    let unpacked = apt.folder().join("unpacked");
    apt.unpack(&["nvidia-cuda-mps"], &unpacked)?;
    for from in [
        unpacked.join("usr/bin").join(CONTROL),
        unpacked.join("usr/sbin").join(SERVER),
    ] {
        let name = from.file_name().expect("it was joined two lines above");
        fs_err::rename(&from, folder.join(name))
            .map_err(Error::io("take NVIDIA's MPS out of its package"))?;
    }
    apt.remove()
}
