//! One GPU as the status shows it.

use std::sync::Arc;
use std::time::Duration;

use super::Supervised;
use crate::mps::{MpsGpu, Warning};

impl Supervised {
    fn outsiders(&self) -> Option<Warning> {
        let pids: Vec<String> = self.outside.iter().map(u32::to_string).collect();
        (!pids.is_empty()).then(|| Warning {
            what: format!(
                "GPU {} is used past MPS by process {}",
                self.number,
                pids.join(", ")
            ),
            mend: "no slice limits it: give it slices, or end it".into(),
        })
    }

    fn is_full(&self) -> Option<Warning> {
        let clients = self.server()?.clients.as_ref()?.len();
        let limit = self.hardware.client_limit?;
        (clients >= usize::try_from(limit).unwrap_or(usize::MAX)).then(|| Warning {
            what: format!("GPU {} has {clients} MPS clients and takes no more", self.number),
            mend: "start fewer CUDA processes on it".into(),
        })
    }

    /// What the status shows; nothing before it was looked at.
    pub(in crate::mps::task) fn status(&self, now: Duration) -> Option<MpsGpu> {
        let (state, since) = self.state.clone()?;
        let mut warnings = self.warnings.clone();
        warnings.extend(self.hardware.small_slices.clone());
        warnings.extend(self.queue.warning(now));
        warnings.extend(self.outsiders());
        warnings.extend(self.is_full());
        warnings.extend(self.daemon.warning());
        let control = self.place.as_ref().map(|place| &place.control);
        warnings.extend(control.ok().and_then(|control| unkillable(control.abandoned())));
        Some(MpsGpu {
            number: Arc::clone(&self.number),
            uuid: self.uuid.clone(),
            state,
            since,
            last_step: self.last_step.clone(),
            pid: self.running(),
            server: self.server().cloned(),
            client_limit: self.hardware.client_limit,
            smallest_useful_slices: self.hardware.smallest_useful_slices,
            restarts: self.daemon.restarts(),
            probed_at: self.probed_at,
            warnings,
        })
    }
}

fn unkillable(count: u32) -> Option<Warning> {
    (count > 0).then(|| Warning {
        what: format!("{count} processes of the MPS control program survive SIGKILL"),
        mend: "the driver hangs: look at dmesg, reboot the node".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m05_processes_that_survive_sigkill_are_a_warning_while_there_are_some() {
        let warning = unkillable(2).unwrap();
        assert!(warning.what.starts_with("2 processes"), "{warning:?}");
        assert_eq!(unkillable(0), None);
    }
}
