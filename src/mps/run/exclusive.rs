//! The compute mode of the GPU while MPS runs on it: one process only, so that nothing goes past MPS.

use std::io;
use std::path::{Path, PathBuf};

use super::RunError;
use super::journal::{About, Journal};
use crate::gpu::ComputeMode;
use crate::log::chain;
use crate::mps::compute_mode::{self, ComputeModeError, Driver, KeptError};
use crate::mps::{Trouble, Warning, directories};

/// What comes before the mend in what the process that sets the mode says.
const MEND: &str = "; mend: ";

/// What it takes to set the mode.
pub(super) struct Exclusive {
    pub(super) driver: Driver,
    /// `mps.exclusive_process`.
    pub(super) wished: bool,
    /// The file that keeps the mode before MPS.
    pub(super) kept: PathBuf,
    pub(super) journal: Journal,
}

/// Why the mode is not as it is wished.
enum Failed {
    /// The mode before would be lost.
    Keep(io::Error),
    /// The driver does not do it.
    Driver(ComputeModeError),
}

impl Exclusive {
    /// Keeps everything but MPS away from the GPU, or lets it be as it was before. An error means that there is no
    /// such GPU, no driver, or no room to keep the mode before; everything else is a warning. Blocks as long as NVML may
    /// take.
    pub(super) fn apply(&self) -> Result<(), RunError> {
        let warning = if self.wished {
            match self.take() {
                Ok(warning) => warning,
                Err(Failed::Keep(error)) => return Err(RunError::Unavailable(unkept(&self.kept, &error))),
                Err(Failed::Driver(ComputeModeError::Unavailable(words))) => {
                    return Err(RunError::Unavailable(unavailable(&words)));
                }
                Err(Failed::Driver(error)) => Some(open_to_others(&error.in_one_line())),
            }
        } else {
            // Also where no mode is wished, MPS wants a GPU that is there and has no MIG.
            if let Err(ComputeModeError::Unavailable(words)) = self.driver.read() {
                return Err(RunError::Unavailable(unavailable(&words)));
            }
            self.give_back()
        };
        self.journal.settle(About::ComputeMode, warning);
        Ok(())
    }

    /// As [`apply`](Self::apply), for a daemon that runs already: nothing stops it.
    pub(super) fn apply_again(&self) {
        let warning = if self.wished {
            match self.take() {
                Ok(warning) => warning,
                Err(Failed::Keep(error)) => {
                    let Trouble { why, mend } = unkept(&self.kept, &error);
                    Some(Warning { what: why, mend })
                }
                Err(Failed::Driver(error)) => Some(open_to_others(&error.in_one_line())),
            }
        } else {
            self.give_back()
        };
        self.journal.settle(About::ComputeMode, warning);
    }

    /// The mode before is kept first: whatever ends this process in between, it is known what to put back.
    fn take(&self) -> Result<Option<Warning>, Failed> {
        let warning = match compute_mode::kept(&self.kept) {
            Ok(Some(_)) => None,
            Ok(None) => {
                let before = self.driver.read().map_err(Failed::Driver)?;
                compute_mode::keep(&self.kept, before).map_err(Failed::Keep)?;
                None
            }
            // Nothing is lost that is not lost already.
            Err(error @ KeptError::Nonsense { .. }) => Some(Warning {
                what: format!("the compute mode before MPS is lost: {}", chain(&error)),
                mend: "after the end of MPS set the mode with nvidia-smi -c".into(),
            }),
            Err(KeptError::File(error)) => return Err(Failed::Keep(error)),
        };
        let set = self.driver.set(ComputeMode::ExclusiveProcess);
        set.map(|_| warning).map_err(Failed::Driver)
    }

    fn give_back(&self) -> Option<Warning> {
        let error = self.driver.restore(&self.kept).err()?;
        let words = chain(&error);
        let (what, mend) = words.split_once(MEND).unwrap_or((
            &words,
            "set the mode with nvidia-smi -c; a restart of this daemon tries it again",
        ));
        Some(Warning {
            what: format!("{what}: programs that do not use MPS may be refused"),
            mend: mend.to_owned(),
        })
    }
}

/// Where `EXCLUSIVE_PROCESS` is wished.
fn open_to_others(words: &str) -> Warning {
    let (what, mend) = words
        .split_once(MEND)
        .unwrap_or((words, "nvidia-smi -c EXCLUSIVE_PROCESS"));
    Warning {
        what: format!("{what}: programs may use the GPU past MPS, without any limit"),
        mend: format!("{mend}; or mps.exclusive_process = false"),
    }
}

fn unavailable(words: &str) -> Trouble {
    let (why, mend) = words
        .split_once(MEND)
        .unwrap_or((words, "look at nvidia-smi -L and at dmesg"));
    Trouble {
        why: why.to_owned(),
        mend: format!("nothing, if the driver is being loaded: it is tried again; else {mend}"),
    }
}

/// Without that file nobody could put the mode back.
fn unkept(path: &Path, error: &io::Error) -> Trouble {
    let directory = path.parent().unwrap_or(path);
    Trouble {
        why: format!("the compute mode before MPS cannot be kept: {}", chain(error)),
        mend: format!(
            "{}; it is tried again by itself",
            directories::mend(directory, error)
        ),
    }
}
