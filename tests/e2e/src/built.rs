//! The programs of this workspace, as cargo built them for this run.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// An executable of this workspace, by its name: `gpushare`, `fake-cloudwatch`, `fake-imds`.
///
/// Cargo gives a test only the executables of its own package, and builds those of others when the whole workspace is
/// tested. One that is older than its source would make a test say something about yesterday's program: that is an
/// error here, by the list of source files that cargo keeps beside each executable.
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
    if let Some(newer) = newer_source(&folder.join(format!("{name}.d")), changed) {
        panic!(
            "{} is older than {}: test with `--workspace`",
            program.display(),
            newer.display()
        );
    }
    program
}

/// The first source file in a dependency file (`PROGRAM: SOURCE…`, blanks behind a backslash) that changed later.
fn newer_source(dependencies: &Path, than: SystemTime) -> Option<PathBuf> {
    let text = fs_err::read_to_string(dependencies)
        .unwrap_or_else(|error| panic!("what was it built from? {error}"));
    let (_, sources) = text.split_once(": ").unwrap_or_default();
    let sources = sources.replace("\\ ", "\0");
    let mut paths = sources
        .split_whitespace()
        .map(|path| PathBuf::from(path.replace('\0', " ")));
    paths.find(|path| changed(path).is_some_and(|changed| changed > than))
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs_err::metadata(path).ok()?.modified().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_source_that_changed_later_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("a b.rs");
        fs_err::write(&source, "").unwrap();
        let list = dir.path().join("program.d");
        let escaped = source.to_str().unwrap().replace(' ', "\\ ");
        fs_err::write(&list, format!("/x/program: /gone.rs {escaped}\n")).unwrap();
        let written = changed(&source).unwrap();
        assert_eq!(newer_source(&list, written), None);
        assert_eq!(
            newer_source(&list, written - Duration::from_secs(1)),
            Some(source)
        );
    }
}
