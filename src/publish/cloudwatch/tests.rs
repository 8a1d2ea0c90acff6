use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;

use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_cloudwatch::config::Credentials;
use aws_sdk_cloudwatch::primitives::DateTimeFormat;

use super::super::fate::{Class, Fate};
use super::super::{Dimension as OurDimension, Timestamp, size};
use super::observer::host_of;
use super::*;
use crate::metrics::Unit;
use crate::metrics::clock;

/// What the stub does with its next connection.
enum Script {
    /// Answers with this head and body.
    Answer(String),
    /// Closes without an answer.
    Close,
}

/// A request as it came.
struct Request {
    head: String,
    body: Vec<u8>,
}

/// An HTTP server of one thread that follows a script, a connection per answer.
struct Stub {
    address: SocketAddr,
    requests: mpsc::Receiver<Request>,
}

impl Stub {
    fn start(script: Vec<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::channel();
        std::thread::spawn(move || {
            for step in script {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = sender.send(read(&mut stream));
                if let Script::Answer(text) = step {
                    let _ = stream.write_all(&cbor(&text));
                }
            }
        });
        Self { address, requests }
    }
}

fn read(stream: &mut impl Read) -> Request {
    let mut bytes = Vec::new();
    let mut chunk = [0; 8192];
    loop {
        let count = stream.read(&mut chunk).unwrap();
        bytes.extend_from_slice(&chunk[..count]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        if count == 0 || bytes.len() >= end + 4 + length {
            let body = bytes[end + 4..].to_vec();
            return Request { head, body };
        }
    }
}

/// Puts the bytes that are no text in the place of their stand-ins: a map of one entry, and a text of 27 bytes.
fn cbor(text: &str) -> Vec<u8> {
    let bytes = text.bytes().map(|byte| match byte {
        1 => 0xa1,
        2 => 0x78,
        3 => 27,
        byte => byte,
    });
    bytes.collect()
}

fn answer(status: &str, headers: &str, body: &str) -> Script {
    let length = body.len();
    Script::Answer(format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    ))
}

fn accepted() -> Script {
    answer("200 OK", "smithy-protocol: rpc-v2-cbor\r\n", "")
}

