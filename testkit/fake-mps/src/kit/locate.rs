//! Finds the built program beside the running test.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The file name of the program, in the build directory and in its folder of examples.
const FILE_NAME: &str = "fake-mps";

/// The program that Cargo built beside the running executable: `<profile>/fake-mps` (a build of this package) or
/// `<profile>/examples/fake-mps` (a build of the tests of a package that has it as an example), whichever is newer.
///
/// Where there is none, an error of kind `NotFound` says what to run.
pub fn program_path() -> io::Result<PathBuf> {
    let executable = std::env::current_exe()?;
    let folder = executable.parent().unwrap_or(Path::new("/"));
    // A test executable is in deps, an example in examples; any other is in the profile's folder itself.
    let inner = folder.ends_with("deps") || folder.ends_with("examples");
    let profile = if inner {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    let candidates = [profile.join(FILE_NAME), profile.join("examples").join(FILE_NAME)];
    let newest = candidates
        .into_iter()
        .filter_map(|path| Some((modified(&path)?, path)))
        .max();
    newest.map(|(_, path)| path).ok_or_else(|| {
        let beside = executable.display();
        let message = format!("{FILE_NAME} is not beside {beside}: run `cargo build -p fake-mps` first");
        io::Error::new(ErrorKind::NotFound, message)
    })
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs_err::metadata(path).ok()?.modified().ok()
}
