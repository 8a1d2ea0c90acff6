//! Requests that fail, and nothing that is lost or counted twice for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fake_cloudwatch::{AcceptedDatum, FakeCloudWatch, Fate, Key, Rule, Script, merged};
use gpushare::metrics::window::DropReason;
use gpushare::publish::fate::Class;
use gpushare::publish::retry::Pace;

use super::scene::{
    assert_every_ring_sample, assert_nothing_lost, instance_whose, node, node_with_gpu, once, stopped,
    wait_failure, wait_well,
};
use crate::harness::PATIENCE;
use crate::life::scene::assert_adds_up;

/// What CloudWatch shows of a series that a sample counted twice could change, percentiles included.
fn shown(accepted: &[AcceptedDatum]) -> BTreeMap<Key, Vec<f64>> {
    let statistics = merged(accepted, Duration::ZERO);
    let shown = statistics.into_iter().map(|(key, merged)| {
        let percentiles = [1.0, 25.0, 50.0, 90.0, 99.0, 99.9].map(|p| merged.percentile(p).unwrap());
        let mut numbers = vec![merged.minimum, merged.maximum];
        numbers.extend(percentiles);
        // Whole billionths of it, because sums of more numbers round differently.
        numbers.push((merged.average().unwrap() * 1e9 / merged.maximum.abs().max(1.0)).round());
        (key, numbers)
    });
    shown.collect()
}

/// The attempts that brought each datum.
fn bringers(accepted: &[AcceptedDatum]) -> BTreeMap<&Key, BTreeSet<u64>> {
    let mut bringers = BTreeMap::<_, BTreeSet<u64>>::new();
    for datum in accepted {
        let is_new = bringers.entry(&datum.key).or_default().insert(datum.attempt);
        assert!(is_new, "twice in one request: {:?}", datum.key);
    }
    bringers
}

#[test]
fn c03_a_reset_before_the_body_loses_and_doubles_nothing() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::first(2, Fate::ResetBeforeBody)]);
    let (node, epoch_us) = node_with_gpu(&fake);
    let agent = node.start();
    let failed = wait_failure(&agent, Class::Unreachable);
    assert_adds_up(&failed);
    let well = wait_well(&agent, 4);
    stopped(agent);
    assert_nothing_lost(&fake, &failed);
    assert_nothing_lost(&fake, &well);
    assert_every_ring_sample(&fake, epoch_us);
    let accepted = fake.accepted();
    assert_eq!(once(&accepted).len(), accepted.len(), "nothing was sent twice");
}

#[test]
fn c03_a_reset_after_the_commit_doubles_a_request_at_most_and_changes_no_statistic() {
    let fake = FakeCloudWatch::start().unwrap();
    // Twice in a row, and once again later.
    let later = Rule::first(1, Fate::ResetAfterCommit).starting(Duration::from_secs(4));
    fake.play([Rule::first(2, Fate::ResetAfterCommit), later]);
    let (node, epoch_us) = node_with_gpu(&fake);
    let agent = node.start();
    let spoilt = || {
        fake.attempts()
            .iter()
            .filter(|attempt| attempt.fate.is_some())
            .count()
    };
    agent.wait("three answers were cut off", |_| spoilt() == 3);
    let well = wait_well(&agent, 5);
    stopped(agent);
    assert_nothing_lost(&fake, &well);
    assert_every_ring_sample(&fake, epoch_us);

    let accepted = fake.accepted();
    assert!(accepted.len() > once(&accepted).len(), "some were sent again");
    let answered: BTreeSet<u64> = fake
        .attempts()
        .iter()
        .filter(|attempt| attempt.status == Some(200))
        .map(|attempt| attempt.number)
        .collect();
    for (key, attempts) in bringers(&accepted) {
        // Each further copy is the work of one fault, and after an answer there is none.
        assert_eq!(
            attempts.intersection(&answered).count(),
            1,
            "{key:?}: {attempts:?}"
        );
        assert_eq!(
            attempts.last(),
            attempts.intersection(&answered).last(),
            "{key:?}"
        );
    }
    assert_eq!(shown(&accepted), shown(&once(&accepted)));
}

/// What goes wrong, what the failure is called, and words of its description and of its mend.
const WAYS_TO_FAIL: [(Fate, Class, &str, &str); 12] = [
    (
        Fate::Throttle,
        Class::Throttled,
        "HTTP 400 Throttling",
        "Service Quotas",
    ),
    (
        server_error(500, true),
        Class::ServerError,
        "HTTP 500 InternalServiceError",
        "Health Dashboard",
    ),
    (
        server_error(503, true),
        Class::ServerError,
        "HTTP 503 ServiceUnavailable",
        "Health Dashboard",
    ),
    (
        server_error(504, false),
        Class::ServerError,
        "HTTP 504",
        "Health Dashboard",
    ),
    (
        proxy_page(502),
        Class::ServerError,
        "HTTP 502 with text/html",
        "Health Dashboard",
    ),
    (
        proxy_page(407),
        Class::NotCloudWatch,
        "HTTP 407 with text/html",
        "the proxy",
    ),
    (
        Fate::ProxyXml { status: 403 },
        Class::NotCloudWatch,
        "HTTP 403",
        "publish.endpoint_url",
    ),
    (
        Fate::EmptyOk,
        Class::NotCloudWatch,
        "HTTP 200",
        "publish.endpoint_url",
    ),
    (
        Fate::ResetBeforeBody,
        Class::Unreachable,
        "cannot be reached",
        "HTTPS_PROXY",
    ),
    (
        Fate::ExpiredToken,
        Class::CredentialsExpired,
        "HTTP 403 ExpiredToken",
        "AWS_SESSION_TOKEN",
    ),
    (
        Fate::InvalidClientToken,
        Class::CredentialsRejected,
        "HTTP 403 InvalidClientTokenId",
        "AWS_ACCESS_KEY_ID",
    ),
    (
        Fate::AccessDenied,
        Class::Denied,
        "cloudwatch:PutMetricData is missing",
        "cloudwatch:PutMetricData",
    ),
];

