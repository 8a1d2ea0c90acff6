use std::io;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_cloudwatch::config::Credentials;
use fake_cloudwatch::{Clock, FakeCloudWatch, Fate as Play, Rule, Script};
use fake_imds::FakeImds;
use http_stub::clock::http_date;
use http_stub::{Exchange, Handler, Response, Server};

use super::super::fate::{Class, Fate};
use super::super::{Dimension as OurDimension, Timestamp, size};
use super::observer::host_of;
use super::*;
use crate::metrics::Unit;

/// Of 2026-01-01, in Unix seconds: the first datum's.
const MIDNIGHT: u64 = 1_767_225_600;

/// Gives every request the same answer, and keeps the bodies as they came: what the fake neither says nor tells.
struct Canned {
    answer: Response,
    bodies: Mutex<Vec<Vec<u8>>>,
}

impl Handler for Canned {
    fn handle(&self, exchange: &mut Exchange<'_>) -> io::Result<()> {
        let body = exchange.read_body(usize::MAX).map_err(io::Error::other)?.to_vec();
        self.bodies.lock().unwrap().push(body);
        exchange.send(&self.answer)
    }
}

fn canned(answer: Response) -> (Server, Arc<Canned>) {
    let canned = Arc::new(Canned {
        answer,
        bodies: Mutex::default(),
    });
    let server = Server::start(([127, 0, 0, 1], 0).into(), Arc::clone(&canned) as _).unwrap();
    (server, canned)
}

fn from_aws(status: u16) -> Response {
    Response::empty(status).header("smithy-protocol", "rpc-v2-cbor")
}

/// A CloudWatch on the day of the data.
fn cloudwatch() -> FakeCloudWatch {
    let fake = FakeCloudWatch::start().unwrap();
    fake.set_clock(Clock::Fixed(UNIX_EPOCH + Duration::from_secs(MIDNIGHT + 3600)));
    fake
}

#[derive(Debug)]
struct NoCredentials;

impl ProvideCredentials for NoCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(provider::Result::Err(CredentialsError::not_loaded("played")))
    }
}

fn publisher(url: &str, credentials: SharedCredentialsProvider) -> CloudWatchPublisher {
    let settings = CloudWatchSettings {
        region: Some("eu-west-1".into()),
        endpoint_url: Some(url.into()),
    };
    let (_, identity) = watch::channel(IdentityStatus::default());
    let mut publisher = CloudWatchPublisher::new(settings, identity, Imds::new());
    // Whoever runs the tests may have a proxy.
    publisher.http_client = aws_http::direct();
    let sdk_config = SdkConfig::builder()
        .behavior_version(behavior())
        .region(Region::new("eu-west-1"))
        .http_client(publisher.http_client.clone())
        .credentials_provider(credentials)
        .build();
    publisher.client = Some(publisher.connect(&sdk_config));
    publisher
}

fn keys() -> SharedCredentialsProvider {
    SharedCredentialsProvider::new(Credentials::new("AKIAEXAMPLE", "secret", None, None, "test"))
}

fn data(count: usize, values: usize, repeated: bool) -> Batch {
    let datum = |n: usize| Datum {
        metric_name: "disk_used_percent",
        dimensions: vec![
            OurDimension {
                name: "InstanceId".into(),
                value: "i-0123456789abcdef0".into(),
            },
            OurDimension {
                name: "path".into(),
                value: format!("/{n}{}", "x".repeat(n % 40)),
            },
        ],
        timestamp: Timestamp(MIDNIGHT + n as u64),
        values: (0..values).map(|value| value as f64 / 7.0).collect(),
        counts: vec![if repeated { 2.0 } else { 1.0 }; values],
        unit: Unit::Percent,
        storage_resolution: 60,
        samples: 0,
    };
    Batch {
        namespace: "GPUShare".into(),
        metric_data: (0..count).map(datum).collect(),
    }
}

async fn publish(url: &str) -> Answer {
    let mut publisher = publisher(url, keys());
    publisher.publish(&data(3, 5, true)).await.unwrap()
}

