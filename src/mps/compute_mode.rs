//! The compute mode of a GPU: set by a process of its own, because NVML may hang, and put back at the end.
//!
//! The mode that the GPU had before MPS is kept in a file as long as MPS has changed it. Blocking.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::Error as ValueError;

use super::call::{Abandoned, CallError, Finished, call};
use crate::gpu::{ComputeMode, ComputeModes, GpuUuid};
use crate::log::chain;

/// How long NVML may take: its init alone takes seconds where no persistence daemon runs.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The running binary, even after a package upgrade replaced the file.
const SELF: &str = "/proc/self/exe";

/// The exit code of a command that failed.
const FAILED: i32 = 1;

/// `EX_UNAVAILABLE` of sysexits.h.
const UNAVAILABLE: i32 = 69;

/// The mode could not be read or set.
#[derive(Debug, thiserror::Error)]
pub enum ComputeModeError {
    /// There is no such GPU, or no driver.
    #[error("{0}")]
    Unavailable(String),
    /// The driver refuses: no permission, MIG, a GPU that has no such thing. MPS works without.
    #[error("{0}")]
    Refused(String),
    /// The process failed in another way.
    #[error(
        "the process that reads and sets the compute mode failed ({status}){}",
        after_colon(words)
    )]
    Failed {
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        words: String,
    },
    /// It says something that makes no sense.
    #[error(
        "the process that reads and sets the compute mode says {0:?}, which makes no sense: report this bug"
    )]
    NotUnderstood(String),
    /// The driver takes another mode than it was given.
    #[error("the compute mode was set to {wished}, and reads back as {now}")]
    NotTaken {
        /// What was set.
        wished: ComputeMode,
        /// What there is.
        now: ComputeMode,
    },
    /// It does not answer, or there is no process.
    #[error("the compute mode cannot be read and set by another process ({SELF} nvml)")]
    Call(#[source] CallError),
}

fn after_colon(words: &str) -> String {
    if words.is_empty() {
        return String::new();
    }
    format!(": {words}")
}

/// One GPU as the driver knows it. Clones count the processes that survive SIGKILL together.
#[derive(Clone, Debug)]
pub struct Driver {
    library: PathBuf,
    gpu: GpuUuid,
    abandoned: Abandoned,
}

impl Driver {
    /// `library` is `gpu.nvml_library`: the other process needs no configuration, which may be wrong by then.
    #[must_use]
    pub fn new(library: &Path, gpu: &GpuUuid) -> Self {
        Self {
            library: library.to_owned(),
            gpu: gpu.clone(),
            abandoned: Abandoned::default(),
        }
    }

    /// Reads the compute mode.
    pub fn read(&self) -> Result<ComputeMode, ComputeModeError> {
        self.ask(self.command(None), LIMIT).map(|modes| modes.now)
    }

    /// Sets the compute mode, and reads it back.
    pub fn set(&self, mode: ComputeMode) -> Result<ComputeModes, ComputeModeError> {
        self.set_by(self.command(Some(mode)), mode, LIMIT)
    }

    /// Puts the mode back that was kept, and forgets it. Returns the mode, `None` where there was nothing to put back.
    pub fn restore(&self, path: &Path) -> Result<Option<ComputeMode>, RestoreError> {
        restore_by(path, |mode| self.set(mode))
    }

    /// Reads the mode where none is wished.
    fn command(&self, wished: Option<ComputeMode>) -> Command {
        let mut command = Command::new(SELF);
        command.args(["nvml", "--gpu", &self.gpu.0, "--compute-mode"]);
        command.args(wished.map(ComputeMode::as_str));
        command.arg("--library").arg(&self.library);
        // Its last words are read here, and not by the journal.
        command.args(["--log-format", "text"]);
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        command
    }

    fn set_by(
        &self,
        command: Command,
        wished: ComputeMode,
        limit: Duration,
    ) -> Result<ComputeModes, ComputeModeError> {
        let change = self.ask(command, limit)?;
        if change.now != wished {
            return Err(ComputeModeError::NotTaken {
                wished,
                now: change.now,
            });
        }
        Ok(change)
    }

    fn ask(&self, command: Command, limit: Duration) -> Result<ComputeModes, ComputeModeError> {
        let finished = call(command, b"", limit, &self.abandoned).map_err(ComputeModeError::Call)?;
        understood(&finished)
    }
}

