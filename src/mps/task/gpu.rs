//! One GPU as the task sees it: what was read of it, what its plan decided, what is under way.

mod calls;
mod events;
mod status;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::counts::Counts;
use super::queue::Queue;
use super::{MpsSettings, hardware};
use crate::config::MpsBackend;
use crate::gpu::{DriverState, GpuState, GpuUuid};
use crate::log;
use crate::metrics::clock::Instants;
use crate::mps::backend::{BackendError, Unit};
use crate::mps::control::Control;
use crate::mps::directories::Directories;
use crate::mps::events::file::EventReader;
use crate::mps::intruders::{Intruders, Listed, Probed};
use crate::mps::plan::{Daemon, Device, Probe, Seen, Step, Wish};
use crate::mps::protocol::{Report, Server};
use crate::mps::quit_mark;
use crate::mps::{LastStep, MpsState, Trouble, Warning};

/// How long what the backend said counts while nothing is known to have changed.
const UNIT_HOLDS: Duration = Duration::from_secs(10);

/// The same while the daemon is not running.
const UNIT_HOLDS_AWAY: Duration = Duration::from_secs(1);

/// How long a daemon's process may take to come up (`TimeoutStartSec=` of the unit). One that has said nothing by then may
/// have had no room to write it down: its probes tell.
const COMING_UP: Duration = Duration::from_mins(2);

/// Most warnings of one daemon: each is told once, and a daemon has few.
const MOST_WARNINGS: usize = 8;

/// See the module.
pub(super) struct Supervised {
    uuid: GpuUuid,
    number: Arc<str>,
    daemon: Daemon,
    /// Where the daemon's files are, and who asks it; why there can be none.
    place: Result<Place, Trouble>,
    device: Device,
    hardware: hardware::Verdict,
    unit: Option<Result<Unit, BackendError>>,
    unit_seen: Duration,
    probe: Option<Probe>,
    probe_at: Option<Duration>,
    /// Something has happened since the newest probe.
    wants_probe: bool,
    probed_at: Option<u64>,
    /// Since when a call of the control program has been under way.
    busy_since: Option<Duration>,
    /// When it was counted last as one that does not come back.
    overdue_at: Option<Duration>,
    gone_clients: BTreeSet<u32>,
    intruders: Intruders,
    outside: Vec<u32>,
    /// Since when the compute mode has been another than is wished, under the daemon that runs.
    drift_since: Option<Duration>,
    /// When the reading of the compute mode was taken that was the newest when the daemon was seen running first: what
    /// it says was before the daemon had set the mode.
    stale_modes: Option<f64>,
    modes_at: Option<f64>,
    last_words: Option<Trouble>,
    counts: Counts,
    /// Since when the backend has not been able to say how the daemon's process is.
    lost_since: Option<Duration>,
    /// Whether the daemon's process has said that it is ready; absent where the backend tells.
    has_come_up: Option<bool>,
    /// When the daemon's process has begun.
    begun_at: Duration,
    queue: Queue,
    /// What the daemon's process warned of.
    warnings: Vec<Warning>,
    state: Option<(MpsState, u64)>,
    last_step: Option<LastStep>,
}

struct Place {
    directories: Directories,
    control: Control,
    events: EventReader,
    lost_events: log::Repeated,
    missed_events: log::Repeated,
}

impl Supervised {
    /// Nothing is known of it yet.
    pub(super) fn new(settings: &MpsSettings, uuid: &GpuUuid) -> Self {
        let place = Directories::of(&settings.mps, uuid).map(|directories| Place {
            control: Control::of(&settings.mps, &directories),
            events: EventReader::new(directories.events()),
            lost_events: log::Repeated::default(),
            missed_events: log::Repeated::default(),
            directories,
        });
        Self {
            uuid: uuid.clone(),
            number: "".into(),
            daemon: Daemon::default(),
            place: place.map_err(|error| Trouble {
                why: "its directory has too long a path".into(),
                mend: error.to_string(),
            }),
            device: Device::Unknown,
            hardware: hardware::Verdict::default(),
            unit: None,
            unit_seen: Duration::ZERO,
            probe: None,
            probe_at: None,
            wants_probe: false,
            probed_at: None,
            busy_since: None,
            overdue_at: None,
            gone_clients: BTreeSet::new(),
            intruders: Intruders::default(),
            outside: Vec::new(),
            drift_since: None,
            stale_modes: None,
            modes_at: None,
            last_words: None,
            counts: Counts::default(),
            lost_since: None,
            begun_at: Duration::ZERO,
            has_come_up: (settings.mps.backend == MpsBackend::Process).then_some(true),
            queue: Queue::default(),
            warnings: Vec::new(),
            state: None,
            last_step: None,
        }
    }

