//! Finds the built shared library, and makes copies of it that lack symbols.
//!
//! For tests and the demonstration only; nothing here is called when the library is loaded.

use std::io;
use std::path::{Path, PathBuf};

use crate::elf;

/// The file name Cargo gives the shared library.
const FILE_NAME: &str = "libfake_nvml.so";

/// The shared library that Cargo built beside the running executable.
///
/// Cargo builds it into `target/<profile>/deps` whenever a package that depends on this one is built, and only a
/// build of this package itself copies it one folder up, where it may then be out of date. So `deps` is tried first.
///
/// # Panics
/// When it is in neither place; the message says what to run.
#[must_use]
#[expect(
    clippy::panic,
    reason = "a test without its library cannot go on, and the message says what to run"
)]
pub fn library_path() -> PathBuf {
    let executable = std::env::current_exe().expect("the system tells a process its executable");
    let folder = executable.parent().expect("an executable is in a folder");
    let candidates = [folder.join(FILE_NAME), folder.join("deps").join(FILE_NAME)];
    // A test executable is in deps itself; any other is one folder up, beside the copy.
    let ordered = if folder.ends_with("deps") { [0, 1] } else { [1, 0] };
    let found = ordered
        .into_iter()
        .map(|i| &candidates[i])
        .find(|path| path.exists());
    found.cloned().unwrap_or_else(|| {
        panic!(
            "{FILE_NAME} is not beside {}: run `cargo build -p fake-nvml` first",
            executable.display()
        )
    })
}

/// Copies the library at `source` to `dest` and hides `symbols` in the copy, as if the driver were too old for them.
///
/// The names are changed in place in the dynamic string table (first letter to `x`), so that `dlsym` finds none of
/// them. An error of kind `NotFound` names a symbol that `source` does not define.
pub fn library_without(source: &Path, dest: &Path, symbols: &[&str]) -> io::Result<()> {
    let mut image = fs_err::read(source)?;
    let defined = elf::defined_symbols(&image);
    for symbol in symbols {
        let missing = || {
            let message = format!("{} has no symbol {symbol}", source.display());
            io::Error::new(io::ErrorKind::NotFound, message)
        };
        let found = defined
            .iter()
            .find(|defined| defined.name == *symbol)
            .ok_or_else(missing)?;
        image[found.name_offset] = b'x';
    }
    fs_err::write(dest, image)
}

/// The names of the symbols that the shared library at `path` defines; none for a file of another kind.
pub fn symbols_of(path: &Path) -> io::Result<Vec<String>> {
    let image = fs_err::read(path)?;
    Ok(elf::defined_symbols(&image)
        .into_iter()
        .map(|symbol| symbol.name)
        .collect())
}

/// The names of all functions that the library exports.
pub fn exports() -> impl Iterator<Item = &'static str> {
    crate::ffi::exports()
}
