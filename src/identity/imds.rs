//! The EC2 instance metadata service, version 2 only. The only adapter to it.
//!
//! One client, so that one token serves every question, and no retries of its own: the task knows how long to wait.
//! Every question ends within a few seconds, whatever the other side does. It must not go through a proxy and must not
//! fall back to version 1.
//!
//! The SDK puts the name of the instance's role into a URL as it comes and panics where that makes none, so what is
//! no name of a role never gets that far.

use std::error::Error;
use std::time::Duration;

use aws_config::imds::Client;
use aws_config::imds::client::Builder;
use aws_config::imds::client::error::{ImdsError, TokenError};
use aws_config::provider_config::ProviderConfig;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::{ConnectorError, SdkError};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::byte_stream::ByteStream;

use super::document::{self, Document};
use super::facts::{FaultKind, Service, Tag};
use crate::aws_http;
use crate::interruption::notice::{self, NotANotice, Notice};

const DOCUMENT: &str = "/latest/dynamic/instance-identity/document";
/// The tags that the metadata holds; status 404 where `InstanceMetadataTags` is disabled.
const TAGS: &str = "/latest/meta-data/tags/instance";
/// The name of the instance's role; status 404 without one.
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
/// Characters of the name of an IAM role.
const LONGEST_ROLE: usize = 64;
/// `spot`, `on-demand` or another word.
const LIFE_CYCLE: &str = "/latest/meta-data/instance-life-cycle";
/// Status 404 as long as there is no notice, as for the next one.
const INTERRUPTION: &str = "/latest/meta-data/spot/instance-action";
const REBALANCE: &str = "/latest/meta-data/events/recommendations/rebalance";
const GROUP: &str = "/latest/meta-data/tags/instance/aws:autoscaling:groupName";

/// The service is a link-local neighbour: a second without a connection is none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// For the first byte of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// For a whole answer, however slowly it trickles. Getting a token has as much again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
#[error("{path} {kind}")]
pub struct Unanswered {
    /// What was asked for.
    pub path: &'static str,
    /// What happened.
    pub kind: FaultKind,
    /// More of it, where the kind does not say all.
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// The service.
#[derive(Clone, Debug)]
pub struct Imds {
    builder: Builder,
    client: Client,
}

impl Imds {
    /// The service where every AWS tool looks for it: `AWS_EC2_METADATA_SERVICE_ENDPOINT`, the same in
    /// `~/.aws/config`, or its link-local address. Nothing is asked yet; an address that makes no sense fails
    /// every question.
    #[must_use]
    pub fn new() -> Self {
        let http_client = SharedHttpClient::new(RoleGuard(aws_http::direct()));
        let builder = Client::builder()
            .configure(&ProviderConfig::without_region().with_http_client(http_client))
            .max_attempts(1)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .operation_attempt_timeout(ANSWER_TIMEOUT)
            .operation_timeout(ANSWER_TIMEOUT);
        Self {
            client: builder.clone().build(),
            builder,
        }
    }

    /// The service at this URL.
    #[cfg(test)]
    pub(crate) fn at(url: &str) -> Self {
        let builder = Self::new()
            .builder
            .endpoint(url)
            .expect("a fake says where it is by a URL");
        Self {
            client: builder.clone().build(),
            builder,
        }
    }

    /// The client, for the credentials of the instance: it has a token already.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The same service without the token, which it may no longer know after the clock was set.
    #[must_use]
    pub fn renewed(&self) -> Self {
        Self {
            client: self.builder.clone().build(),
            builder: self.builder.clone(),
        }
    }

    /// The instance identity document.
    pub async fn document(&self) -> Result<Document, Unanswered> {
        let text = self.get(DOCUMENT).await?;
        Document::parse(&text).map_err(|refused| nonsense(DOCUMENT, refused))
    }

    /// The Auto Scaling group, or why there is none.
    pub async fn group(&self) -> Result<Tag, Unanswered> {
        match self.get(GROUP).await {
            Ok(text) => document::group_name(&text)
                .map(Tag::Known)
                .map_err(|refused| nonsense(GROUP, refused)),
            Err(unanswered) if unanswered.kind == FaultKind::Absent => match self.get(TAGS).await {
                Ok(_) => Ok(Tag::NoGroup),
                Err(unanswered) if unanswered.kind == FaultKind::Absent => Ok(Tag::TagsOff),
                Err(unanswered) => Err(unanswered),
            },
            Err(unanswered) => Err(unanswered),
        }
    }

    /// Whether the instance has a role.
    pub async fn has_role(&self) -> Result<bool, Unanswered> {
        match self.get(ROLES).await {
            Ok(roles) => Ok(!roles.trim().is_empty()),
            Err(unanswered) if unanswered.kind == FaultKind::Absent => Ok(false),
            Err(unanswered) => Err(unanswered),
        }
    }

    /// Whether this is a spot instance.
    pub async fn is_spot(&self) -> Result<bool, Unanswered> {
        let life_cycle = self.get(LIFE_CYCLE).await?;
        Ok(life_cycle.trim() == "spot")
    }

    /// The notice of a spot interruption, if there is one.
    pub async fn interruption(&self) -> Result<Option<Notice>, Unanswered> {
        self.notice(INTERRUPTION, Notice::parse).await
    }

    /// When it was recommended to replace the instance, Unix seconds, if it was.
    pub async fn rebalance(&self) -> Result<Option<u64>, Unanswered> {
        self.notice(REBALANCE, notice::rebalance).await
    }