    /// What the inventory says about it.
    pub(super) fn take_in(
        &mut self,
        settings: &MpsSettings,
        driver: &DriverState,
        state: &GpuState,
        now: Duration,
    ) {
        self.number = Arc::clone(&state.number);
        self.device = hardware::device(driver, state);
        let verdict = hardware::judge(settings, driver, state);
        // What is not known any more is what it was: a driver that hangs changes no hardware.
        if self.device == Device::Here {
            self.hardware = verdict;
        }
        self.modes_at = state.newest.as_ref().and_then(|newest| newest.modes_at);
        let is_other = settings.mps.exclusive_process && self.hardware.is_exclusive == Some(false);
        let counts = self.running().is_some() && self.modes_at != self.stale_modes;
        self.drift_since = (is_other && counts).then(|| self.drift_since.unwrap_or(now));
        self.look_for_intruders(state);
    }

    fn look_for_intruders(&mut self, state: &GpuState) {
        let newest = state.newest.as_ref();
        let listed = newest.and_then(|newest| {
            Some(Listed {
                processes: newest.processes.as_deref()?,
                at: newest.processes_at?,
            })
        });
        let report = report_of(self.running(), self.probe.as_ref());
        // Of a list that cannot be read, everybody would be outside.
        let whole = report.filter(|report| report.lists_all_servers);
        let probed = whole.zip(self.probed_at).map(|(report, at)| Probed {
            servers: &report.servers,
            at: at as f64,
        });
        // Who was on the GPU when the daemon answered last may have ended since.
        self.outside = match (listed, probed) {
            (Some(listed), Some(probed)) => self.intruders.observe(listed, probed),
            _ => Vec::new(),
        };
    }

    fn probe_soon(&mut self) {
        self.wants_probe = true;
    }

    /// What the backend knows of it may have changed.
    pub(super) fn look_at_unit(&mut self) {
        self.unit_seen = Duration::ZERO;
    }

    /// Whether the backend is to be asked.
    pub(super) fn unit_is_stale(&self, now: Duration) -> bool {
        let holds = match self.unit {
            Some(Ok(Unit::Running { .. })) if self.lost_since.is_none() => UNIT_HOLDS,
            _ => UNIT_HOLDS_AWAY,
        };
        self.unit.is_none() || self.unit_seen.is_zero() || now.saturating_sub(self.unit_seen) >= holds
    }

    /// What the backend said. A backend that fails says nothing about a daemon: for `grace` one that ran still runs, and
    /// its probes tell how it is.
    pub(super) fn saw_unit(&mut self, unit: Result<Unit, BackendError>, grace: Duration, now: Duration) {
        // What was written before the first look is no news, and what has ended has said why.
        self.on_beat(now);
        let unit = match unit {
            Ok(Unit::Running { .. })
                if self.has_come_up == Some(false) && now.saturating_sub(self.begun_at) < COMING_UP =>
            {
                Ok(Unit::Starting)
            }
            unit => unit,
        };
        self.unit_seen = now;
        let Err(error) = &unit else {
            self.lost_since = None;
            let before = self.running();
            self.unit = Some(unit);
            if self.running() != before {
                self.stale_modes = self.modes_at;
                self.drift_since = None;
            }
            return;
        };
        if self.lost_since.is_none() {
            tracing::warn!(gpu = %self.uuid, error = error.what, mend = error.mend, "MPS cannot be supervised");
        }
        let since = *self.lost_since.get_or_insert(now);
        if self.running().is_none() || now.saturating_sub(since) >= grace {
            self.unit = Some(unit);
        }
    }

