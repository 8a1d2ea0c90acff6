//! The GPU task: keeps an NVML child running, and turns what it and the kernel log say into events and status.
//!
//! It never waits for NVML, only for messages, so that the status is right while the driver hangs. A failed step
//! is status, not a return: the loop runs until shutdown.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::child::{Child, ChildEvent};
use super::inventory::{Inventory, Numbers};
use super::kmsg::{self, KernelLogEvent, Xid};
use super::plan::{Observed, Plan, Step};
use super::wire::{Fault, FaultKind, FromChild, Setup};
use super::{DriverState, GpuEvent, GpuState, GpuStatus, KernelLog, beat, silence_limit};
use crate::metrics::clock::{self, Instants};

/// Time that a child gets to end by itself at shutdown, before it is killed.
const FAREWELL: Duration = Duration::from_millis(300);

/// The longest the task sleeps: states are judged at least this often.
const BEAT: Duration = Duration::from_secs(1);

/// XIDs that are logged one by one per beat; a storm is counted, not copied into the journal.
const LOGGED_XIDS: u32 = 5;

/// What the task needs to know.
#[derive(Clone, Debug)]
pub struct GpuSettings {
    /// `gpu.nvml_library`.
    pub library: PathBuf,
    /// `gpu.kmsg`.
    pub kmsg: PathBuf,
    /// `sample.interval`.
    pub interval: Duration,
    /// `pods.interval`: how often process lists are read.
    pub process_interval: Duration,
    /// Where the sticky numbers are kept.
    pub numbers_file: PathBuf,
    /// Global options for the child's command line.
    pub child_arguments: Vec<String>,
}

/// Keeps the GPUs observed.
pub struct GpuTask {
    settings: GpuSettings,
    inventory: Inventory,
    plan: Plan,
    child: Option<Child>,
    abandoned: Vec<Child>,
    /// GPUs that the driver of the running child lists, and how many more it cannot open.
    listed: (usize, u32),
    status: GpuStatus,
    publish: watch::Sender<GpuStatus>,
    events: mpsc::Sender<GpuEvent>,
    xids_logged: u32,
    /// Whether it is known why the child ends: it said so, or it was killed or asked to leave.
    end_explained: bool,
    /// Children in a row that ended without a word before they had read anything.
    deaths: u32,
}

impl GpuTask {
    /// `numbers` are those of `settings.numbers_file`; the channel is bounded, and a full one makes the task
    /// wait, which makes the child wait: nothing is lost before the driver's own ring overflows.
    #[must_use]
    pub fn new(
        settings: GpuSettings,
        numbers: Numbers,
        boot_id: String,
        events: mpsc::Sender<GpuEvent>,
        publish: watch::Sender<GpuStatus>,
    ) -> Self {
        Self {
            plan: Plan::new(beat(settings.interval)),
            inventory: Inventory::new(numbers, boot_id),
            settings,
            child: None,
            abandoned: Vec::new(),
            listed: (0, 0),
            status: GpuStatus {
                enabled: true,
                driver: DriverState::Starting,
                ..GpuStatus::default()
            },
            publish,
            events,
            xids_logged: 0,
            end_explained: false,
            deaths: 0,
        }
    }

