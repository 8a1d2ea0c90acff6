//! The agent: from a configuration to running tasks, and back to none. The only file that starts its tasks.
//!
//! Order of a start: lock and sockets, then tasks, then READY. Order of a stop: the sampler closes the open
//! window, the publisher prints what is left, everything within `STOP_LIMIT`; a second signal leaves at once.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{self, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::cli::Global;
use crate::commands::{Failure, load_config};
use crate::config::{Config, Target};
use crate::gpu::task::{GpuSettings, GpuTask, read_numbers};
use crate::gpu::{DriverState, GpuStatus};
use crate::host::task::HostThread;
use crate::host::{HostSettings, LocalHost};
use crate::identity::Identity;
use crate::log;
use crate::metrics::task::{Sampler, SamplerSettings, SamplerStatus};
use crate::publish::plan::BatchSettings;
use crate::publish::queue::{self, Queue};
use crate::publish::stdout::{StdoutError, StdoutPublisher};
use crate::publish::task::{PublishStatus, PublishTask};
use crate::signals::Signals;
use crate::status::server::{SocketError, StatusSocket};
use crate::status::{Snapshots, problems};
use crate::systemd;

/// Everything is over within this time after SIGTERM. systemd would wait 90 s, an operator does not.
const STOP_LIMIT: Duration = Duration::from_millis(1500);

/// How often the line in `systemctl status` is brought up to date.
const STATUS_LINE: Duration = Duration::from_secs(5);

/// GPU events on their way to the sampler: a second of 8 GPUs and an XID storm. A full channel makes the GPU
/// task wait, which loses nothing.
const GPU_EVENTS: usize = 64;

/// Why the agent did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The default target has no publisher in this version.
    #[error(
        "publish.target = \"cloudwatch\" is not built yet in this version; use publish.target = \"stdout\" (--set publish.target=stdout)"
    )]
    NotBuilt,
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
    #[error("stopped before {tasks} had finished; {samples} samples are lost")]
    StopLimit {
        /// The tasks that were still running.
        tasks: String,
        /// Samples that were not published.
        samples: u64,
    },
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
    let outcome = runtime.block_on(async { Agent::build(&config, format)?.run().await });
    // A file system call that hangs must not hold up the exit.
    runtime.shutdown_background();
    Ok(outcome?)
}

type TaskOutcome = Result<(), AgentError>;

