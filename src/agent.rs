//! The agent: from a configuration to running tasks, and back to none. The only file that starts its tasks.
//!
//! Order of a start: lock and sockets, then tasks, then READY. Order of a stop: the sampler closes the open window and
//! the identity says its last word, the publisher sends what is left, everything within `stop_limit`; a second signal
//! leaves at once.

mod settings;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{self, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::cli::Global;
use crate::commands::{Failure, load_config};
use crate::config::{Config, MpsBackend, Target};
use crate::gpu::task::{GpuTask, read_numbers};
use crate::gpu::{DriverState, GpuStatus};
use crate::host::LocalHost;
use crate::host::task::HostThread;
use crate::identity::IdentityStatus;
use crate::identity::imds::Imds;
use crate::identity::task::{IdentitySettings, IdentityTask};
use crate::interruption::InterruptionStatus;
use crate::interruption::task::{InterruptionSettings, InterruptionTask};
use crate::log;
use crate::metrics::task::{Sampler, SamplerStatus, Sources};
use crate::mps::MpsStatus;
use crate::mps::backend::Backend;
use crate::mps::process::Processes;
use crate::mps::task::MpsTask;
use crate::mps::units::Units;
use crate::publish::Publisher;
use crate::publish::cloudwatch::CloudWatchPublisher;
use crate::publish::report::PublishStatus;
use crate::publish::spool::Spool;
use crate::publish::stdout::{StdoutError, StdoutPublisher};
use crate::publish::store::Store;
use crate::publish::task::{PublishError, PublishTask};
use crate::signals::Signals;
use crate::status::server::{SocketError, StatusSocket};
use crate::status::{Snapshots, Watches, problems};
use crate::systemd;

/// How often the line in `systemctl status` is brought up to date.
const STATUS_LINE: Duration = Duration::from_secs(5);

/// GPU events on their way to the sampler: a second of 8 GPUs and an XID storm. A full channel makes the GPU
/// task wait, which loses nothing.
const GPU_EVENTS: usize = 64;

/// Why the agent did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The status socket, or the lock beside it.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A thread or the runtime could not be started.
    #[error("cannot start {what}")]
    Start {
        /// What.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Batches cannot be printed.
    #[error(transparent)]
    Stdout(#[from] StdoutError),
    /// Samples could not be published before the end.
    #[error("stopped before everything was published; {samples} samples are lost: {why}")]
    Unpublished {
        /// Samples that were not published.
        samples: u64,
        /// What was in the way.
        why: String,
    },
    /// A task that should run for ever ended.
    #[error("the {task} task ended: a bug, please report it")]
    TaskEnded {
        /// Its name.
        task: &'static str,
        /// The panic, if it was one.
        #[source]
        source: Option<JoinError>,
    },
    /// Not everything was done in time.
    #[error("stopped before {tasks} had finished; {} lost", samples_are(*samples))]
    StopLimit {
        /// The tasks that were still running.
        tasks: String,
        /// Samples that were neither published nor in the spool.
        samples: u64,
    },
}

fn samples_are(samples: u64) -> String {
    match samples {
        0 => "nothing is".into(),
        1 => "1 sample is".into(),
        _ => format!("{samples} samples are"),
    }
}

/// `gpushare run`.
pub fn command(global: &Global) -> Result<(), Failure> {
    let config = load_config(global)?;
    let format = global.log_format.unwrap_or_else(log::Format::detect);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| AgentError::Start {
            what: "the runtime",
            source,
        })?;
    let outcome = runtime.block_on(async { Agent::build(global, &config, format)?.run().await });
    // A file system call that hangs must not hold up the exit.
    runtime.shutdown_background();
    Ok(outcome?)
}

impl<E: Into<Self> + std::error::Error> From<PublishError<E>> for AgentError {
    fn from(error: PublishError<E>) -> Self {
        match error {
            PublishError::Publisher(error) => error.into(),
            PublishError::GaveUp { samples, why } => Self::Unpublished { samples, why },
        }
    }
}

impl From<Infallible> for AgentError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

type TaskOutcome = Result<(), AgentError>;

/// The other ends of [`Watches`].
struct Says {
    node: watch::Sender<IdentityStatus>,
    interruption: watch::Sender<InterruptionStatus>,
    gpu: watch::Sender<GpuStatus>,
    mps: watch::Sender<MpsStatus>,
    sampler: watch::Sender<SamplerStatus>,
    published: watch::Sender<PublishStatus>,
}

/// A channel for the status of every task.
fn channels() -> (Says, Watches) {
    let (say_node, node) = watch::channel(IdentityStatus::default());
    let (say_interruption, interruption) = watch::channel(InterruptionStatus::default());
    let (say_gpu, gpu) = watch::channel(GpuStatus::default());
    let (say_mps, mps) = watch::channel(MpsStatus::default());
    let (say_sampler, sampler) = watch::channel(SamplerStatus::default());
    let (say_published, published) = watch::channel(PublishStatus::default());
    let says = Says {
        node: say_node,
        interruption: say_interruption,
        gpu: say_gpu,
        mps: say_mps,
        sampler: say_sampler,
        published: say_published,
    };
    let watches = Watches {
        node,
        interruption,
        gpu,
        mps,
        sampler,
        published,
    };
    (says, watches)
}

/// The running agent.
struct Agent {
    tasks: JoinSet<TaskOutcome>,
    /// The tasks that have not ended. By id, because a task that panicked cannot say its name.
    running: Vec<(task::Id, &'static str)>,
    snapshots: Snapshots,
    store: Arc<dyn Store>,
    stop_limit: Duration,
    sampling: CancellationToken,
    publishing: CancellationToken,
    serving: CancellationToken,
    signals: Signals,
}

impl Agent {
    /// Opens what can fail, then starts every task.
    fn build(global: &Global, config: &Config, format: log::Format) -> Result<Self, AgentError> {
        let signals = Signals::new().map_err(|source| AgentError::Start {
            what: "signal handling",
            source,
        })?;
        let socket = StatusSocket::bind(&config.status.socket)?;
        let host = HostThread::start(LocalHost::new(settings::host_settings(config))).map_err(|source| {
            AgentError::Start {
                what: "the host thread",
                source,
            }
        })?;
        let spool = Spool::start(&settings::spool_settings(config)).map_err(|source| AgentError::Start {
            what: "the spool's thread",
            source,
        })?;
        let store: Arc<dyn Store> = Arc::new(spool);
        let (say, watches) = channels();
        let snapshots = Snapshots::new(config, watches.clone(), Arc::clone(&store));
        let mut agent = Self {
            tasks: JoinSet::new(),
            running: Vec::new(),
            snapshots,
            store,
            stop_limit: settings::stop_limit(config.publish.target),
            sampling: CancellationToken::new(),
            publishing: CancellationToken::new(),
            serving: CancellationToken::new(),
            signals,
        };
        agent.spawn_all(global, config, format, host, say, &watches)?;
        agent.spawn(
            "status",
            infallible(socket.run(agent.snapshots.clone(), agent.serving.clone())),
        );
        Ok(agent)
    }

