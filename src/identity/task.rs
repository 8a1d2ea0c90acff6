//! The identity's loop: files, the metadata service, the plan, the status; again until it is settled.
//!
//! It ends at shutdown and never before: settled, it only looks now and then for a tag that turned up late, or for a
//! metadata service that was switched on. Files are read off the runtime's thread. It must not change an identity
//! that is settled.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::document;
use super::facts::{Fact, Fault, FaultKind, Machine, Tag};
use super::imds::{self, Imds, Unanswered};
use super::plan::{self, Decision, Observed, Wishes};
use super::source::{Field, Source, Why};
use super::waits::Waits;
use super::{Identity, IdentityStatus, cache, kubelet, machine};
use crate::config::{Config, Target};
use crate::log;

/// What the task needs to know.
#[derive(Clone, Debug)]
pub struct IdentitySettings {
    /// What is wanted.
    pub wishes: Wishes,
    /// Where `/sys` and the kubelet's files are looked for.
    pub root_dir: PathBuf,
    /// What survives a restart.
    pub cache_file: PathBuf,
    /// How long is waited for what.
    pub waits: Waits,
}

impl IdentitySettings {
    /// What the configuration and the environment ask for. `AWS_REGION` counts as an override, after `node.region`.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut configured = Identity::configured(&config.node);
        let variable = |name| std::env::var(name).ok().filter(|region| !region.is_empty());
        configured.region = configured
            .region
            .or_else(|| variable("AWS_REGION"))
            .or_else(|| variable("AWS_DEFAULT_REGION"));
        Self {
            wishes: Wishes {
                configured,
                dimensions: config.publish.dimensions.clone(),
                region: config.publish.target == Target::Cloudwatch,
                service: imds::service(),
            },
            root_dir: config.host.root_dir.clone(),
            cache_file: config.node.state_dir.join("identity.json"),
            waits: Waits::within(config.publish.interval),
        }
    }
}

/// Finds out who the node is.
pub struct IdentityTask {
    settings: IdentitySettings,
    imds: Imds,
    publish: watch::Sender<IdentityStatus>,
    observed: Observed,
    started: Instant,
    /// Questions to the metadata service since it last said something new.
    in_vain: u32,
    /// Set once, and never changed after that.
    settled: Option<Identity>,
    /// What was logged last, so that it is logged once.
    logged: Option<State>,
}

/// A state that is worth a line in the log when it changes. The wording of a fault is no part of it.
#[derive(PartialEq, Eq)]
enum State {
    Waiting(Vec<Source>, Option<FaultKind>),
    Late(Identity),
}

impl IdentityTask {
    /// Publishes what the configuration says right away, settled if that is all that is wanted.
    #[must_use]
    pub fn new(settings: IdentitySettings, imds: Imds, publish: watch::Sender<IdentityStatus>) -> Self {
        let mut task = Self {
            settings,
            imds,
            publish,
            observed: Observed::default(),
            started: Instant::now(),
            in_vain: 0,
            settled: None,
            logged: None,
        };
        let decision = task.decide();
        // What seems unobtainable may yet be in the firmware or in the cache.
        if decision.waiting.is_empty() && decision.given_up.is_empty() {
            task.settle(&decision);
        } else {
            task.publish(&decision);
        }
        task
    }

