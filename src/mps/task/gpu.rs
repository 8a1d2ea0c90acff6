//! One GPU as the task sees it: what was read of it, what its plan decided, what is under way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::job::{self, Done, Outcome};
use super::queue::Queue;
use super::{MpsSettings, hardware};
use crate::config::MpsBackend;
use crate::gpu::{DriverState, GpuState, GpuUuid};
use crate::log;
use crate::metrics::clock::{self, Instants};
use crate::mps::backend::{BackendError, Unit};
use crate::mps::control::Control;
use crate::mps::directories::Directories;
use crate::mps::events::Event;
use crate::mps::events::file::EventReader;
use crate::mps::intruders::{Intruders, Listed, Probed};
use crate::mps::plan::{Daemon, Device, Probe, Seen, Step, Unanswered, Wish};
use crate::mps::protocol::{Report, Server};
use crate::mps::{LastStep, MpsGpu, MpsState, Trouble, Warning};

/// How long what the backend said counts while nothing is known to have changed.
const UNIT_HOLDS: Duration = Duration::from_secs(10);

/// The same while the daemon is not running.
const UNIT_HOLDS_AWAY: Duration = Duration::from_secs(1);

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
    /// Whether a call of the control program is under way.
    is_busy: bool,
    gone_clients: BTreeSet<u32>,
    intruders: Intruders,
    outside: Vec<u32>,
    /// Since when the compute mode has been another than is wished.
    drift_since: Option<Duration>,
    last_words: Option<Trouble>,
    servers_ended: u64,
    /// Whether the newest thing to happen to a server was its end.
    has_just_ended: bool,
    /// Since when the backend has not been able to say how the daemon's process is.
    lost_since: Option<Duration>,
    /// Whether the daemon's process has said that it is ready; absent where the backend tells.
    has_come_up: Option<bool>,
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
}

