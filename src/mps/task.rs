//! The MPS task: brings every GPU under its own control daemon and keeps it there.
//!
//! A reconciler: it looks (inventory, processes, probes, events), lets [`super::plan`] decide, does one step a GPU and
//! says so in the status. A step that fails is status, not a return; the loop looks again. It ends with the agent and
//! leaves every daemon as it is.
//!
//! Nothing that may block runs on the runtime: the control program is called by `job`, one at a time for a GPU.

mod counts;
mod gpu;
pub(crate) mod hardware;
mod job;
mod queue;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::gpu::Supervised;
use self::job::Done;
use super::backend::{Backend, BackendError, Unit};
use super::directories::{self, Directories};
use super::plan::{Step, Wish};
use super::{MpsGpu, MpsStatus};
use crate::config;
use crate::gpu::{GpuStatus, GpuUuid};
use crate::log;
use crate::metrics::clock::{self, Instants};

/// How often the inventory and the events are looked at.
const BEAT: Duration = Duration::from_secs(1);

/// How often daemons that nobody wishes are looked for.
const SWEEP: Duration = Duration::from_mins(1);

/// What the task needs to know.
#[derive(Clone, Debug)]
pub struct MpsSettings {
    /// The section.
    pub mps: config::Mps,
    /// `gpu.enabled`: without it there is nobody to say which GPUs there are.
    pub gpu_enabled: bool,
    /// `slices.per_gpu`, if slices are offered.
    pub slices: Option<u32>,
}

impl MpsSettings {
    fn wish(&self) -> Wish {
        Wish {
            probe_interval: self.mps.probe_interval,
            grace: self.mps.grace,
            exclusive: self.mps.exclusive_process,
        }
    }

    fn is_on(&self) -> bool {
        self.mps.enabled && self.gpu_enabled
    }
}

/// Keeps MPS running.
pub struct MpsTask<B> {
    settings: MpsSettings,
    backend: B,
    inventory: watch::Receiver<GpuStatus>,
    publish: watch::Sender<MpsStatus>,
    gpus: BTreeMap<GpuUuid, Supervised>,
    /// At most one for a GPU.
    jobs: JoinSet<Done>,
    /// When daemons that nobody wishes are looked for next.
    sweep_at: Duration,
    /// GPUs whose compute mode is being put back, and when that is tried again.
    put_back: BTreeMap<GpuUuid, Duration>,
    lost_backend: log::Repeated,
}

impl<B: Backend> MpsTask<B> {
    /// Nothing is done before it runs.
    #[must_use]
    pub fn new(
        settings: MpsSettings,
        backend: B,
        inventory: watch::Receiver<GpuStatus>,
        publish: watch::Sender<MpsStatus>,
    ) -> Self {
        publish.send_replace(MpsStatus {
            enabled: settings.is_on(),
            backend: settings.mps.backend.as_str().to_owned(),
            ..MpsStatus::default()
        });
        Self {
            settings,
            backend,
            inventory,
            publish,
            gpus: BTreeMap::new(),
            jobs: JoinSet::new(),
            sweep_at: Duration::ZERO,
            put_back: BTreeMap::new(),
            lost_backend: log::Repeated::default(),
        }
    }