const fn server_error(status: u16, body: bool) -> Fate {
    Fate::ServerError { status, body }
}

const fn proxy_page(status: u16) -> Fate {
    Fate::ProxyHtml { status }
}

#[test]
fn every_way_to_fail_has_a_name_and_a_mend_and_loses_nothing() {
    std::thread::scope(|scope| {
        for (fate, class, what, mend) in WAYS_TO_FAIL {
            scope.spawn(move || fails_once(&fate, class, what, mend));
        }
    });
}

/// Plays one failure to an agent of its own.
fn fails_once(trouble: &Fate, class: Class, what: &str, mend: &str) {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::first(1, trouble.clone())]);
    let node = node(&fake);
    let agent = node.start();
    let failed = wait_failure(&agent, class);
    let error = failed.publish.done.last_error.clone().unwrap();
    assert!(error.what.contains(what), "{trouble:?}: {}", error.what);
    assert!(error.mend.contains(mend), "{trouble:?}: {}", error.mend);
    let well = wait_well(&agent, 3);
    assert_adds_up(&well);
    let attempts = fake.attempts();
    stopped(agent);
    assert_nothing_lost(&fake, &failed);
    assert_nothing_lost(&fake, &well);
    let accepted = fake.accepted();
    assert_eq!(
        once(&accepted).len(),
        accepted.len(),
        "{trouble:?}: nothing was sent twice"
    );
    for attempt in attempts {
        let said = attempt.headers.get("amz-sdk-request");
        assert_eq!(
            said.map(String::as_str),
            Some("attempt=1; max=1"),
            "the SDK itself tries once"
        );
    }
}

#[test]
fn a_connection_that_is_refused_delays_windows_and_loses_none() {
    let fake = FakeCloudWatch::start().unwrap();
    // Three attempts in vain while windows pile up.
    let instance =
        instance_whose(|pauses| (0..3).all(|_| pauses.pause(Pace::Fast) > Duration::from_millis(800)));
    let (node, epoch_us) = node_with_gpu(&fake);
    let node = node.with("node.instance_id", &format!("{instance:?}"));
    fake.play(Script {
        rules: Vec::new(),
        refuse: vec![(Duration::ZERO, None)],
    });
    let agent = node.start();
    let failed = wait_failure(&agent, Class::Unreachable);
    let piled = agent.wait("windows wait", |status| status.publish.pending_windows >= 2);
    assert_adds_up(&piled);
    assert_eq!(fake.attempts(), []);
    fake.play([]);
    let well = wait_well(&agent, 4);
    stopped(agent);
    for status in [&failed, &piled, &well] {
        assert_nothing_lost(&fake, status);
    }
    assert_every_ring_sample(&fake, epoch_us);
}

#[test]
fn the_ledger_adds_up_at_every_look_while_everything_goes_wrong() {
    let fake = FakeCloudWatch::start().unwrap();
    let trouble = |status, body| Fate::ServerError { status, body };
    fake.play([
        // First, because what is refused must not have been accepted before; a metric that no cap refuses.
        Rule::always(Fate::NamedPoison {
            metric: "publish_backlog_seconds".into(),
        }),
        Rule::always(Fate::ResetAfterCommit).percent(10, 1),
        Rule::always(Fate::ResetBeforeBody).percent(6, 2),
        Rule::always(Fate::Throttle).percent(6, 3),
        Rule::always(trouble(500, true)).percent(6, 4),
        Rule::always(trouble(503, false)).percent(6, 5),
        Rule::first(2, Fate::TooLarge),
    ]);
    // A cap that refuses some series: samples are dropped before and after their window is closed.
    let (node, _) = node_with_gpu(&fake);
    let node = node.with("publish.max_series", "12");
    let agent = node.start();
    let begun = Instant::now();
    let stormy = loop {
        let status = agent.status().unwrap();
        assert_adds_up(&status);
        let attempts = fake.attempts();
        let fates: BTreeSet<&str> = attempts.iter().filter_map(|attempt| attempt.fate).collect();
        let dropped = &status.sampler.ledger.dropped;
        if fates.len() >= 4 && dropped.len() == 2 && begun.elapsed() > Duration::from_secs(5) {
            assert!(dropped[&DropReason::SeriesLimit] > 0 && dropped[&DropReason::Refused] > 0);
            break status;
        }
        assert!(begun.elapsed() < PATIENCE, "{fates:?}, {:?}", status.publish);
        // Half a sample.
        std::thread::sleep(Duration::from_millis(50));
    };
    fake.play([]);
    let well = wait_well(&agent, stormy.publish.done.windows + 1);
    assert_adds_up(&well);
    let ended = stopped(agent);
    assert!(!ended.log.contains("samples are lost"), "{}", ended.log);
    // What the ledger calls accepted is what arrived: no more, and no less once everything was sent.
    assert_nothing_lost(&fake, &well);
}
