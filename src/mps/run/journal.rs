//! The file of events, shared by the threads of `gpushare mps run`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    standing: BTreeMap<About, Warning>,
}

/// What can become right again while the daemon runs. There is at most one warning of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum About {
    /// The directory that captures containers.
    Captor,
    /// The compute mode.
    ComputeMode,
    /// The configuration.
    Configuration,
    /// What pods see.
    View,
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
            standing: BTreeMap::new(),
        })))
    }

    /// Writes an event.
    pub(super) fn write(&self, event: Event) {
        let mut shared = self.shared();
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

    /// How something is now: what is new is warned of, and what was warned of before is over.
    pub(super) fn settle(&self, about: About, now: Option<Warning>) {
        let before = self.shared().standing.remove(&about);
        if let Some(warning) = &now {
            self.shared().standing.insert(about, warning.clone());
        }
        if before == now {
            return;
        }
        if let Some(Warning { what, .. }) = before {
            self.write(Event::Over { what });
        }
        if let Some(warning) = now {
            self.warn(warning);
        }
    }

    /// Whether something is warned of.
    pub(super) fn is_warned_of(&self, about: About) -> bool {
        self.shared().standing.contains_key(&about)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
