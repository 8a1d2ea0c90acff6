//! The HTTP client under every call to AWS: CloudWatch, STS and the metadata service.
//!
//! The SDK takes whatever answers into memory, and what answers may be a proxy or a captive portal. No answer is read
//! further than a limit; the callers bound the time.

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::{Builder, ConnectorBuilder, tls};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use http_body_util::Limited;

/// In bytes. A refusal by CloudWatch names every datum of a request, a line of 100 bytes each.
pub const LONGEST_ANSWER: usize = 256 * 1024;

/// In bytes. Credentials and identity documents have 2 KiB.
pub const LONGEST_METADATA: usize = 64 * 1024;

/// For services on the internet: TLS with the system's certificates, through the proxy of `HTTPS_PROXY` and
/// `NO_PROXY`.
#[must_use]
pub fn through_proxy() -> SharedHttpClient {
    let client = Builder::new().build_with_connector_fn(|settings, components| {
        let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
        let mut connector = ConnectorBuilder::default().tls_provider(provider);
        connector.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            connector.set_sleep_impl(components.sleep_impl());
        }
        connector.set_proxy_config(Some(ProxyConfig::from_env()));
        connector.build()
    });
    bounded_client(client, LONGEST_ANSWER)
}

/// For the link-local services of the instance: neither TLS nor proxy.
#[must_use]
pub fn direct() -> SharedHttpClient {
    bounded_client(Builder::new().build_http(), LONGEST_METADATA)
}

fn bounded_client(client: SharedHttpClient, limit: usize) -> SharedHttpClient {
    SharedHttpClient::new(Bounded { inner: client, limit })
}

#[derive(Debug)]
struct Bounded<T> {
    inner: T,
    limit: usize,
}

impl HttpClient for Bounded<SharedHttpClient> {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Bounded {
            inner: self.inner.http_connector(settings, components),
            limit: self.limit,
        })
    }
}

impl HttpConnector for Bounded<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (answer, limit) = (self.inner.call(request), self.limit);
        HttpConnectorFuture::new(async move { Ok(bounded(answer.await?, limit)) })
    }
}

fn bounded(answer: HttpResponse, limit: usize) -> HttpResponse {
    answer.map(|body| SdkBody::from_body_1_x(Limited::new(body, limit)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_smithy_runtime_api::http::StatusCode;
    use http_body_util::BodyExt;

    fn answer(bytes: usize) -> HttpResponse {
        let status = StatusCode::try_from(200).unwrap();
        HttpResponse::new(status, SdkBody::from(vec![0; bytes]))
    }

    #[tokio::test]
    async fn an_answer_is_read_no_further_than_the_limit() {
        let whole = bounded(answer(100), 100).into_body().collect().await;
        assert_eq!(whole.unwrap().to_bytes().len(), 100);
        let error = bounded(answer(101), 100).into_body().collect().await;
        assert!(error.unwrap_err().to_string().contains("limit"));
    }
}
