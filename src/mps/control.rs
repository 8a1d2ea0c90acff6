//! Calls NVIDIA's control program: one process per question, never longer than a limit. Blocking.
//!
//! Its return code is 0 for every error that the daemon answers, so that only "no daemon" shows in it: whether
//! something was done is read back. The program is looked up at every call, because a driver may be installed or
//! mounted while the node runs.

mod cut_off;
mod lookup;

use std::io;
use std::path::PathBuf;
use std::process::Command as Program;
use std::time::{Duration, Instant};

use rustix::io::Errno;

pub use lookup::{SERVER, resolve, server_beside};

use super::call::{Abandoned, CallError, Finished, call};
use super::directories::Directories;
use super::protocol::{Answer, Command, Reading, Report, Script, Version, WHOLE_GPU_PERCENTAGE};
use crate::config;

/// How long the daemon may take to answer. A healthy one takes 3 ms, 9 at most (measured with 580).
pub const LIMIT: Duration = Duration::from_secs(3);

/// Bytes of the program's words that are shown.
const SHOWN_BYTES: usize = 300;

/// Why the control program cannot be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BinaryProblem {
    /// There is no such file, or none in `PATH`.
    Missing,
    /// It is a directory.
    Directory,
    /// It is no program, or nobody may execute it.
    NotExecutable,
    /// The system refuses to start it.
    Refused(String),
}

/// A question to the daemon came to nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ControlError {
    /// There is no daemon in the directory.
    #[error("no MPS control daemon runs in {}", pipe_dir.display())]
    NotRunning {
        /// Its directory.
        pipe_dir: PathBuf,
    },
    /// The daemon does not answer: it is stopped, its log is not read, or it waits for clients to end.
    #[error("the MPS control daemon has not answered within {} ms", after.as_millis())]
    Wedged {
        /// The limit.
        after: Duration,
    },
    /// The control program cannot be started.
    #[error("the MPS control program {} {}", path.display(), problem.words())]
    Binary {
        /// Which.
        path: PathBuf,
        /// Why not.
        problem: BinaryProblem,
    },
    /// The control program failed in another way.
    #[error("the MPS control program {}", failed(*code, words))]
    Failed {
        /// Its exit code, unless a signal ended it.
        code: Option<i32>,
        /// What it said.
        words: String,
    },
    /// The daemon says that it does not do what it was told.
    #[error("the MPS control daemon refuses `{command}`: {words}")]
    Refused {
        /// What it was told.
        command: String,
        /// Its words.
        words: String,
    },
    /// A setting reads back differently. Invalid values are ignored without a word.
    #[error("the MPS control daemon was given {setting} = {wished}, and reads back {found}")]
    NotTaken {
        /// Which setting.
        setting: &'static str,
        /// What it was given.
        wished: String,
        /// What it has.
        found: String,
    },
    /// The node has no room for another process.
    #[error("the MPS control program cannot be started for now: {why}")]
    NoRoom {
        /// The system's words.
        why: String,
    },
    /// Control programs hang in the kernel.
    #[error("{count} processes of the MPS control program survive SIGKILL, so no other is started")]
    Unkillable {
        /// How many.
        count: u32,
    },
}

impl BinaryProblem {
    fn words(&self) -> String {
        match self {
            Self::Missing => "does not exist".to_owned(),
            Self::Directory => "is a directory".to_owned(),
            Self::NotExecutable => "is not executable".to_owned(),
            Self::Refused(why) => format!("cannot be started: {why}"),
        }
    }
}

fn failed(code: Option<i32>, words: &str) -> String {
    let end = code.map_or_else(
        || "was ended by a signal".to_owned(),
        |code| format!("ended with code {code}"),
    );
    match words {
        "" => format!("{end} and said nothing"),
        words => format!("{end}: {words}"),
    }
}

impl ControlError {
    /// What an operator does about it.
    #[must_use]
    pub fn mend(&self) -> String {
        match self {
            Self::NotRunning { .. } => "the agent starts it; why it has not: gpushare status".to_owned(),
            Self::Wedged { .. } => {
                "it is restarted by `gpushare mps restart GPU --force`, which ends its clients".to_owned()
            }
            Self::Binary { .. } => {
                "install the driver's MPS programs (package nvidia-driver-cuda on Amazon Linux \
                 2023), or set mps.control_binary to nvidia-cuda-mps-control"
                    .to_owned()
            }
            Self::Failed { .. } => {
                "check that mps.control_binary is NVIDIA's nvidia-cuda-mps-control".to_owned()
            }
            Self::Refused { .. } => "run as root, which alone may give this order".to_owned(),
            Self::NotTaken { .. } => "restart the daemon: gpushare mps restart GPU".to_owned(),
            Self::NoRoom { .. } => {
                "free memory and processes on the node, or raise the limits of gpushare.service (TasksMax, \
                                    LimitNOFILE, LimitNPROC); it is tried again by itself"
                    .to_owned()
            }
            Self::Unkillable { .. } => "the driver hangs: look at dmesg, reboot the node".to_owned(),
        }
    }
}