fn understood(finished: &Finished) -> Result<ComputeModes, ComputeModeError> {
    if !finished.status.success() {
        let words = last_words(&finished.stderr);
        return Err(match finished.status.code() {
            Some(UNAVAILABLE) => ComputeModeError::Unavailable(words),
            Some(FAILED) => ComputeModeError::Refused(words),
            _ => ComputeModeError::Failed {
                status: finished.status,
                words,
            },
        });
    }
    let answer = String::from_utf8_lossy(&finished.stdout);
    serde_json::from_str(answer.trim()).map_err(|_| {
        let begin = answer.trim().chars().take(200).collect();
        ComputeModeError::NotUnderstood(begin)
    })
}

/// The last line on standard error is why it failed.
fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    let line = line.unwrap_or_default().trim();
    line.strip_prefix("gpushare: ").unwrap_or(line).to_owned()
}

/// The file that keeps the mode before MPS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// It cannot be read, written or removed.
    #[error("the compute mode before MPS cannot be kept")]
    File(#[from] io::Error),
    /// Not a compute mode.
    #[error("{} names no compute mode: remove it, and set the mode with `nvidia-smi -c`", path.display())]
    Nonsense {
        /// The file.
        path: PathBuf,
    },
}

/// Keeps the mode that the GPU had before MPS, unless one is kept already: what a restart finds is our own doing.
pub fn keep(path: &Path, before: ComputeMode) -> io::Result<()> {
    let fresh = path.with_extension(format!("compute-mode.{}", std::process::id()));
    let written = fs_err::write(&fresh, format!("{}\n", before.as_str()));
    // A link is made whole or not at all, and never over another file.
    let linked = written.and_then(|()| fs_err::hard_link(&fresh, path));
    // A full file system takes no file, and gives it back all the same.
    let _ = fs_err::remove_file(&fresh);
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The mode that was kept; `None` where MPS has changed nothing.
pub fn kept(path: &Path) -> Result<Option<ComputeMode>, KeptError> {
    let text = match fs_err::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let nonsense = || KeptError::Nonsense {
        path: path.to_owned(),
    };
    ComputeMode::deserialize(text.trim().into_deserializer())
        .map(Some)
        .map_err(|_: ValueError| nonsense())
}

/// Why the mode could not be put back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is not known which it was.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// It is known, and could not be set. It is still kept, for another attempt.
    #[error("the GPU's compute mode was {} before MPS, and could not be restored", mode.as_str())]
    Set {
        /// The mode before.
        mode: ComputeMode,
        /// Why not.
        #[source]
        source: ComputeModeError,
    },
}

fn restore_by(
    path: &Path,
    set: impl FnOnce(ComputeMode) -> Result<ComputeModes, ComputeModeError>,
) -> Result<Option<ComputeMode>, RestoreError> {
    let Some(mode) = kept(path)? else {
        return Ok(None);
    };
    set(mode).map_err(|source| RestoreError::Set { mode, source })?;
    match fs_err::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(KeptError::File(error).into()),
        // Somebody else, who restored it as well, may have been quicker.
        _ => {}
    }
    tracing::debug!(path = %path.display(), mode = mode.as_str(), "compute mode restored");
    Ok(Some(mode))
}

