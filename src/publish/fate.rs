//! What an answer from CloudWatch, or the lack of one, means for the batch. Pure.
//!
//! The rule behind the table: data is given up only where CloudWatch says that the data itself is at fault. Whatever
//! else goes wrong leaves it waiting, because a proxy that answers for CloudWatch, a role that was detached or a
//! code that nobody has seen before all pass or are mended, and then the data is still wanted.

mod class;

use std::fmt::Write;

pub use self::class::{Class, Failure};

/// A clock that is wrong by more than this makes CloudWatch refuse a signature: AWS takes five minutes, and the SDK
/// begins to correct at four.
const SIGNATURE_SKEW_SECONDS: f64 = 240.0;

/// How much of a foreign message is kept.
const LONGEST_MESSAGE: usize = 300;

/// How rustls begins the text of every certificate that it refuses. Its error type is the SDK's affair, not ours.
const BAD_CERTIFICATE: &str = "invalid peer certificate";

/// The client reads the authorities once, at its first connection: hence the restart.
const MEND_CERTIFICATE: &str = "look at the node's clock and at who answers in the endpoint's name; a node without a CA bundle needs the \
     package ca-certificates; an authority of your own, as that of a proxy that opens TLS, belongs into that bundle or \
     SSL_CERT_FILE: then restart the agent";

/// What happened to one request.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Somebody answered.
    Answered(Reply),
    /// No region is known, so there is no endpoint to send to.
    NoRegion,
    /// There are no credentials, and why.
    NoCredentials(String),
    /// No connection, or it broke, and why.
    Unreachable(String),
    /// No answer in time, and in what time.
    TimedOut(String),
    /// The request could not be made, and why.
    Unsendable(String),
}

/// An HTTP answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// AWS's error code, as the SDK reads it from `x-amzn-query-error` or the body.
    pub code: Option<String>,
    /// AWS's error message.
    pub message: Option<String>,
    /// Whether the headers are those of an AWS service: `smithy-protocol` or `x-amzn-requestid`.
    pub from_aws: bool,
    /// `Content-Type`, which tells a proxy's page.
    pub content_type: Option<String>,
    /// The server's clock less ours.
    pub clock_skew_seconds: Option<f64>,
}

impl Reply {
    /// Whether CloudWatch has taken the data, by the head of the answer.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.from_aws && (200..300).contains(&self.status)
    }
}

/// What becomes of the batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// It arrived.
    Accepted,
    /// Datums of it are refused for good.
    Poison {
        /// Those that the message names, counted from 1; empty where it names none.
        members: Vec<usize>,
        /// CloudWatch's words.
        what: String,
        /// Whether those blame the time stamp. All datums of a window have the same one.
        blames_time: bool,
    },
    /// It has to be cut. Where the answer is not CloudWatch's own, the failure that it is if one datum alone is
    /// too large.
    TooLarge(Option<Failure>),
    /// It waits for another attempt.
    Failed(Failure),
}

/// Judges one request.
#[must_use]
pub fn judge(outcome: &Outcome) -> Fate {
    match outcome {
        Outcome::Answered(reply) => judge_reply(reply),
        Outcome::NoRegion => failed(
            Class::NoRegion,
            "the AWS region is not known",
            "set node.region or AWS_REGION, or let the instance metadata service be reached",
        ),
        Outcome::NoCredentials(why) => failed(
            Class::NoCredentials,
            format!("no AWS credentials: {}", shortened(why)),
            "attach an IAM role that allows cloudwatch:PutMetricData to the instance",
        ),
        Outcome::Unreachable(why) => failed(
            Class::Unreachable,
            format!("CloudWatch cannot be reached: {}", shortened(why)),
            if why.contains(BAD_CERTIFICATE) {
                MEND_CERTIFICATE
            } else {
                "look at the network, name resolution, HTTPS_PROXY, node.region and publish.endpoint_url"
            },
        ),
        Outcome::TimedOut(why) => failed(
            Class::TimedOut,
            format!("CloudWatch does not answer: {}", shortened(why)),
            "look at the network between the node and the endpoint: security groups, VPC endpoint, proxy",
        ),
        Outcome::Unsendable(why) => failed(
            Class::Misconfigured,
            format!("the request cannot be made: {}", shortened(why)),
            "look at publish.endpoint_url, AWS_ENDPOINT_URL and node.region",
        ),
    }
}

