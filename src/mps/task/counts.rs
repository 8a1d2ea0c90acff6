//! What is counted of the events of one GPU's daemon. Pure.

use crate::mps::events::Event;
use crate::mps::plan::ServerEnds;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Counts {
    server_ends: ServerEnds,
    failed_starts: u64,
    /// Whether the newest start is still neither ready nor known to have failed.
    is_coming_up: bool,
    /// Whether the newest thing to happen to a server was its end.
    has_just_ended: bool,
    /// Whether what was before the agent is through.
    has_begun: bool,
}

impl Counts {
    /// An event; of the start of a server, whether it is for another user than the one before.
    pub(super) fn on_event(&mut self, event: &Event, is_for_another: bool) {
        match event {
            // One that made room for another user's has not crashed.
            Event::ServerStarting { .. } => {
                let makes_room = std::mem::take(&mut self.has_just_ended) && is_for_another;
                self.server_ends.yielded += u64::from(makes_room);
            }
            Event::ServerExited { .. } | Event::ServerNotStarted { .. } => {
                self.server_ends.ended += 1;
                self.has_just_ended = true;
            }
            Event::Begun { .. } => {
                // One that was killed has told of no end.
                self.has_failed();
                self.is_coming_up = true;
            }
            Event::DaemonStarted { .. } => self.is_coming_up = true,
            Event::NotStarted(_) => self.has_failed(),
            Event::DaemonEnded(ended) if ended.trouble.is_some() => self.has_failed(),
            // Without a trouble it was told to end.
            Event::DaemonReady { .. } | Event::DaemonEnded(_) => self.is_coming_up = false,
            _ => {}
        }
    }

    fn has_failed(&mut self) {
        self.failed_starts += u64::from(std::mem::take(&mut self.is_coming_up));
    }

    /// The events that were there are through: what was before the agent is none of its account.
    pub(super) fn begin(&mut self) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.failed_starts = 0;
        }
    }

    /// By the log of the daemon, whose past the plan leaves out by itself.
    pub(super) fn server_ends(&self) -> ServerEnds {
        self.server_ends
    }

    /// Starts that did not get as far as a daemon that is ready, since the agent started.
    pub(super) fn failed_starts(&self) -> u64 {
        self.failed_starts
    }
}
