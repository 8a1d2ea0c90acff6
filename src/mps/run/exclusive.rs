//! The compute mode of the GPU while MPS runs on it: one process only, so that nothing goes past MPS.

use std::path::PathBuf;

use super::RunError;
use super::journal::Journal;
use crate::gpu::ComputeMode;
use crate::log::chain;
use crate::mps::compute_mode::{self, ComputeModeError, Driver};
use crate::mps::{Trouble, Warning};

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

impl Exclusive {
    /// Keeps everything but MPS away from the GPU, or lets it be as it was before. An error means that there is no
    /// such GPU, or no driver; everything else is a warning. Blocks as long as NVML may take.
    pub(super) fn apply(&self) -> Result<(), RunError> {
        if !self.wished {
            if let Err(error) = self.driver.restore(&self.kept) {
                self.warn(&chain(&error));
            }
            return Ok(());
        }
        match self.take() {
            Ok(()) => {}
            Err(ComputeModeError::Unavailable(words)) => return Err(RunError::Unavailable(trouble(&words))),
            Err(error) => self.warn(&error.in_one_line()),
        }
        Ok(())
    }

    /// The mode before is kept first: whatever ends this process in between, it is known what to put back.
    fn take(&self) -> Result<(), ComputeModeError> {
        let kept = match compute_mode::kept(&self.kept) {
            Ok(None) => {
                let before = self.driver.read()?;
                compute_mode::keep(&self.kept, before)
            }
            Ok(Some(_)) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = kept {
            self.journal.warn(Warning {
                what: format!("{}: it will not be restored when MPS ends", chain(&error)),
                mend: "mend the file system of mps.dir; after the end of MPS set the mode with nvidia-smi -c"
                    .into(),
            });
        }
        self.driver.set(ComputeMode::ExclusiveProcess).map(drop)
    }

    /// As [`apply`](Self::apply), for a daemon that runs already: nothing stops it.
    pub(super) fn apply_again(&self) {
        if let Err(error) = self.apply() {
            self.warn(&error.trouble().why);
        }
    }

    fn warn(&self, words: &str) {
        let (what, mend) = words
            .split_once(MEND)
            .unwrap_or((words, "nvidia-smi -c EXCLUSIVE_PROCESS"));
        self.journal.warn(Warning {
            what: format!("{what}: programs may use the GPU past MPS, without any limit"),
            mend: format!("{mend}; or mps.exclusive_process = false"),
        });
    }
}

fn trouble(words: &str) -> Trouble {
    let (why, mend) = words
        .split_once(MEND)
        .unwrap_or((words, "look at nvidia-smi -L and at dmesg"));
    Trouble {
        why: why.to_owned(),
        mend: format!("nothing, if the driver is being loaded: it is tried again; else {mend}"),
    }
}