    /// What is to be done now, and why. It counts as done.
    pub(super) fn decide(&mut self, wish: Wish, now: Instants) -> Option<(Step, String)> {
        // One call of the control program at a time: what comes of it is waited for.
        if self.busy_since.is_some() && self.running().is_some() && !self.is_overdue(now) {
            return None;
        }
        let unknown = Ok(Unit::Inactive);
        let refusal = self.hardware.refusal.as_ref().or(self.place.as_ref().err());
        let seen = Seen {
            device: if self.unit.is_some() {
                self.device
            } else {
                Device::Unknown
            },
            refusal,
            objection: self.hardware.objection.as_ref(),
            is_quit: self.is_quit(),
            unit: self.unit.as_ref().unwrap_or(&unknown),
            probe: self.probe.as_ref(),
            last_words: self.last_words.as_ref(),
            server_ends: self.counts.server_ends(),
            failed_starts: self.counts.failed_starts(),
            gone_clients: &self.gone_clients,
            has_drifted: self
                .drift_since
                .is_some_and(|since| now.monotonic.saturating_sub(since) >= hardware::READING_DELAY),
            intruders: &self.outside,
        };
        let decision = self.daemon.decide(wish, &seen, now.monotonic);
        let at = |at: Duration| {
            if self.wants_probe {
                at.min(now.monotonic)
            } else {
                at
            }
        };
        self.probe_at = decision.probe_at.map(at);
        self.turn(decision.state, now.wall.as_secs());
        decision.step
    }

    fn is_quit(&self) -> bool {
        let mark = self.place.as_ref().map(|place| place.directories.quit());
        mark.is_ok_and(|mark| quit_mark::is_set(&mark))
    }

    fn turn(&mut self, state: MpsState, wall: u64) {
        // The words may change with every look, the state has been the same since it began.
        if let Some((known, _)) = &mut self.state
            && known.as_str() == state.as_str()
        {
            *known = state;
            return;
        }
        let word = state.as_str();
        if let Some(trouble) = state.trouble() {
            tracing::warn!(gpu = %self.uuid, state = word, why = trouble.why, mend = trouble.mend, "MPS");
        } else {
            tracing::info!(gpu = %self.uuid, state = word, "MPS");
        }
        self.state = Some((state, wall));
    }

    /// A step was carried out, or was not.
    pub(super) fn did(
        &mut self,
        step: &Step,
        why: String,
        outcome: Result<(), BackendError>,
        grace: Duration,
        now: Instants,
    ) {
        let words = match outcome {
            Ok(()) => {
                // What ends from now on has its own reason, whether it can tell it or not.
                if *step == Step::Start {
                    self.last_words = None;
                }
                self.look_at_unit();
                step.words()
            }
            Err(error) => {
                tracing::warn!(gpu = %self.uuid, error = error.what, mend = error.mend, "a step of MPS has failed");
                let words = format!("{} (failed: {})", step.words(), error.what);
                self.saw_unit(Err(error), grace, now.monotonic);
                words
            }
        };
        self.last_step = Some(LastStep {
            step: words,
            why,
            at: now.wall.as_secs(),
        });
    }

    /// The daemon's process, while it runs.
    fn running(&self) -> Option<u32> {
        match self.unit {
            Some(Ok(Unit::Running { pid })) => Some(pid),
            _ => None,
        }
    }

    fn server(&self) -> Option<&Server> {
        report_of(self.running(), self.probe.as_ref())?.server()
    }
}

/// What the daemon that runs said when it was asked last; nothing where it did not answer.
fn report_of(running: Option<u32>, probe: Option<&Probe>) -> Option<&Report> {
    let probe = probe.filter(|probe| running == Some(probe.pid))?;
    probe.outcome.as_ref().ok()
}