    /// Runs until shutdown, then lets the child go.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut kernel_log = self.open_kernel_log();
        let mut beat = tokio::time::interval(self.settings.interval.min(BEAT));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.advance();
            // Every branch is cancel-safe; what a branch yields is handled after the select.
            tokio::select! {
                () = shutdown.cancelled() => break,
                event = next_of(self.child.as_mut()) => self.on_child(event).await,
                Some(event) = next_of_log(kernel_log.as_mut()) => self.on_kernel_log(event).await,
                _ = beat.tick() => self.on_beat(),
            }
        }
        self.farewell().await;
    }

    /// Takes the steps that are due.
    fn advance(&mut self) {
        loop {
            let observed = Observed {
                listed: self.listed.0,
                incomplete: self.may_enumerate_more(),
                abandoned: self.status.child.abandoned,
            };
            match self.plan.step(observed, clock::monotonic_now()) {
                Step::Wait(_) => return,
                Step::Start => self.start(),
                Step::Recycle => {
                    tracing::debug!("looking for missing GPUs with a new NVML process");
                    self.end_explained = true;
                    self.child.iter_mut().for_each(Child::close);
                }
                Step::Kill => self.kill(),
                Step::Abandon => self.abandon(),
            }
        }
    }

    /// Whether enumerating afresh may bring back a GPU. Not while another one hangs: a new child would have to get
    /// through init with it, and might take the healthy ones along.
    fn may_enumerate_more(&self) -> bool {
        let none_hangs = !self.status.gpus.iter().any(GpuState::is_stuck);
        none_hangs && (self.listed.1 > 0 || self.inventory.incomplete())
    }

    fn start(&mut self) {
        let setup = Setup {
            library: self.settings.library.clone(),
            interval: self.settings.interval,
            process_interval: self.settings.process_interval,
            seen: self.inventory.seen(),
        };
        match Child::start(&setup, &self.settings.child_arguments) {
            Ok(child) => {
                self.status.child.starts += 1;
                self.status.child.pid = child.pid();
                self.child = Some(child);
                self.end_explained = false;
            }
            Err(error) => {
                let fault = Fault {
                    kind: FaultKind::ChildDied,
                    detail: crate::log::chain(&error),
                };
                self.unavailable(fault);
                self.plan.gone(clock::monotonic_now());
            }
        }
    }

    fn kill(&mut self) {
        tracing::warn!(
            pid = self.status.child.pid,
            "NVML does not answer: killing its process"
        );
        self.status.child.killed += 1;
        self.end_explained = true;
        self.set_driver(DriverState::Stuck);
        self.inventory.driver_stuck(clock::wall_now());
        if let Some(child) = &mut self.child {
            child.close();
            child.kill();
        }
    }

    fn abandon(&mut self) {
        tracing::error!(
            pid = self.status.child.pid,
            "the NVML process survives SIGKILL: it is stuck in the driver; going on without it"
        );
        self.abandoned.extend(self.child.take());
        self.status.child.pid = None;
        self.count_abandoned();
    }

    fn count_abandoned(&mut self) {
        self.abandoned.retain_mut(Child::exists);
        self.status.child.abandoned = u32::try_from(self.abandoned.len()).unwrap_or(u32::MAX);
    }

    async fn on_child(&mut self, event: ChildEvent) {
        match event {
            ChildEvent::Said(FromChild::Read(reading)) => {
                let now = Instants::now();
                self.deaths = 0;
                self.plan.heard(now.monotonic);
                if let Some(sample) = self.inventory.read(&reading, now.wall, now.monotonic) {
                    self.emit(GpuEvent::Sampled(sample)).await;
                }
                return;
            }
            ChildEvent::Said(FromChild::Ready(driver)) => self.on_ready(driver),
            ChildEvent::Said(FromChild::Unavailable(fault)) => {
                self.plan.leaving(clock::monotonic_now());
                self.end_explained = true;
                self.unavailable(fault);
            }
            ChildEvent::Silenced(error) => {
                if let Some(error) = error {
                    tracing::warn!(%error, "the NVML process sends what cannot be understood");
                }
                self.plan.leaving(clock::monotonic_now());
            }
            ChildEvent::Gone(status) => self.on_gone(status),
        }
        self.publish_status();
    }

    fn on_ready(&mut self, driver: super::wire::Driver) {
        let now = Instants::now();
        self.plan.ready(now.monotonic);
        self.listed = (driver.gpus.len(), driver.unreadable);
        if let Some(numbers) = self.inventory.driver_ready(&driver, now.wall, now.monotonic) {
            keep_numbers(self.settings.numbers_file.clone(), numbers.clone());
        }
        self.set_driver(DriverState::Ready {
            driver_version: driver.driver_version,
            cuda_version: driver.cuda_version,
            unreadable: driver.unreadable,
        });
    }

    fn on_gone(&mut self, status: std::io::Result<std::process::ExitStatus>) {
        self.child = None;
        self.status.child.pid = None;
        self.listed = (0, 0);
        self.plan.gone(clock::monotonic_now());
        if !self.end_explained {
            let detail = match status {
                Ok(status) => format!("it ended with {status}"),
                Err(error) => error.to_string(),
            };
            self.deaths += 1;
            if self.deaths == 1 && self.status.driver.is_ready() {
                // The driver need not be the culprit; if it is, the next child will tell, or its silence.
                tracing::warn!(detail, "the NVML process died; starting another");
                return;
            }
            self.unavailable(Fault {
                kind: FaultKind::ChildDied,
                detail,
            });
        }
    }

    fn unavailable(&mut self, fault: Fault) {
        self.inventory.driver_unavailable(clock::wall_now());
        self.set_driver(DriverState::Unavailable { fault });
    }

    /// Sets the driver's state, and logs it when it is another one than before.
    fn set_driver(&mut self, driver: DriverState) {
        if self.status.driver == driver {
            return;
        }
        match &driver {
            DriverState::Ready {
                driver_version,
                unreadable,
                ..
            } => {
                tracing::info!(driver = %driver_version, gpus = self.listed.0, "NVML is ready");
                if *unreadable > 0 {
                    tracing::warn!(gpus = *unreadable, "the driver counts GPUs that cannot be opened");
                }
            }
            DriverState::Unavailable { fault } => {
                tracing::warn!(error = %fault, mend = fault.mend(), "no GPU can be read; trying again for ever");
            }
            DriverState::Stuck => tracing::error!("the NVIDIA driver does not answer"),
            DriverState::Off | DriverState::Starting => {}
        }
        self.status.driver = driver;
    }

    fn on_beat(&mut self) {
        let now = Instants::now();
        self.xids_logged = 0;
        self.count_abandoned();
        if self.status.driver.is_ready() {
            let limit = silence_limit(self.settings.interval);
            self.inventory.mark_silent(limit, now.wall, now.monotonic);
        } else if self.plan.init_is_stuck(now.monotonic) {
            self.set_driver(DriverState::Stuck);
            self.inventory.driver_stuck(now.wall);
        }
        self.publish_status();
    }

    fn open_kernel_log(&mut self) -> Option<mpsc::Receiver<KernelLogEvent>> {
        match kmsg::watch(self.settings.kmsg.clone()) {
            Ok(events) => Some(events),
            Err(error) => {
                self.status.kernel_log = KernelLog::Unreadable {
                    reason: error.to_string(),
                };
                None
            }
        }
    }

    async fn on_kernel_log(&mut self, event: KernelLogEvent) {
        match event {
            KernelLogEvent::Opened => self.set_kernel_log(KernelLog::Reading),
            KernelLogEvent::Failed(error) => self.set_kernel_log(KernelLog::Unreadable {
                reason: error.to_string(),
            }),
            KernelLogEvent::Xid(xid) => self.on_xid(&xid).await,
        }
    }

    fn set_kernel_log(&mut self, state: KernelLog) {
        if self.status.kernel_log == state {
            return;
        }
        if let KernelLog::Unreadable { reason } = &state {
            tracing::warn!(
                error = reason,
                "the kernel log cannot be read: gpu_xid_errors is absent until it can"
            );
        }
        self.status.kernel_log = state;
        // At once: from now on XIDs count, or are absent.
        self.publish_status();
    }

    async fn on_xid(&mut self, xid: &Xid) {
        let now = Instants::now();
        let number = self.inventory.xid(&xid.pci, xid.xid, now.wall, now.monotonic);
        self.xids_logged += 1;
        if self.xids_logged <= LOGGED_XIDS {
            tracing::warn!(xid = xid.xid, gpu = number.as_deref(), pci = %xid.pci, pid = xid.pid, "XID");
        }
        if let Some(number) = number {
            self.emit(GpuEvent::XidSeen(number)).await;
        }
    }

    async fn emit(&self, event: GpuEvent) {
        // The receiver ends before this task only at shutdown, and then nobody wants the event.
        let _ = self.events.send(event).await;
    }

    fn publish_status(&mut self) {
        let gpus = self.inventory.states();
        log_changes(&self.status.gpus, &gpus);
        self.status.gpus = gpus;
        self.publish.send_replace(self.status.clone());
    }

    async fn farewell(&mut self) {
        let Some(child) = &mut self.child else { return };
        child.close();
        // One that is stuck is killed when it is dropped.
        let _ = tokio::time::timeout(FAREWELL, child.event()).await;
    }
}