    async fn notice<T>(
        &self,
        path: &'static str,
        read: fn(&str) -> Result<T, NotANotice>,
    ) -> Result<Option<T>, Unanswered> {
        match self.get(path).await {
            Ok(text) => read(&text).map(Some).map_err(|refused| nonsense(path, refused)),
            Err(unanswered) if unanswered.kind == FaultKind::Absent => Ok(None),
            Err(unanswered) => Err(unanswered),
        }
    }

    async fn get(&self, path: &'static str) -> Result<String, Unanswered> {
        let answer = self.client.get(path).await;
        answer.map(String::from).map_err(|error| unanswered(path, error))
    }
}

impl Default for Imds {
    fn default() -> Self {
        Self::new()
    }
}

/// What the environment says about the service, in the variables that every AWS tool knows.
#[must_use]
pub fn service() -> Service {
    let variable = |name| std::env::var(name).unwrap_or_default();
    service_of(
        &variable("AWS_EC2_METADATA_DISABLED"),
        &variable("AWS_EC2_METADATA_SERVICE_ENDPOINT"),
    )
}

fn service_of(disabled: &str, endpoint: &str) -> Service {
    if disabled.eq_ignore_ascii_case("true") {
        Service::Off
    } else if endpoint.is_empty() {
        Service::Standard
    } else {
        Service::Expected
    }
}

impl Unanswered {
    /// The answer was no answer about this machine.
    #[must_use]
    pub fn of_another(refused: document::Refused) -> Self {
        nonsense(DOCUMENT, refused)
    }
}

fn nonsense(path: &'static str, refused: impl Error + Send + Sync + 'static) -> Unanswered {
    Unanswered {
        path,
        kind: FaultKind::Nonsense,
        source: Some(Box::new(refused)),
    }
}

fn unanswered(path: &'static str, error: ImdsError) -> Unanswered {
    let status = match &error {
        ImdsError::ErrorResponse(answer) => Some(answer.response().status().as_u16()),
        ImdsError::FailedToLoadToken(_) => token_status(&error),
        _ => None,
    };
    let kind = match status {
        Some(200..=299) => FaultKind::Nonsense,
        Some(403) => FaultKind::Disabled,
        Some(404) => FaultKind::Absent,
        Some(status) => FaultKind::Status(status),
        None => FaultKind::Silent,
    };
    // The status says all, and the SDK's error would repeat the whole answer.
    let tells_more = matches!(kind, FaultKind::Nonsense | FaultKind::Silent);
    Unanswered {
        path,
        kind,
        source: tells_more.then(|| error.into()),
    }
}

/// The status with which a token was refused. A token of another shape than EC2's comes with a success.
fn token_status(error: &ImdsError) -> Option<u16> {
    let source = error
        .source()?
        .downcast_ref::<SdkError<TokenError, HttpResponse>>()?;
    Some(source.raw_response()?.status().as_u16())
}

/// An HTTP client that lets nothing pass for the name of a role that is none.
#[derive(Debug)]
struct RoleGuard<T>(T);

#[derive(Debug, thiserror::Error)]
#[error("the answer is not the name of an IAM role")]
struct NotARole;

impl HttpClient for RoleGuard<SharedHttpClient> {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(RoleGuard(self.0.http_connector(settings, components)))
    }
}

impl HttpConnector for RoleGuard<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let names_role = request.uri().ends_with(ROLES);
        let answer = self.0.call(request);
        HttpConnectorFuture::new(async move {
            let answer = answer.await?;
            if names_role && answer.status().is_success() {
                with_role_alone(answer).await
            } else {
                Ok(answer)
            }
        })
    }
}

/// The answer with the name of a role in it and nothing else.
async fn with_role_alone(mut answer: HttpResponse) -> Result<HttpResponse, ConnectorError> {
    let body = ByteStream::new(answer.take_body()).collect().await;
    let bytes = body
        .map_err(|broken| ConnectorError::io(broken.into()))?
        .into_bytes();
    let role = str::from_utf8(&bytes).unwrap_or_default().trim();
    if !is_role(role) {
        return Err(ConnectorError::other(NotARole.into(), None));
    }
    *answer.body_mut() = role.into();
    Ok(answer)
}

/// What IAM takes for the name of a role.
fn is_role(text: &str) -> bool {
    (1..=LONGEST_ROLE).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_of_every_aws_tool_is_understood() {
        for (disabled, endpoint, service) in [
            ("", "", Service::Standard),
            ("false", "", Service::Standard),
            ("true", "http://127.0.0.1:1", Service::Off),
            ("TRUE", "", Service::Off),
            ("", "http://127.0.0.1:1", Service::Expected),
        ] {
            assert_eq!(
                service_of(disabled, endpoint),
                service,
                "{disabled:?} {endpoint:?}"
            );
        }
    }

    #[test]
    fn the_name_of_a_role_is_told_from_a_page() {
        let longest = "x".repeat(64);
        for role in ["node", "eksctl-prod_NodeInstanceRole-1A", "a+=,.@_-z", &longest] {
            assert!(is_role(role), "{role}");
        }
        let too_long = "x".repeat(65);
        for page in ["", "<html>", "two words", "{}", "../..", "a\nb", "ä", &too_long] {
            assert!(!is_role(page), "{page:?}");
        }
    }
}
