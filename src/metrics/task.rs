//! The sampler: one tick per `sample.interval`, every sample into its window, closed windows to the store.
//!
//! It asks the host thread for a sample each tick and takes what the GPU task sends as it comes; it waits for
//! neither, so that a driver or a disk that hangs delays nothing. What a GPU *is* (healthy, stuck, shared through MPS)
//! is sampled each tick from the statuses, whether the driver answers or not.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clock::{self, Instants};
use super::mps::{self, Restarts};
use super::series::{self, Point};
use super::window::{LATENESS, Ledger, Windows};
use super::{Metric, Series};
use crate::config::Group;
use crate::gpu::{DriverState, GpuEvent, GpuSample, GpuStatus, KernelLog};
use crate::host::HostSample;
use crate::host::task::HostThread;
use crate::interruption::InterruptionStatus;
use crate::mps::MpsStatus;
use crate::publish::report::PublishStatus;
use crate::publish::store::Store;

/// What the sampler needs to know.
#[derive(Clone, Debug)]
pub struct SamplerSettings {
    /// `sample.interval`.
    pub interval: Duration,
    /// `publish.interval`.
    pub publish_interval: Duration,
    /// `publish.max_series`, less the series of the rollups.
    pub max_series: usize,
    /// `publish.groups`.
    pub groups: BTreeSet<Group>,
}

impl SamplerSettings {
    /// Whether the metric's group is switched on.
    fn wants(&self, metric: Metric) -> bool {
        self.groups.contains(&metric.entry().group)
    }
}

/// The sampler as the status shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplerStatus {
    /// Ticks since the agent started.
    pub ticks: u64,
    /// Start of the open window in Unix seconds, and the samples in it so far.
    pub open_window: Option<(u64, u64)>,
    /// Distinct series in the last hour, against `publish.max_series`.
    pub series: usize,
    /// What became of every sample until its window was closed. [`crate::status`] adds what the store knows.
    pub ledger: Ledger,
    /// How often the wall clock was stepped, and by how many seconds the last time.
    pub clock_steps: u64,
    /// Seconds of the last step.
    pub last_clock_step: Option<f64>,
    /// The newest host sample.
    pub host: Option<HostSample>,
    /// Ticks at which the host thread was busy and had an ask waiting already.
    pub host_late: u64,
}

/// What the sampler listens to.
pub struct Sources {
    /// Samples of the host.
    pub host: HostThread,
    /// Samples and XIDs of the GPUs.
    pub gpu_events: mpsc::Receiver<GpuEvent>,
    /// What the GPUs are.
    pub gpu_status: watch::Receiver<GpuStatus>,
    /// How MPS is on each of them.
    pub mps: watch::Receiver<MpsStatus>,
    /// What the publisher knows, the server's clock above all.
    pub published: watch::Receiver<PublishStatus>,
    /// Whether EC2 takes this instance away.
    pub interruption: watch::Receiver<InterruptionStatus>,
}

/// Samples until shutdown, then closes the open window.
pub struct Sampler {
    settings: SamplerSettings,
    windows: Windows,
    host: HostThread,
    gpu_events: mpsc::Receiver<GpuEvent>,
    gpu_status: watch::Receiver<GpuStatus>,
    mps: watch::Receiver<MpsStatus>,
    store: Arc<dyn Store>,
    published: watch::Receiver<PublishStatus>,
    interruption: watch::Receiver<InterruptionStatus>,
    /// When the open window is closed once more before the instance is gone.
    last_call: Option<Instant>,
    status: SamplerStatus,
    publish: watch::Sender<SamplerStatus>,
    last: Instants,
    /// XIDs since the last tick, by `GPUNumber`.
    xids: HashMap<Arc<str>, u32>,
    restarts: Restarts,
    dropped_at_last_tick: u64,
}

