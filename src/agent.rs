//! The agent: from a configuration to running tasks, and back to none. The only file that starts its tasks.
//!
//! Order of a start: lock and sockets, then tasks, then READY. Order of a stop: the sampler closes the open window and
//! the identity says its last word, the publisher sends what is left, everything within `stop_limit`; a second signal
//! leaves at once. Another configuration is a stop and a start in the same process (see [`crate::reload`]).

mod channels;
mod error;
mod session;
mod settings;

use std::future::Future;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{self, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use self::channels::{Says, channels};
pub use self::error::AgentError;
use self::session::{Session, has_ended};
use crate::cli::Global;
use crate::commands::{Failure, read_config};
use crate::config::{Config, Loaded, MpsBackend, Target};
use crate::gpu::task::{GpuTask, read_numbers};
use crate::gpu::{DriverState, GpuStatus};
use crate::host::LocalHost;
use crate::host::task::HostThread;
use crate::identity::imds::Imds;
use crate::identity::task::{IdentitySettings, IdentityTask};
use crate::interruption::task::{InterruptionSettings, InterruptionTask};
use crate::log;
use crate::metrics::task::{Sampler, Sources};
use crate::mps::MpsStatus;
use crate::mps::backend::Backend;
use crate::mps::process::Processes;
use crate::mps::task::MpsTask;
use crate::mps::units::Units;
use crate::publish::Publisher;
use crate::publish::cloudwatch::CloudWatchPublisher;
use crate::publish::report::PublishStatus;
use crate::publish::spool::Spool;
use crate::publish::stdout::StdoutPublisher;
use crate::publish::store::Store;
use crate::publish::task::{PublishError, PublishTask};
use crate::reload::Answer;
use crate::status::server::StatusSocket;
use crate::status::{Snapshots, Watches, problems};
use crate::systemd;

/// How often the line in `systemctl status` is brought up to date.
const STATUS_LINE: Duration = Duration::from_secs(5);

/// GPU events on their way to the sampler: a second of 8 GPUs and an XID storm. A full channel makes the GPU
/// task wait, which loses nothing.
const GPU_EVENTS: usize = 64;

/// `gpushare run`.
pub fn command(global: &Global) -> Result<(), Failure> {
    let loaded = read_config(global)?;
    let format = global.log_format.unwrap_or_else(log::Format::detect);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| AgentError::Start {
            what: "the runtime",
            source,
        })?;
    let outcome = runtime.block_on(async { Session::new(global, format)?.run(loaded).await });
    // A file system call that hangs must not hold up the exit.
    runtime.shutdown_background();
    Ok(outcome?)
}

type TaskOutcome = Result<(), AgentError>;

/// The spool's thread ends when nobody needs the store any more. A disk that hangs keeps the thread.
const SPOOL_END: Duration = Duration::from_secs(3);

/// Why an agent ended in order.
enum End {
    /// A signal asked for it.
    Stopped,
    /// Another one is to be in its place.
    Reload(Box<Loaded>),
}

/// The running agent.
struct Agent {
    tasks: JoinSet<TaskOutcome>,
    /// The tasks that have not ended. By id, because a task that panicked cannot say its name.
    running: Vec<(task::Id, &'static str)>,
    snapshots: Snapshots,
    store: Arc<dyn Store>,
    spool: JoinHandle<()>,
    stop_limit: Duration,
    sampling: CancellationToken,
    publishing: CancellationToken,
    /// Another agent of this process publishes what is left.
    handing_over: CancellationToken,
    serving: CancellationToken,
}

impl Agent {
    /// Opens what can fail, then starts every task.
    fn build(session: &Session, config: &Config) -> Result<Self, AgentError> {
        let socket = StatusSocket::bind(&config.status.socket)?;
        let host = HostThread::start(LocalHost::new(settings::host_settings(config))).map_err(|source| {
            AgentError::Start {
                what: "the host thread",
                source,
            }
        })?;
        let (store, spool) =
            Spool::start(&settings::spool_settings(config)).map_err(|source| AgentError::Start {
                what: "the spool's thread",
                source,
            })?;
        let store: Arc<dyn Store> = Arc::new(store);
        let (say, watches) = channels(session.configuration.subscribe());
        let snapshots = Snapshots::new(config, session.started_at, watches.clone(), Arc::clone(&store));
        let mut agent = Self {
            tasks: JoinSet::new(),
            running: Vec::new(),
            snapshots,
            store,
            spool,
            stop_limit: settings::stop_limit(config.publish.target),
            sampling: CancellationToken::new(),
            publishing: CancellationToken::new(),
            handing_over: CancellationToken::new(),
            serving: CancellationToken::new(),
        };
        agent.spawn_all(session, config, host, say, &watches)?;
        let served = socket.run(
            agent.snapshots.clone(),
            session.reloads.clone(),
            agent.serving.clone(),
        );
        agent.spawn("status", infallible(served));
        Ok(agent)
    }

