//! The call log: which NVML calls a program made, and what they returned.
//!
//! One line per call, `unix_us pid function gpu code`, written when the call ends, where `gpu` is an index or `-`. A
//! call that hangs has a line `... enter` at its beginning too, so that a test sees that nobody queued a second one.
//! Each line is one append, so that the lines of several processes and threads stay whole. `nvmlErrorString` asks
//! nothing of the driver and is not logged.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use fs_err::OpenOptions;

use crate::clock::unix_us;

/// The environment variable that names the log file.
pub const CALL_LOG: &str = "FAKE_NVML_CALLLOG";

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// When it was written, in microseconds since 1970.
    pub unix_us: u64,
    /// The process that called.
    pub pid: u32,
    /// The C function.
    pub function: String,
    /// Index of the GPU, for a call on one.
    pub gpu: Option<usize>,
    /// What happened.
    pub outcome: Outcome,
}

/// The end of a call, or the beginning of a hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The call began and hangs.
    Entered,
    /// The call returned this code; 0 is success.
    Returned(u32),
}

/// All calls that the log at `path` holds, in order of writing; none where there is no such file yet.
///
/// A line that is not a call is an error of kind `InvalidData` that quotes it.
pub fn read(path: &Path) -> io::Result<Vec<Call>> {
    let text = match fs_err::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let wrong = |line: &str| io::Error::new(io::ErrorKind::InvalidData, format!("not a call: {line:?}"));
    text.lines()
        .map(|line| parse(line).ok_or_else(|| wrong(line)))
        .collect()
}

fn parse(line: &str) -> Option<Call> {
    let mut words = line.split(' ');
    let call = Call {
        unix_us: words.next()?.parse().ok()?,
        pid: words.next()?.parse().ok()?,
        function: words.next()?.to_owned(),
        gpu: match words.next()? {
            "-" => None,
            index => Some(index.parse().ok()?),
        },
        outcome: match words.next()? {
            "enter" => Outcome::Entered,
            code => Outcome::Returned(code.parse().ok()?),
        },
    };
    words.next().is_none().then_some(call)
}

/// The end of the log.
#[derive(Debug)]
pub(crate) struct CallLog {
    path: PathBuf,
    pid: u32,
}

impl CallLog {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            pid: std::process::id(),
        }
    }

    pub(crate) fn write(&self, function: &str, gpu: Option<usize>, outcome: Outcome) -> io::Result<()> {
        let gpu = gpu.map_or_else(|| "-".to_owned(), |index| index.to_string());
        let outcome = match outcome {
            Outcome::Entered => "enter".to_owned(),
            Outcome::Returned(code) => code.to_string(),
        };
        let line = format!("{} {} {function} {gpu} {outcome}\n", unix_us(), self.pid);
        // Opened anew for each line: a client unloads the library after a failed initialisation, nothing tells the
        // library, and a file kept open would stay open for good.
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)?
            .write_all(line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::{Call, CallLog, Outcome, read};

    #[test]
    fn lines_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("calls");
        assert_eq!(read(&path).expect("absent is empty"), []);
        let log = CallLog::new(path.clone());
        log.write("nvmlInit_v2", None, Outcome::Returned(9))
            .expect("write");
        log.write("nvmlDeviceGetName", Some(3), Outcome::Entered)
            .expect("write");
        let calls = read(&path).expect("readable");
        let expected = |function: &str, gpu, outcome, like: &Call| Call {
            unix_us: like.unix_us,
            pid: std::process::id(),
            function: function.to_owned(),
            gpu,
            outcome,
        };
        assert_eq!(calls.len(), 2);
        assert_eq!(
            calls[0],
            expected("nvmlInit_v2", None, Outcome::Returned(9), &calls[0])
        );
        assert_eq!(
            calls[1],
            expected("nvmlDeviceGetName", Some(3), Outcome::Entered, &calls[1])
        );
    }

    #[test]
    fn line_of_another_shape_is_an_error_that_quotes_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("calls");
        fs_err::write(&path, "1 2 nvmlInit_v2 - 0 more\n").expect("write");
        assert!(read(&path).expect_err("six words").to_string().contains("0 more"));
    }
}
