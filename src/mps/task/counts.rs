//! What is counted of the events of one GPU's daemon. Pure.

use crate::mps::events::Event;
use crate::mps::plan::ServerEnds;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Counts {
    server_ends: ServerEnds,
    failed_starts: u64,
    /// Whether the newest daemon has been ready.
    was_ready: bool,
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
            Event::DaemonStarted { .. } => self.was_ready = false,
            Event::DaemonReady { .. } => self.was_ready = true,
            Event::DaemonEnded(ended) => {
                let was_ready = std::mem::take(&mut self.was_ready);
                self.failed_starts += u64::from(!was_ready && ended.trouble.is_some());
            }
            _ => {}
        }
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

    /// Daemons that ended before they were ready, since the agent started.
    pub(super) fn failed_starts(&self) -> u64 {
        self.failed_starts
    }
}
