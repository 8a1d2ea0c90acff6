//! The packages that tests install: of several versions, and of another architecture, as rpm and as deb.
//!
//! `cargo xtask test` makes them of the debug build once it has built everything; it takes nfpm, a download.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::built::{built, changed, newest};

/// Where `cargo xtask test` puts the folder of the packages for the tests that install them.
pub const PACKAGES_VARIABLE: &str = "GPUSHARE_TEST_PACKAGES";

/// What packages are made of, besides the agent.
const SOURCES: [&str; 2] = ["packaging", "systemd"];

/// One of the packages that tests install.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edition {
    /// The version that is upgraded.
    Old,
    /// The version that it is upgraded to. It comes with another configuration file.
    New,
    /// The old one, for an architecture that this machine does not have.
    Foreign,
    /// The version that the program itself tells, as in a release.
    Current,
}

impl Edition {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Old, Self::New, Self::Foreign, Self::Current];

    /// Its version.
    #[must_use]
    pub fn version(self) -> &'static str {
        match self {
            Self::Old | Self::Foreign => "1.0.0",
            Self::New => "1.1.0",
            Self::Current => env!("CARGO_PKG_VERSION"),
        }
    }

    /// Its file name, with `deb` or `rpm` at the end.
    #[must_use]
    pub fn file(self, format: &str) -> String {
        let name = match self {
            Self::Old => "old",
            Self::New => "new",
            Self::Foreign => "foreign",
            Self::Current => "current",
        };
        format!("{name}.{format}")
    }
}

/// The folder with an rpm and a deb of each [`Edition`].
#[derive(Clone, Debug)]
pub struct Packages {
    folder: PathBuf,
}

impl Packages {
    /// Those that `cargo xtask test` made, named by [`PACKAGES_VARIABLE`].
    ///
    /// # Panics
    /// When it names none, or they are older than what they are made of: tests that need them are left out by `cargo
    /// xtask test` and nobody else.
    #[must_use]
    #[track_caller]
    pub fn of_this_run() -> Self {
        let folder = std::env::var_os(PACKAGES_VARIABLE).unwrap_or_else(|| {
            panic!("{PACKAGES_VARIABLE} is not set: run this test by `cargo xtask test --only e2e`, or set it to the folder \
                 `packages` that this leaves in the cache of the tests")
        });
        let packages = Self::at(Path::new(&folder), &built("gpushare"));
        packages.unwrap_or_else(|error| panic!("{PACKAGES_VARIABLE}: {error}"))
    }

    /// The packages in this folder; an error when one is missing, or older than the agent or the files of the repository
    /// that it is made of.
    pub fn at(folder: &Path, agent: &Path) -> Result<Self, Error> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let sources = SOURCES.map(|source| newest(&workspace.join(source)));
        let newest = sources.into_iter().flatten().chain(changed(agent)).max();
        for edition in Edition::ALL {
            for format in ["deb", "rpm"] {
                let path = folder.join(edition.file(format));
                if changed(&path).is_none_or(|made| Some(made) < newest) {
                    let mend =
                        "there is none of today's agent; `cargo xtask test --only e2e` makes it".to_owned();
                    return Err(Error::NoFile { path, mend });
                }
            }
        }
        let folder = folder.to_owned();
        Ok(Self { folder })
    }

    /// Their folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_that_are_missing_or_older_than_the_agent_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let agent = dir.path().join("gpushare");
        fs_err::write(&agent, "").unwrap();
        for edition in Edition::ALL {
            fs_err::write(dir.path().join(edition.file("deb")), "").unwrap();
            let error = Packages::at(dir.path(), &agent).unwrap_err().to_string();
            assert!(error.contains(".rpm"), "{error}");
            fs_err::write(dir.path().join(edition.file("rpm")), "").unwrap();
        }
        assert!(Packages::at(dir.path(), &agent).is_ok());
        let later = std::time::SystemTime::now() + std::time::Duration::from_mins(1);
        let agent_file = fs_err::File::options().write(true).open(&agent).unwrap();
        agent_file.set_modified(later).unwrap();
        let error = Packages::at(dir.path(), &agent).unwrap_err().to_string();
        assert!(error.contains("today's agent"), "{error}");
    }
}
