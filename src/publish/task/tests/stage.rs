//! A publisher that plays CloudWatch, and the task in front of it.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::super::*;
use crate::config::Dimension as NodeDimension;
use crate::metrics::{ClosedWindow, Metric, Series, Windows};
use crate::publish::fate::{Class, Failure, Fate};
use crate::publish::spool::Spool;
use crate::publish::stdout::StdoutError;
use crate::publish::{Answer, Batch, Traffic};

pub(super) const MINUTE: Duration = Duration::from_mins(1);

/// What the played service does with a request.
#[derive(Clone, Debug)]
pub(super) enum Play {
    Answer(Fate),
    Hang,
}

#[derive(Debug, Default)]
pub(super) struct Service {
    /// One per request; afterwards everything is accepted.
    pub(super) script: VecDeque<Play>,
    /// Refuses any request with these metrics' labels in it, without a name.
    pub(super) poison: Vec<String>,
    /// Answers so to every request with any of the windows with these starts.
    pub(super) stubborn: Vec<(u64, Fate)>,
    /// More datums than these are too large for a proxy on the way.
    pub(super) most_datums: Option<usize>,
    /// How long an answer takes.
    pub(super) latency: Duration,
    /// When each request came, the start of its first window, and the labels in it.
    pub(super) requests: Vec<(Instant, u64, Vec<String>)>,
    pub(super) accepted: Vec<(u64, String)>,
    pub(super) skew: Option<f64>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Fake(pub(super) Arc<Mutex<Service>>);

impl Publisher for Fake {
    type Error = StdoutError;

    async fn publish(&mut self, batch: &Batch) -> Result<Answer, StdoutError> {
        let labels: Vec<String> = batch
            .metric_data
            .iter()
            .map(|datum| datum.dimensions.last().unwrap().value.clone())
            .collect();
        let starts: Vec<u64> = batch.metric_data.iter().map(|datum| datum.timestamp.0).collect();
        let play = {
            let mut service = self.0.lock().unwrap();
            service.requests.push((Instant::now(), starts[0], labels.clone()));
            let is_too_large = service.most_datums.is_some_and(|most| starts.len() > most);
            let is_poisoned = labels.iter().any(|label| service.poison.contains(label));
            match service.script.pop_front() {
                Some(play) => play,
                None if let Some((_, fate)) = service.stubborn.iter().find(|(of, _)| starts.contains(of)) => {
                    Play::Answer(fate.clone())
                }
                None if is_too_large => Play::Answer(Fate::TooLarge(None)),
                None if is_poisoned => Play::Answer(Fate::Poison {
                    members: Vec::new(),
                    what: "InvalidParameterValue".into(),
                    blames_time: false,
                }),
                None => Play::Answer(Fate::Accepted),
            }
        };
        let latency = self.0.lock().unwrap().latency;
        let fate = match play {
            Play::Answer(fate) => {
                sleep(latency).await;
                fate
            }
            Play::Hang => std::future::pending().await,
        };
        let mut service = self.0.lock().unwrap();
        if fate == Fate::Accepted {
            service.accepted.extend(starts.into_iter().zip(labels));
        }
        Ok(Answer {
            fate,
            traffic: Traffic {
                requests: 1,
                bytes: 100,
                wire_bytes: 10,
            },
            clock_skew_seconds: service.skew,
        })
    }
}

pub(super) fn failed(class: Class) -> Play {
    Play::Answer(Fate::Failed(Failure {
        class,
        what: "played".into(),
        mend: "wait".into(),
    }))
}

pub(super) fn now() -> u64 {
    clock::wall_now().as_secs()
}

/// A window with one sample for each of some disks.
pub(super) fn window(start: u64, disks: usize) -> ClosedWindow {
    let mut windows = Windows::new(Duration::from_secs(1), 10_000);
    windows.advance(Duration::from_secs(start));
    let points = (0..disks).map(|n| {
        (
            Series::labelled(Metric::DiskUsedPercent, &format!("/{n}").into()),
            1.0,
        )
    });
    windows.record(points, Duration::ZERO);
    windows.close().remove(0)
}

pub(super) struct Stage {
    pub(super) fake: Fake,
    pub(super) store: Arc<Spool>,
    pub(super) identity: watch::Sender<IdentityStatus>,
    pub(super) interruption: watch::Sender<InterruptionStatus>,
    pub(super) status: watch::Receiver<PublishStatus>,
    pub(super) drained: CancellationToken,
    pub(super) task: tokio::task::JoinHandle<Result<(), PublishError<StdoutError>>>,
}

impl Stage {
    pub(super) fn new(pacing: Pacing, script: impl IntoIterator<Item = Play>) -> Self {
        Self::with(pacing, settled(), Spool::in_memory(60), |service| {
            service.script = script.into_iter().collect();
        })
    }

    pub(super) fn with(
        pacing: Pacing,
        known: IdentityStatus,
        spool: Spool,
        prepare: impl FnOnce(&mut Service),
    ) -> Self {
        let fake = Fake::default();
        prepare(&mut fake.0.lock().unwrap());
        let store = Arc::new(spool);
        let (identity, identity_watch) = watch::channel(known);
        let (interruption, interruption_watch) = watch::channel(InterruptionStatus::default());
        let (status_sender, status) = watch::channel(PublishStatus::default());
        let settings = PublishSettings {
            batch: BatchSettings {
                namespace: "GPUShare".into(),
                dimensions: vec![NodeDimension::InstanceId, NodeDimension::ImageId],
                storage_resolution: 60,
                rollups: Vec::new(),
            },
            interval: MINUTE,
            pacing,
            machine: "m".into(),
        };
        let task = PublishTask::new(
            fake.clone(),
            Arc::clone(&store) as Arc<dyn Store>,
            identity_watch,
            interruption_watch,
            settings,
            status_sender,
        );
        let drained = CancellationToken::new();
        let task = tokio::spawn(task.run(drained.clone(), CancellationToken::new()));
        Self {
            fake,
            store,
            identity,
            interruption,
            status,
            drained,
            task,
        }
    }

    pub(super) async fn until(&mut self, wanted: impl FnMut(&PublishStatus) -> bool) {
        self.status.wait_for(wanted).await.unwrap();
    }

    pub(super) async fn end(self) -> (Fake, Result<(), PublishError<StdoutError>>, Duration) {
        self.drained.cancel();
        let begun = Instant::now();
        let outcome = self.task.await.unwrap();
        (self.fake, outcome, begun.elapsed())
    }

    pub(super) fn starts(&self) -> Vec<u64> {
        let service = self.fake.0.lock().unwrap();
        service.requests.iter().map(|(_, start, _)| *start).collect()
    }

    pub(super) fn balance(&self, pushed: u64) {
        let tally = self.store.tally();
        assert_eq!(
            tally.accepted + tally.samples + tally.dropped_total(),
            pushed,
            "{tally:?}"
        );
    }
}

pub(super) fn settled() -> IdentityStatus {
    IdentityStatus {
        identity: Identity {
            instance_id: Some("i-1".into()),
            ..Identity::default()
        },
        settled: true,
        ..IdentityStatus::default()
    }
}
