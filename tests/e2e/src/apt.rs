//! Packages of Debian without installing them: apt in a world of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::cache::{need, succeed};

/// Debian's archive.
pub(crate) const ARCHIVE: &str = "http://deb.debian.org/debian";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Debian's signatures, by which every download is checked.
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

/// apt with lists, cache and configuration of its own: the machine's sources and packages stay as they are. Needs no
/// root.
#[derive(Debug)]
pub struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// In this folder, with these sources (archive, suite, component), for these architectures (none: this machine's).
    pub fn new(folder: &Path, sources: &[(&str, &str, &str)], architectures: &[&str]) -> Result<Self, Error> {
        need("apt-get", "apt")?;
        need("dpkg-deb", "dpkg")?;
        keyring()?;
        let apt = Self {
            folder: folder.to_owned(),
        };
        apt.settle(sources, architectures)
            .map_err(Error::io("give apt a world of its own"))?;
        apt.run("apt-get", &["-q", "update"], &apt.folder)?;
        Ok(apt)
    }

    fn settle(&self, sources: &[(&str, &str, &str)], architectures: &[&str]) -> std::io::Result<()> {
        for name in ["lists/partial", "cache/archives/partial"] {
            fs_err::create_dir_all(self.folder.join(name))?;
        }
        fs_err::write(self.folder.join("status"), "")?;
        let sources = sources.iter().map(|(archive, suite, component)| {
            format!("deb [signed-by={KEYRING}] {archive} {suite} {component}\n")
        });
        fs_err::write(self.folder.join("sources.list"), sources.collect::<String>())?;
        let architectures = match architectures {
            [] => String::new(),
            names => format!("APT::Architectures {{ \"{}\"; }};\n", names.join("\"; \"")),
        };
        let here = self.folder.display();
        let settings = format!(
            "Dir::State \"{here}\";\nDir::State::lists \"{here}/lists\";\nDir::State::status \"{here}/status\";\n\
             Dir::Cache \"{here}/cache\";\nDir::Etc::sourcelist \"{here}/sources.list\";\n\
             Dir::Etc::sourceparts \"-\";\nDir::Etc::preferences \"-\";\nDir::Etc::preferencesparts \"-\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"3\";\nAPT::Sandbox::User \"\";\n{architectures}"
        );
        fs_err::write(self.folder.join("apt.conf"), settings)
    }

    /// Where its files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A package and all that it depends on, and what those depend on.
    pub fn closure(&self, package: &str) -> Result<Vec<String>, Error> {
        let words = [
            "depends",
            "--recurse",
            "--no-recommends",
            "--no-suggests",
            "--no-conflicts",
            "--no-breaks",
            "--no-replaces",
            "--no-enhances",
            package,
        ];
        Ok(names(&self.run("apt-cache", &words, &self.folder)?))
    }

    /// Downloads packages and unpacks them into a folder.
    pub fn unpack(&self, packages: &[&str], into: &Path) -> Result<(), Error> {
        let debs = self.folder.join("debs");
        fs_err::create_dir_all(&debs).map_err(Error::io("make a folder for packages"))?;
        let words: Vec<&str> = ["-q", "download"]
            .into_iter()
            .chain(packages.iter().copied())
            .collect();
        self.run("apt-get", &words, &debs)?;
        let entries = fs_err::read_dir(&debs).map_err(Error::io("look for the packages"))?;
        for entry in entries.flatten() {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("-x").arg(entry.path()).arg(into);
            succeed("unpack a package", &mut unpack)?;
        }
        fs_err::remove_dir_all(&debs).map_err(Error::io("remove downloaded packages"))
    }

    /// Removes its files.
    pub fn remove(self) -> Result<(), Error> {
        fs_err::remove_dir_all(&self.folder).map_err(Error::io("remove apt's files"))
    }

    fn run(&self, program: &str, words: &[&str], folder: &Path) -> Result<String, Error> {
        let mut command = Command::new(program);
        // Besides the machine's own settings: a proxy that stands there is used.
        command.env("APT_CONFIG", self.folder.join("apt.conf"));
        command.current_dir(folder).args(words);
        succeed("fetch packages of Debian", &mut command)
    }
}

/// The packages in what `apt-cache depends --recurse` prints: each begins a line; `<…>` are names without a package.
fn names(said: &str) -> Vec<String> {
    let begins = |line: &&str| !line.starts_with([' ', '|', '<']) && !line.is_empty();
    said.lines().filter(begins).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_of_a_closure_begin_a_line() {
        let said = "rustc-web\n  Depends: libc6\n |Depends: <a>\n    b\nlibc6\n<libc-dev>\n  libc6-dev\n";
        assert_eq!(names(said), ["rustc-web", "libc6"]);
    }
}
