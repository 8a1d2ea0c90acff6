//! One plain process per GPU, for hosts without systemd: `gpushare mps run` in a process group of its own.
//!
//! It outlives the agent and is found again by the lock that it holds; nobody but the agent starts it anew. Under systemd
//! use the units: a process that is started from a unit dies with it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Instant;

use rustix::process::Signal;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::backend::{Backend, BackendError, Ended, Unit};
use super::configured;
use super::directories::{self, Directories};
use super::run::STOP_LIMIT;
use super::supervisor::{Supervisor, SupervisorError};
use crate::config;
use crate::gpu::GpuUuid;
use crate::log;

/// The running binary, even after an upgrade replaced the file.
const SELF: &str = "/proc/self/exe";

/// What the agent's own systemd says to it is not for its children.
const NOT_INHERITED: [&str; 5] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
];

/// The processes of this node.
#[derive(Debug)]
pub struct Processes {
    mps: config::Mps,
    /// Global options for their command lines.
    arguments: Vec<OsString>,
    /// Those that this agent started; waited for, never killed with it.
    children: JoinSet<Done>,
    /// Started, and not ended.
    started: BTreeMap<GpuUuid, u32>,
    /// How those ended that are not there any more.
    ended: BTreeMap<GpuUuid, Ended>,
    /// When those are killed that were asked to end.
    leaving: BTreeMap<GpuUuid, Instant>,
    /// Those of an earlier agent, whose end is waited for.
    adopted: BTreeSet<u32>,
    /// Those that are being stopped.
    quitting: BTreeSet<GpuUuid>,
    /// Whether an end was taken in while it was looked for something else.
    has_news: bool,
}

/// What a child was started for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Job {
    Run(GpuUuid),
    Quit(GpuUuid),
}

/// What was waited for.
#[derive(Debug)]
enum Done {
    /// A child has ended.
    Child(Job, io::Result<ExitStatus>),
    /// A process that is no child of ours has ended.
    Adopted(u32),
}

impl Processes {
    /// None is started yet. `arguments` are the global options for the command lines.
    #[must_use]
    pub fn new(mps: config::Mps, arguments: Vec<OsString>) -> Self {
        Self {
            mps,
            arguments,
            children: JoinSet::new(),
            started: BTreeMap::new(),
            ended: BTreeMap::new(),
            leaving: BTreeMap::new(),
            adopted: BTreeSet::new(),
            quitting: BTreeSet::new(),
            has_news: false,
        }
    }

    fn lock(&self, gpu: &GpuUuid) -> Result<PathBuf, BackendError> {
        let directories = Directories::of(&self.mps, gpu).map_err(|error| BackendError {
            what: error.to_string(),
            mend: "make mps.dir and mps.client_dir shorter".into(),
        })?;
        Ok(directories.supervisor_lock())
    }

    fn find(&self, gpu: &GpuUuid) -> Result<Option<Supervisor>, BackendError> {
        Supervisor::find(&self.lock(gpu)?).map_err(|error| refused(&error))
    }

    fn spawn(&mut self, job: Job) -> Result<u32, BackendError> {
        let (verb, gpu, option) = match &job {
            Job::Run(gpu) => ("run", gpu, None),
            Job::Quit(gpu) => ("quit", gpu, Some("--by-agent")),
        };
        let mut command = Command::new(SELF);
        command
            .args(["mps", verb, &gpu.0])
            .args(option)
            .args(&self.arguments);
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        // As systemd tells a unit: this agent goes on with its configuration should the file become wrong.
        command.env(configured::DIRECTORY, &self.mps.dir);
        // A terminal's Ctrl-C is for the agent alone.
        let spawned = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let child = spawned.map_err(|error| BackendError {
            what: format!("gpushare mps {verb} cannot be started: {error}"),
            mend: "look at the limits of the agent's processes and memory".into(),
        })?;
        let pid = child.id().unwrap_or_default();
        self.children.spawn(waited_for(job, child));
        Ok(pid)
    }

    /// Takes in what has ended since.
    fn reap(&mut self) {
        while let Some(Ok(done)) = self.children.try_join_next() {
            self.on_end(done);
            self.has_news = true;
        }
    }

    fn on_end(&mut self, done: Done) {
        let (gpu, status) = match done {
            Done::Child(Job::Run(gpu), status) => (gpu, status),
            Done::Child(Job::Quit(gpu), _) => {
                self.quitting.remove(&gpu);
                return;
            }
            Done::Adopted(pid) => {
                self.adopted.remove(&pid);
                return;
            }
        };
        self.started.remove(&gpu);
        match status {
            Ok(status) if status.success() => drop(self.ended.remove(&gpu)),
            Ok(status) => drop(self.ended.insert(
                gpu,
                Ended {
                    code: status.code(),
                    result: status.to_string(),
                },
            )),
            Err(error) => tracing::warn!(%gpu, %error, "how gpushare mps run ended is not known"),
        }
    }

