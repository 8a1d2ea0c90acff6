//! What is told where something is wrong.

use super::RunError;
use crate::log::chain;
use crate::mps::control::ControlError;
use crate::mps::{Trouble, Warning};

/// Something is missing that an operator, or time, has to bring.
pub(super) fn unavailable(error: &dyn std::error::Error, mend: String) -> RunError {
    RunError::Unavailable(Trouble {
        why: chain(error),
        mend,
    })
}

/// Nobody was asked but the program itself: it is no daemon that hangs.
pub(super) fn no_version(error: ControlError) -> RunError {
    match error {
        ControlError::Wedged { after } => RunError::Unavailable(Trouble {
            why: format!(
                "NVIDIA's MPS control program has not told its version within {} s",
                after.as_secs()
            ),
            mend: "look at dmesg and at the load of the node: the program hangs; it is tried again by itself"
                .into(),
        }),
        error => unavailable(&error, error.mend()),
    }
}

pub(super) fn stuck(daemon: u32) -> RunError {
    RunError::Failed(Trouble {
        why: format!("the MPS control daemon, process {daemon}, survives SIGKILL: it is stuck in the driver"),
        mend: "look at dmesg, reboot the node".into(),
    })
}

pub(super) fn no_server_program() -> Warning {
    Warning {
        what:
            "nvidia-cuda-mps-server is neither beside the control daemon nor in PATH: no client can be served"
                .into(),
        mend: "install the driver's MPS programs anew (package nvidia-driver-cuda on Amazon Linux 2023)"
            .into(),
    }
}

pub(super) fn no_multi_user() -> Warning {
    Warning {
        what: "this driver's MPS serves one user at a time: a second user's processes wait for the first one's to end".into(),
        mend: "update the driver to 580 or later, or run all pods that use GPUs as one user".into(),
    }
}
