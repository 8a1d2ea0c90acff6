//! The programs of this workspace, as cargo built them for this run.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where this package is in the workspace.
const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

/// An executable of this workspace, by its name: `gpushare`, `fake-cloudwatch`, `fake-imds`, `fake-mps`.
///
/// Cargo gives a test only the executables of its own package, and builds those of others when the whole workspace is
/// tested. One that is older than its own source would make a test say something about yesterday's program: that is an
/// error here.
///
/// # Panics
/// When it is missing, or older than one of its source files. The message says what to run.
#[must_use]
#[track_caller]
pub fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the system tells a process its executable");
    let folder = test.parent().expect("an executable is in a folder");
    let folder = if folder.ends_with("deps") {
        folder.with_file_name("")
    } else {
        folder.to_owned()
    };
    let program = folder.join(name);
    let Some(changed) = changed(&program) else {
        panic!("{} is not built: test with `--workspace`", program.display());
    };
    if let Some(newer) = newer_source(&sources(name), changed) {
        panic!(
            "{} is older than {}: test with `--workspace`",
            program.display(),
            newer.display()
        );
    }
    program
}

/// The folder of a program's own source files.
fn sources(name: &str) -> PathBuf {
    let workspace = Path::new(PACKAGE).join("../..");
    let of_the_kit = workspace.join("testkit").join(name).join("src");
    if of_the_kit.is_dir() {
        of_the_kit
    } else {
        workspace.join("src")
    }
}

/// The first file below a folder that changed later.
fn newer_source(folder: &Path, than: SystemTime) -> Option<PathBuf> {
    let entries = fs_err::read_dir(folder).unwrap_or_else(|error| panic!("what was it built from? {error}"));
    entries.flatten().map(|entry| entry.path()).find_map(|path| {
        if path.is_dir() {
            return newer_source(&path, than);
        }
        changed(&path)
            .is_some_and(|changed| changed > than)
            .then_some(path)
    })
}

/// When the file below a folder that changed last did so.
pub(crate) fn newest(folder: &Path) -> Option<SystemTime> {
    let entries = fs_err::read_dir(folder).ok()?;
    let paths = entries.flatten().map(|entry| entry.path());
    paths
        .filter_map(|path| {
            if path.is_dir() {
                newest(&path)
            } else {
                changed(&path)
            }
        })
        .max()
}

pub(crate) fn changed(path: &Path) -> Option<SystemTime> {
    fs_err::metadata(path).ok()?.modified().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_source_that_changed_later_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("module");
        fs_err::create_dir(&folder).unwrap();
        let source = folder.join("deep.rs");
        fs_err::write(&source, "").unwrap();
        let written = changed(&source).unwrap();
        assert_eq!(newer_source(dir.path(), written), None);
        assert_eq!(
            newer_source(dir.path(), written - Duration::from_secs(1)),
            Some(source)
        );
    }

    #[test]
    fn every_program_has_its_own_sources() {
        assert!(sources("fake-mps").ends_with("testkit/fake-mps/src"));
        assert!(sources("gpushare").join("agent.rs").is_file());
    }
}
