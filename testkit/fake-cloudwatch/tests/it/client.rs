//! The real SDK's client, pointed at the fake.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::config::retry::RetryConfig;
use aws_sdk_cloudwatch::config::timeout::TimeoutConfig;
use aws_sdk_cloudwatch::config::{BehaviorVersion, Config, Credentials, Region};
use aws_sdk_cloudwatch::error::SdkError;
use aws_sdk_cloudwatch::operation::put_metric_data::{PutMetricDataError, PutMetricDataOutput};
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{Dimension, MetricDatum};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use fake_cloudwatch::FakeCloudWatch;

pub(crate) type Outcome = Result<PutMetricDataOutput, SdkError<PutMetricDataError>>;

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A client that makes one attempt.
pub(crate) fn client(fake: &FakeCloudWatch) -> Client {
    client_with(fake, RetryConfig::disabled(), PATIENCE)
}

/// A client that makes so many attempts, as a client with the SDK's defaults would.
pub(crate) fn retrying(fake: &FakeCloudWatch, attempts: u32) -> Client {
    let retries = RetryConfig::standard()
        .with_max_attempts(attempts)
        .with_initial_backoff(Duration::from_millis(1));
    client_with(fake, retries, PATIENCE)
}

/// A client that has enough after this time.
pub(crate) fn impatient(fake: &FakeCloudWatch, patience: Duration) -> Client {
    client_with(fake, RetryConfig::disabled(), patience)
}

fn client_with(fake: &FakeCloudWatch, retries: RetryConfig, patience: Duration) -> Client {
    let tls = Provider::Rustls(CryptoMode::Ring);
    let config = Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("eu-central-1"))
        .endpoint_url(fake.url())
        .credentials_provider(Credentials::new("AKIDEXAMPLE", "secret", None, None, "test"))
        .http_client(Builder::new().tls_provider(tls).build_https())
        .retry_config(retries)
        .timeout_config(TimeoutConfig::builder().operation_timeout(patience).build())
        .build();
    Client::from_conf(config)
}

/// A datum of this metric, stamped now.
pub(crate) fn datum(metric: &str, value: f64) -> MetricDatum {
    let dimension = Dimension::builder().name("InstanceId").value("i-1").build();
    MetricDatum::builder()
        .metric_name(metric)
        .dimensions(dimension)
        .timestamp(stamp(SystemTime::now()))
        .value(value)
        .build()
}

pub(crate) fn stamp(instant: SystemTime) -> DateTime {
    let seconds = instant.duration_since(UNIX_EPOCH).unwrap().as_secs();
    DateTime::from_secs(seconds.try_into().unwrap())
}

/// Sends these datums to the namespace `Test`.
pub(crate) async fn put(client: &Client, data: Vec<MetricDatum>) -> Outcome {
    let request = client.put_metric_data().namespace("Test");
    request.set_metric_data(Some(data)).send().await
}
