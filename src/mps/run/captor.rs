//! The directory that captures every GPU container, as long as it is there.

use std::path::Path;
use std::time::Duration;

use super::journal::{About, Journal};
use crate::mps::Warning;

/// Where a control daemon without `CUDA_MPS_PIPE_DIRECTORY` has its pipes.
pub(crate) const DEFAULT_PIPE_DIR: &str = "/tmp/nvidia-mps";

/// How often it is looked for: whoever makes it does so by hand.
pub(super) const INTERVAL: Duration = Duration::from_mins(1);

/// Looks for it, and tells when it has come or gone.
///
/// Here and not in the agent, which has a `/tmp` of its own.
pub(super) fn look(default_pipe_dir: &Path, journal: &Journal) {
    journal.settle(About::Captor, capturing(default_pipe_dir));
}

/// The warning of it, where it is there.
pub(crate) fn capturing(default_pipe_dir: &Path) -> Option<Warning> {
    fs_err::symlink_metadata(default_pipe_dir).ok()?;
    let path = default_pipe_dir.display();
    Some(Warning {
        what: format!(
            "{path} exists: NVIDIA's container runtime mounts it into every GPU container, and an MPS daemon there takes \
             containers that did not ask for it"
        ),
        mend: format!(
            "stop the MPS daemon that was started without CUDA_MPS_PIPE_DIRECTORY, then: rm -r {path}"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mps::events::Event;
    use crate::mps::events::file::EventReader;

    #[test]
    fn m19_the_default_pipe_directory_is_warned_of() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("nvidia-mps");
        assert_eq!(capturing(&path), None);
        fs_err::create_dir(&path).unwrap();
        let warning = capturing(&path).unwrap();
        assert!(warning.what.contains("every GPU container"), "{warning:?}");
        assert!(warning.mend.contains("rm -r"), "{warning:?}");
    }

    #[test]
    fn m19_it_is_told_once_when_it_comes_and_once_when_it_goes() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("nvidia-mps");
        let file = root.path().join("events");
        let journal = Journal::open(&file);
        look(&path, &journal);
        fs_err::create_dir(&path).unwrap();
        look(&path, &journal);
        look(&path, &journal);
        fs_err::remove_dir(&path).unwrap();
        look(&path, &journal);
        look(&path, &journal);
        let records = EventReader::new(file).read().unwrap().records;
        let events: Vec<Event> = records.into_iter().map(|record| record.event).collect();
        let [Event::Warned(warning), Event::Over { what }] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!(warning.what, *what);
    }
}