fn judge_reply(reply: &Reply) -> Fate {
    if let Some(code) = &reply.code
        && let Some(fate) = judge_code(bare(code), reply)
    {
        return fate;
    }
    match reply.status {
        _ if reply.is_accepted() => Fate::Accepted,
        413 if reply.from_aws => Fate::TooLarge(None),
        413 => Fate::TooLarge(Some(not_cloudwatch(reply))),
        429 => throttled(reply),
        408 | 500.. => failed(
            Class::ServerError,
            format!("CloudWatch has trouble: {}", said(reply)),
            "none needed, unless it lasts: look at the AWS Health Dashboard",
        ),
        _ if reply.from_aws || reply.code.is_some() => failed(
            Class::Unknown,
            format!("CloudWatch refuses: {}", said(reply)),
            "look the code up in the CloudWatch API reference; please report it",
        ),
        _ => Fate::Failed(not_cloudwatch(reply)),
    }
}

fn not_cloudwatch(reply: &Reply) -> Failure {
    failure(
        Class::NotCloudWatch,
        format!("something else answers in CloudWatch's place: {}", said(reply)),
        "look at publish.endpoint_url, AWS_ENDPOINT_URL and the proxy",
    )
}

/// The time stamps of a window are ahead of what CloudWatch takes.
#[must_use]
pub fn ahead_of_time(what: &str) -> Failure {
    failure(
        Class::ClockSkewed,
        format!("a window was stamped by a clock that was ahead: {what}"),
        "set the clock: chronyc tracking; the window waits until its time has come",
    )
}

/// What a code of AWS means; `None` leaves it to the HTTP status.
fn judge_code(code: &str, reply: &Reply) -> Option<Fate> {
    Some(match code {
        "Throttling"
        | "Throttled"
        | "ThrottledRequest"
        | "RequestThrottled"
        | "RequestLimitExceeded"
        | "RequestThrottling"
        | "TooManyRequests"
        | "BandwidthLimitExceeded"
        | "LimitExceeded"
        | "SlowDown"
        | "PriorRequestNotComplete" => throttled(reply),
        "InvalidParameterValue"
        | "InvalidParameterCombination"
        | "MissingParameter"
        | "MissingRequiredParameter"
        | "ValidationError"
        | "Validation"
        | "InvalidFormat"
        | "Serialization" => poison(reply),
        "RequestEntityTooLarge" | "RequestTooLarge" | "PayloadTooLarge" => Fate::TooLarge(None),
        "AccessDenied" | "UnauthorizedOperation" | "NotAuthorized" | "OptInRequired" => denied(reply),
        "ExpiredToken" | "TokenRefreshRequired" => failed(
            Class::CredentialsExpired,
            format!("the AWS credentials have expired: {}", said(reply)),
            "none needed if the instance's role renews them; else look at AWS_SESSION_TOKEN and ~/.aws",
        ),
        "RequestTimeTooSkewed" | "RequestExpired" | "RequestInTheFuture" => skewed(reply),
        "InvalidSignature" | "SignatureDoesNotMatch" | "AuthFailure"
            if is_off_by(reply, SIGNATURE_SKEW_SECONDS) =>
        {
            skewed(reply)
        }
        "InvalidSignature"
        | "SignatureDoesNotMatch"
        | "AuthFailure"
        | "InvalidClientTokenId"
        | "UnrecognizedClient"
        | "MissingAuthenticationToken"
        | "IncompleteSignature"
        | "InvalidAccessKeyId" => failed(
            Class::CredentialsRejected,
            format!("the AWS credentials are not valid: {}", said(reply)),
            "look at the instance's role, AWS_ACCESS_KEY_ID, AWS_PROFILE and ~/.aws; and at node.region",
        ),
        _ => return None,
    })
}