    fn spawn_all(
        &mut self,
        session: &Session,
        config: &Config,
        host: HostThread,
        say: Says,
        watches: &Watches,
    ) -> Result<(), AgentError> {
        let (gpu_events, gpu_receiver) = mpsc::channel(GPU_EVENTS);
        if config.gpu.enabled {
            self.spawn_gpu(config, session.format, gpu_events, say.gpu);
        }
        self.spawn_mps(session, config, watches.gpu.clone(), say.mps);
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
        session: &Session,
        config: &Config,
        inventory: watch::Receiver<GpuStatus>,
        status: watch::Sender<MpsStatus>,
    ) {
        match config.mps.backend {
            MpsBackend::Systemd => self.spawn_mps_on(Units::new(), config, inventory, status),
            MpsBackend::Process => {
                let arguments = settings::arguments(&session.global, session.format);
                let processes = Processes::new(config.mps.clone(), arguments);
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
        let (publishing, handing_over) = (self.publishing.clone(), self.handing_over.clone());
        self.spawn("publisher", async {
            Ok(task.run(publishing, handing_over).await?)
        });
    }

    fn spawn(&mut self, name: &'static str, task: impl Future<Output = TaskOutcome> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.running.push((id, name));
    }

    /// Runs until a signal, until another configuration is to be used, or until a task ends that should not.
    async fn run(mut self, session: &mut Session, used: &Loaded) -> Result<End, AgentError> {
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            pid = std::process::id(),
            "gpushare is ready"
        );
        systemd::ready(&self.status_line());
        let outcome = self.supervise(session, used).await;
        let (wished, failure) = match outcome {
            Ok(end) => (end, None),
            Err(error) => (End::Stopped, Some(error)),
        };
        if let End::Reload(_) = wished {
            systemd::reloading("reloading: what was sampled goes into the spool");
            self.handing_over.cancel();
        } else {
            systemd::stopping("stopping: publishing what was sampled");
        }
        let (end, stopped) = self.stop(session, wished).await;
        if let End::Reload(_) = end {
            if let Err(error) = stopped {
                let error = log::chain(&error);
                tracing::error!(error, "the end before the reload was not in order: going on");
            }
            self.let_go_of_the_spool().await;
            return Ok(end);
        }
        tracing::info!("stopped");
        failure.map_or(Ok(()), Err).and(stopped).map(|()| end)
    }

    /// The next agent takes the same lock and socket and opens the same spool: this one's must be closed by then, also
    /// where a task has not ended in time.
    async fn let_go_of_the_spool(mut self) {
        self.serving.cancel();
        self.tasks.shutdown().await;
        let Self {
            spool,
            store,
            snapshots,
            ..
        } = self;
        drop((store, snapshots));
        systemd::watchdog();
        if !has_ended(&spool, SPOOL_END).await {
            tracing::warn!("the spool's disk does not answer: the next agent may have to wait for it");
        }
    }

    /// Feeds the watchdog and the status line.
    async fn supervise(&mut self, session: &mut Session, used: &Loaded) -> Result<End, AgentError> {
        let mut line = tokio::time::interval(STATUS_LINE);
        let feed = systemd::watchdog_interval();
        let mut watchdog = tokio::time::interval(feed.unwrap_or(Duration::from_hours(1)));
        loop {
            // Every branch is cancel-safe.
            tokio::select! {
                name = session.signals.next() => {
                    tracing::info!(signal = name, "stopping");
                    return Ok(End::Stopped);
                }
                Some(request) = session.requests.recv() => {
                    if let Some(next) = session.answer(request, used, &self.snapshots).await {
                        return Ok(End::Reload(Box::new(next)));
                    }
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

    /// Ends every task in order. What comes then is what was wished, unless a signal asks to stop meanwhile.
    async fn stop(&mut self, session: &mut Session, mut end: End) -> (End, Result<(), AgentError>) {
        systemd::watchdog();
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
                    None => return (end, failure.map_or(Ok(()), Err)),
                    // One that panics keeps no other from what it has to finish.
                    Some(ended) => failure = failure.or(self.strike_off(ended).1.err()),
                },
                () = &mut limit => return (end, Err(self.stop_limit())),
                // Who has gone away meanwhile needs no answer.
                Some(request) = session.requests.recv() => drop(request.send(Answer::Busy)),
                name = session.signals.next() => {
                    if let End::Stopped = end {
                        leave_at_once(name);
                    }
                    tracing::info!(signal = name, "stopping");
                    end = End::Stopped;
                }
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
        let (_, watches) = channels(watch::Sender::default().subscribe());
        let snapshots = Snapshots::new(&config, 0.0, watches, Arc::clone(&store));
        Agent {
            tasks: JoinSet::new(),
            running: Vec::new(),
            snapshots,
            store,
            spool: std::thread::spawn(|| {}),
            stop_limit: settings::stop_limit(Target::Stdout),
            sampling: CancellationToken::new(),
            publishing: CancellationToken::new(),
            handing_over: CancellationToken::new(),
            serving: CancellationToken::new(),
        }
    }

    fn session() -> (Session, Loaded) {
        let global = Global::default();
        let session = Session::new(&global, log::Format::Text).unwrap();
        (session, config::read(&Sources::default()).unwrap())
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
        let (mut session, _) = session();
        let error = agent.stop(&mut session, End::Stopped).await.1.unwrap_err();
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
        let (mut session, used) = session();
        let error = agent.supervise(&mut session, &used).await.err().unwrap();
        assert!(
            matches!(error, AgentError::TaskEnded { task: "gpu", .. }),
            "{error}"
        );
        let reload = End::Reload(Box::new(used));
        let (end, stopped) = agent.stop(&mut session, reload).await;
        assert!(matches!(end, End::Reload(_)));
        stopped.unwrap();
    }
}