    /// Runs until shutdown. Then it publishes what there is, the cache included, so that the last windows carry the
    /// dimensions of all others.
    pub async fn run(mut self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            // Dropped at shutdown wherever it stands: what it may leave half done is a question to the service.
            never = self.find() => match never {},
        }
        if self.settled.is_none() {
            self.observed.is_final = true;
            let decision = self.decide();
            self.show(&decision);
        }
    }

    async fn find(&mut self) -> Infallible {
        self.read_machine().await;
        let mut next_question = Instant::now();
        loop {
            if self.wants_service() && Instant::now() >= next_question {
                self.ask().await;
                next_question = Instant::now() + self.pause();
            }
            if self.settled.is_none() {
                self.read_kubelet().await;
            }
            let decision = self.conclude();
            if self.settled.is_some() {
                self.keep(decision.found).await;
            }
            let beat = Instant::now() + self.settings.waits.beat;
            match (self.settled.is_some(), self.wants_service()) {
                (true, false) => std::future::pending().await,
                (true, true) => tokio::time::sleep_until(next_question).await,
                (false, true) => tokio::time::sleep_until(beat.min(next_question)).await,
                (false, false) => tokio::time::sleep_until(beat).await,
            }
        }
    }

    async fn read_machine(&mut self) {
        let (root, cache_file) = (self.settings.root_dir.clone(), self.settings.cache_file.clone());
        let read = move || {
            let machine = machine::read(&root);
            let cached = match &machine {
                Machine::Instance(id) => cache::read(&cache_file, id),
                Machine::Ec2 | Machine::Elsewhere | Machine::Unknown => None,
            };
            (machine, cached)
        };
        (self.observed.machine, self.observed.cache) = off_thread(read).await.unwrap_or_default();
    }

    async fn read_kubelet(&mut self) {
        let known = |fact: &Fact| matches!(fact, Fact::Known(_));
        if !self.settings.wishes.kubelet()
            || (known(&self.observed.cluster) && known(&self.observed.nodegroup))
        {
            return;
        }
        let root = self.settings.root_dir.clone();
        let read = move || (kubelet::cluster(&root), kubelet::nodegroup(&root));
        if let Some(facts) = off_thread(read).await {
            (self.observed.cluster, self.observed.nodegroup) = facts;
        }
        let are_there = [&self.observed.cluster, &self.observed.nodegroup]
            .iter()
            .any(|fact| **fact != Fact::NoFile);
        if are_there && self.observed.files_at.is_none() {
            self.observed.files_at = Some(self.started.elapsed());
        }
    }

    /// Whether the metadata service could still say something of use.
    fn wants_service(&self) -> bool {
        let wishes = &self.settings.wishes;
        let document = wishes.document() && self.observed.document.is_none();
        let tag = wishes.tag() && !matches!(self.observed.tag, Tag::Known(_));
        let gone = plan::no_service(wishes, &self.observed, &self.settings.waits);
        // What is switched off may be switched on again.
        (document || tag) && gone.is_none_or(|why| why == Why::Disabled)
    }

    async fn ask(&mut self) {
        self.in_vain = self.in_vain.saturating_add(1);
        match self.question().await {
            Ok(()) => (self.observed.fault, self.observed.disabled_at) = (None, None),
            Err(unanswered) => {
                // Status 401: the token is no longer known, though it should be good for hours.
                if unanswered.kind == FaultKind::Status(401) {
                    self.imds = self.imds.renewed();
                }
                self.observed.disabled_at = (unanswered.kind == FaultKind::Disabled)
                    .then(|| self.observed.disabled_at.unwrap_or(self.started.elapsed()));
                self.observed.fault = Some(Fault {
                    kind: unanswered.kind,
                    detail: log::ends(&unanswered),
                });
            }
        }
    }

    async fn question(&mut self) -> Result<(), Unanswered> {
        let wishes = &self.settings.wishes;
        if wishes.document() && self.observed.document.is_none() {
            let document = self.imds.document().await?;
            document::check(&document, &self.observed.machine, wishes.service)
                .map_err(Unanswered::of_another)?;
            self.observed.document = Some(document);
            self.observed.document_at = self.started.elapsed();
            self.in_vain = 1;
        }
        if wishes.tag() {
            self.observed.tag = self.imds.group().await?;
        }
        Ok(())
    }

    /// Time before the next question.
    fn pause(&self) -> Duration {
        let waits = &self.settings.waits;
        // Settled by nothing but the cache, the node still looks whether it is what it was.
        let is_answered = self.observed.document.is_some() || self.observed.disabled_at.is_some();
        if self.settled.is_some() && (self.observed.fault.is_none() || is_answered) {
            return waits.late;
        }
        plan::retry_delay(self.in_vain, fastrand::f64(), waits)
    }

    fn decide(&mut self) -> Decision {
        self.observed.elapsed = self.started.elapsed();
        plan::decide(&self.settings.wishes, &self.observed, &self.settings.waits)
    }

    fn conclude(&mut self) -> Decision {
        let decision = self.decide();
        if self.settled.is_some() {
            self.announce_late(&decision);
        } else {
            self.log_waiting(&decision);
            self.show(&decision);
        }
        decision
    }

    fn show(&mut self, decision: &Decision) {
        if decision.waiting.is_empty() {
            self.settle(decision);
        } else {
            self.publish(decision);
        }
    }

    fn settle(&mut self, decision: &Decision) {
        let identity = &decision.identity;
        for (field, why) in &decision.given_up {
            match field {
                Field::Dimension(dimension) => {
                    tracing::info!(%dimension, %why, "published without this dimension");
                }
                // Whether there is one after all is for the publisher to find out, and to complain about.
                Field::Region => tracing::info!(
                    %why,
                    "the region is not known; publishing looks for one in the AWS profile and the metadata service"
                ),
            }
        }
        tracing::info!(
            instance = identity.instance_id,
            r#type = identity.instance_type,
            region = identity.region,
            group = identity.auto_scaling_group,
            "the node knows who it is"
        );
        self.settled = Some(identity.clone());
        self.publish(decision);
    }

    fn publish(&self, decision: &Decision) {
        let status = IdentityStatus {
            identity: decision.identity.clone(),
            settled: self.settled.is_some(),
            waiting_for: decision.waiting_for(self.observed.fault.as_ref()),
            mend: decision
                .is_overdue(&self.observed, &self.settings.waits)
                .then(|| decision.mend()),
        };
        self.publish.send_if_modified(|published| {
            let changed = *published != status;
            *published = status;
            changed
        });
    }

    /// The first moments are not worth a line; a failure is, and so is waiting for the bootstrap.
    fn log_waiting(&mut self, decision: &Decision) {
        let fault = self.observed.fault.as_ref();
        let mut sources: Vec<Source> = decision.waiting.iter().map(|(_, source)| *source).collect();
        sources.dedup();
        if sources.is_empty() || (fault.is_none() && !sources.contains(&Source::Kubelet)) {
            return;
        }
        let state = State::Waiting(sources, fault.map(|fault| fault.kind));
        if self.logged.as_ref() != Some(&state) {
            let waiting_for = decision.waiting_for(fault);
            tracing::warn!(
                waiting_for,
                mend = decision.mend(),
                "the node does not know who it is yet; samples are kept"
            );
            self.logged = Some(state);
        }
    }

    /// Says once that more is known than is published.
    fn announce_late(&mut self, decision: &Decision) {
        let state = State::Late(decision.identity.clone());
        if self.settled.as_ref() == Some(&decision.identity) || self.logged.as_ref() == Some(&state) {
            return;
        }
        let dimensions: Vec<String> = decision
            .identity
            .dimensions(&self.settings.wishes.dimensions)
            .into_iter()
            .map(|dimension| format!("{}={}", dimension.name, dimension.value))
            .collect();
        tracing::warn!(
            dimensions = dimensions.join(","),
            "more is known about the node now; the dimensions change at the next start of the agent"
        );
        self.logged = Some(state);
    }

    /// Keeps what was found for the next start, if it is new and the machine says that it is about itself.
    async fn keep(&mut self, found: Identity) {
        let Machine::Instance(id) = &self.observed.machine else {
            return;
        };
        if found.instance_id.as_ref() != Some(id) || self.observed.cache.as_ref() == Some(&found) {
            return;
        }
        let (path, identity) = (self.settings.cache_file.clone(), found.clone());
        if let Some(Err(error)) = off_thread(move || cache::write(&path, &identity)).await {
            tracing::warn!(%error, "the identity cannot be kept for the next start");
        }
        // One that cannot be written is not tried again: the next look would only say the same.
        self.observed.cache = Some(found);
    }
}

/// Does what blocks on a thread of its own. `None` only while the runtime shuts down.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

#[cfg(test)]
mod tests;