fn throttled(reply: &Reply) -> Fate {
    failed(
        Class::Throttled,
        format!("CloudWatch throttles this account: {}", said(reply)),
        "none needed, unless it lasts: raise the quota of PutMetricData requests in Service Quotas",
    )
}

fn skewed(reply: &Reply) -> Fate {
    let by = match reply.clock_skew_seconds {
        Some(skew) if skew >= 0.0 => format!("{skew:.0} s behind"),
        Some(skew) => format!("{:.0} s ahead", -skew),
        None => "wrong".into(),
    };
    failed(
        Class::ClockSkewed,
        format!("the clock of this node is {by}: {}", said(reply)),
        "set the clock: chronyc tracking",
    )
}

fn is_off_by(reply: &Reply, seconds: f64) -> bool {
    reply.clock_skew_seconds.is_some_and(|skew| skew.abs() >= seconds)
}

fn denied(reply: &Reply) -> Fate {
    let message = reply.message.as_deref().unwrap_or_default();
    let after = |mark: &str| {
        let rest = message.split_once(mark)?.1;
        let word = rest.split_whitespace().next()?;
        Some(word.trim_end_matches(['.', ',', ';']))
    };
    let action = after("perform: ").unwrap_or("cloudwatch:PutMetricData");
    let who = after("User: ").map_or_else(|| "the node's IAM role".to_owned(), str::to_owned);
    failed(
        Class::Denied,
        format!("permission {action} is missing: {}", said(reply)),
        format!("allow {action} for {who}; a VPC endpoint policy or an SCP may deny it too"),
    )
}

fn poison(reply: &Reply) -> Fate {
    let message = reply.message.as_deref().unwrap_or_default();
    let members = named_members(message);
    if members.is_empty() && message.contains("Namespace") {
        return failed(
            Class::Misconfigured,
            format!("CloudWatch refuses the namespace: {}", said(reply)),
            "set publish.namespace",
        );
    }
    Fate::Poison {
        blames_time: !members.is_empty() && message.contains(".Timestamp "),
        members,
        what: said(reply),
    }
}

/// The members of `MetricData` that a message names, as in `MetricData.member.19.Timestamp`.
fn named_members(message: &str) -> Vec<usize> {
    let parts = message.split("MetricData.member.").skip(1);
    parts
        .filter_map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse().ok()
        })
        .collect()
}

/// The code without what some services put around it: `com.amazon.coral#ThrottlingException:http://...`.
fn bare(code: &str) -> &str {
    let code = code.rsplit_once('#').map_or(code, |(_, code)| code);
    let code = code.split_once(':').map_or(code, |(code, _)| code);
    let stem = code.strip_suffix("Exception").unwrap_or(code);
    if stem.is_empty() { code } else { stem }
}

fn said(reply: &Reply) -> String {
    let mut text = format!("HTTP {}", reply.status);
    match (&reply.code, &reply.message) {
        (Some(code), Some(message)) => {
            let _ = write!(text, " {code}: {}", shortened(message));
        }
        (Some(code), None) => {
            let _ = write!(text, " {code}");
        }
        (None, Some(message)) => {
            let _ = write!(text, ": {}", shortened(message));
        }
        (None, None) => {
            if let Some(kind) = &reply.content_type {
                let _ = write!(text, " with {}", shortened(kind));
            }
        }
    }
    text
}

/// One line of bounded length: the text comes from whoever answers.
fn shortened(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST_MESSAGE + 1)
        .collect();
    match line.char_indices().nth(LONGEST_MESSAGE) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

fn failed(class: Class, what: impl Into<String>, mend: impl Into<String>) -> Fate {
    Fate::Failed(failure(class, what, mend))
}

fn failure(class: Class, what: impl Into<String>, mend: impl Into<String>) -> Failure {
    Failure {
        class,
        what: what.into(),
        mend: mend.into(),
    }
}

#[cfg(test)]
mod tests;
