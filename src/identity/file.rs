//! Small text files: read up to a limit, written whole or not at all.
//!
//! These calls block; the task makes them off the runtime's thread. Nothing here knows what the text means.

use std::io::{self, Read, Write};
use std::path::Path;

/// Files of a node that are of interest here have a few kilobytes; one longer than this is not one of them.
const LONGEST: u64 = 256 * 1024;

/// The text of a file, `None` where there is no such file.
///
/// # Errors
/// The file cannot be read, is longer than 256 KiB or is not UTF-8; the error names the path.
pub(super) fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match fs_err::File::open(path) {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    let refuse =
        |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{} {what}", path.display()));
    if bytes.len() as u64 > LONGEST {
        return Err(refuse("is longer than 256 KiB"));
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| refuse("is not UTF-8"))
}

/// Replaces a file. A crash leaves the old one or the new one, and never a part of either.
///
/// # Errors
/// The directory cannot be made or written to; the error names the path.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs_err::create_dir_all(directory)?;
    }
    let fresh = path.with_extension("json.new");
    let mut file = fs_err::File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    // Without this the rename may reach the disk before the text does.
    file.sync_all()?;
    fs_err::rename(&fresh, path)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("new/directory/a.json");
        assert_eq!(read(&path).unwrap(), None);
        replace(&path, "one").unwrap();
        replace(&path, "two").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some("two"));
        assert_eq!(
            fs_err::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn a_long_file_and_one_of_bytes_are_refused_by_name() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("odd");
        fs_err::write(&path, vec![b'x'; 300 * 1024]).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("odd is longer"), "{error}");
        fs_err::write(&path, b"i-\xff\xfe").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("odd is not UTF-8"), "{error}");
    }
}
