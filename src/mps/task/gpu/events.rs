//! What the daemon's process wrote down, taken in.

use std::time::Duration;

use super::{MOST_WARNINGS, Supervised};
use crate::log;
use crate::metrics::clock;
use crate::mps::events::Event;

impl Supervised {
    /// Once a second: what the daemon's process wrote down since.
    pub(in crate::mps::task) fn on_beat(&mut self, now: Duration) {
        let Ok(place) = &mut self.place else {
            return;
        };
        match place.events.read() {
            Ok(news) => {
                place.lost_events = log::Repeated::default();
                if (news.missed || news.skipped > 0) && place.missed_events.is_due() {
                    let skipped = news.skipped;
                    tracing::warn!(gpu = %self.uuid, skipped, "not all that MPS said since the last look can be read");
                }
                let wall = clock::wall_now();
                for record in &news.records {
                    let age = wall.saturating_sub(Duration::from_millis(record.at_ms));
                    self.on_event(&record.event, now.saturating_sub(age));
                }
                self.counts.begin();
            }
            Err(error) => {
                if place.lost_events.is_due() {
                    tracing::warn!(gpu = %self.uuid, error = log::chain(&error), "what MPS says cannot be read");
                }
            }
        }
    }

    fn on_event(&mut self, event: &Event, now: Duration) {
        let is_for_another = self.queue.is_for_another_user(event);
        self.queue.on_event(event, now);
        self.counts.on_event(event, is_for_another);
        match event {
            Event::NotStarted(trouble) => {
                self.last_words = Some(trouble.clone());
                self.look_at_unit();
            }
            Event::DaemonEnded(ended) => {
                // The end of what was never ready has its reason already.
                if ended.trouble.is_some() {
                    self.last_words.clone_from(&ended.trouble);
                }
                self.look_at_unit();
            }
            // Not with its daemon: it has warned of what it found before that.
            Event::Begun { .. } => {
                self.warnings.clear();
                self.has_come_up = self.has_come_up.map(|_| false);
                self.begun_at = now;
            }
            Event::DaemonStarted { .. } => self.look_at_unit(),
            Event::DaemonReady { .. } => {
                self.has_come_up = self.has_come_up.map(|_| true);
                self.look_at_unit();
                self.last_words = None;
                self.probe_soon();
            }
            Event::Warned(warning) => {
                if self.warnings.len() < MOST_WARNINGS && !self.warnings.contains(warning) {
                    self.warnings.push(warning.clone());
                }
            }
            Event::Over { what } => self.warnings.retain(|warning| warning.what != *what),
            Event::ServerExited { .. }
            | Event::ServerNotStarted { .. }
            | Event::ServerFault
            | Event::ServerReady { .. } => self.probe_soon(),
            Event::DaemonLeaves { .. }
            | Event::ServerStarting { .. }
            | Event::ServerForcedOut { .. }
            | Event::ClientQueued { .. } => {}
        }
    }
}
