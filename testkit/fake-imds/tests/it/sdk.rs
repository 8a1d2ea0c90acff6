//! The SDK's own IMDS client and credentials provider.

use std::time::{Duration, UNIX_EPOCH};

use aws_config::imds::Client;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use fake_imds::{Expiry, FakeImds, Fate, Rule, TokenUse, Trouble};

fn client(fake: &FakeImds) -> Client {
    let tls = Provider::Rustls(CryptoMode::Ring);
    let http = Builder::new().tls_provider(tls).build_https();
    Client::builder()
        .configure(&ProviderConfig::without_region().with_http_client(http))
        .endpoint(fake.url())
        .unwrap()
        .max_attempts(2)
        .read_timeout(Duration::from_millis(300))
        .build()
}

const REGION: &str = "/latest/meta-data/placement/region";

/// What a service that forgets its tokens means for this client: it sends the old one again until that would expire.
#[tokio::test]
async fn it_reads_with_one_token_and_keeps_it_even_if_that_is_forgotten() {
    let fake = FakeImds::start().unwrap();
    let keeping = client(&fake);
    for _ in 0..2 {
        assert_eq!(keeping.get(REGION).await.unwrap().as_ref(), "us-east-1");
    }
    let tokens = || {
        fake.requests()
            .iter()
            .filter(|request| request.method == "PUT")
            .count()
    };
    assert_eq!(tokens(), 1);
    fake.forget_tokens();
    keeping.get(REGION).await.unwrap_err();
    let refused = fake.requests().pop().unwrap();
    assert_eq!((refused.token, refused.status), (TokenUse::Unknown, Some(401)));
    assert_eq!(client(&fake).get(REGION).await.unwrap().as_ref(), "us-east-1");
    assert_eq!(tokens(), 2);
}

#[tokio::test]
async fn credentials_have_the_expiry_that_was_set() {
    let fake = FakeImds::start().unwrap();
    let expiration = UNIX_EPOCH + Duration::from_hours(800_000);
    fake.change(|node| node.credentials.expiry = Expiry::At(expiration));
    let provider = ImdsCredentialsProvider::builder()
        .imds_client(client(&fake))
        .build();
    let credentials = provider.provide_credentials().await.unwrap();
    assert_eq!(credentials.access_key_id(), "ASIAFAKEFAKEFAKEFAKE");
    assert_eq!(credentials.session_token(), Some("not-a-session-token"));
    assert_eq!(credentials.expiry(), Some(expiration));
    fake.change(|node| node.role = None);
    let provider = ImdsCredentialsProvider::builder()
        .imds_client(client(&fake))
        .build();
    assert!(provider.provide_credentials().await.is_err());
}

#[tokio::test]
async fn it_retries_errors_and_gives_up_on_silence() {
    let fake = FakeImds::start().unwrap();
    let path = "/latest/meta-data/instance-id";
    fake.play([Rule::first(1, Trouble::on(path, Fate::Error { status: 500 }))]);
    assert_eq!(
        client(&fake).get(path).await.unwrap().as_ref(),
        "i-0123456789abcdef0"
    );
    fake.play([Rule::always(Trouble::on(path, Fate::Hang))]);
    client(&fake).get(path).await.unwrap_err();
    fake.vanish(None);
    client(&fake).get(path).await.unwrap_err();
}
