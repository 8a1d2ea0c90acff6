//! What is fetched once and used by every test: in `target/e2e`, below the build output.
//!
//! An entry is made under a lock in a folder beside its place and then renamed, so that it is there whole or not at
//! all, and its name carries a hash of its recipe: a changed recipe is a new entry, and the old one is removed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};

use crate::image_tools::{self, ImageTools};
use crate::mps::{self, RealMps};
use crate::{Error, Node, Spec, root};

/// Where nodes come from.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// In the build output in which the running executable lies.
    pub fn of_this_build() -> Result<Self, Error> {
        let executable = std::env::current_exe().map_err(Error::io("find this executable"))?;
        // Cargo marks the top of its output with this file, wherever `--target` or a profile puts the executables.
        let target = executable
            .ancestors()
            .find(|folder| folder.join("CACHEDIR.TAG").exists());
        let Some(target) = target else {
            let path = executable.with_file_name("CACHEDIR.TAG");
            let mend = "run what cargo built where cargo built it".to_owned();
            return Err(Error::NoFile { path, mend });
        };
        Ok(Self {
            folder: target.join("e2e"),
        })
    }

    /// Fetches what nodes are made of and boots one: afterwards tests can, or the error says what this machine lacks.
    pub fn prepare(&self) -> Result<(), Error> {
        self.root()?;
        Node::try_boot(&Spec::new("probe"))?.poweroff();
        Ok(())
    }

    /// Fetches NVIDIA's MPS control daemon, which runs without a GPU.
    pub fn prepare_real_mps(&self) -> Result<RealMps, Error> {
        let folder = self.entry("mps", &mps::recipe(), mps::fetch)?;
        RealMps::at(&folder.join(mps::CONTROL))
    }

    /// Fetches what the tests of the image are driven with.
    pub fn prepare_image_tools(&self) -> Result<ImageTools, Error> {
        ImageTools::at(&self.entry("tools", &image_tools::recipe(), image_tools::fetch)?)
    }

    /// The root file system below every node.
    pub(crate) fn root(&self) -> Result<PathBuf, Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        self.entry("root", &root::recipe(), root::make)
    }

    /// An empty folder over which each node mounts its own world, which nobody else sees.
    pub(crate) fn mount_point(&self) -> Result<PathBuf, Error> {
        let path = self.folder.join("mnt");
        fs_err::create_dir_all(&path).map_err(Error::io("make the mount point of nodes"))?;
        Ok(path)
    }

    /// The folder of this recipe. `make` fills it, into the folder that it is given, if there is none yet.
    fn entry(
        &self,
        kind: &str,
        recipe: &[String],
        make: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<PathBuf, Error> {
        let mut hasher = DefaultHasher::new();
        recipe.hash(&mut hasher);
        let path = self.folder.join(format!("{kind}-{:016x}", hasher.finish()));
        if path.exists() {
            return Ok(path);
        }
        fs_err::create_dir_all(&self.folder).map_err(Error::io("make the cache of the tests"))?;
        let lock = fs_err::File::create(self.folder.join(format!("{kind}.lock")))
            .map_err(Error::io("open the lock of the cache"))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| Error::io("lock the cache")(error.into()))?;
        if path.exists() {
            return Ok(path);
        }
        self.remove_old(kind)?;
        let unfinished = self.folder.join(format!("{kind}-unfinished"));
        fs_err::create_dir_all(&unfinished).map_err(Error::io("make a folder in the cache"))?;
        make(&unfinished)?;
        fs_err::rename(&unfinished, &path).map_err(Error::io("put a new entry in the cache"))?;
        Ok(path)
    }

    /// Entries of other recipes, and what an interrupted make left. Called under the lock.
    fn remove_old(&self, kind: &str) -> Result<(), Error> {
        let remove = || -> std::io::Result<()> {
            for entry in fs_err::read_dir(&self.folder)? {
                let entry = entry?;
                if entry
                    .file_name()
                    .to_string_lossy()
                    .starts_with(&format!("{kind}-"))
                {
                    fs_err::remove_dir_all(entry.path())?;
                }
            }
            Ok(())
        };
        remove().map_err(Error::io("remove old entries of the cache"))
    }
}

/// Runs a program to its end; the error carries the end of what it said.
pub(crate) fn succeed(operation: &'static str, command: &mut Command) -> Result<String, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .env("LC_ALL", "C.UTF-8")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .map_err(Error::io(operation))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Failed {
        operation,
        program,
        status: output.status.to_string(),
        said: tail(&String::from_utf8_lossy(&output.stderr), 8),
    })
}

/// The program, if it is in the search path; the error names its package.
pub(crate) fn need(program: &'static str, package: &'static str) -> Result<(), Error> {
    // An interactive shell of root may lack the sbin folders, in which half of these programs are.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if found {
        Ok(())
    } else {
        Err(Error::Missing { program, package })
    }
}

/// The last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("e2e");
        (dir, Cache { folder })
    }

    fn recipe(word: &str) -> Vec<String> {
        vec![word.to_owned()]
    }

    fn write(folder: &Path) -> Result<(), Error> {
        fs_err::write(folder.join("made"), "").map_err(Error::io("write"))
    }

    #[test]
    fn an_entry_is_made_once_and_anew_for_another_recipe() {
        let (_dir, cache) = cache();
        let first = cache.entry("root", &recipe("a"), write).unwrap();
        assert!(first.join("made").exists());
        let again = cache
            .entry("root", &recipe("a"), |_| panic!("made twice"))
            .unwrap();
        assert_eq!(again, first);
        let other = cache.entry("mps", &recipe("a"), write).unwrap();
        let second = cache.entry("root", &recipe("b"), write).unwrap();
        assert!(second != first && !first.exists() && second.exists() && other.exists());
    }

    #[test]
    fn what_fails_half_way_is_no_entry_and_the_next_attempt_begins_afresh() {
        let (_dir, cache) = cache();
        let fail = |folder: &Path| {
            write(folder)?;
            Err(Error::NotRoot)
        };
        assert!(cache.entry("root", &recipe("a"), fail).is_err());
        let made = cache.entry("root", &recipe("a"), |folder| {
            assert!(!folder.join("made").exists());
            write(folder)
        });
        assert!(made.unwrap().join("made").exists());
    }

    #[test]
    fn those_who_come_together_make_it_once() {
        let (_dir, cache) = cache();
        let made = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let fill = |folder: &Path| {
                        made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        write(folder)
                    };
                    cache.entry("root", &recipe("a"), fill).unwrap();
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        need("sh", "dash").unwrap();
        let error = need("no-such-program", "such").unwrap_err().to_string();
        assert_eq!(
            error,
            "`no-such-program` is missing: install it (Debian: apt-get install such)"
        );
        let error = succeed("try", Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "cannot try: `sh` failed (exit status: 3): why");
    }
}
