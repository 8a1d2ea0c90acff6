//! `publish.target = "cloudwatch"`: `PutMetricData`. The only file that names the SDK of CloudWatch.
//!
//! The SDK signs, encodes (RPC v2 CBOR), compresses (gzip) and talks TLS. It does not retry: one call is
//! one request, and [`super::task`] decides about the next one. Every wait is bounded, which the SDK's own defaults
//! do not do.
//!
//! Region and credentials are looked for anew until they are found; "none" is never kept.

mod observer;

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::identity::IdentityCache;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_cloudwatch::config::SharedHttpClient;
use aws_sdk_cloudwatch::config::retry::RetryConfig;
use aws_sdk_cloudwatch::config::timeout::TimeoutConfig;
use aws_sdk_cloudwatch::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_cloudwatch::operation::put_metric_data::PutMetricDataError;
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{Dimension, MetricDatum, StandardUnit};
use aws_sdk_cloudwatch::{Client, Config};
use tokio::sync::watch;
use tokio::time::timeout;

use self::observer::{Observer, Seen};
use super::fate::{self, Class, Outcome, Reply};
use super::retry::Pace;
use super::{Answer, Batch, Datum, Publisher, Traffic};
use crate::aws_http;
use crate::identity::IdentityStatus;
use crate::identity::facts::Service;
use crate::identity::imds::{self, Imds};
use crate::log;

/// To a TCP and TLS connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// One request, answer included: a megabyte at 1 Mbit/s.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// One call, credentials included.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(25);
/// Getting credentials: short of an attempt's time, so that it shows whose fault the wait was.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(8);
/// Looking for the region: files, and the metadata service.
const REGION_TIMEOUT: Duration = Duration::from_secs(10);

/// In bytes: smaller bodies are sent as they are. The SDK's own 10,240 would leave a node of one GPU out, whose body
/// shrinks to a fifth.
const LEAST_COMPRESSED: u32 = 1024;

/// Where to publish.
#[derive(Clone, Debug, Default)]
pub struct CloudWatchSettings {
    /// `node.region`.
    pub region: Option<String>,
    /// `publish.endpoint_url`.
    pub endpoint_url: Option<String>,
}

/// Publishes batches to CloudWatch.
#[derive(Debug)]
pub struct CloudWatchPublisher {
    settings: CloudWatchSettings,
    identity: watch::Receiver<IdentityStatus>,
    imds: Imds,
    http_client: SharedHttpClient,
    /// Kept from call to call, with its connections, its credentials and what it knows of the server's clock.
    client: Option<Client>,
    seen: Seen,
}

impl CloudWatchPublisher {
    /// Connects to nothing yet.
    #[must_use]
    pub fn new(settings: CloudWatchSettings, identity: watch::Receiver<IdentityStatus>, imds: Imds) -> Self {
        Self {
            settings,
            identity,
            imds,
            http_client: aws_http::through_proxy(),
            client: None,
            seen: Seen::default(),
        }
    }

    /// The client; `None` while the region is not known.
    async fn client(&mut self) -> Option<Client> {
        if self.client.is_none() {
            let looked_for = timeout(REGION_TIMEOUT, self.sdk_config()).await;
            self.client = Some(self.connect(&looked_for.ok()??));
        }
        self.client.clone()
    }

    /// Region and credentials as in every AWS tool; `None` where nobody says a region.
    async fn sdk_config(&self) -> Option<SdkConfig> {
        let region = self.region().await?;
        let credentials = DefaultCredentialsChain::builder()
            .configure(ProviderConfig::without_region().with_http_client(self.http_client.clone()))
            .region(region.clone())
            .imds_client(self.imds.client())
            .build()
            .await;
        let loader = aws_config::defaults(behavior())
            .http_client(self.http_client.clone())
            .credentials_provider(credentials)
            .identity_cache(IdentityCache::lazy().load_timeout(CREDENTIALS_TIMEOUT).build())
            .region(region);
        Some(loader.load().await)
    }