impl ComputeModeError {
    /// What was said, with all causes, in one line.
    #[must_use]
    pub fn in_one_line(&self) -> String {
        chain(self).replace('\n', " ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    fn driver() -> Driver {
        Driver::new(Path::new("/lib/x"), &"GPU-1".into())
    }

    fn set(script: &str) -> Result<ComputeModes, ComputeModeError> {
        driver().set_by(
            shell(script),
            ComputeMode::ExclusiveProcess,
            Duration::from_secs(20),
        )
    }

    #[test]
    fn the_answer_tells_the_mode_before() {
        let change = set(r#"echo '{"before":"default","now":"exclusive_process"}'"#).unwrap();
        assert_eq!(change.before, ComputeMode::Default);
        assert_eq!(change.now, ComputeMode::ExclusiveProcess);
    }

    #[test]
    fn what_the_driver_refuses_is_told_in_its_words() {
        let error = set("echo noise >&2; echo 'gpushare: no GPU has this UUID' >&2; exit 69").unwrap_err();
        assert!(matches!(error, ComputeModeError::Unavailable(_)), "{error}");
        assert_eq!(error.to_string(), "no GPU has this UUID");
    }

    #[test]
    fn a_refusal_of_the_driver_is_told_from_a_gpu_that_is_not_there() {
        let error = set("echo 'gpushare: no permission to set it' >&2; exit 1").unwrap_err();
        assert!(matches!(error, ComputeModeError::Refused(_)), "{error}");
        assert_eq!(error.to_string(), "no permission to set it");
    }

    #[test]
    fn other_ends_and_answers_that_make_no_sense_are_errors() {
        let error = set("echo oops >&2; exit 3").unwrap_err().to_string();
        assert!(error.contains("exit status: 3): oops"), "{error}");
        for script in [
            "true",
            "echo well",
            "echo '{\"before\":\"default\"}'",
            "printf '\\377\\376'",
        ] {
            let error = set(script).unwrap_err();
            assert!(matches!(error, ComputeModeError::NotUnderstood(_)), "{error}");
        }
        let error = set(r#"echo '{"before":"default","now":"default"}'"#).unwrap_err();
        assert!(matches!(error, ComputeModeError::NotTaken { .. }), "{error}");
    }

    #[test]
    fn a_driver_that_hangs_is_waited_for_in_bounds() {
        let error = driver().set_by(
            shell("sleep 1000"),
            ComputeMode::Default,
            Duration::from_millis(50),
        );
        let error = error.unwrap_err();
        assert!(
            matches!(error, ComputeModeError::Call(CallError::TimedOut { .. })),
            "{error}"
        );
    }

    #[test]
    fn the_library_is_handed_on_and_no_configuration() {
        let arguments = |wished| -> Vec<String> {
            let command = driver().command(wished);
            let words = command.get_args().map(|word| word.to_str().unwrap().to_owned());
            words.collect()
        };
        let setting = arguments(Some(ComputeMode::Default));
        assert_eq!(
            setting,
            [
                "nvml",
                "--gpu",
                "GPU-1",
                "--compute-mode",
                "default",
                "--library",
                "/lib/x",
                "--log-format",
                "text"
            ]
        );
        let mut reading = setting;
        reading.remove(4);
        assert_eq!(arguments(None), reading);
    }

    #[test]
    fn the_first_mode_is_kept_and_no_later_one() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("gpushare.compute-mode");
        assert_eq!(kept(&path).unwrap(), None);
        keep(&path, ComputeMode::Default).unwrap();
        keep(&path, ComputeMode::ExclusiveProcess).unwrap();
        assert_eq!(kept(&path).unwrap(), Some(ComputeMode::Default));
        let files = fs_err::read_dir(root.path()).unwrap().count();
        assert_eq!(files, 1, "nothing is left beside it");
    }

    #[test]
    fn what_cannot_be_kept_leaves_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("gpushare.compute-mode");
        let fresh = root
            .path()
            .join(format!("gpushare.compute-mode.{}", std::process::id()));
        // Opened, and then there is no room.
        std::os::unix::fs::symlink("/dev/full", fresh).unwrap();
        let error = keep(&path, ComputeMode::Default).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs_err::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_mode_is_put_back_once_and_kept_where_that_fails() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("gpushare.compute-mode");
        keep(&path, ComputeMode::Default).unwrap();
        let refused = restore_by(&path, |_| Err(ComputeModeError::Unavailable("gone".into())));
        assert!(chain(&refused.unwrap_err()).ends_with("could not be restored: gone"));
        let set = |now| {
            Ok(ComputeModes {
                before: ComputeMode::ExclusiveProcess,
                now,
            })
        };
        assert_eq!(restore_by(&path, set).unwrap(), Some(ComputeMode::Default));
        assert_eq!(restore_by(&path, set).unwrap(), None);
    }

    #[test]
    fn a_file_that_names_no_mode_is_named() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("gpushare.compute-mode");
        for bytes in [b"".as_slice(), b"fast\n", b"\xff\xfe"] {
            fs_err::write(&path, bytes).unwrap();
            let error = kept(&path).unwrap_err().to_string();
            assert!(error.contains("gpushare.compute-mode names no"), "{error}");
        }
    }
}
