//! The directories of one daemon: made where they are missing, refused where they cannot be trusted.
//!
//! Never removed and never made anew: the bind mounts of pods keep the inode that they were made with.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use crate::config;
use crate::mps::Warning;
use crate::mps::directories::Directories;

/// What the daemons' directories are in, and what pods see: everybody may look, nobody else may write.
const OPEN: u32 = 0o755;

/// A daemon's own directory: nobody else even looks.
const CLOSED: u32 = 0o700;

/// The same where servers run as their clients' users: they have to get through, and may not look.
const PASSABLE: u32 = 0o711;

/// A directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{} {problem}", path.display())]
pub(super) struct PlaceError {
    /// The configuration key that names it, or what is above it.
    key: &'static str,
    path: PathBuf,
    problem: Problem,
    #[source]
    source: Option<io::Error>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("cannot be made")]
    Make,
    #[error("cannot be used")]
    Use,
    #[error("is {0}, not a directory")]
    NotADirectory(&'static str),
    #[error("belongs to user {owner}, not to user {wanted}")]
    Owner { owner: u32, wanted: u32 },
    #[error("can be written by others (mode {0:o})")]
    OpenToOthers(u32),
    #[error("is both mps.dir and mps.client_dir: pods would see the daemon's own files")]
    Same,
}

impl PlaceError {
    /// What an operator does about it.
    #[must_use]
    pub(super) fn mend(&self) -> String {
        let (key, path) = (self.key, self.path.display());
        let source = self.source.as_ref().map(io::Error::kind);
        if source == Some(io::ErrorKind::PermissionDenied) {
            return "run as root".to_owned();
        }
        let first = match self.problem {
            Problem::Make | Problem::Use | Problem::Same => String::new(),
            Problem::NotADirectory(_) => format!("remove {path}, or "),
            Problem::Owner { wanted, .. } => format!("chown {wanted} {path}, or "),
            Problem::OpenToOthers(_) => format!("chmod go-w {path}, or "),
        };
        format!("{first}set {key} to a directory that only root can write, such as one below /run")
    }
}

/// Makes and checks the daemon's. Harmless to a daemon that runs there.
pub(super) fn prepare(directories: &Directories, mps: &config::Mps) -> Result<(), PlaceError> {
    Place {
        key: "mps.dir",
        base: &mps.dir,
        path: &directories.daemon,
        modes: &[CLOSED, PASSABLE],
    }
    .prepare()
}

/// Makes and checks the one that pods see.
pub(super) fn prepare_view(directories: &Directories, mps: &config::Mps) -> Result<(), PlaceError> {
    let client = Place {
        key: "mps.client_dir",
        base: &mps.client_dir,
        path: &directories.client,
        modes: &[OPEN],
    };
    if directories.daemon == directories.client {
        return Err(client.refused(client.base, Problem::Same));
    }
    client.prepare()
}

/// Lets the right ones into the daemon's directory: root alone, or also those as whom its servers run. Returns what
/// is odd on the way to the directories and stops nothing.
pub(super) fn admit(
    directories: &Directories,
    mps: &config::Mps,
    multi_user: bool,
) -> Result<Vec<Warning>, PlaceError> {
    let daemon = Place {
        key: "mps.dir",
        base: &mps.dir,
        path: &directories.daemon,
        modes: if multi_user { &[CLOSED] } else { &[PASSABLE] },
    };
    daemon.settle_mode(daemon.path)?;
    let mut passed = vec![mps.client_dir.as_path()];
    if !multi_user {
        passed.push(&mps.dir);
    }
    let directories = passed.into_iter().flat_map(Path::ancestors);
    Ok(directories.filter_map(closed_to_others).collect())
}

/// One directory, and the configured one that it is in.
struct Place<'a> {
    key: &'static str,
    base: &'a Path,
    path: &'a Path,
    /// The modes that it may have; it is made with the first.
    modes: &'a [u32],
}

impl Place<'_> {
    fn prepare(&self) -> Result<(), PlaceError> {
        for missing in missing(self.base).into_iter().rev() {
            self.make(missing, OPEN)?;
        }
        let mode = self.checked(self.base)?;
        if mode & 0o022 != 0 {
            return Err(self.refused(self.base, Problem::OpenToOthers(mode)));
        }
        if missing(self.path).contains(&self.path) {
            self.make(self.path, self.modes[0])?;
        }
        self.settle_mode(self.path)?;
        // Root may write where the mode says nothing of it, and not on a file system that is read-only.
        rustix::fs::access(self.path, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|error| self.failed(self.path, Problem::Use, error.into()))
    }

    fn make(&self, path: &Path, mode: u32) -> Result<(), PlaceError> {
        match std::fs::DirBuilder::new().mode(mode).create(path) {
            // The daemon of another GPU is started at the same time.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(self.failed(path, Problem::Make, error))
            }
            // The umask may have taken from the mode.
            _ => self.set_mode(path, mode),
        }
    }

    fn settle_mode(&self, path: &Path) -> Result<(), PlaceError> {
        if self.modes.contains(&self.checked(path)?) {
            return Ok(());
        }
        self.set_mode(path, self.modes[0])
    }

    fn set_mode(&self, path: &Path, mode: u32) -> Result<(), PlaceError> {
        let permissions = std::fs::Permissions::from_mode(mode);
        fs_err::set_permissions(path, permissions).map_err(|error| self.failed(path, Problem::Use, error))
    }

    /// The mode of a directory that is one, and ours.
    fn checked(&self, path: &Path) -> Result<u32, PlaceError> {
        let found = fs_err::symlink_metadata(path).map_err(|error| self.failed(path, Problem::Use, error))?;
        let kind = found.file_type();
        if kind.is_symlink() {
            return Err(self.refused(path, Problem::NotADirectory("a symbolic link")));
        }
        if !kind.is_dir() {
            return Err(self.refused(path, Problem::NotADirectory("a file")));
        }
        let (owner, wanted) = (found.uid(), rustix::process::geteuid().as_raw());
        if owner != wanted {
            return Err(self.refused(path, Problem::Owner { owner, wanted }));
        }
        Ok(found.mode() & 0o7777)
    }

    fn refused(&self, path: &Path, problem: Problem) -> PlaceError {
        PlaceError {
            key: self.key,
            path: path.to_owned(),
            problem,
            source: None,
        }
    }

    fn failed(&self, path: &Path, problem: Problem, source: io::Error) -> PlaceError {
        PlaceError {
            source: Some(source),
            ..self.refused(path, problem)
        }
    }
}