    /// What was asked to end and has not done so is killed.
    fn hurry(&mut self, gpu: &GpuUuid, supervisor: &Supervisor) {
        let is_late = self.leaving.get(gpu).is_some_and(|at| Instant::now() >= *at);
        if is_late {
            tracing::warn!(%gpu, pid = supervisor.pid(), "gpushare mps run does not end: killing it");
            if let Err(error) = supervisor.signal(Signal::KILL) {
                tracing::warn!(%gpu, error = log::chain(&error), "it cannot be killed");
            }
        }
    }

    /// The end of a process that is not our child is noticed as soon as that of a child.
    fn watch(&mut self, supervisor: &Supervisor) {
        let pid = supervisor.pid();
        if self.started.values().any(|child| *child == pid) || self.adopted.contains(&pid) {
            return;
        }
        #[expect(
            deprecated,
            reason = "what replaces it is unsafe, and an OwnedFd upholds all that it asks for"
        )]
        let process = supervisor.pidfd().and_then(AsyncFd::new);
        // Where that cannot be had, it is noticed by looking.
        if let Ok(process) = process {
            self.adopted.insert(pid);
            self.children.spawn(ended(pid, process));
        }
    }

    fn signal(&mut self, gpu: &GpuUuid, signal: Signal) -> Result<bool, BackendError> {
        let Some(supervisor) = self.find(gpu)? else {
            return Ok(false);
        };
        supervisor.signal(signal).map_err(|error| refused(&error))?;
        Ok(true)
    }
}

async fn waited_for(job: Job, mut child: Child) -> Done {
    let status = child.wait().await;
    Done::Child(job, status)
}

/// A pidfd can be read from when its process has ended.
async fn ended(pid: u32, process: AsyncFd<OwnedFd>) -> Done {
    // An error ends the wait as well: whoever is woken looks.
    let _ = process.readable().await;
    Done::Adopted(pid)
}

impl Backend for Processes {
    async fn unit(&mut self, gpu: &GpuUuid) -> Result<Unit, BackendError> {
        self.reap();
        if let Some(supervisor) = self.find(gpu)? {
            self.hurry(gpu, &supervisor);
            self.watch(&supervisor);
            return Ok(if self.leaving.contains_key(gpu) {
                Unit::Stopping
            } else {
                Unit::Running {
                    pid: supervisor.pid(),
                }
            });
        }
        self.leaving.remove(gpu);
        Ok(if self.started.contains_key(gpu) {
            Unit::Starting
        } else if let Some(ended) = self.ended.get(gpu) {
            Unit::Failed(ended.clone())
        } else {
            Unit::Inactive
        })
    }

    async fn start(&mut self, gpu: &GpuUuid) -> Result<(), BackendError> {
        self.ended.remove(gpu);
        let pid = self.spawn(Job::Run(gpu.clone()))?;
        self.started.insert(gpu.clone(), pid);
        Ok(())
    }

    async fn stop(&mut self, gpu: &GpuUuid) -> Result<(), BackendError> {
        // One at a time: it takes as long as NVML does.
        if self.quitting.contains(gpu) {
            return Ok(());
        }
        self.spawn(Job::Quit(gpu.clone()))?;
        self.quitting.insert(gpu.clone());
        Ok(())
    }

    async fn restart(&mut self, gpu: &GpuUuid) -> Result<(), BackendError> {
        if self.signal(gpu, Signal::TERM)? {
            self.leaving.insert(gpu.clone(), Instant::now() + STOP_LIMIT);
            return Ok(());
        }
        self.start(gpu).await
    }

    async fn reload(&mut self, gpu: &GpuUuid) -> Result<(), BackendError> {
        self.signal(gpu, Signal::HUP).map(drop)
    }

    async fn forget(&mut self, gpu: &GpuUuid) -> Result<(), BackendError> {
        self.ended.remove(gpu);
        Ok(())
    }

    async fn known(&mut self) -> Result<Vec<GpuUuid>, BackendError> {
        let named = directories::gpus_in(&self.mps.dir).map_err(|error| BackendError {
            what: format!("the MPS daemons cannot be listed: {error}"),
            mend: "look at the directory mps.dir".into(),
        })?;
        let mut known = Vec::new();
        for gpu in named {
            if self.find(&gpu)?.is_some() {
                known.push(gpu);
            }
        }
        Ok(known)
    }

    async fn changed(&mut self) {
        if std::mem::take(&mut self.has_news) {
            return;
        }
        match self.children.join_next().await {
            Some(Ok(done)) => self.on_end(done),
            // Waiting neither panics nor is it cancelled, but for the runtime's end.
            Some(Err(_)) => {}
            None => std::future::pending().await,
        }
    }
}

fn refused(error: &SupervisorError) -> BackendError {
    BackendError {
        what: log::chain(error),
        mend: "run the agent as root".into(),
    }
}