    fn spawn_all(
        &mut self,
        global: &Global,
        config: &Config,
        format: log::Format,
        host: HostThread,
        say: Says,
        watches: &Watches,
    ) -> Result<(), AgentError> {
        let (gpu_events, gpu_receiver) = mpsc::channel(GPU_EVENTS);
        if config.gpu.enabled {
            self.spawn_gpu(config, format, gpu_events, say.gpu);
        }
        self.spawn_mps(global, config, format, watches.gpu.clone(), say.mps);
        let imds = Imds::new();
        let identifier = IdentityTask::new(IdentitySettings::new(config), imds.clone(), say.node);
        self.spawn("identity", infallible(identifier.run(self.sampling.clone())));
        let foreseer = InterruptionTask::new(
            InterruptionSettings::new(config),
            imds.clone(),
            watches.node.clone(),
            say.interruption,
        );
        self.spawn("interruption", infallible(foreseer.run(self.sampling.clone())));
        let sources = Sources {
            host,
            gpu_events: gpu_receiver,
            gpu_status: watches.gpu.clone(),
            mps: watches.mps.clone(),
            published: watches.published.clone(),
            interruption: watches.interruption.clone(),
        };
        let store = Arc::clone(&self.store);
        let sampler = Sampler::new(settings::sampler_settings(config), sources, store, say.sampler);
        self.spawn("sampler", infallible(sampler.run(self.sampling.clone())));
        self.spawn_publisher(config, watches, imds, say.published)
    }

