//! What a request's head must have: a signature, a date, the protocol. Pure.
//!
//! Signatures are not verified, which would need the secret keys of whoever runs the test.

use std::time::SystemTime;

use http_stub::Head;
use http_stub::clock::{epoch_seconds, parse_amz_date};

use crate::attempt::credential;
use crate::fate::SkewCode;
use crate::refusal::Refusal;

/// `SigV4`: a signature is good for five minutes before and after its date.
const MAX_SKEW_SECONDS: f64 = 300.0;

pub(crate) fn authorise(head: &Head) -> Result<(), Refusal> {
    if credential(head).is_none() {
        let message = "Request is missing Authentication Token";
        return Err(Refusal::sender(403, "MissingAuthenticationToken", message));
    }
    if signed_at(head).is_none() {
        let message = "The request has no X-Amz-Date header, or one that is not a date.";
        return Err(Refusal::sender(403, "IncompleteSignature", message));
    }
    Ok(())
}

fn signed_at(head: &Head) -> Option<SystemTime> {
    parse_amz_date(head.header("x-amz-date")?)
}

/// Whether the signature was made within five minutes of this instant. A request without a date is `authorise`'s matter.
pub(crate) fn in_time(head: &Head, now: SystemTime, code: SkewCode) -> Result<(), Refusal> {
    let Some(signed) = signed_at(head) else {
        return Ok(());
    };
    let skew = epoch_seconds(signed) - epoch_seconds(now);
    if skew.abs() <= MAX_SKEW_SECONDS {
        return Ok(());
    }
    let message = format!("The signature is {skew:.0} seconds off the time of the service.");
    Err(Refusal::sender(403, code.code(), message))
}

pub(crate) fn protocol(head: &Head) -> Result<(), Refusal> {
    if head.header("smithy-protocol") != Some("rpc-v2-cbor") {
        let message = "The header smithy-protocol must be rpc-v2-cbor.";
        return Err(Refusal::sender(404, "UnknownOperationException", message));
    }
    if head.header("content-type") != Some("application/cbor") {
        let message = "The content type must be application/cbor.";
        return Err(Refusal::sender(415, "UnsupportedMediaTypeException", message));
    }
    Ok(())
}