fn failure(answer: &Answer) -> &fate::Failure {
    match &answer.fate {
        Fate::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn c08_the_measured_size_is_the_size_of_the_real_request() {
    for (count, values, repeated) in [
        (1, 1, false),
        (3, 5, true),
        (30, 24, false),
        (300, 60, true),
        (1000, 60, false),
    ] {
        let batch = data(count, values, repeated);
        let fake = cloudwatch();
        let answer = publisher(&fake.url(), keys()).publish(&batch).await.unwrap();
        assert_eq!(answer.fate, Fate::Accepted, "{:?}", fake.attempts());
        let measured: usize = batch.metric_data.iter().map(size::of_datum).sum();
        let measured = size::of_envelope("GPUShare") + measured;
        // The envelope allows for a list of 1000 datums, whose head is up to two bytes longer.
        let head = match count {
            0..24 => 2,
            24..256 => 1,
            _ => 0,
        };
        let [request] = &fake.attempts()[..] else {
            panic!("{:?}", fake.attempts());
        };
        let real = request.body_bytes.unwrap();
        assert_eq!(measured, real + head, "{count} datums of {values} values");
        let traffic = answer.traffic;
        assert_eq!((traffic.requests, traffic.bytes), (1, real as u64));
        assert_eq!(request.headers["content-length"], traffic.wire_bytes.to_string());
        let is_large = real >= LEAST_COMPRESSED as usize;
        let encoding = request.headers.get("content-encoding").map(String::as_str);
        assert_eq!(encoding, is_large.then_some("gzip"));
        assert_eq!(traffic.wire_bytes < traffic.bytes, is_large);
    }
}

#[tokio::test]
async fn counts_are_left_out_where_every_value_occurred_once() {
    for repeated in [false, true] {
        let (server, canned) = canned(from_aws(200));
        let mut publisher = publisher(&server.url(), keys());
        let answer = publisher.publish(&data(2, 3, repeated)).await.unwrap();
        assert_eq!(answer.fate, Fate::Accepted);
        let bodies = canned.bodies.lock().unwrap();
        let has = |word: &[u8]| bodies[0].windows(word.len()).any(|window| window == word);
        assert!(has(b"Values"));
        assert_eq!(has(b"Counts"), repeated);
    }
}

#[tokio::test]
async fn refusals_have_their_class_and_are_not_retried_by_the_sdk() {
    let trouble = |status, body| Play::ServerError { status, body };
    for (play, expected) in [
        (Play::Throttle, Class::Throttled),
        (trouble(500, true), Class::ServerError),
        (trouble(503, false), Class::ServerError),
        (Play::AccessDenied, Class::Denied),
        (Play::InvalidClientToken, Class::CredentialsRejected),
        (Play::ExpiredToken, Class::CredentialsExpired),
    ] {
        let fake = cloudwatch();
        fake.play([Rule::always(play.clone())]);
        let answer = publish(&fake.url()).await;
        assert_eq!(failure(&answer).class, expected, "{play:?}");
        assert_eq!(
            (fake.attempts().len(), answer.traffic.requests),
            (1, 1),
            "{play:?}"
        );
    }
}

#[tokio::test]
async fn a_refused_datum_is_poison_and_a_request_can_be_too_large() {
    let fake = cloudwatch();
    let metric = "disk_used_percent".into();
    fake.play([Rule::always(Play::NamedPoison { metric })]);
    let answer = publish(&fake.url()).await;
    let Fate::Poison { members, what, .. } = &answer.fate else {
        panic!("{:?}", answer.fate);
    };
    assert_eq!(members, &[1, 2, 3]);
    assert!(what.contains("InvalidParameterValue: The "), "{what}");
    fake.play([Rule::always(Play::TooLarge)]);
    let answer = publish(&fake.url()).await;
    assert!(matches!(answer.fate, Fate::TooLarge(_)), "{:?}", answer.fate);
}

#[tokio::test]
async fn c10_the_date_of_any_answer_gives_the_skew() {
    let date = http_date(SystemTime::now() + Duration::from_hours(1));
    for status in [200, 503] {
        let (server, _) = canned(from_aws(status).header("date", date.as_str()));
        let skew = publish(&server.url()).await.clock_skew_seconds.unwrap();
        assert!((skew - 3600.0).abs() < 5.0, "{skew}");
    }
    // Whoever is not AWS, or keeps answers in a cache, says nothing about the time.
    for answer in [Response::empty(200), from_aws(200).header("age", "60")] {
        let (server, _) = canned(answer.clone().header("date", date.as_str()));
        let skew = publish(&server.url()).await.clock_skew_seconds;
        assert_eq!(skew, None, "{answer:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_named() {
    let fake = cloudwatch();
    fake.play(Script {
        rules: Vec::new(),
        refuse: vec![(Duration::ZERO, None)],
    });
    let answer = publish(&fake.url()).await;
    let failure = failure(&answer);
    assert_eq!(failure.class, Class::Unreachable);
    let host = fake.url().replace("http://", "");
    let named = format!("CloudWatch cannot be reached: {host}: ");
    assert!(failure.what.starts_with(&named), "{}", failure.what);
}

#[test]
fn the_host_of_an_endpoint_is_named_without_its_password() {
    for (uri, host) in [
        (
            "https://monitoring.eu-west-1.amazonaws.com/service/x",
            "monitoring.eu-west-1.amazonaws.com",
        ),
        ("http://[::1]:8080?x", "[::1]:8080"),
        ("http://user:secret@proxy.internal/a@b", "proxy.internal"),
    ] {
        assert_eq!(host_of(uri), host);
    }
}

#[tokio::test]
async fn c13_missing_credentials_are_no_network_fault() {
    let (fake, imds) = (cloudwatch(), FakeImds::start().unwrap());
    imds.vanish(None);
    let mut publisher = publisher(&fake.url(), SharedCredentialsProvider::new(NoCredentials));
    publisher.imds = Imds::at(&imds.url());
    let answer = publisher.publish(&data(1, 1, false)).await.unwrap();
    let failure = failure(&answer);
    assert_eq!(failure.class, Class::NoCredentials);
    assert!(
        failure
            .what
            .starts_with("no AWS credentials: none in the environment"),
        "{}",
        failure.what
    );
    assert_eq!((fake.attempts().len(), answer.traffic.requests), (0, 0));
    assert!(
        publisher.client.is_none(),
        "the next attempt asks the metadata service with a new token"
    );
}

#[tokio::test]
async fn an_endpoint_that_is_no_url_is_named_and_the_request_is_not_printed() {
    let answer = publish("http://[::1").await;
    let failure = failure(&answer);
    assert_eq!(failure.class, Class::Misconfigured);
    assert!(failure.what.contains("http://[::1"), "{}", failure.what);
    assert!(!failure.what.contains("MetricData"), "{}", failure.what);
}

#[tokio::test]
async fn c13_credentials_that_are_refused_are_asked_for_anew() {
    for (play, anew) in [
        (Play::ExpiredToken, true),
        (Play::InvalidClientToken, true),
        (Play::AccessDenied, true),
        (Play::Throttle, false),
    ] {
        let fake = cloudwatch();
        fake.play([Rule::always(play.clone())]);
        let mut publisher = publisher(&fake.url(), keys());
        publisher.publish(&data(1, 1, false)).await.unwrap();
        assert_eq!(publisher.client.is_none(), anew, "{play:?}");
    }
}