/// The directories that are missing on the way to this one, itself first.
fn missing(path: &Path) -> Vec<&Path> {
    let absent = |path: &&Path| fs_err::symlink_metadata(path).is_err();
    path.ancestors().take_while(absent).collect()
}

/// Clients and servers of other users do not get through it.
fn closed_to_others(directory: &Path) -> Option<Warning> {
    let mode = fs_err::metadata(directory).ok()?.mode() & 0o777;
    let path = directory.display();
    (mode & 0o001 == 0).then(|| Warning {
        what: format!("{path} is closed to others (mode {mode:o}): only root gets through to MPS"),
        mend: format!("chmod o+x {path}, if processes of other users outside of containers use MPS"),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::config::Config;
    use crate::log::chain;

    struct Scene {
        root: tempfile::TempDir,
        mps: config::Mps,
    }

    impl Scene {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let mut mps = Config::default().mps;
            mps.dir = root.path().join("run/mps");
            mps.client_dir = root.path().join("run/clients");
            fs_err::set_permissions(root.path(), PermissionsExt::from_mode(0o755)).unwrap();
            Self { root, mps }
        }

        fn directories(&self) -> Directories {
            Directories::of(&self.mps, &"GPU-a".into()).unwrap()
        }

        fn prepare(&self) -> Result<Vec<Warning>, PlaceError> {
            prepare(&self.directories(), &self.mps)?;
            prepare_view(&self.directories(), &self.mps)?;
            admit(&self.directories(), &self.mps, self.mps.multi_user)
        }

        /// Why, and what to do about it.
        fn refused(&self) -> String {
            let error = self.prepare().unwrap_err();
            format!("{}; {}", chain(&error), error.mend())
        }
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn m20_what_is_missing_is_made_with_modes_that_let_the_right_ones_through() {
        let mut scene = Scene::new();
        assert_eq!(scene.prepare().unwrap(), []);
        let directories = scene.directories();
        let run = scene.root.path().join("run");
        for open in [&run, &scene.mps.dir, &scene.mps.client_dir, &directories.client] {
            assert_eq!(mode(open), 0o755, "{}", open.display());
        }
        assert_eq!(mode(&directories.daemon), 0o700);
        scene.mps.multi_user = false;
        scene.prepare().unwrap();
        assert_eq!(mode(&directories.daemon), 0o711);
        prepare(&directories, &scene.mps).unwrap();
        assert_eq!(
            mode(&directories.daemon),
            0o711,
            "a second one, which is refused, changes nothing"
        );
    }

    #[test]
    fn m02_directories_that_are_there_stay_with_everything_in_them() {
        let scene = Scene::new();
        scene.prepare().unwrap();
        let directories = scene.directories();
        let before = directories.daemon.metadata().unwrap().ino();
        fs_err::write(directories.control_lock(), "").unwrap();
        scene.prepare().unwrap();
        assert_eq!(directories.daemon.metadata().unwrap().ino(), before);
        assert!(directories.control_lock().exists());
    }

    #[test]
    fn m20_a_way_that_is_closed_to_others_is_named() {
        let scene = Scene::new();
        fs_err::set_permissions(scene.root.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let warnings = scene.prepare().unwrap();
        let root = scene.root.path().display().to_string();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].what.contains(&root) && warnings[0].mend.contains("chmod o+x"),
            "{warnings:?}"
        );
    }

    #[test]
    fn what_is_not_a_directory_of_ours_is_named_with_the_mend() {
        let scene = Scene::new();
        let daemon = scene.directories().daemon;
        fs_err::create_dir_all(&scene.mps.dir).unwrap();
        symlink("/tmp", &daemon).unwrap();
        let text = scene.refused();
        assert!(
            text.contains("is a symbolic link") && text.contains("mps.dir"),
            "{text}"
        );
        fs_err::remove_file(&daemon).unwrap();
        fs_err::write(&daemon, "").unwrap();
        assert!(scene.refused().contains("is a file, not a directory"));
        fs_err::remove_file(&daemon).unwrap();
        fs_err::set_permissions(&scene.mps.dir, PermissionsExt::from_mode(0o775)).unwrap();
        let text = scene.refused();
        assert!(text.contains("mode 775") && text.contains("chmod go-w"), "{text}");
    }

    #[test]
    fn a_directory_that_cannot_be_made_names_the_key() {
        let mut scene = Scene::new();
        scene.mps.client_dir = "/proc/gpushare/clients".into();
        let text = scene.refused();
        assert!(
            text.contains("mps.client_dir") && text.contains("/proc/gpushare"),
            "{text}"
        );
        scene.mps.client_dir = scene.mps.dir.clone();
        assert!(scene.refused().contains("is both mps.dir and mps.client_dir"));
    }
}
