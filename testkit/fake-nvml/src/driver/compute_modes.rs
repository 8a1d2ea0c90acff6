//! The compute modes that somebody has set, for every process that plays the same scenario.
//!
//! A driver keeps the mode of a GPU, not the process that sets it, so it stands in a file: one line per change,
//! `unix_us epoch uuid mode`, each one append, so that processes that set at the same time lose nothing of each other.
//! The last line of a GPU counts, unless its driver was loaded afresh since: in another epoch, or after a
//! `[[driver_gone]]`.

use std::io::{self, Write as _};
use std::path::PathBuf;

use fs_err::OpenOptions;

use super::source::{EPOCH_MS, SCENARIO};
use crate::answers::Moment;

/// The environment variable that names the file.
const STATE: &str = "FAKE_NVML_STATE";

/// What stands for an epoch that is the scenario's modification time: another scenario is not another driver.
const NO_EPOCH: &str = "-";

/// The mode that was set on a GPU, as far as it still holds.
pub(super) fn read(uuid: &str, moment: &Moment<'_>) -> io::Result<Option<u32>> {
    let text = match fs_err::read_to_string(path()?) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    Ok(last(&text, uuid, &epoch(), moment))
}

/// Sets the mode of a GPU.
pub(super) fn write(uuid: &str, mode: u32, now_us: u64) -> io::Result<()> {
    let line = format!("{now_us} {} {uuid} {mode}\n", epoch());
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path()?)?
        .write_all(line.as_bytes())
}

fn path() -> io::Result<PathBuf> {
    if let Some(path) = std::env::var_os(STATE) {
        return Ok(path.into());
    }
    let mut path = std::env::var_os(SCENARIO)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{SCENARIO} is not set")))?;
    path.push(".state");
    Ok(path.into())
}

fn epoch() -> String {
    std::env::var(EPOCH_MS).unwrap_or_else(|_| NO_EPOCH.to_owned())
}

fn last(text: &str, uuid: &str, epoch: &str, moment: &Moment<'_>) -> Option<u32> {
    let (set_us, mode) = text.lines().rev().find_map(|line| change(line, uuid, epoch))?;
    let reloaded = moment.scenario.driver_gone.iter().any(|gone| {
        let at_us = moment.epoch_us.saturating_add(gone.at_ms.saturating_mul(1000));
        set_us < at_us && at_us <= moment.now_us
    });
    (!reloaded).then_some(mode)
}

/// When a line was written, and the mode, if it is about this GPU in this epoch.
fn change(line: &str, uuid: &str, epoch: &str) -> Option<(u64, u32)> {
    let mut words = line.split(' ');
    let set_us = words.next()?.parse().ok()?;
    let is_meant = words.next()? == epoch && words.next()? == uuid;
    let mode = words.next()?.parse().ok()?;
    is_meant.then_some((set_us, mode))
}

#[cfg(test)]
mod tests {
    use super::last;
    use crate::answers::Moment;
    use crate::scenario::Scenario;

    const CHANGES: &str =
        "1000 - GPU-1 3\n2000 - GPU-2 2\n3000 - GPU-1 0\n4000 77 GPU-1 2\ngarbage\n5000 - GPU-1";

    fn mode(uuid: &str, epoch: &str, now_us: u64, scenario: &str) -> Option<u32> {
        let scenario = Scenario::parse(scenario).expect("valid");
        let moment = Moment {
            scenario: &scenario,
            epoch_us: 0,
            now_us,
        };
        last(CHANGES, uuid, epoch, &moment)
    }

    #[test]
    fn last_whole_line_of_a_gpu_in_the_epoch_counts() {
        assert_eq!(mode("GPU-1", "-", 9000, ""), Some(0));
        assert_eq!(mode("GPU-2", "-", 9000, ""), Some(2));
        assert_eq!(mode("GPU-1", "77", 9000, ""), Some(2));
        assert_eq!(mode("GPU-2", "77", 9000, ""), None);
        assert_eq!(mode("GPU-3", "-", 9000, ""), None);
    }

    #[test]
    fn driver_that_is_loaded_afresh_has_forgotten_it() {
        let gone = "[[driver_gone]]\nat_ms = 4\nclears_ms = 6\n";
        assert_eq!(mode("GPU-1", "-", 3999, gone), Some(0), "not yet");
        assert_eq!(mode("GPU-1", "-", 9000, gone), None);
        let before = "[[driver_gone]]\nat_ms = 1\nclears_ms = 2\n";
        assert_eq!(mode("GPU-1", "-", 9000, before), Some(0));
    }
}