/// The running agent.
struct Agent {
    tasks: JoinSet<TaskOutcome>,
    /// The tasks that have not ended. By id, because a task that panicked cannot say its name.
    running: Vec<(task::Id, &'static str)>,
    snapshots: Snapshots,
    queue: Arc<Queue>,
    sampling: CancellationToken,
    publishing: CancellationToken,
    serving: CancellationToken,
    signals: Signals,
}

impl Agent {
    /// Opens what can fail, then starts every task.
    fn build(config: &Config, format: log::Format) -> Result<Self, AgentError> {
        if config.publish.target == Target::Cloudwatch {
            return Err(AgentError::NotBuilt);
        }
        let signals = Signals::new().map_err(|source| AgentError::Start {
            what: "signal handling",
            source,
        })?;
        let socket = StatusSocket::bind(&config.status.socket)?;
        let host =
            HostThread::start(LocalHost::new(host_settings(config))).map_err(|source| AgentError::Start {
                what: "the host thread",
                source,
            })?;
        let stdout = StdoutPublisher::start().map_err(|source| AgentError::Start {
            what: "the printing thread",
            source,
        })?;
        let identity = Identity::configured(&config.node);
        let queue = Arc::new(Queue::new(queue::CAPACITY));
        let (gpu_status, gpu_watch) = watch::channel(GpuStatus::default());
        let (sampler_status, sampler_watch) = watch::channel(SamplerStatus::default());
        let (publish_status, publish_watch) = watch::channel(PublishStatus::default());
        let (gpu_events, gpu_receiver) = mpsc::channel(GPU_EVENTS);
        let snapshots = Snapshots::new(
            config,
            identity.clone(),
            gpu_watch.clone(),
            sampler_watch,
            publish_watch,
            Arc::clone(&queue),
        );
        let sampler = Sampler::new(
            sampler_settings(config),
            host,
            gpu_receiver,
            gpu_watch,
            Arc::clone(&queue),
            sampler_status,
        );
        let publisher = PublishTask::new(
            stdout,
            Arc::clone(&queue),
            identity,
            batch_settings(config),
            publish_status,
        );

        let mut agent = Self {
            tasks: JoinSet::new(),
            running: Vec::new(),
            snapshots,
            queue,
            sampling: CancellationToken::new(),
            publishing: CancellationToken::new(),
            serving: CancellationToken::new(),
            signals,
        };
        if config.gpu.enabled {
            agent.spawn_gpu(config, format, gpu_events, gpu_status);
        }
        agent.spawn("sampler", infallible(sampler.run(agent.sampling.clone())));
        let publishing = agent.publishing.clone();
        agent.spawn("publisher", async {
            publisher.run(publishing).await.map_err(AgentError::from)
        });
        agent.spawn(
            "status",
            infallible(socket.run(agent.snapshots.clone(), agent.serving.clone())),
        );
        Ok(agent)
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
        let settings = gpu_settings(config, format);
        let numbers = read_numbers(&settings.numbers_file);
        let task = GpuTask::new(settings, numbers, boot_id(), events, status);
        self.spawn("gpu", infallible(task.run(self.sampling.clone())));
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
        let limit = tokio::time::sleep(STOP_LIMIT);
        tokio::pin!(limit);
        let mut failure = None;
        loop {
            // The publisher drains the queue after the sampler has put the open window into it, and the status is
            // served until there is nothing left to show.
            if self.running.iter().all(|(_, name)| *name != "sampler") {
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
            samples: self.queue.samples(),
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

fn host_settings(config: &Config) -> HostSettings {
    HostSettings {
        root_dir: config.host.root_dir.clone(),
        exclude_mounts: config.host.exclude_mounts.clone(),
        exclude_fs_types: config.host.exclude_fs_types.clone(),
    }
}

fn sampler_settings(config: &Config) -> SamplerSettings {
    SamplerSettings {
        interval: config.sample.interval,
        publish_interval: config.publish.interval,
        max_series: config.publish.max_series,
        groups: config.publish.groups.clone(),
    }
}

fn batch_settings(config: &Config) -> BatchSettings {
    BatchSettings {
        namespace: config.publish.namespace.clone(),
        dimensions: config.publish.dimensions.clone(),
        storage_resolution: config.publish.storage_resolution,
    }
}

fn gpu_settings(config: &Config, format: log::Format) -> GpuSettings {
    if let Err(error) = fs_err::create_dir_all(&config.node.state_dir) {
        tracing::warn!(%error, "node.state_dir cannot be made: GPU numbers will not be kept");
    }
    GpuSettings {
        library: config.gpu.nvml_library.clone(),
        kmsg: config.gpu.kmsg.clone(),
        interval: config.sample.interval,
        process_interval: config.pods.interval,
        numbers_file: config.node.state_dir.join("gpus.json"),
        child_arguments: vec!["--log-format".into(), format.as_str().into()],
    }
}

/// Identifies this boot of the machine. Without one every start counts as the same boot.
fn boot_id() -> String {
    let text = fs_err::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"));
    text.map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Sources};

    /// An agent without tasks.
    fn idle() -> Agent {
        let config = config::load(&Sources::default()).unwrap();
        let queue = Arc::new(Queue::new(queue::CAPACITY));
        let (_, gpu) = watch::channel(GpuStatus::default());
        let (_, sampler) = watch::channel(SamplerStatus::default());
        let (_, published) = watch::channel(PublishStatus::default());
        let identity = Identity::configured(&config.node);
        Agent {
            tasks: JoinSet::new(),
            running: Vec::new(),
            snapshots: Snapshots::new(&config, identity, gpu, sampler, published, Arc::clone(&queue)),
            queue,
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