impl Supervised {
    /// Nothing is known of it yet.
    pub(super) fn new(settings: &MpsSettings, uuid: &GpuUuid) -> Self {
        let place = Directories::of(&settings.mps, uuid).map(|directories| Place {
            control: Control::of(&settings.mps, &directories),
            events: EventReader::new(directories.events()),
            lost_events: log::Repeated::default(),
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
            is_busy: false,
            gone_clients: BTreeSet::new(),
            intruders: Intruders::default(),
            outside: Vec::new(),
            drift_since: None,
            last_words: None,
            servers_ended: 0,
            has_just_ended: false,
            lost_since: None,
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
        let is_other = settings.mps.exclusive_process && self.hardware.is_exclusive == Some(false);
        self.drift_since = is_other.then(|| self.drift_since.unwrap_or(now));
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
        let report = report_of(self.probe.as_ref());
        let probed = report.zip(self.probed_at).map(|(report, at)| Probed {
            servers: &report.servers,
            at: at as f64,
        });
        if let (Some(listed), Some(probed)) = (listed, probed) {
            self.outside = self.intruders.observe(listed, probed);
        }
    }

    /// Once a second: what the daemon's process wrote down since.
    pub(super) fn on_beat(&mut self, now: Duration) {
        let Ok(place) = &mut self.place else {
            return;
        };
        match place.events.read() {
            Ok(news) => {
                place.lost_events = log::Repeated::default();
                let wall = clock::wall_now();
                for record in &news.records {
                    let age = wall.saturating_sub(Duration::from_millis(record.at_ms));
                    self.on_event(&record.event, now.saturating_sub(age));
                }
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
        match event {
            Event::ServerStarting { .. } => {
                // One that made room for another user's has not crashed.
                if std::mem::take(&mut self.has_just_ended) && is_for_another {
                    self.servers_ended -= 1;
                }
            }
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
            Event::ServerExited { .. } | Event::ServerNotStarted { .. } => {
                self.servers_ended += 1;
                self.has_just_ended = true;
                self.probe_soon();
            }
            Event::ServerFault | Event::ServerReady { .. } => self.probe_soon(),
            Event::DaemonLeaves { .. }
            | Event::ServerForcedOut { .. }
            | Event::ClientQueued { .. }
            | Event::MemoryLimited { .. } => {}
        }
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
            Ok(Unit::Running { .. }) if self.has_come_up == Some(false) => Ok(Unit::Starting),
            unit => unit,
        };
        self.unit_seen = now;
        let Err(error) = &unit else {
            self.lost_since = None;
            self.unit = Some(unit);
            return;
        };
        if self.lost_since.is_none() {
            tracing::warn!(gpu = %self.uuid, error = error.what, mend = error.mend, "MPS cannot be supervised");
        }
        let since = *self.lost_since.get_or_insert(now);
        let ran = matches!(self.unit, Some(Ok(Unit::Running { .. })));
        if !ran || now.saturating_sub(since) >= grace {
            self.unit = Some(unit);
        }
    }

    /// What is to be done now, and why. It counts as done.
    pub(super) fn decide(&mut self, wish: Wish, now: Instants) -> Option<(Step, String)> {
        // One call of the control program at a time: what comes of it is waited for.
        if self.is_busy && matches!(self.unit, Some(Ok(Unit::Running { .. }))) {
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
            servers_ended: self.servers_ended,
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
        let marker = self.place.as_ref().map(|place| place.directories.quit());
        marker.is_ok_and(|marker| marker.exists())
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

    /// When the daemon is to be probed next, if it can be probed now.
    pub(super) fn probe_due(&self) -> Option<Duration> {
        self.probe_at.filter(|_| !self.is_busy)
    }

    /// Probes it if that is due.
    pub(super) fn probe_if_due(&mut self, jobs: &mut JoinSet<Done>, now: Duration) {
        let Some(Ok(Unit::Running { pid })) = self.unit else {
            return;
        };
        let is_due = self.probe_due().is_some_and(|at| at <= now);
        if let (true, Ok(place)) = (is_due, &self.place) {
            self.is_busy = true;
            self.wants_probe = false;
            let known = self.server().map(|server| server.pid);
            job::probe(jobs, self.uuid.clone(), place.control.clone(), pid, known);
        }
    }

    /// Lets the control program carry a step out.
    pub(super) fn order(&mut self, jobs: &mut JoinSet<Done>, step: &Step) {
        if let Ok(place) = &self.place {
            self.is_busy = true;
            job::order(jobs, self.uuid.clone(), place.control.clone(), step);
        }
    }

    /// A call of the control program has ended.
    pub(super) fn on_done(&mut self, done: Done, now: Instants) {
        self.is_busy = false;
        match done.outcome {
            Outcome::Probed {
                pid,
                report,
                gone_clients,
            } => self.on_probe(pid, report, gone_clients, now),
            Outcome::Ordered(Ok(())) => self.probe_soon(),
            Outcome::Ordered(Err(error)) => {
                tracing::warn!(gpu = %self.uuid, error, "the MPS control daemon was not told");
                self.probe_soon();
            }
        }
    }

    fn on_probe(
        &mut self,
        pid: u32,
        outcome: Result<Report, Unanswered>,
        gone_clients: BTreeSet<u32>,
        now: Instants,
    ) {
        if let Ok(report) = &outcome {
            self.probed_at = Some(now.wall.as_secs());
            self.queue.on_report(report, job::is_gone);
            self.gone_clients = gone_clients;
        } else {
            // Who has not answered may have a process that is not there any more.
            self.look_at_unit();
        }
        self.probe = Some(Probe {
            number: self.probe.as_ref().map_or(1, |probe| probe.number + 1),
            pid,
            at: now.monotonic,
            outcome,
        });
    }

    /// Its job came to nothing.
    pub(super) fn forget_job(&mut self) {
        self.is_busy = false;
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

    fn server(&self) -> Option<&Server> {
        report_of(self.probe.as_ref())?.servers.first()
    }

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
    pub(super) fn status(&self, now: Duration) -> Option<MpsGpu> {
        let (state, since) = self.state.clone()?;
        let pid = match self.unit {
            Some(Ok(Unit::Running { pid })) => Some(pid),
            _ => None,
        };
        let mut warnings = self.warnings.clone();
        warnings.extend(self.hardware.small_slices.clone());
        warnings.extend(self.queue.warning(now));
        warnings.extend(self.outsiders());
        warnings.extend(self.is_full());
        Some(MpsGpu {
            number: Arc::clone(&self.number),
            uuid: self.uuid.clone(),
            state,
            since,
            last_step: self.last_step.clone(),
            pid,
            server: pid.and_then(|_| self.server().cloned()),
            client_limit: self.hardware.client_limit,
            smallest_useful_slices: self.hardware.smallest_useful_slices,
            restarts: self.daemon.restarts(),
            probed_at: self.probed_at,
            warnings,
        })
    }
}

fn report_of(probe: Option<&Probe>) -> Option<&Report> {
    probe?.outcome.as_ref().ok()
}
