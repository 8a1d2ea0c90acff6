//! NVIDIA's own MPS programs, out of Debian's `non-free`, without installing anything.
//!
//! Version 550 is the newest whose control daemon runs on a machine with neither a GPU nor a driver. Its server does
//! not: without a driver it ends with status 1 at once. The programs are fetched by whoever runs the tests and are no
//! part of this project.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::cache::{need, succeed};

/// Where `cargo xtask test` puts the path of the control program for the tests that need it.
pub const REAL_MPS_VARIABLE: &str = "GPUSHARE_TEST_REAL_MPS";

/// The file name of the control program.
pub(crate) const CONTROL: &str = "nvidia-cuda-mps-control";
const SERVER: &str = "nvidia-cuda-mps-server";
const SUITE: &str = "trixie";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

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

/// Debian's signatures, by which both downloads are checked.
pub(crate) fn keyring() -> Result<(), Error> {
    if Path::new(KEYRING).is_file() {
        return Ok(());
    }
    let mend = "install it (Debian: apt-get install debian-archive-keyring)".to_owned();
    Err(Error::NoFile {
        path: KEYRING.into(),
        mend,
    })
}

/// `apt-get download` with lists, cache and configuration of its own; needs no root.
pub(crate) fn fetch(folder: &Path) -> Result<(), Error> {
    need("apt-get", "apt")?;
    need("dpkg-deb", "dpkg")?;
    keyring()?;
    let apt = Apt::new(folder)?;
    apt.run("update")?;
    apt.run("download")?;
    let package = apt.package()?;
    let unpacked = apt.folder.join("unpacked");
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").arg(&package).arg(&unpacked);
    succeed("unpack NVIDIA's MPS", &mut unpack)?;
    for from in [
        unpacked.join("usr/bin").join(CONTROL),
        unpacked.join("usr/sbin").join(SERVER),
    ] {
        let name = from.file_name().expect("it was joined two lines above");
        fs_err::rename(&from, folder.join(name))
            .map_err(Error::io("take NVIDIA's MPS out of its package"))?;
    }
    fs_err::remove_dir_all(&apt.folder).map_err(Error::io("remove apt's files"))
}

/// A world of its own for apt: the machine's sources, lists and packages stay as they are.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: &Path) -> Result<Self, Error> {
        let folder = folder.join("apt");
        let write = || -> std::io::Result<()> {
            for name in ["lists/partial", "cache/archives/partial"] {
                fs_err::create_dir_all(folder.join(name))?;
            }
            fs_err::write(folder.join("status"), "")?;
            let source = format!("deb [signed-by={KEYRING}] http://deb.debian.org/debian {SUITE} non-free\n");
            fs_err::write(folder.join("sources.list"), source)?;
            let here = folder.display();
            let settings = format!(
                "Dir::State \"{here}\";\nDir::State::lists \"{here}/lists\";\nDir::State::status \"{here}/status\";\n\
                 Dir::Cache \"{here}/cache\";\nDir::Etc::sourcelist \"{here}/sources.list\";\n\
                 Dir::Etc::sourceparts \"-\";\nDir::Etc::preferences \"-\";\nDir::Etc::preferencesparts \"-\";\n\
                 Acquire::Languages \"none\";\nAcquire::Retries \"3\";\nAPT::Sandbox::User \"\";\n"
            );
            fs_err::write(folder.join("apt.conf"), settings)
        };
        write().map_err(Error::io("give apt a world of its own"))?;
        Ok(Self { folder })
    }

    fn run(&self, verb: &str) -> Result<(), Error> {
        let mut command = Command::new("apt-get");
        // Besides the machine's own settings: a proxy that stands there is used.
        command.env("APT_CONFIG", self.folder.join("apt.conf"));
        command.current_dir(&self.folder).args(["-q", verb]);
        if verb == "download" {
            command.arg("nvidia-cuda-mps");
        }
        succeed("download NVIDIA's MPS", &mut command).map(drop)
    }

    fn package(&self) -> Result<PathBuf, Error> {
        let entries =
            fs_err::read_dir(&self.folder).map_err(Error::io("look for the package of NVIDIA's MPS"))?;
        let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let package = paths.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
        package.ok_or_else(|| Error::NoFile {
            path: self.folder.join("nvidia-cuda-mps.deb"),
            mend: "apt-get said that it was downloaded; try again".to_owned(),
        })
    }
}