    fn spawn_mps(
        &mut self,
        global: &Global,
        config: &Config,
        format: log::Format,
        inventory: watch::Receiver<GpuStatus>,
        status: watch::Sender<MpsStatus>,
    ) {
        match config.mps.backend {
            MpsBackend::Systemd => self.spawn_mps_on(Units::new(), config, inventory, status),
            MpsBackend::Process => {
                let processes = Processes::new(config.mps.clone(), settings::arguments(global, format));
                self.spawn_mps_on(processes, config, inventory, status);
            }
        }
    }

    fn spawn_mps_on<B: Backend + 'static>(
        &mut self,
        backend: B,
        config: &Config,
        inventory: watch::Receiver<GpuStatus>,
        status: watch::Sender<MpsStatus>,
    ) {
        let task = MpsTask::new(settings::mps_settings(config), backend, inventory, status);
        self.spawn("mps", infallible(task.run(self.sampling.clone())));
    }

    fn spawn_gpu(
        &mut self,
        config: &Config,
        format: log::Format,
        events: mpsc::Sender<crate::gpu::GpuEvent>,
        status: watch::Sender<GpuStatus>,
    ) {
        status.send_replace(GpuStatus {
            enabled: true,
            driver: DriverState::Starting,
            ..GpuStatus::default()
        });
        let settings = settings::gpu_settings(config, format);
        let numbers = read_numbers(&settings.numbers_file);
        let task = GpuTask::new(settings, numbers, settings::boot_id(), events, status);
        self.spawn("gpu", infallible(task.run(self.sampling.clone())));
    }

    fn spawn_publisher(
        &mut self,
        config: &Config,
        watches: &Watches,
        imds: Imds,
        status: watch::Sender<PublishStatus>,
    ) -> Result<(), AgentError> {
        let settings = settings::publish_settings(config);
        let (store, identity) = (Arc::clone(&self.store), watches.node.clone());
        let interruption = watches.interruption.clone();
        match config.publish.target {
            Target::Stdout => {
                let publisher = StdoutPublisher::start().map_err(|source| AgentError::Start {
                    what: "the printing thread",
                    source,
                })?;
                let task = PublishTask::new(publisher, store, identity, interruption, settings, status);
                self.spawn_task(task);
            }
            Target::Cloudwatch => {
                let endpoint = settings::cloudwatch_settings(config);
                let publisher = CloudWatchPublisher::new(endpoint, identity.clone(), imds);
                let task = PublishTask::new(publisher, store, identity, interruption, settings, status);
                self.spawn_task(task);
            }
        }
        Ok(())
    }

    fn spawn_task<P>(&mut self, task: PublishTask<P>)
    where
        P: Publisher + Sync + 'static,
        AgentError: From<PublishError<P::Error>>,
    {
        let publishing = self.publishing.clone();
        self.spawn("publisher", async { Ok(task.run(publishing).await?) });
    }

    fn spawn(&mut self, name: &'static str, task: impl Future<Output = TaskOutcome> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.running.push((id, name));
    }

    /// Runs until a signal, or until a task ends that should not.
    async fn run(mut self) -> Result<(), AgentError> {
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            pid = std::process::id(),
            "gpushare is ready"
        );
        systemd::ready(&self.status_line());
        let outcome = self.supervise().await;
        systemd::stopping("stopping: publishing what was sampled");
        let stopped = self.stop().await;
        tracing::info!("stopped");
        outcome.and(stopped)
    }

    /// Feeds the watchdog and the status line. `Ok` when a signal asks to stop.
    async fn supervise(&mut self) -> Result<(), AgentError> {
        let mut line = tokio::time::interval(STATUS_LINE);
        let feed = systemd::watchdog_interval();
        let mut watchdog = tokio::time::interval(feed.unwrap_or(Duration::from_hours(1)));
        loop {
            // Every branch is cancel-safe.
            tokio::select! {
                name = self.signals.next() => {
                    tracing::info!(signal = name, "stopping");
                    return Ok(());
                }
                Some(ended) = self.tasks.join_next_with_id() => return Err(self.ended_early(ended)),
                _ = line.tick() => systemd::status(&self.status_line()),
                _ = watchdog.tick(), if feed.is_some() => systemd::watchdog(),
            }
        }
    }

    fn ended_early(&mut self, ended: Result<(task::Id, TaskOutcome), JoinError>) -> AgentError {
        let (task, outcome) = self.strike_off(ended);
        outcome
            .err()
            .unwrap_or(AgentError::TaskEnded { task, source: None })
    }