    /// From `node.region`, `AWS_REGION`, the profile, the node's identity, the metadata service, in this order. The
    /// last is for a service that came up after the identity was settled without it.
    async fn region(&self) -> Option<Region> {
        let configured = self.settings.region.clone().map(Region::new);
        let found = self.identity.borrow().identity.region.clone();
        let known = RegionProviderChain::first_try(configured)
            .or_else(EnvironmentVariableRegionProvider::new())
            .or_else(ProfileFileRegionProvider::default())
            .or_else(found.map(Region::new));
        match known.region().await {
            None if imds::service() != Service::Off => {
                let document = self.imds.document().await.ok()?;
                document.region.map(Region::new)
            }
            known => known,
        }
    }

    fn connect(&self, sdk_config: &SdkConfig) -> Client {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(OPERATION_TIMEOUT)
            .build();
        let config = Config::from(sdk_config);
        let least_compressed = config.request_min_compression_size_bytes();
        let mut config = config
            .to_builder()
            .request_min_compression_size_bytes(least_compressed.unwrap_or(LEAST_COMPRESSED))
            .timeout_config(timeouts)
            .retry_config(RetryConfig::disabled())
            .interceptor(Observer(self.seen.clone()));
        if let Some(url) = &self.settings.endpoint_url {
            config = config.endpoint_url(url);
        }
        Client::from_conf(config.build())
    }

    async fn put(&mut self, batch: &Batch) -> Outcome {
        self.seen.forget();
        let Some(client) = self.client().await else {
            return Outcome::NoRegion;
        };
        let call = client
            .put_metric_data()
            .namespace(&batch.namespace)
            .set_metric_data(Some(batch.metric_data.iter().map(datum).collect()));
        // The SDK's operation timeout comes first; this one is for what it does not cover.
        match timeout(OPERATION_TIMEOUT + CONNECT_TIMEOUT, call.send()).await {
            Ok(Ok(_)) => Outcome::Answered(self.seen.reply()),
            Ok(Err(error)) => self.outcome(&error).await,
            Err(_) => Outcome::TimedOut(format!("nothing within {OPERATION_TIMEOUT:?}")),
        }
    }

    async fn outcome(&self, error: &SdkError<PutMetricDataError>) -> Outcome {
        // "dispatch failure" and the like say less than what is behind them.
        let why = error.source().map_or_else(|| error.to_string(), log::chain);
        let cause = error.source().map_or_else(|| error.to_string(), log::last_two);
        if let Some(missing) = credentials_error(error) {
            return Outcome::NoCredentials(self.explained(missing).await);
        }
        if is_without_connection(error) {
            self.seen.lock().attempt = Traffic::default();
            return Outcome::Unreachable(self.at_host(&cause));
        }
        let is_sent = self.seen.lock().attempt.requests > 0;
        match error {
            // The head of the answer says it all; what is sent again because its body does not come counts twice.
            _ if self.seen.reply().is_accepted() => Outcome::Answered(self.seen.reply()),
            SdkError::ServiceError(answer) => Outcome::Answered(Reply {
                code: answer.err().code().map(str::to_owned),
                message: answer.err().message().map(str::to_owned),
                ..self.seen.reply()
            }),
            SdkError::TimeoutError(_) if is_sent => {
                Outcome::TimedOut(self.at_host(&format!("nothing within {ATTEMPT_TIMEOUT:?}")))
            }
            SdkError::TimeoutError(_) => {
                Outcome::NoCredentials(format!("none came within {ATTEMPT_TIMEOUT:?}"))
            }
            SdkError::ConstructionFailure(_) => Outcome::Unsendable(why),
            SdkError::DispatchFailure(failure) if failure.is_user() => Outcome::Unsendable(why),
            SdkError::DispatchFailure(_) if !is_sent => Outcome::Unsendable(without_request(&why)),
            SdkError::ResponseError(_) if self.seen.reply().status != 0 => {
                Outcome::Answered(self.seen.reply())
            }
            _ => Outcome::Unreachable(self.at_host(&cause)),
        }
    }

    /// Why no source has credentials; the SDK says the same where the instance has no role and where the metadata
    /// service cannot be asked.
    async fn explained(&self, missing: Missing) -> String {
        const ELSEWHERE: &str = "none in the environment, in ~/.aws and from the container";
        match missing {
            Missing::Failed(why) => why,
            Missing::Nowhere if imds::service() == Service::Off => {
                format!("{ELSEWHERE}, and the metadata service is switched off")
            }
            Missing::Nowhere => match self.imds.has_role().await {
                Ok(true) => format!("{ELSEWHERE}, and those of the instance's role cannot be read"),
                Ok(false) => format!("{ELSEWHERE}, and the instance has no role"),
                Err(error) => format!(
                    "{ELSEWHERE}; the instance's role is not known: {}",
                    log::ends(&error)
                ),
            },
        }
    }

