//! What a node is made of.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use fs_err as fs;

/// A node to boot: the root file system, and what this test puts on it.
#[derive(Clone, Debug)]
pub struct Spec {
    pub(crate) name: String,
    pub(crate) disk: String,
    binds: Vec<OsString>,
    pub(crate) files: Vec<File>,
}

/// A file on the node's own disk.
#[derive(Clone, Debug)]
pub(crate) struct File {
    /// Absolute, as seen in the node.
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
}

impl Spec {
    /// A bare node. Its name is its host name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            disk: "2g".to_owned(),
            binds: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Shows a file or folder of this machine in the node, read-only and without a copy. Not one below `/run`: the node
    /// has another.
    #[must_use]
    pub fn with_bind(self, source: impl AsRef<Path>, path: &str) -> Self {
        self.bind("--bind-ro", source.as_ref(), path)
    }

    /// As [`Self::with_bind`], and what the node writes there stays.
    #[must_use]
    pub fn with_writable_bind(self, source: impl AsRef<Path>, path: &str) -> Self {
        self.bind("--bind", source.as_ref(), path)
    }

    /// Writes a file on the node's disk before it boots, with its folders.
    #[must_use]
    pub fn with_file(mut self, path: &str, text: impl Into<Vec<u8>>, mode: u32) -> Self {
        let (path, bytes) = (PathBuf::from(path), text.into());
        self.files.push(File { path, bytes, mode });
        self
    }

    /// Copies a file of this machine onto the node's disk: unlike a bind it can be replaced there.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn with_copy(self, source: impl AsRef<Path>, path: &str, mode: u32) -> Self {
        let bytes =
            fs::read(source.as_ref()).unwrap_or_else(|error| panic!("cannot put {path} on a node: {error}"));
        self.with_file(path, bytes, mode)
    }

    /// The size of the node's disk (default `2g`), which is memory of this machine.
    #[must_use]
    pub fn with_disk(mut self, size: &str) -> Self {
        size.clone_into(&mut self.disk);
        self
    }

    fn bind(mut self, how: &str, source: &Path, path: &str) -> Self {
        let mut bind = OsString::from(format!("{how}="));
        // A colon separates the two; nspawn takes one inside a path behind a backslash.
        bind.push(source.to_string_lossy().replace(':', "\\:"));
        bind.push(format!(":{path}"));
        self.binds.push(bind);
        self
    }

    /// The arguments of `systemd-nspawn` that this adds.
    pub(crate) fn arguments(&self) -> impl Iterator<Item = OsString> {
        let name = OsString::from(format!("--machine={}", self.name));
        std::iter::once(name).chain(self.binds.iter().cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_become_arguments_and_colons_stay_part_of_a_path() {
        let spec = Spec::new("n")
            .with_bind("/a:b", "/c")
            .with_writable_bind("/d", "/e");
        let arguments: Vec<OsString> = spec.arguments().collect();
        assert_eq!(arguments, ["--machine=n", "--bind-ro=/a\\:b:/c", "--bind=/d:/e"]);
    }
}
