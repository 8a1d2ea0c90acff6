//! Which ends of servers were crashes, and which starts were restarts. Pure.
//!
//! Ends are told by the daemon's log, into which every pod can write. So an end counts only where the probes agree: the
//! server that the one before listed is not in the newest, or there was none. A server whose end no line tells of (it was
//! lost, or comes a moment later) has ended all the same when the probes say so.

use std::collections::VecDeque;
use std::time::Duration;

use crate::mps::plan::seen::ServerEnds;

/// So many ends of servers within [`LOOP_WINDOW`] are a crash loop: the next one would crash too.
const LOOP_ENDS: usize = 3;

/// See [`LOOP_ENDS`].
const LOOP_WINDOW: Duration = Duration::from_mins(1);

/// What is remembered of the ends of one daemon's servers.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    /// The server of the newest report.
    listed: Option<u32>,
    /// The server that was listed last.
    last: Option<u32>,
    /// Servers that came after another one, but for another user's.
    restarts: u64,
    /// The newest totals; absent before the first report.
    told: Option<ServerEnds>,
    /// Ends that the probes saw and no line has told of yet.
    untold: u64,
    /// The next server is another user's.
    makes_room: bool,
    crashes: VecDeque<Duration>,
    /// An end that was ordered and is no crash.
    ordered: Option<Duration>,
}

impl Ends {
    pub(super) fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Another daemon: its servers are others.
    pub(super) fn forget(&mut self) {
        *self = Self {
            restarts: self.restarts,
            ..Self::default()
        };
    }

    /// The server is told to end.
    pub(super) fn order(&mut self, now: Duration) {
        self.ordered = Some(now);
    }

    /// A new report, with the server that it lists.
    pub(super) fn note(&mut self, listed: Option<u32>, told: ServerEnds, now: Duration) {
        let news = self
            .told
            .replace(told)
            .map_or(ServerEnds::default(), |before| told.since(before));
        let before = std::mem::replace(&mut self.listed, listed);
        let has_left = before.is_some() && before != listed;
        let known = self.untold.min(news.ended);
        self.untold -= known;
        let new = news.ended - known;
        self.untold += u64::from(has_left && new == 0);
        let stays = before.is_some() && !has_left;
        let ends = if stays { 0 } else { new.max(u64::from(has_left)) };
        self.makes_room |= news.yielded > 0;
        self.count(ends, news.yielded, now);
        if let Some(server) = listed
            && self.last.replace(server).is_some_and(|last| last != server)
            && !std::mem::take(&mut self.makes_room)
        {
            self.restarts += 1;
        }
    }

    /// Takes what was ordered, and what made room for another user, out of the ends; the line that tells of the room may
    /// come after the end.
    fn count(&mut self, mut ends: u64, yielded: u64, now: Duration) {
        if ends > 0 && self.ordered.take().is_some_and(|at| now <= at + LOOP_WINDOW) {
            ends -= 1;
        }
        for _ in ends..yielded {
            self.crashes.pop_back();
        }
        let crashes = usize::try_from(ends.saturating_sub(yielded)).unwrap_or(LOOP_ENDS);
        self.crashes
            .extend(std::iter::repeat_n(now, crashes.min(LOOP_ENDS)));
        self.crashes.retain(|at| now.saturating_sub(*at) <= LOOP_WINDOW);
    }

    /// How many servers have crashed in a minute, where the next one would crash too.
    pub(super) fn crash_loop(&self) -> Option<usize> {
        (self.crashes.len() >= LOOP_ENDS).then_some(self.crashes.len())
    }
}