    /// Runs until shutdown, and leaves every daemon as it is.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // A step that is cut off by the shutdown was either ordered or not: the next agent looks.
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.reconcile() => {}
            }
            let probe = self.next_probe();
            // Every branch is cancel-safe; what a branch yields is handled after the select.
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.backend.changed() => self.gpus.values_mut().for_each(Supervised::look_at_unit),
                Some(done) = self.jobs.join_next() => self.on_done(done),
                _ = beat.tick() => self.on_beat(),
                () = due(probe), if probe.is_some() => {}
            }
        }
    }

    fn next_probe(&self) -> Option<Instant> {
        let now = clock::monotonic_now();
        let due = self.gpus.values().filter_map(Supervised::probe_due).min()?;
        Some(Instant::now() + due.saturating_sub(now))
    }

    fn on_beat(&mut self) {
        let now = clock::monotonic_now();
        for gpu in self.gpus.values_mut() {
            gpu.on_beat(now);
        }
    }

    fn on_done(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(done) => {
                if let Some(gpu) = self.gpus.get_mut(&done.gpu) {
                    gpu.on_done(done, Instants::now());
                }
            }
            // A job neither panics nor is it cancelled, but for the runtime's end.
            Err(error) => {
                tracing::error!(%error, "a call of the MPS control program came to nothing: a bug, please report it");
                self.gpus.values_mut().for_each(Supervised::forget_job);
            }
        }
    }

    async fn reconcile(&mut self) {
        if !self.settings.is_on() {
            self.sweep(|_| false).await;
            self.put_modes_back().await;
            return;
        }
        self.take_inventory();
        let uuids: Vec<GpuUuid> = self.gpus.keys().cloned().collect();
        for uuid in uuids {
            self.reconcile_gpu(&uuid).await;
        }
        if hardware::lists_all(&self.inventory.borrow().driver) {
            let wished: Vec<GpuUuid> = self.gpus.keys().cloned().collect();
            self.sweep(|uuid| wished.contains(uuid)).await;
        }
        self.publish_status();
    }

    /// Every GPU of the inventory has its place here, for as long as the agent runs.
    fn take_inventory(&mut self) {
        let status = self.inventory.borrow_and_update();
        let now = clock::monotonic_now();
        for state in &status.gpus {
            let settings = &self.settings;
            let gpu = self
                .gpus
                .entry(state.info.uuid.clone())
                .or_insert_with(|| Supervised::new(settings, &state.info.uuid));
            gpu.take_in(&self.settings, &status.driver, state, now);
        }
        self.gpus
            .retain(|uuid, _| status.gpus.iter().any(|state| state.info.uuid == *uuid));
    }

    async fn reconcile_gpu(&mut self, uuid: &GpuUuid) {
        let Some(gpu) = self.gpus.get_mut(uuid) else {
            return;
        };
        if gpu.unit_is_stale(clock::monotonic_now()) {
            let unit = self.backend.unit(uuid).await;
            gpu.saw_unit(unit, self.settings.mps.grace, clock::monotonic_now());
        }
        let now = Instants::now();
        let Some((step, why)) = gpu.decide(self.settings.wish(), now) else {
            gpu.probe_if_due(&mut self.jobs, now.monotonic);
            return;
        };
        tracing::info!(gpu = %uuid, step = step.words(), why, "MPS");
        let outcome = match &step {
            Step::Start => self.backend.start(uuid).await,
            Step::Stop => self.backend.stop(uuid).await,
            Step::Restart => self.backend.restart(uuid).await,
            Step::Reload => self.backend.reload(uuid).await,
            Step::StartServer
            | Step::RestoreDefaults
            | Step::Terminate { .. }
            | Step::ShutDownServer { .. } => {
                gpu.order(&mut self.jobs, &step, now.monotonic);
                Ok(())
            }
        };
        gpu.did(&step, why, outcome, self.settings.mps.grace, Instants::now());
    }

    /// Stops the daemons of GPUs that nobody wishes to have one.
    async fn sweep(&mut self, is_wished: impl Fn(&GpuUuid) -> bool) {
        let now = clock::monotonic_now();
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now + SWEEP;
        let known = match self.backend.known().await {
            Ok(known) => known,
            Err(error) => return self.on_lost_backend(&error),
        };
        for uuid in known.iter().filter(|uuid| !is_wished(uuid)) {
            tracing::info!(gpu = %uuid, "stopping an MPS daemon that nobody wishes any more");
            if let Err(error) = self.backend.stop(uuid).await {
                tracing::warn!(gpu = %uuid, error = error.what, mend = error.mend, "it cannot be stopped");
            }
        }
    }

    /// What was stopped before it had come up, or had failed, has put nothing back. Where MPS is off, a daemon's process
    /// does that, and ends.
    async fn put_modes_back(&mut self) {
        let now = clock::monotonic_now();
        let left = changed_modes(&self.settings.mps);
        for uuid in &left {
            let is_due = self.put_back.get(uuid).is_none_or(|at| now >= *at);
            if !is_due || !self.has_ended(uuid).await {
                continue;
            }
            if self.put_back.insert(uuid.clone(), now + SWEEP).is_none() {
                tracing::info!(gpu = %uuid, "letting the compute mode be put back that was there before MPS");
            }
            if let Err(error) = self.start_to_put_back(uuid).await {
                tracing::warn!(gpu = %uuid, error = error.what, mend = error.mend, "the compute mode cannot be put back");
            }
        }
        let tried = self.put_back.keys().filter(|uuid| !left.contains(uuid));
        for uuid in tried.cloned().collect::<Vec<_>>() {
            // Its exit code is that of a failure: nothing else keeps systemd from starting it again. Where systemd has
            // forgotten it already there is nothing to do.
            if self.has_ended(&uuid).await {
                let _ = self.backend.forget(&uuid).await;
                self.put_back.remove(&uuid);
            }
        }
    }

    /// Starts the daemon's process, with a mark: it may see another configuration than the agent, which has an environment of
    /// its own.
    async fn start_to_put_back(&mut self, uuid: &GpuUuid) -> Result<(), BackendError> {
        let refused = |error: io::Error| BackendError {
            what: log::chain(&error),
            mend: format!("set it yourself: nvidia-smi -i {uuid} -c DEFAULT"),
        };
        let directories = Directories::of(&self.settings.mps, uuid);
        let mark = directories.map_err(io::Error::other).map_err(refused)?.put_back();
        fs_err::write(&mark, "").map_err(refused)?;
        let started = self.backend.start(uuid).await;
        // Nobody else's start is to find it.
        started.inspect_err(|_| drop(fs_err::remove_file(&mark)))
    }

    async fn has_ended(&mut self, uuid: &GpuUuid) -> bool {
        matches!(
            self.backend.unit(uuid).await,
            Ok(Unit::Inactive | Unit::Failed(_))
        )
    }

    /// Of no interest where MPS is off: there is nothing to stop without a backend.
    fn on_lost_backend(&mut self, error: &BackendError) {
        if self.settings.is_on() && self.lost_backend.is_due() {
            tracing::warn!(
                error = error.what,
                mend = error.mend,
                "MPS daemons cannot be listed"
            );
        }
    }

    fn publish_status(&self) {
        let now = clock::monotonic_now();
        let shown = self.gpus.values().filter_map(|gpu| gpu.status(now));
        let mut gpus: Vec<MpsGpu> = shown.collect();
        gpus.sort_by_key(|gpu| gpu.number.parse::<u32>().unwrap_or(u32::MAX));
        self.publish.send_if_modified(|status| {
            let is_new = status.gpus != gpus;
            status.gpus = gpus;
            is_new
        });
    }
}

/// The GPUs whose compute mode MPS has changed.
fn changed_modes(mps: &config::Mps) -> Vec<GpuUuid> {
    let mut gpus = directories::gpus_in(&mps.dir).unwrap_or_default();
    gpus.retain(|gpu| Directories::of(mps, gpu).is_ok_and(|directories| directories.compute_mode().exists()));
    gpus
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
