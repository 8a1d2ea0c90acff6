//! Asks the metadata service for notices, every five seconds as AWS advises, on spot instances alone.
//!
//! It begins when the identity is settled, which has asked the same service before, and ends at shutdown and never before.
//! One question at a time. What it must not do: hold up or end anything because the service does not answer.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{InterruptionStatus, Notice};
use crate::config::Config;
use crate::identity::facts::{FaultKind, Machine, Service};
use crate::identity::imds::{self, Imds, Unanswered};
use crate::identity::{IdentityStatus, machine};
use crate::log;

/// AWS advises to look every five seconds.
const BEAT: Duration = Duration::from_secs(5);
/// A service that does not say whether this is a spot instance is asked once a minute in the end.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What the task needs to know.
#[derive(Clone, Debug)]
pub struct InterruptionSettings {
    /// What the environment says about the metadata service.
    pub service: Service,
    /// Where `/sys` is looked for.
    pub root_dir: PathBuf,
    /// Time between two looks.
    pub beat: Duration,
}

impl InterruptionSettings {
    /// What the configuration and the environment say.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            service: imds::service(),
            root_dir: config.host.root_dir.clone(),
            beat: BEAT,
        }
    }
}

/// Finds out whether this instance will be interrupted.
pub struct InterruptionTask {
    settings: InterruptionSettings,
    imds: Imds,
    identity: watch::Receiver<IdentityStatus>,
    status: watch::Sender<InterruptionStatus>,
    unanswered_log: log::Repeated,
}

impl InterruptionTask {
    /// Nothing is announced yet.
    #[must_use]
    pub fn new(
        settings: InterruptionSettings,
        imds: Imds,
        identity: watch::Receiver<IdentityStatus>,
        status: watch::Sender<InterruptionStatus>,
    ) -> Self {
        Self {
            settings,
            imds,
            identity,
            status,
            unanswered_log: log::Repeated::default(),
        }
    }

    /// Runs until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            // Dropped at shutdown wherever it stands.
            never = self.watch() => match never {},
        }
    }

    async fn watch(&mut self) -> Infallible {
        let settled = self.identity.wait_for(|known| known.settled).await.is_ok();
        if !settled || !self.may_be_on_ec2().await || !self.is_spot().await {
            return std::future::pending().await;
        }
        tracing::info!("a spot instance: looking for notices of its interruption");
        loop {
            self.look().await;
            sleep(self.settings.beat).await;
        }
    }

    async fn may_be_on_ec2(&self) -> bool {
        match self.settings.service {
            Service::Off => false,
            Service::Expected => true,
            Service::Standard => {
                let root = self.settings.root_dir.clone();
                let machine = tokio::task::spawn_blocking(move || machine::read(&root)).await;
                !matches!(machine, Ok(Machine::Elsewhere))
            }
        }
    }

    async fn is_spot(&mut self) -> bool {
        let mut pause = self.settings.beat;
        loop {
            match self.imds.is_spot().await {
                Ok(is_spot) => return is_spot,
                Err(unanswered) => self.renew(&unanswered),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn look(&mut self) {
        let interruption = self.imds.interruption().await;
        match self.known(interruption) {
            Some(Some(notice)) => self.announce(notice),
            Some(None) => self.withdraw(),
            None => {}
        }
        let rebalance = self.imds.rebalance().await;
        let recommended = self.known(rebalance);
        if let Some(at) = recommended.flatten() {
            self.recommend(at);
        }
    }

    fn announce(&self, notice: Notice) {
        self.status.send_if_modified(|status| {
            let is_new = status.notice.as_ref() != Some(&notice);
            if is_new {
                tracing::warn!(
                    action = notice.action,
                    at = notice.at.map(log_time),
                    "EC2 takes this spot instance: everything is sent now"
                );
                status.notice = Some(notice);
            }
            is_new
        });
    }

    /// The service that had a notice has none: the instance was hibernated and is back.
    fn withdraw(&self) {
        self.status.send_if_modified(|status| {
            let was_there = status.notice.take().is_some();
            if was_there {
                tracing::info!("EC2 announces no interruption of this spot instance any more");
            }
            was_there
        });
    }

    fn recommend(&self, at: u64) {
        self.status.send_if_modified(|status| {
            let is_new = status.rebalance != Some(at);
            if is_new {
                tracing::warn!(
                    at = log_time(at),
                    "EC2 recommends to replace this spot instance: everything is sent now"
                );
                status.rebalance = Some(at);
            }
            is_new
        });
    }

    fn known<T>(&mut self, answer: Result<T, Unanswered>) -> Option<T> {
        match answer {
            Ok(known) => Some(known),
            Err(unanswered) => {
                self.renew(&unanswered);
                if self.unanswered_log.is_due() {
                    let error = log::chain(&unanswered);
                    tracing::warn!(error, "cannot ask whether this spot instance will be interrupted");
                }
                None
            }
        }
    }

    fn renew(&mut self, unanswered: &Unanswered) {
        // The token is no longer known, though it should be good for hours.
        if unanswered.kind == FaultKind::Status(401) {
            self.imds = self.imds.renewed();
        }
    }
}

fn log_time(unix_seconds: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_seconds);
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests;