    /// Strikes a task that has ended off the running ones: its name, and its outcome with a panic as an error.
    fn strike_off(
        &mut self,
        ended: Result<(task::Id, TaskOutcome), JoinError>,
    ) -> (&'static str, TaskOutcome) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let at = self.running.iter().position(|(known, _)| *known == id);
        let (_, task) = self
            .running
            .remove(at.expect("every task is spawned with a name, and ends once"));
        let outcome = match ended {
            Ok((_, outcome)) => outcome,
            Err(error) => Err(AgentError::TaskEnded {
                task,
                source: Some(error),
            }),
        };
        (task, outcome)
    }

    async fn stop(&mut self) -> Result<(), AgentError> {
        let (sampling, publishing) = (self.sampling.clone(), self.publishing.clone());
        sampling.cancel();
        let limit = tokio::time::sleep(self.stop_limit);
        tokio::pin!(limit);
        let mut failure = None;
        loop {
            // The publisher drains the store after the sampler has put the open window into it and the identity has
            // said its last word; the status is served until there is nothing left to show.
            if self
                .running
                .iter()
                .all(|(_, name)| !["sampler", "identity"].contains(name))
            {
                publishing.cancel();
            }
            if self.running.iter().all(|(_, name)| *name == "status") {
                self.serving.cancel();
            }
            tokio::select! {
                ended = self.tasks.join_next_with_id() => match ended {
                    None => return failure.map_or(Ok(()), Err),
                    // One that panics keeps no other from what it has to finish.
                    Some(ended) => failure = failure.or(self.strike_off(ended).1.err()),
                },
                () = &mut limit => return Err(self.stop_limit()),
                name = self.signals.next() => leave_at_once(name),
            }
        }
    }

    fn stop_limit(&self) -> AgentError {
        // The status is served until all others have ended: it holds up nobody, unless it is the last.
        let mut late: Vec<_> = self.running.iter().map(|(_, name)| *name).collect();
        if late != ["status"] {
            late.retain(|name| *name != "status");
        }
        AgentError::StopLimit {
            tasks: late.join(", "),
            samples: self.store.tally().unsaved,
        }
    }

    fn status_line(&self) -> String {
        problems::summary(&self.snapshots.take())
    }
}

#[expect(
    clippy::exit,
    reason = "whoever signals twice does not want to wait for anything"
)]
fn leave_at_once(signal: &str) -> ! {
    tracing::warn!(
        signal,
        "second signal: leaving at once; the open window may be lost"
    );
    std::process::exit(1)
}

async fn infallible(task: impl Future<Output = ()>) -> Result<(), AgentError> {
    task.await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Sources};

    /// An agent without tasks.
    fn idle() -> Agent {
        let config = config::load(&Sources::default()).unwrap();
        let store: Arc<dyn Store> = Arc::new(Spool::in_memory(1));
        let (_, watches) = channels();
        let snapshots = Snapshots::new(&config, watches, Arc::clone(&store));
        Agent {
            tasks: JoinSet::new(),
            running: Vec::new(),
            snapshots,
            store,
            stop_limit: settings::stop_limit(Target::Stdout),
            sampling: CancellationToken::new(),
            publishing: CancellationToken::new(),
            serving: CancellationToken::new(),
            signals: Signals::new().unwrap(),
        }
    }

    #[tokio::test]
    async fn a_task_that_panics_is_named_and_the_others_finish() {
        let mut agent = idle();
        agent.spawn("sampler", async { panic!("out of tune") });
        let publishing = agent.publishing.clone();
        let (sender, mut flushed) = tokio::sync::oneshot::channel();
        agent.spawn("publisher", async move {
            publishing.cancelled().await;
            task::yield_now().await;
            sender.send(()).unwrap();
            Ok(())
        });
        let error = agent.stop().await.unwrap_err();
        assert!(
            matches!(error, AgentError::TaskEnded { task: "sampler", .. }),
            "{error}"
        );
        assert_eq!(flushed.try_recv(), Ok(()));
        assert_eq!(agent.running, []);
    }

    #[tokio::test]
    async fn a_task_that_ends_early_is_waited_for_no_more() {
        let mut agent = idle();
        agent.spawn("gpu", async { panic!("out of tune") });
        let error = agent.supervise().await.unwrap_err();
        assert!(
            matches!(error, AgentError::TaskEnded { task: "gpu", .. }),
            "{error}"
        );
        agent.stop().await.unwrap();
    }
}
