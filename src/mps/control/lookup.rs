//! Where the control program is.

use std::path::{Path, PathBuf};

use super::{BinaryProblem, ControlError};

/// What `PATH` is where the environment has none: that of systemd's services.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";

/// NVIDIA's server, which the daemon looks up in its `PATH`: beside the control daemon first, where we start it.
pub const SERVER: &str = "nvidia-cuda-mps-server";

/// Where the server of this control daemon is.
#[must_use]
pub fn server_beside(control: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let beside = control.parent().map(Path::to_owned);
    let directories = beside.into_iter().chain(std::env::split_paths(&path));
    let candidates = directories.map(|directory| directory.join(SERVER));
    candidates.into_iter().find(|file| problem(file).is_none())
}

/// The file that is executed: the path itself, or the first program of that name in `PATH`.
pub fn resolve(binary: &Path) -> Result<PathBuf, ControlError> {
    resolve_in(
        binary,
        &std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()),
    )
}

pub(super) fn resolve_in(binary: &Path, path: &std::ffi::OsStr) -> Result<PathBuf, ControlError> {
    let refused = |path: &Path, problem| ControlError::Binary {
        path: path.to_owned(),
        problem,
    };
    if binary.components().count() != 1 || binary.is_absolute() {
        return match problem(binary) {
            None => Ok(binary.to_owned()),
            Some(problem) => Err(refused(binary, problem)),
        };
    }
    let mut nearest = refused(binary, BinaryProblem::Missing);
    for candidate in std::env::split_paths(path).map(|directory| directory.join(binary)) {
        match problem(&candidate) {
            None => return Ok(candidate),
            Some(BinaryProblem::Missing) => {}
            // More is known of it than of the places where there is nothing.
            Some(problem) => nearest = refused(&candidate, problem),
        }
    }
    Err(nearest)
}

fn problem(path: &Path) -> Option<BinaryProblem> {
    match fs_err::metadata(path) {
        Err(_) => Some(BinaryProblem::Missing),
        Ok(found) if found.is_dir() => Some(BinaryProblem::Directory),
        Ok(found) if !found.is_file() => Some(BinaryProblem::NotExecutable),
        Ok(_) => rustix::fs::access(path, rustix::fs::Access::EXEC_OK)
            .is_err()
            .then_some(BinaryProblem::NotExecutable),
    }
}