fn refused(status: &str, code: &str) -> Script {
    let headers = format!(
        "smithy-protocol: rpc-v2-cbor\r\nContent-Type: application/cbor\r\nx-amzn-query-error: {code};Sender\r\n"
    );
    let message = "The parameter is not valid.";
    // {"message": message} in CBOR; the initial bytes are not text and are put in below.
    answer(status, &headers, &format!("\u{1}gmessage\u{2}\u{3}{message}"))
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

fn publisher(address: SocketAddr, credentials: SharedCredentialsProvider) -> CloudWatchPublisher {
    let settings = CloudWatchSettings {
        region: Some("eu-west-1".into()),
        endpoint_url: Some(format!("http://{address}")),
    };
    let (_, identity) = watch::channel(IdentityStatus::default());
    let mut publisher = CloudWatchPublisher::new(settings, identity, Imds::new());
    publisher.client = Some(publisher.connect(&sdk_config(&publisher, credentials)));
    publisher
}

fn sdk_config(publisher: &CloudWatchPublisher, credentials: SharedCredentialsProvider) -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(behavior())
        .region(Region::new("eu-west-1"))
        .http_client(publisher.http_client.clone())
        .credentials_provider(credentials)
        .build()
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
        timestamp: Timestamp(1_767_225_600 + n as u64),
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

async fn publish(script: Script) -> (Answer, Stub) {
    let stub = Stub::start(vec![script]);
    let answer = publisher(stub.address, keys())
        .publish(&data(3, 5, true))
        .await
        .unwrap();
    (answer, stub)
}

fn class(answer: &Answer) -> Class {
    match &answer.fate {
        Fate::Failed(failure) => failure.class,
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
        let stub = Stub::start(vec![accepted()]);
        let answer = publisher(stub.address, keys()).publish(&batch).await.unwrap();
        assert_eq!(answer.fate, Fate::Accepted);
        let measured: usize = batch.metric_data.iter().map(size::of_datum).sum();
        let measured = size::of_envelope("GPUShare") + measured;
        // The envelope allows for a list of 1000 datums, whose head is up to two bytes longer.
        let head = match count {
            0..24 => 2,
            24..256 => 1,
            _ => 0,
        };
        let real = usize::try_from(answer.traffic.bytes).unwrap();
        assert_eq!(measured, real + head, "{count} datums of {values} values");
        let request = stub.requests.recv().unwrap();
        assert_eq!(request.body.len() as u64, answer.traffic.wire_bytes);
        assert_eq!(answer.traffic.requests, 1);
        let is_large = real >= LEAST_COMPRESSED as usize;
        assert_eq!(request.head.contains("content-encoding: gzip"), is_large);
        assert_eq!(answer.traffic.wire_bytes < answer.traffic.bytes, is_large);
    }
}

#[tokio::test]
async fn counts_are_left_out_where_every_value_occurred_once() {
    for (repeated, expected) in [(false, false), (true, true)] {
        let stub = Stub::start(vec![accepted()]);
        let mut publisher = publisher(stub.address, keys());
        publisher.publish(&data(2, 3, repeated)).await.unwrap();
        let body = stub.requests.recv().unwrap().body;
        assert!(body.windows(6).any(|window| window == b"Values"));
        assert_eq!(body.windows(6).any(|window| window == b"Counts"), expected);
    }
}

#[tokio::test]
async fn a_request_is_signed_for_its_region_and_speaks_rpc_v2_cbor() {
    let (answer, stub) = publish(accepted()).await;
    assert_eq!(answer.fate, Fate::Accepted);
    let head = stub.requests.recv().unwrap().head;
    assert!(head.contains("operation/putmetricdata"), "{head}");
    assert!(head.contains("/eu-west-1/monitoring/aws4_request"), "{head}");
    assert!(head.contains("smithy-protocol: rpc-v2-cbor"), "{head}");
}

#[tokio::test]
async fn refusals_have_their_class_and_are_not_retried_by_the_sdk() {
    let table = [
        ("400 Bad Request", "Throttling", Class::Throttled),
        (
            "500 Internal Server Error",
            "InternalServiceError",
            Class::ServerError,
        ),
        ("403 Forbidden", "AccessDenied", Class::Denied),
        ("403 Forbidden", "UnrecognizedClient", Class::CredentialsRejected),
        ("403 Forbidden", "ExpiredToken", Class::CredentialsExpired),
    ];
    for (status, code, expected) in table {
        let (answer, _stub) = publish(refused(status, code)).await;
        assert_eq!(class(&answer), expected, "{code}");
        assert_eq!(answer.traffic.requests, 1, "{code}");
    }
    let (poison, _stub) = publish(refused("400 Bad Request", "InvalidParameterValue")).await;
    let Fate::Poison { what, .. } = &poison.fate else {
        panic!("{:?}", poison.fate);
    };
    assert!(
        what.contains("InvalidParameterValue: The parameter is not valid."),
        "{what}"
    );
    let (large, _stub) = publish(answer("413 Payload Too Large", "", "")).await;
    assert!(matches!(large.fate, Fate::TooLarge(_)), "{:?}", large.fate);
    let (unavailable, _stub) = publish(answer("503 Service Unavailable", "", "")).await;
    assert_eq!(class(&unavailable), Class::ServerError);
}

#[tokio::test]
async fn a_page_of_a_proxy_is_not_cloudwatch() {
    let html = "<html><body>Please log in</body></html>";
    for status in [
        "200 OK",
        "302 Found",
        "403 Forbidden",
        "407 Proxy Authentication Required",
    ] {
        let (page, _stub) = publish(answer(status, "Content-Type: text/html\r\n", html)).await;
        assert_eq!(class(&page), Class::NotCloudWatch, "{status}");
    }
    let xml = "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>";
    let (page, _stub) = publish(answer("403 Forbidden", "Content-Type: text/xml\r\n", xml)).await;
    assert_eq!(class(&page), Class::NotCloudWatch);
}

#[tokio::test]
async fn c10_the_date_of_any_answer_gives_the_skew() {
    let hour_ahead = clock::wall_now() + Duration::from_hours(1);
    let seconds = i64::try_from(hour_ahead.as_secs()).unwrap();
    let date = DateTime::from_secs(seconds)
        .fmt(DateTimeFormat::HttpDate)
        .unwrap();
    let headers = format!("Date: {date}\r\nsmithy-protocol: rpc-v2-cbor\r\n");
    for status in ["200 OK", "503 Service Unavailable"] {
        let (answer, _stub) = publish(answer(status, &headers, "")).await;
        let skew = answer.clock_skew_seconds.unwrap();
        assert!((skew - 3600.0).abs() < 5.0, "{skew}");
    }
    // Whoever is not AWS, or keeps answers in a cache, says nothing about the time.
    for headers in [format!("Date: {date}\r\n"), format!("{headers}Age: 60\r\n")] {
        let (answer, _stub) = publish(answer("200 OK", &headers, "")).await;
        assert_eq!(answer.clock_skew_seconds, None, "{headers}");
    }
}

#[tokio::test]
async fn c03_a_connection_that_breaks_or_is_refused_is_unreachable() {
    let (broken, _stub) = publish(Script::Close).await;
    assert_eq!(class(&broken), Class::Unreachable);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = publisher(free, keys()).publish(&data(1, 1, false)).await.unwrap();
    let Fate::Failed(failure) = &refused.fate else {
        panic!("{:?}", refused.fate);
    };
    assert_eq!(failure.class, Class::Unreachable);
    let named = format!("CloudWatch cannot be reached: {free}: ");
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
    let stub = Stub::start(vec![]);
    let mut publisher = publisher(stub.address, SharedCredentialsProvider::new(NoCredentials));
    let answer = publisher.publish(&data(1, 1, false)).await.unwrap();
    let Fate::Failed(failure) = &answer.fate else {
        panic!("{:?}", answer.fate);
    };
    assert_eq!(failure.class, Class::NoCredentials);
    assert!(
        failure
            .what
            .starts_with("no AWS credentials: none in the environment"),
        "{}",
        failure.what
    );
    assert_eq!(answer.traffic.requests, 0);
    assert!(
        publisher.client.is_none(),
        "the next attempt asks the metadata service with a new token"
    );
}

#[tokio::test]
async fn c18_an_endpoint_that_never_answers_is_cut_off() {
    // Accepts (the backlog of the listener does) and never reads.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let begun = std::time::Instant::now();
    let mut publisher = publisher(listener.local_addr().unwrap(), keys());
    let answer = publisher.publish(&data(1, 1, false)).await.unwrap();
    assert_eq!(class(&answer), Class::TimedOut);
    let took = begun.elapsed();
    assert!(
        took >= ATTEMPT_TIMEOUT && took < ATTEMPT_TIMEOUT + CONNECT_TIMEOUT,
        "{took:?}"
    );
}

#[tokio::test]
async fn an_endpoint_that_is_no_url_is_named_and_the_request_is_not_printed() {
    let (_, identity) = watch::channel(IdentityStatus::default());
    let settings = CloudWatchSettings {
        region: Some("eu-west-1".into()),
        endpoint_url: Some("http://[::1".into()),
    };
    let mut publisher = CloudWatchPublisher::new(settings, identity, Imds::new());
    publisher.client = Some(publisher.connect(&sdk_config(&publisher, keys())));
    let answer = publisher.publish(&data(1, 1, false)).await.unwrap();
    let Fate::Failed(failure) = &answer.fate else {
        panic!("{:?}", answer.fate);
    };
    assert_eq!(failure.class, Class::Misconfigured);
    assert!(failure.what.contains("http://[::1"), "{}", failure.what);
    assert!(!failure.what.contains("MetricData"), "{}", failure.what);
}

#[tokio::test]
async fn c13_credentials_that_are_refused_are_asked_for_anew() {
    for (code, anew) in [
        ("ExpiredToken", true),
        ("InvalidClientTokenId", true),
        ("AccessDenied", true),
        ("Throttling", false),
    ] {
        let stub = Stub::start(vec![refused("403 Forbidden", code)]);
        let mut publisher = publisher(stub.address, keys());
        publisher.publish(&data(1, 1, false)).await.unwrap();
        assert_eq!(publisher.client.is_none(), anew, "{code}");
    }
}
