//! What the end of the daemon means. Pure.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::drain::Heard;
use super::{EXEC_FAILED, RunError};
use crate::gpu::GpuUuid;
use crate::mps::Trouble;
use crate::mps::events::DaemonEnded;

/// `CUDA_ERROR_NO_DEVICE`, without a word (580 and later).
const NO_DEVICE: i32 = 100;

/// There is no libcuda, without a word (580 and later).
const NO_LIBCUDA: i32 = 244;

/// Whether the end was wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// We were told to end.
    Yes,
    /// Nobody told us, and the daemon had been ready.
    No,
    /// Nobody told us, and the daemon had not been ready yet.
    NotReady,
}

/// Judges how the daemon ended. The error is what `gpushare mps run` ends with.
pub(super) fn of(status: ExitStatus, wanted: Wanted, heard: &Heard, gpu: &GpuUuid) -> Result<(), RunError> {
    // It was told to leave by somebody else, such as `gpushare mps quit`; its exit code then says nothing.
    if wanted == Wanted::Yes || heard.leaves {
        return Ok(());
    }
    match status.code() {
        Some(0) if wanted == Wanted::No => Ok(()),
        Some(NO_DEVICE) => Err(RunError::Unavailable(Trouble {
            why: format!("the MPS control daemon finds no device for {gpu} (exit code 100): the driver is not up, or the GPU is gone"),
            mend: "nothing, if the driver is being loaded: it is tried again; else look at nvidia-smi -L and at dmesg".into(),
        })),
        Some(NO_LIBCUDA) => Err(RunError::Unavailable(Trouble {
            why: "the MPS control daemon finds no libcuda.so.1 (exit code 244)".into(),
            mend: "install the driver's CUDA library (package nvidia-driver-cuda-libs on Amazon Linux 2023): it is tried again".into(),
        })),
        Some(code) if code == i32::from(EXEC_FAILED) => Err(RunError::Unavailable(Trouble {
            why: format!("the MPS control daemon cannot be executed{}", said(heard)),
            mend: "check that mps.control_binary is NVIDIA's nvidia-cuda-mps-control, built for this processor".into(),
        })),
        _ => Err(RunError::Failed(Trouble {
            why: format!("the MPS control daemon ended, {}{}", in_words(status), said(heard)),
            mend: "nothing, if it comes back: it is started again; CUDA programs that used it have to be, too".into(),
        })),
    }
}

/// The event about it.
pub(super) fn event(status: ExitStatus, verdict: &Result<(), RunError>) -> DaemonEnded {
    DaemonEnded {
        code: status.code(),
        signal: status.signal(),
        trouble: verdict.as_ref().err().map(RunError::trouble),
    }
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn said(heard: &Heard) -> String {
    if heard.last_words.is_empty() {
        return String::new();
    }
    let words: Vec<&str> = heard.last_words.iter().map(String::as_str).collect();
    format!("; it said: {}", words.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: i32, wanted: Wanted, heard: &Heard) -> (u8, String) {
        let verdict = of(ExitStatus::from_raw(status), wanted, heard, &"GPU-a".into());
        match verdict {
            Ok(()) => (0, String::new()),
            Err(error) => (error.exit_code(), error.to_string()),
        }
    }

    const fn code(code: i32) -> i32 {
        code << 8
    }

    #[test]
    fn m07_no_device_and_no_libcuda_are_unavailable_with_the_reason() {
        for wanted in [Wanted::No, Wanted::NotReady] {
            let (exit, text) = ended(code(100), wanted, &Heard::default());
            assert_eq!(exit, 69);
            assert!(
                text.contains("no device for GPU-a") && text.contains("nvidia-smi -L"),
                "{text}"
            );
            let (exit, text) = ended(code(244), wanted, &Heard::default());
            assert_eq!(exit, 69);
            assert!(
                text.contains("libcuda.so.1") && text.contains("install"),
                "{text}"
            );
        }
    }

    #[test]
    fn other_ends_are_failures_with_its_last_words() {
        let heard = Heard {
            last_words: ["first".to_owned(), "second".to_owned()].into(),
            ..Heard::default()
        };
        let (exit, text) = ended(code(1), Wanted::NotReady, &heard);
        assert_eq!(exit, 1);
        assert!(text.contains("exit code 1; it said: first | second"), "{text}");
        let (exit, text) = ended(9, Wanted::No, &Heard::default());
        assert_eq!(exit, 1);
        assert!(text.contains("killed by signal 9;"), "{text}");
        // What never answered is no daemon, whatever its exit code says.
        assert_eq!(ended(code(0), Wanted::NotReady, &Heard::default()).0, 1);
        assert_eq!(
            ended(code(i32::from(EXEC_FAILED)), Wanted::NotReady, &heard).0,
            69
        );
    }

    #[test]
    fn m04_a_daemon_that_was_told_to_leave_has_not_failed() {
        let leaves = Heard {
            leaves: true,
            ..Heard::default()
        };
        // Its exit code is 1 where an earlier server had failed (measured with 550).
        assert_eq!(ended(code(1), Wanted::No, &leaves).0, 0);
        assert_eq!(ended(code(0), Wanted::No, &Heard::default()).0, 0);
        for status in [code(0), code(1), 9] {
            assert_eq!(ended(status, Wanted::Yes, &Heard::default()).0, 0);
        }
    }
}