/// The control program, and the directory of the daemon that it talks to. Clones count abandoned processes together.
#[derive(Clone, Debug)]
pub struct Control {
    binary: PathBuf,
    pipe_dir: PathBuf,
    abandoned: Abandoned,
}

impl Control {
    /// `binary` is a path, or a bare name that is looked up in `PATH`.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>, pipe_dir: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            pipe_dir: pipe_dir.into(),
            abandoned: Abandoned::default(),
        }
    }

    /// The one that talks to a GPU's daemon.
    #[must_use]
    pub fn of(mps: &config::Mps, directories: &Directories) -> Self {
        Self::new(&mps.control_binary, &directories.daemon)
    }

    /// Processes of the program that survive SIGKILL and still exist.
    #[must_use]
    pub fn abandoned(&self) -> u32 {
        self.abandoned.count()
    }

    /// Everything that a probe can see. One process; a second one only where the daemon lists a server other than
    /// `known_server`, the one that the probe before has seen. `limit` is for both together.
    pub fn probe(&self, known_server: Option<u32>, limit: Duration) -> Result<Report, ControlError> {
        let deadline = Instant::now() + limit;
        let mut reading = Reading::default();
        let script = Script::probe(known_server);
        reading.hear(&script, &self.ask(&script, limit)?);
        let unasked = reading.unasked();
        if !unasked.is_empty() {
            let script = Script::servers(&unasked);
            let left = deadline.saturating_duration_since(Instant::now());
            reading.hear(&script, &self.ask(&script, left)?);
        }
        Ok(reading.report())
    }

    /// Puts the commands of a script to the daemon, in one process.
    pub fn ask(&self, script: &Script, limit: Duration) -> Result<Vec<Answer>, ControlError> {
        let is_whole = |finished: &Finished| script.is_answered(&finished.stdout);
        let (finished, _) = self.converse(&script.text(), limit, is_whole)?;
        if !finished.status.success() {
            return Err(self.failure(&finished));
        }
        if finished.stdout.is_empty() {
            // A separator at least is answered by every daemon.
            return Err(failure_of(&finished));
        }
        Ok(script.answers(&finished.stdout))
    }

    /// Gives an order. That it is not refused proves nothing: what it was to change is read back by a probe.
    pub fn order(&self, command: Command, limit: Duration) -> Result<(), ControlError> {
        let words = command.to_string();
        let answers = self.ask(&Script(vec![command]), limit)?;
        match answers.iter().find_map(Answer::refusal) {
            // 595 says so where it is there already, which is what was wanted.
            Some(refusal) if !refusal.contains("already exists") => Err(ControlError::Refused {
                command: words,
                words: refusal,
            }),
            _ => Ok(()),
        }
    }

    /// Sets the defaults that limit nobody, and reads them back. Running clients keep what they have.
    pub fn restore_defaults(&self, limit: Duration) -> Result<(), ControlError> {
        let script = Script(vec![
            Command::SetDefaultThreadPercentage(WHOLE_GPU_PERCENTAGE),
            Command::ClearDefaultMemoryLimit,
            Command::DefaultThreadPercentage,
            Command::DefaultMemoryLimit,
        ]);
        let answers = self.ask(&script, limit)?;
        if let Some(words) = answers[..2].iter().find_map(Answer::refusal) {
            return Err(ControlError::Refused {
                command: script.0[0].to_string(),
                words,
            });
        }
        let mut reading = Reading::default();
        reading.hear(&script, &answers);
        taken(&reading.report())
    }

    /// Ends the daemon and its servers: clients are waited for as long as `grace`. Returns when it has ended.
    pub fn quit(&self, grace: Duration, limit: Duration) -> Result<(), ControlError> {
        let order = format!("{}\n", Command::Quit { grace });
        // A daemon that leaves says nothing.
        let (finished, was_silent) = self.converse(&order, limit, |_| true)?;
        if !finished.status.success() {
            let error = self.failure(&finished);
            return match error {
                ControlError::NotRunning { .. } if was_silent => Ok(()),
                error => Err(error),
            };
        }
        let words = String::from_utf8_lossy(&finished.stdout);
        let refusal = Answer::Lines(words.lines().map(str::to_owned).collect()).refusal();
        refusal.map_or(Ok(()), |words| {
            Err(ControlError::Refused {
                command: order.trim_end().to_owned(),
                words,
            })
        })
    }

    /// The version of the program, without any daemon.
    pub fn version(&self, limit: Duration) -> Result<Version, ControlError> {
        let finished = self.run(&["-v"], "", limit)?;
        Ok(Version::read(&finished.stdout))
    }

    /// Talks to the daemon until it is not cut off. Also returns whether an attempt before the last ended without a
    /// word: the daemon may have heard it.
    fn converse(
        &self,
        input: &str,
        limit: Duration,
        is_whole: impl Fn(&Finished) -> bool,
    ) -> Result<(Finished, bool), ControlError> {
        let deadline = Instant::now() + limit;
        let (mut left, mut was_silent) = (limit, false);
        for pause in cut_off::PAUSES {
            let finished = self.run(&[], input, left)?;
            if !cut_off::was_cut_off(&finished, is_whole(&finished)) {
                return Ok((finished, was_silent));
            }
            was_silent |= cut_off::is_silent(&finished);
            std::thread::sleep(pause);
            left = deadline.saturating_duration_since(Instant::now());
        }
        Ok((self.run(&[], input, left)?, was_silent))
    }

    fn run(&self, arguments: &[&str], input: &str, limit: Duration) -> Result<Finished, ControlError> {
        let binary = resolve(&self.binary)?;
        let mut program = Program::new(&binary);
        program.args(arguments);
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_cuda(name)) {
            program.env_remove(name);
        }
        program
            .env("CUDA_MPS_PIPE_DIRECTORY", &self.pipe_dir)
            .env("CUDA_MPS_PROTOCOL_VERSION", "2")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC");
        call(program, input.as_bytes(), limit, &self.abandoned).map_err(|error| of_call(error, binary))
    }

    fn failure(&self, finished: &Finished) -> ControlError {
        let error = failure_of(finished);
        match &error {
            // A daemon that dies while it is asked makes the program end so without a word (550).
            ControlError::Failed { code: Some(1), words } if words.is_empty() || is_absence(words) => {
                ControlError::NotRunning {
                    pipe_dir: self.pipe_dir.clone(),
                }
            }
            _ => error,
        }
    }
}

