//! What is seen of a call besides its outcome: bytes and requests, the head of the answer, the server's clock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_sdk_cloudwatch::config::http::HttpResponse;
use aws_sdk_cloudwatch::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_cloudwatch::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_cloudwatch::error::BoxError;
use aws_sdk_cloudwatch::primitives::{DateTime, DateTimeFormat};

use super::super::Traffic;
use super::super::fate::Reply;
use crate::metrics::clock;

/// Host and port of a URI, without the user and password that it may begin with.
pub(super) fn host_of(uri: &str) -> &str {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// What the observer saw of the call under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen(Arc<Mutex<Sight>>);

#[derive(Debug, Default)]
pub(super) struct Sight {
    /// Of calls that were given up before they ended.
    pub(super) cut_off: Traffic,
    /// Of the call under way.
    pub(super) attempt: Traffic,
    /// Where the request goes: a region that does not exist shows in the name alone.
    pub(super) host: String,
    pub(super) reply: Reply,
}

impl Seen {
    pub(super) fn lock(&self) -> MutexGuard<'_, Sight> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn forget(&self) {
        let cut_off = self.take_traffic();
        *self.lock() = Sight {
            cut_off,
            ..Sight::default()
        };
    }

    pub(super) fn take_traffic(&self) -> Traffic {
        let mut seen = self.lock();
        std::mem::take(&mut seen.cut_off) + std::mem::take(&mut seen.attempt)
    }

    pub(super) fn reply(&self) -> Reply {
        self.lock().reply.clone()
    }
}

/// Looks at requests before they leave and at answers before the SDK makes sense of them.
#[derive(Debug)]
pub(super) struct Observer(pub(super) Seen);

impl Observer {
    fn answered(&self, response: &HttpResponse) {
        let header = |name: &str| response.headers().get(name);
        let from_aws = header("smithy-protocol").is_some() || header("x-amzn-requestid").is_some();
        // The skew decides what is too old: a proxy's clock, or the date of a cached answer, must not.
        let tells_time = from_aws && header("age").is_none();
        let date = header("date")
            .filter(|_| tells_time)
            .and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
        self.0.lock().reply = Reply {
            status: response.status().as_u16(),
            code: None,
            message: None,
            from_aws,
            content_type: header("content-type").map(str::to_owned),
            // The header is cut to whole seconds, half a second on average.
            clock_skew_seconds: date.map(|date| date.as_secs_f64() + 0.5 - clock::wall_now().as_secs_f64()),
        };
    }
}

impl Intercept for Observer {
    fn name(&self) -> &'static str {
        "gpushare-observer"
    }

    fn read_after_serialization(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.lock().attempt.bytes = context.request().body().content_length().unwrap_or(0);
        Ok(())
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let mut seen = self.0.lock();
        host_of(context.request().uri()).clone_into(&mut seen.host);
        seen.attempt.requests += 1;
        seen.attempt.wire_bytes += context.request().body().content_length().unwrap_or(0);
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.answered(context.response());
        Ok(())
    }
}