impl Sampler {
    /// Everything it reads from and writes to.
    #[must_use]
    pub fn new(
        settings: SamplerSettings,
        sources: Sources,
        store: Arc<dyn Store>,
        publish: watch::Sender<SamplerStatus>,
    ) -> Self {
        Self {
            windows: Windows::new(settings.publish_interval, settings.max_series),
            settings,
            host: sources.host,
            gpu_events: sources.gpu_events,
            gpu_status: sources.gpu_status,
            mps: sources.mps,
            store,
            published: sources.published,
            interruption: sources.interruption,
            last_call: None,
            status: SamplerStatus::default(),
            publish,
            last: Instants::now(),
            xids: HashMap::new(),
            restarts: Restarts::default(),
            dropped_at_last_tick: 0,
        }
    }

    /// Runs until shutdown; returns after the open window is in the store.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            // A tenth off the window's edge: an NTP slew moves no sample into the neighbouring window.
            let interval = self.settings.interval;
            let pause = clock::until_next(clock::wall_now(), interval, interval / 10);
            let mut tick = std::pin::pin!(tokio::time::sleep(pause));
            loop {
                let held = self.held_for();
                // Every branch is cancel-safe; what a branch yields is handled after the select.
                tokio::select! {
                    () = shutdown.cancelled() => return self.finish(),
                    () = &mut tick => break,
                    () = tokio::time::sleep(held.unwrap_or_default()), if held.is_some() => self.advance(Instants::now()),
                    Some(sample) = self.host.next() => self.on_host(sample),
                    Some(event) = self.gpu_events.recv() => self.on_gpu(event),
                    Ok(()) = self.interruption.changed() => self.on_interruption(),
                    () = due(self.last_call), if self.last_call.is_some() => {
                        self.last_call = None;
                        self.close_early();
                    }
                }
            }
            self.on_tick();
        }
    }

    fn on_tick(&mut self) {
        let now = Instants::now();
        if let Some(step) = now.step_since(self.last) {
            tracing::warn!(
                seconds = step,
                "the wall clock was stepped, or the machine was suspended"
            );
            self.status.clock_steps += 1;
            self.status.last_clock_step = Some(step);
        }
        self.last = now;
        self.status.ticks += 1;
        if !self.host.ask() {
            self.status.host_late += 1;
        }
        let mut points = self.gpu_states();
        points.extend(self.restarts.tick(&self.mps.borrow_and_update()));
        points.extend(self.agent_points(now));
        self.record(points, now);
        self.publish_status();
    }

    fn on_host(&mut self, sample: HostSample) {
        self.record(series::of_host(&sample), Instants::now());
        self.status.host = Some(sample);
    }

    fn on_gpu(&mut self, event: GpuEvent) {
        match event {
            GpuEvent::Sampled(sample) => self.on_reading(&sample),
            GpuEvent::XidSeen(number) => *self.xids.entry(number).or_default() += 1,
        }
    }

    fn on_reading(&mut self, sample: &GpuSample) {
        let now = Instants::now();
        let mut points = series::of_gpu(sample);
        points.extend(mps::memory(&self.mps.borrow(), sample));
        self.record(points, now);
        if self.settings.wants(Metric::GpuUtilization) {
            let refused = self.windows.record_at(series::of_ring(sample), now.monotonic);
            self.log_refused(&refused);
        }
    }

    /// What is in the open window is sent as long as the instance is there. What comes later goes into another window
    /// with the same start; `CloudWatch` adds the two up.
    fn on_interruption(&mut self) {
        let announced = self.interruption.borrow_and_update().clone();
        if announced == InterruptionStatus::default() {
            self.last_call = None;
            return;
        }
        let last_call = announced.notice.and_then(|notice| notice.last_call());
        let skew = self.published.borrow().skew_now().unwrap_or_default();
        self.last_call = last_call.and_then(|at| {
            let left = at as f64 - skew - clock::wall_now().as_secs_f64();
            Some(Instant::now() + Duration::try_from_secs_f64(left).ok()?)
        });
        self.close_early();
    }

    fn close_early(&mut self) {
        self.store.note_refused(&self.windows.ledger().dropped);
        for closed in self.windows.close() {
            tracing::info!(
                start = closed.start,
                samples = closed.samples(),
                "closed the open window"
            );
            self.store.push(closed);
        }
        self.publish_status();
    }

    fn gpu_states(&mut self) -> Vec<Point> {
        let status = self.gpu_status.borrow_and_update();
        if matches!(status.driver, DriverState::Off | DriverState::Starting) {
            return Vec::new();
        }
        let xids = std::mem::take(&mut self.xids);
        let log_is_read = status.kernel_log == KernelLog::Reading;
        let count = |number| log_is_read.then(|| xids.get(number).copied().unwrap_or(0));
        status
            .gpus
            .iter()
            .flat_map(|gpu| series::of_gpu_state(gpu, count(&gpu.number)))
            .collect()
    }

    fn agent_points(&mut self, now: Instants) -> impl Iterator<Item = Point> {
        let tally = self.store.tally();
        let dropped = self.windows.ledger().dropped_total() + tally.dropped_total();
        let since_last_tick = dropped - self.dropped_at_last_tick;
        self.dropped_at_last_tick = dropped;
        let skew = self.published.borrow().skew_now();
        let points = [
            (
                Metric::PublishBacklogSeconds,
                Some(self.backlog(tally.oldest, now).as_secs_f64()),
            ),
            (Metric::DatapointsDropped, Some(since_last_tick as f64)),
            (Metric::ClockSkewSeconds, skew),
            (Metric::PublishBacklogBytes, Some(tally.bytes as f64)),
        ];
        points
            .into_iter()
            .filter_map(|(metric, value)| Some((Series::plain(metric), value?)))
    }

    fn backlog(&self, oldest: Option<u64>, now: Instants) -> Duration {
        let oldest_end = oldest.map(|start| Duration::from_secs(start) + self.settings.publish_interval);
        oldest_end.map_or(Duration::ZERO, |end| now.wall.saturating_sub(end))
    }

    /// How long the window before is still to be held.
    fn held_for(&self) -> Option<Duration> {
        self.windows
            .held_until()
            .map(|until| until.saturating_sub(clock::wall_now()).min(LATENESS))
    }

    fn advance(&mut self, now: Instants) {
        let closed = self.windows.advance(now.wall);
        if !closed.is_empty() {
            self.store.note_refused(&self.windows.ledger().dropped);
            for window in closed {
                self.store.push(window);
            }
            // At once, so that no sample is seen both in the open window and in the store, or in neither.
            self.publish_status();
        }
    }

    fn record(&mut self, points: Vec<Point>, now: Instants) {
        self.advance(now);
        let settings = &self.settings;
        let wanted = points
            .into_iter()
            .filter(|(series, _)| settings.wants(series.metric));
        let refused = self.windows.record(wanted, now.monotonic);
        self.log_refused(&refused);
    }

    fn log_refused(&self, refused: &[String]) {
        for series in refused {
            tracing::warn!(
                series,
                max_series = self.settings.max_series,
                "series refused: raise publish.max_series, or exclude what makes so many"
            );
        }
    }

    fn publish_status(&mut self) {
        self.status.open_window = self.windows.open();
        self.status.series = self.windows.series();
        self.status.ledger = self.windows.ledger().clone();
        self.publish.send_replace(self.status.clone());
    }

    fn finish(mut self) {
        // What arrived before the shutdown belongs into the window that is closed now.
        while let Ok(event) = self.gpu_events.try_recv() {
            self.on_gpu(event);
        }
        while let Some(sample) = self.host.try_next() {
            self.on_host(sample);
        }
        if !self.xids.is_empty() {
            let points = self.gpu_states();
            self.record(points, Instants::now());
        }
        self.close_early();
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
