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
use crate::reload::{Answer, ConfigurationStatus, Request, plan};
use crate::signals::Signals;

/// Requests that may wait: one operator at a time, as a rule.
const REQUESTS: usize = 4;

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
                self.tried(Some(why));
                Ok((agent, used))
            }
        }
    }

    fn tried(&self, refused: Option<String>) {
        self.configuration.send_modify(|status| {
            status.loads += 1;
            if refused.is_none() {
                status.loaded_at = clock::wall_now().as_secs_f64();
            }
            status.refused = refused;
        });
    }

    /// Answers a request; the configuration that is to be used from now on, where it is another one.
    pub(super) fn answer(&self, request: Request, used: &Loaded) -> Option<Loaded> {
        let (answer, next) = self.judge(used);
        if let Answer::Refused { why } = &answer {
            tracing::error!(error = in_one_line(why), "the changed configuration is not used");
        }
        let refused = match &answer {
            Answer::Refused { why } => Some(in_one_line(why)),
            _ => None,
        };
        self.configuration.send_modify(|status| status.refused = refused);
        // Who has gone away meanwhile wanted it all the same.
        let _ = request.send(answer);
        next
    }

    fn judge(&self, used: &Loaded) -> (Answer, Option<Loaded>) {
        let refused = |why: String| (Answer::Refused { why }, None);
        let next = match read_config(&self.global) {
            Ok(next) => next,
            Err(error) => return refused(error.to_string()),
        };
        let change = match plan::change(&used.config, &used.values, &next.values) {
            Ok(change) => change,
            Err(error) => return refused(error.to_string()),
        };
        if change.keys.is_empty() {
            return (Answer::Unchanged, None);
        }
        tracing::info!(changed = change.keys.join(", "), "the configuration is taken up");
        let answer = Answer::Accepted {
            loads: self.configuration.borrow().loads + 1,
            changed: change.keys,
            with_mps: change.with_mps,
            socket: next.config.status.socket.clone(),
        };
        (answer, Some(next))
    }
}

fn in_one_line(why: &str) -> String {
    let lines: Vec<&str> = why.lines().map(str::trim).collect();
    lines.join(" ")
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