fn is_absence(words: &str) -> bool {
    words.contains("Cannot find MPS control daemon")
}

/// Variables that change what the program does, or whom it talks to.
fn is_of_cuda(name: &std::ffi::OsStr) -> bool {
    name.to_string_lossy().starts_with("CUDA_")
}

fn failure_of(finished: &Finished) -> ControlError {
    let said = [&finished.stderr[..], &finished.stdout[..]].concat();
    let said = String::from_utf8_lossy(&said[..said.len().min(SHOWN_BYTES)]);
    let words: Vec<&str> = said.split_whitespace().collect();
    ControlError::Failed {
        code: finished.status.code(),
        words: words
            .join(" ")
            .replace(|character: char| character.is_control(), "\u{fffd}"),
    }
}

fn of_call(error: CallError, path: PathBuf) -> ControlError {
    match error {
        CallError::TimedOut { after } => ControlError::Wedged { after },
        CallError::Unkillable(count) => ControlError::Unkillable { count },
        CallError::Flooded => ControlError::Failed {
            code: None,
            words: error.to_string(),
        },
        CallError::Watch(source) => no_room(&source),
        CallError::Spawn(source) if is_for_want_of_room(&source) => no_room(&source),
        CallError::Spawn(source) => ControlError::Binary {
            path,
            problem: BinaryProblem::Refused(source.to_string()),
        },
    }
}

fn no_room(source: &io::Error) -> ControlError {
    ControlError::NoRoom {
        why: source.to_string(),
    }
}

/// What fork and pipe fail with on a node that is full; any other error is the program's own.
fn is_for_want_of_room(error: &io::Error) -> bool {
    let full = [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE];
    Errno::from_io_error(error).is_some_and(|errno| full.contains(&errno))
}

fn taken(report: &Report) -> Result<(), ControlError> {
    let found = report.default_thread_percentage;
    if found != Some(WHOLE_GPU_PERCENTAGE) {
        return Err(ControlError::NotTaken {
            setting: "default_active_thread_percentage",
            wished: WHOLE_GPU_PERCENTAGE.to_string(),
            found: found.map_or_else(
                || "nothing that makes sense".to_owned(),
                |found| found.to_string(),
            ),
        });
    }
    match report.default_memory_limit.as_deref() {
        Some("") => Ok(()),
        found => Err(ControlError::NotTaken {
            setting: "default_device_pinned_mem_limit",
            wished: "none".to_owned(),
            found: found.unwrap_or("nothing that makes sense").to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests;
