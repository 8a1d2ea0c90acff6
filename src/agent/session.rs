//! From the start of the process to its end: one agent after another, each with its configuration.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Agent, AgentError, End};
use crate::cli::Global;
use crate::commands::read_config;
use crate::config::Loaded;
use crate::log::{self, chain};
use crate::metrics::clock;
use crate::reload::plan::{self, Fixed};
use crate::reload::{Answer, ConfigurationStatus, Refusal, Request};
use crate::signals::Signals;
use crate::status::{Snapshot, Snapshots};

/// Requests that may wait: one operator at a time, as a rule.
const REQUESTS: usize = 4;

/// How long the configuration's disk may take: whoever asks for the reload waits for 2 s.
const READ_LIMIT: Duration = Duration::from_millis(1500);

/// What outlives an agent.
pub(super) struct Session {
    pub(super) global: Global,
    pub(super) format: log::Format,
    /// When the process started, Unix seconds.
    pub(super) started_at: f64,
    /// Kept over all agents: one that comes between two of them must not be missed.
    pub(super) signals: Signals,
    pub(super) reloads: mpsc::Sender<Request>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) configuration: watch::Sender<ConfigurationStatus>,
}

impl Session {
    pub(super) fn new(global: &Global, format: log::Format) -> Result<Self, AgentError> {
        let signals = Signals::new().map_err(|source| AgentError::Start {
            what: "signal handling",
            source,
        })?;
        let (reloads, requests) = mpsc::channel(REQUESTS);
        Ok(Self {
            global: global.clone(),
            format,
            started_at: clock::wall_now().as_secs_f64(),
            signals,
            reloads,
            requests,
            configuration: watch::Sender::default(),
        })
    }

    /// Until a signal ends it.
    pub(super) async fn run(mut self, mut used: Loaded) -> Result<(), AgentError> {
        let mut agent = Agent::build(&self, &used.config)?;
        self.tried(None);
        loop {
            match agent.run(&mut self, &used).await? {
                End::Stopped => return Ok(()),
                End::Reload(next) => (agent, used) = self.replace(used, *next)?,
            }
        }
    }

    /// An agent with the next configuration, or with the one before where that does not work.
    fn replace(&self, used: Loaded, next: Loaded) -> Result<(Agent, Loaded), AgentError> {
        match Agent::build(self, &next.config) {
            Ok(agent) => {
                self.tried(None);
                Ok((agent, next))
            }
            Err(error) => {
                let why = chain(&error);
                tracing::error!(
                    error = why,
                    "the new configuration does not work: the one before is used"
                );
                let agent = Agent::build(self, &used.config)?;
                self.tried(Some(Refusal::of_a_wrong_one(why)));
                Ok((agent, used))
            }
        }
    }

    fn tried(&self, refused: Option<Refusal>) {
        self.configuration.send_modify(|status| {
            status.loads += 1;
            if refused.is_none() {
                status.loaded_at = clock::wall_now().as_secs_f64();
                status.used = status.loads;
            }
            status.refused = refused;
        });
    }

    /// Answers a request; the configuration that is to be used from now on, where it is another one.
    pub(super) async fn answer(
        &self,
        request: Request,
        used: &Loaded,
        snapshots: &Snapshots,
    ) -> Option<Loaded> {
        let (answer, next) = match self.read().await {
            Ok(next) => self.judge(used, next, &snapshots.take()),
            Err(refusal) => (Answer::Refused(refusal), None),
        };
        let refused = match &answer {
            Answer::Refused(refusal) => Some(refusal.clone()),
            _ => None,
        };
        if let Some(Refusal { why, mend }) = &refused {
            tracing::error!(why, mend, "the changed configuration is not used");
        }
        self.configuration.send_modify(|status| status.refused = refused);
        // Who has gone away meanwhile wanted it all the same.
        let _ = request.send(answer);
        next
    }

    /// The configuration as it is now, by a thread that its disk may keep.
    async fn read(&self) -> Result<Loaded, Refusal> {
        let global = self.global.clone();
        let reading = tokio::task::spawn_blocking(move || read_config(&global));
        match tokio::time::timeout(READ_LIMIT, reading).await {
            Ok(Ok(read)) => read.map_err(|error| Refusal::of_a_wrong_one(error.to_string())),
            _ => Err(Refusal {
                why: "it cannot be read: its disk does not answer".into(),
                mend: "look at the disk of the configuration, then: gpushare reload".into(),
            }),
        }
    }

    fn judge(&self, used: &Loaded, next: Loaded, now: &Snapshot) -> (Answer, Option<Loaded>) {
        let change = match plan::change(used, &next) {
            Ok(change) => change,
            Err(fixed) => return (Answer::Refused(without_moving_mps(&fixed)), None),
        };
        if change.keys.is_empty() {
            return (Answer::Unchanged, None);
        }
        if let Some(refusal) = would_lose(now) {
            return (Answer::Refused(refusal), None);
        }
        tracing::info!(changed = change.keys.join(", "), "the configuration is taken up");
        let answer = Answer::Accepted {
            loads: self.configuration.borrow().loads + 1,
            started_at: self.started_at,
            change,
            socket: next.config.status.socket.clone(),
        };
        (answer, Some(next))
    }
}

fn without_moving_mps(fixed: &Fixed) -> Refusal {
    Refusal {
        why: fixed.to_string(),
        mend: "put the old value back: a restart of the agent would lose the daemons that run. To change it: drain the node, \
               set mps.enabled = false, reload, wait until no gpushare-mps@ unit is left, change it, set mps.enabled = true, \
               reload"
            .into(),
    }
}

/// What is in memory alone ends with the agent that has it: windows that wait, and the open one where nobody would take
/// it when it is closed.
fn would_lose(now: &Snapshot) -> Option<Refusal> {
    let spool = now.publish.spool.as_ref()?;
    let waiting = now.publish.pending_windows;
    let what = match (waiting, now.publish.done.failing_since) {
        _ if spool.state.is_well() => return None,
        (0, None) => return None,
        (0, Some(_)) => "publishing fails".to_owned(),
        _ => format!("{waiting} windows wait to be published"),
    };
    Some(Refusal {
        why: format!(
            "{what} and the spool {}: a reload may lose samples",
            spool.state.as_str()
        ),
        mend: "mend the spool's disk (gpushare status), then: gpushare reload; or restart the agent, and lose what cannot be \
               published within seconds"
            .into(),
    })
}

/// Waits until a thread has ended, within a limit; false if it has not.
pub(super) async fn has_ended(thread: &std::thread::JoinHandle<()>, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}
