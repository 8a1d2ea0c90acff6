//! The log: every request to the operation that arrived, whatever became of it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use http_stub::{Exchange, Head};

/// Headers that tell clients, retries and encodings apart. The signature is left out; see [`Attempt::credential`].
const HEADERS_OF_INTEREST: [&str; 9] = [
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "content-encoding",
    "content-length",
    "expect",
    "transfer-encoding",
    "user-agent",
    "x-amz-date",
    "x-amz-user-agent",
];

/// A request to `PutMetricData`.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// From 0, in the order of arrival.
    pub number: u64,
    /// When its head had arrived, by the machine's clock.
    pub at: SystemTime,
    /// What the script made of it, by the name that the fate has in a script.
    pub fate: Option<&'static str>,
    /// The status that was answered; `None` if none was, or not yet.
    pub status: Option<u16>,
    /// The error code that was answered.
    pub code: Option<String>,
    /// The error message that was answered.
    pub message: Option<String>,
    /// Whether its datums were accepted, answered or not.
    pub committed: bool,
    /// Bytes on the wire, head included.
    pub wire_bytes: usize,
    /// Bytes of the uncompressed body; `None` if it was not read or did not unpack.
    pub body_bytes: Option<usize>,
    /// Number of datums; `None` if the body was not read or not understood.
    pub datums: Option<usize>,
    /// Access key and scope of the signature, `KEY/DATE/REGION/SERVICE/aws4_request`.
    pub credential: Option<String>,
    /// Headers that tell clients, retries and encodings apart.
    pub headers: BTreeMap<String, String>,
}

impl Attempt {
    pub(crate) fn of(number: u64, exchange: &Exchange<'_>) -> Self {
        let head = exchange.head();
        let interesting = HEADERS_OF_INTEREST.iter().filter_map(|name| {
            let value = head.header(name)?;
            Some(((*name).to_owned(), value.to_owned()))
        });
        Self {
            number,
            at: exchange.arrived(),
            fate: None,
            status: None,
            code: None,
            message: None,
            committed: false,
            wire_bytes: exchange.wire_bytes(),
            body_bytes: None,
            datums: None,
            credential: credential(head).map(str::to_owned),
            headers: interesting.collect(),
        }
    }
}

/// The credential of a `SigV4` Authorization header; `None` without a whole one.
pub(crate) fn credential(head: &Head) -> Option<&str> {
    let parts = head.header("authorization")?.strip_prefix("AWS4-HMAC-SHA256 ")?;
    let part = |name: &str| {
        let found = parts.split(',').find_map(|part| part.trim().strip_prefix(name));
        found.filter(|value| !value.is_empty())
    };
    part("SignedHeaders=")?;
    part("Signature=")?;
    part("Credential=")
}
