use std::time::UNIX_EPOCH;

use fake_imds::node::SpotAction;
use fake_imds::trouble::Fate;
use fake_imds::{FakeImds, Rule, Trouble};
use tokio::time::timeout;

use super::*;

const LIFE_CYCLE: &str = "instance-life-cycle";
const NOTICES: &str = "spot/instance-action";
/// Longer than anything takes here; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

fn spot() -> FakeImds {
    let imds = FakeImds::start().unwrap();
    imds.change(|node| node.life_cycle = "spot".into());
    imds
}

fn interrupt(imds: &FakeImds, action: &str) {
    imds.change(|node| {
        node.spot_action = Some(SpotAction {
            action: action.into(),
            time: UNIX_EPOCH + Duration::from_secs(4_000_000_000),
            noticed: UNIX_EPOCH,
        });
    });
}

fn asked(imds: &FakeImds, part: &str) -> usize {
    let requests = imds.requests();
    requests
        .iter()
        .filter(|request| request.path.contains(part))
        .count()
}

/// The task at work on a machine of this vendor.
struct Watch {
    status: watch::Receiver<InterruptionStatus>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _root: tempfile::TempDir,
}

impl Watch {
    fn start(imds: &FakeImds, service: Service, vendor: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let tables = root.path().join("sys/class/dmi/id");
        fs_err::create_dir_all(&tables).unwrap();
        fs_err::write(tables.join("sys_vendor"), vendor).unwrap();
        let settings = InterruptionSettings {
            service,
            root_dir: root.path().to_owned(),
            beat: Duration::from_millis(20),
        };
        let (_, identity) = watch::channel(IdentityStatus {
            settled: true,
            ..IdentityStatus::default()
        });
        let (sender, status) = watch::channel(InterruptionStatus::default());
        let shutdown = CancellationToken::new();
        let task = InterruptionTask::new(settings, Imds::at(&imds.url()), identity, sender);
        Self {
            task: tokio::spawn(task.run(shutdown.clone())),
            status,
            shutdown,
            _root: root,
        }
    }

    async fn until(&mut self, wanted: impl FnMut(&InterruptionStatus) -> bool) -> InterruptionStatus {
        let found = timeout(PATIENCE, self.status.wait_for(wanted)).await;
        found.unwrap().unwrap().clone()
    }

    async fn end(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn c17_notices_are_seen_as_they_come() {
    let imds = spot();
    let mut watch = Watch::start(&imds, Service::Standard, "Amazon EC2");
    while asked(&imds, NOTICES) < 3 {
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(*watch.status.borrow(), InterruptionStatus::default());
    imds.change(|node| node.rebalance = Some(UNIX_EPOCH + Duration::from_secs(1000)));
    let recommended = watch.until(|status| status.rebalance.is_some()).await;
    assert_eq!((recommended.rebalance, recommended.notice), (Some(1000), None));
    interrupt(&imds, "terminate");
    let notice = watch
        .until(|status| status.notice.is_some())
        .await
        .notice
        .unwrap();
    assert_eq!(
        (notice.action.as_str(), notice.at),
        ("terminate", Some(4_000_000_000))
    );
    watch.end().await;
}

#[tokio::test]
async fn c17_an_instance_on_demand_is_asked_once() {
    let imds = FakeImds::start().unwrap();
    let watch = Watch::start(&imds, Service::Standard, "Amazon EC2");
    while asked(&imds, LIFE_CYCLE) == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    sleep(Duration::from_millis(200)).await;
    assert_eq!((asked(&imds, LIFE_CYCLE), asked(&imds, NOTICES)), (1, 0));
    watch.end().await;
}

#[tokio::test]
async fn c17_a_machine_that_is_no_instance_is_not_asked() {
    for (service, vendor) in [(Service::Off, "Amazon EC2"), (Service::Standard, "LENOVO")] {
        let imds = spot();
        let watch = Watch::start(&imds, service, vendor);
        sleep(Duration::from_millis(200)).await;
        assert_eq!(imds.requests().len(), 0, "{vendor}");
        watch.end().await;
    }
}

#[tokio::test]
async fn c17_a_service_that_is_late_or_talks_nonsense_is_asked_again() {
    let imds = spot();
    imds.play([
        Rule::first(
            2,
            Trouble::on(
                "/latest/meta-data/instance-life-cycle",
                Fate::Error { status: 500 },
            ),
        ),
        Rule::first(
            2,
            Trouble::on("/latest/meta-data/spot", Fate::Html { status: 200 }),
        ),
    ]);
    interrupt(&imds, "stop");
    let mut watch = Watch::start(&imds, Service::Expected, "LENOVO");
    let status = watch.until(|status| status.notice.is_some()).await;
    assert_eq!(status.notice.unwrap().action, "stop");
    assert_eq!(asked(&imds, LIFE_CYCLE), 3);
    watch.end().await;
}

#[tokio::test]
async fn c17_a_token_that_is_forgotten_is_fetched_anew() {
    let imds = spot();
    let mut watch = Watch::start(&imds, Service::Standard, "Amazon EC2");
    while asked(&imds, NOTICES) == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    imds.forget_tokens();
    interrupt(&imds, "hibernate");
    watch.until(|status| status.notice.is_some()).await;
    watch.end().await;
}

#[tokio::test]
async fn c17_a_service_that_hangs_holds_up_no_stop() {
    let imds = spot();
    imds.play([Rule::always(Trouble::on("/latest/meta-data/spot", Fate::Hang))]);
    let watch = Watch::start(&imds, Service::Standard, "Amazon EC2");
    while asked(&imds, NOTICES) == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    let begun = std::time::Instant::now();
    watch.end().await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn c17_a_notice_is_over_when_the_service_no_longer_has_it() {
    let imds = spot();
    let mut watch = Watch::start(&imds, Service::Standard, "Amazon EC2");
    interrupt(&imds, "hibernate");
    watch.until(|status| status.notice.is_some()).await;
    imds.change(|node| node.spot_action = None);
    let after = watch.until(|status| status.notice.is_none()).await;
    assert_eq!(after, InterruptionStatus::default());
    watch.end().await;
}