    fn at_host(&self, what: &str) -> String {
        format!("{}: {what}", self.seen.lock().host)
    }
}

impl Publisher for CloudWatchPublisher {
    type Error = Infallible;

    async fn publish(&mut self, batch: &Batch) -> Result<Answer, Infallible> {
        let outcome = self.put(batch).await;
        let fate = fate::judge(&outcome);
        if let fate::Fate::Failed(failure) = &fate
            && is_for_a_fresh_client(failure.class)
        {
            // The client keeps credentials for hours, though the role or the region may be another by now; and the
            // SDK's client of the metadata service shows a token that was refused until its time is up.
            self.client = None;
            self.imds = self.imds.renewed();
        }
        Ok(Answer {
            fate,
            traffic: self.seen.take_traffic(),
            clock_skew_seconds: self.seen.reply().clock_skew_seconds,
        })
    }
}

/// Whether what somebody mends would be seen only by a client that is made anew.
fn is_for_a_fresh_client(class: Class) -> bool {
    class.pace() == Pace::Slow || matches!(class, Class::CredentialsExpired | Class::NoCredentials)
}

/// Pinned: a new default of the SDK is a decision of ours.
fn behavior() -> BehaviorVersion {
    BehaviorVersion::v2026_01_12()
}

fn datum(datum: &Datum) -> MetricDatum {
    let dimensions = datum.dimensions.iter().map(|dimension| {
        Dimension::builder()
            .name(&dimension.name)
            .value(&dimension.value)
            .build()
    });
    let seconds = i64::try_from(datum.timestamp.0).unwrap_or(i64::MAX);
    MetricDatum::builder()
        .metric_name(datum.metric_name)
        .set_dimensions(Some(dimensions.collect()))
        .timestamp(DateTime::from_secs(seconds))
        .set_values(Some(datum.values.clone()))
        .set_counts((!datum.occurs_once()).then(|| datum.counts.clone()))
        .unit(StandardUnit::from(datum.unit.as_str()))
        .storage_resolution(i32::from(datum.storage_resolution))
        .build()
}

/// Whether nothing was sent, for want of a connection.
fn is_without_connection(error: &SdkError<PutMetricDataError>) -> bool {
    let SdkError::DispatchFailure(failure) = error else {
        return false;
    };
    // The kind "timeout" is that of the connection; the HTTP client's own kinds are not public.
    let is_connecting = |error: &(dyn Error + 'static)| log::chain(error).contains("client error (Connect)");
    failure.is_timeout() || error.source().is_some_and(is_connecting)
}

/// Why there are no credentials.
#[derive(Debug, PartialEq, Eq)]
enum Missing {
    /// No source has any.
    Nowhere,
    /// A source has some and does not give them.
    Failed(String),
}

/// A failure to get credentials looks like one to get a connection, until one looks for its cause.
fn credentials_error(error: &SdkError<PutMetricDataError>) -> Option<Missing> {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        match error.downcast_ref::<CredentialsError>() {
            Some(CredentialsError::CredentialsNotLoaded(_)) => return Some(Missing::Nowhere),
            Some(other) => return Some(Missing::Failed(log::ends(other))),
            // The type is the SDK's own secret.
            None if error.to_string().starts_with("identity resolver timed out") => {
                return Some(Missing::Failed(format!(
                    "none came within {CREDENTIALS_TIMEOUT:?}"
                )));
            }
            None => cause = error.source(),
        }
    }
    None
}

/// The SDK prints the whole request into the error of an endpoint that makes no URL.
fn without_request(why: &str) -> String {
    match why.split_once(" to request `") {
        Some((before, request)) => {
            let cause = request.rsplit_once("`: ").map_or("", |(_, cause)| cause);
            format!("{before}: {cause}").trim_end_matches(": ").to_owned()
        }
        None => why.to_owned(),
    }
}

#[cfg(test)]
mod tests;
