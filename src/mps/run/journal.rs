//! The file of events, shared by the threads of `gpushare mps run`.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::log::{Repeated, chain};
use crate::mps::Warning;
use crate::mps::events::Event;
use crate::mps::events::file::EventLog;

/// Writes events. Clones write into the same file.
///
/// A file that cannot be written is logged and stops nothing: the daemon matters more than what is told of it.
#[derive(Clone)]
pub(super) struct Journal(Arc<Mutex<Shared>>);

struct Shared {
    log: Option<EventLog>,
    failing: Repeated,
}

impl Journal {
    /// Opens the file.
    pub(super) fn open(path: &Path) -> Self {
        let log = EventLog::open(path);
        if let Err(error) = &log {
            tracing::warn!(error = %chain(error), "the agent will not hear what happens to this MPS daemon");
        }
        Self(Arc::new(Mutex::new(Shared {
            log: log.ok(),
            failing: Repeated::default(),
        })))
    }

    /// Writes an event.
    pub(super) fn write(&self, event: Event) {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Err(error)) = shared.log.as_mut().map(|log| log.append(event)) else {
            return;
        };
        if shared.failing.is_due() {
            tracing::warn!(error = %chain(&error), "an event of this MPS daemon cannot be written for the agent");
        }
    }

    /// Logs a warning, and writes it.
    pub(super) fn warn(&self, warning: Warning) {
        tracing::warn!(what = %warning.what, mend = %warning.mend, "MPS is not as it should be");
        self.write(Event::Warned(warning));
    }
}