/// What the child does next; never, while there is none.
async fn next_of(child: Option<&mut Child>) -> ChildEvent {
    match child {
        Some(child) => child.event().await,
        None => std::future::pending().await,
    }
}

async fn next_of_log(log: Option<&mut mpsc::Receiver<KernelLogEvent>>) -> Option<KernelLogEvent> {
    match log {
        Some(log) => log.recv().await,
        None => None,
    }
}

/// One line per GPU whose health has changed.
fn log_changes(before: &[GpuState], now: &[GpuState]) {
    for gpu in now {
        let known = before.iter().find(|known| known.info.uuid == gpu.info.uuid);
        let before = known.map_or(&[][..], |known| &known.health.reasons);
        if before == gpu.health.reasons {
            continue;
        }
        let reasons: Vec<String> = gpu.health.reasons.iter().map(ToString::to_string).collect();
        if reasons.is_empty() {
            tracing::info!(gpu = %gpu.number, uuid = %gpu.info.uuid, "GPU is healthy again");
        } else {
            tracing::warn!(gpu = %gpu.number, uuid = %gpu.info.uuid, reasons = reasons.join("; "), "GPU is unhealthy");
        }
    }
}

/// Reads the sticky numbers. A file that is missing or makes no sense means that no GPU has a number yet.
#[must_use]
pub fn read_numbers(path: &Path) -> Numbers {
    let text = match fs_err::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(%error, "GPU numbers cannot be read; numbering starts afresh");
            }
            return Numbers::default();
        }
    };
    serde_json::from_str(&text).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "GPU numbers make no sense; numbering starts afresh");
        Numbers::default()
    })
}

/// Writes the sticky numbers, whole or not at all, off the runtime's thread.
fn keep_numbers(path: PathBuf, numbers: Numbers) {
    tokio::task::spawn_blocking(move || {
        let text = serde_json::to_string_pretty(&numbers).expect("a map of numbers is valid JSON");
        let written = replace_file(&path, text.as_bytes());
        if let Err(error) = written {
            tracing::warn!(%error, "GPU numbers cannot be kept; after a reboot without one GPU they may move");
        }
    });
}

/// Replaces a file as a whole, also over a loss of power: contents first, then the name, then the directory.
fn replace_file(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let fresh = path.with_extension("json.new");
    let mut file = fs_err::File::create(&fresh)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs_err::rename(&fresh, path)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs_err::File::open(directory)?.sync_all()
}
