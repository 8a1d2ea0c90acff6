//! Error answers as the service words and frames them. Pure.
//!
//! The service speaks a newer protocol than its error codes: the code that clients know comes in the header
//! `x-amzn-query-error`, the shape's name in the body's `__type`. An SDK takes the code from the header.

use ciborium::Value;
use http_stub::Response;

/// Whose fault an error is, as the query protocol says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Sender,
    Receiver,
}

/// An answer that is not 200.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// None: the answer has neither code nor body.
    pub(crate) error: Option<ServiceError>,
}

/// The part of an error that clients read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceError {
    pub(crate) code: &'static str,
    pub(crate) fault: Fault,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn sender(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(status, code, Fault::Sender, message.into())
    }

    pub(crate) fn receiver(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(status, code, Fault::Receiver, message.into())
    }

    pub(crate) fn bare(status: u16) -> Self {
        Self { status, error: None }
    }

    fn new(status: u16, code: &'static str, fault: Fault, message: String) -> Self {
        let error = ServiceError { code, fault, message };
        Self {
            status,
            error: Some(error),
        }
    }

    pub(crate) fn code(&self) -> Option<&'static str> {
        self.error.as_ref().map(|error| error.code)
    }

    pub(crate) fn response(&self) -> Response {
        let Some(error) = &self.error else {
            return Response::empty(self.status);
        };
        let fault = match error.fault {
            Fault::Sender => "Sender",
            Fault::Receiver => "Receiver",
        };
        let shape = format!("com.amazonaws.cloudwatch#{}", shape(error.code));
        let body = Value::Map(vec![
            ("__type".into(), shape.into()),
            ("message".into(), error.message.as_str().into()),
        ]);
        let mut bytes = Vec::new();
        ciborium::into_writer(&body, &mut bytes).expect("two strings are CBOR and a Vec takes them");
        Response::with_body(self.status, "application/cbor", bytes)
            .header("smithy-protocol", "rpc-v2-cbor")
            .header("x-amzn-query-error", format!("{};{fault}", error.code))
    }
}

/// The shape in the service's model that has this query code; errors without a shape go by their code.
fn shape(code: &str) -> &str {
    match code {
        "InternalServiceError" => "InternalServiceFault",
        "InvalidParameterCombination" => "InvalidParameterCombinationException",
        "InvalidParameterValue" => "InvalidParameterValueException",
        "MissingParameter" => "MissingRequiredParameterException",
        other => other,
    }
}
