//! Every fate, as the SDK takes it.

use std::time::{Duration, Instant};

use aws_sdk_cloudwatch::error::{ProvideErrorMetadata, SdkError};
use fake_cloudwatch::fate::SkewCode;
use fake_cloudwatch::{Attempt, FakeCloudWatch, Fate, Rule, keys, merged};

use crate::client::{Outcome, client, datum, impatient, put, retrying};

const SHORT: Duration = Duration::from_millis(300);

async fn once(what: Fate) -> (FakeCloudWatch, Outcome) {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::first(1, what)]);
    let outcome = put(&client(&fake), vec![datum("good", 1.0), datum("bad", 2.0)]).await;
    (fake, outcome)
}

fn last(fake: &FakeCloudWatch) -> Attempt {
    fake.attempts().pop().unwrap()
}

/// Status, code and message of a refusal; and that nothing was accepted and the next request is well.
async fn refused(what: Fate) -> (u16, Option<String>, Option<String>) {
    let name = what.name();
    let (fake, outcome) = once(what).await;
    let error = outcome.unwrap_err();
    let status = error.raw_response().unwrap().status().as_u16();
    let attempt = last(&fake);
    assert_eq!((attempt.fate, attempt.status), (Some(name), Some(status)));
    assert_eq!((attempt.committed, attempt.datums), (false, Some(2)));
    assert!(fake.accepted().is_empty());
    put(&client(&fake), vec![datum("good", 1.0)]).await.unwrap();
    assert_eq!(last(&fake).fate, None);
    let error = error.into_service_error();
    assert_eq!(attempt.code.as_deref(), error.code());
    (
        status,
        error.code().map(str::to_owned),
        error.message().map(str::to_owned),
    )
}

#[tokio::test]
async fn refusals_have_the_status_and_code_of_the_service() {
    let server_error = |status, body| Fate::ServerError { status, body };
    for (fate, status, code) in [
        (Fate::Throttle, 400, Some("Throttling")),
        (server_error(500, true), 500, Some("InternalServiceError")),
        (server_error(503, true), 503, Some("ServiceUnavailable")),
        (server_error(503, false), 503, None),
        (Fate::TooLarge, 413, None),
        (Fate::ExpiredToken, 403, Some("ExpiredToken")),
        (Fate::AccessDenied, 403, Some("AccessDenied")),
        (Fate::InvalidClientToken, 403, Some("InvalidClientTokenId")),
        (Fate::ProxyHtml { status: 502 }, 502, None),
        (Fate::ProxyHtml { status: 403 }, 403, None),
        (Fate::ProxyXml { status: 403 }, 403, None),
    ] {
        let found = refused(fate.clone()).await;
        assert_eq!((found.0, found.1.as_deref()), (status, code), "{fate:?}");
    }
}

#[tokio::test]
async fn an_internal_error_is_the_models_fault() {
    let (_fake, outcome) = once(Fate::ServerError {
        status: 500,
        body: true,
    })
    .await;
    let error = outcome.unwrap_err().into_service_error();
    assert!(error.is_internal_service_fault(), "{error:?}");
}

#[tokio::test]
async fn a_denial_names_the_action_and_the_namespace() {
    let message = refused(Fate::AccessDenied).await.2.unwrap();
    assert!(
        message.contains("cloudwatch:PutMetricData on namespace Test"),
        "{message}"
    );
}

#[tokio::test]
async fn poison_is_named_or_not() {
    let metric = || "bad".to_owned();
    let (status, code, message) = refused(Fate::NamedPoison { metric: metric() }).await;
    assert_eq!((status, code.as_deref()), (400, Some("InvalidParameterValue")));
    assert_eq!(
        message.as_deref(),
        Some("The value bad for parameter MetricData.member.2.MetricName is invalid.")
    );
    let (status, code, message) = refused(Fate::UnnamedPoison { metric: metric() }).await;
    assert_eq!((status, code.as_deref()), (400, Some("InvalidParameterValue")));
    assert!(!message.unwrap().contains("member"));
}

#[tokio::test]
async fn poison_leaves_requests_without_it_alone_and_lasts() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::UnnamedPoison {
        metric: "bad".to_owned(),
    })]);
    for _ in 0..2 {
        put(&client(&fake), vec![datum("bad", 1.0)]).await.unwrap_err();
        put(&client(&fake), vec![datum("good", 1.0)]).await.unwrap();
    }
    assert!(
        fake.accepted()
            .iter()
            .all(|datum| datum.key.series.metric == "good")
    );
}

#[tokio::test]
async fn a_hang_lasts_longer_than_the_client() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::first(1, Fate::Hang)]);
    let start = Instant::now();
    let outcome = put(&impatient(&fake, SHORT), vec![datum("m", 1.0)]).await;
    assert!(matches!(outcome, Err(SdkError::TimeoutError(_))), "{outcome:?}");
    assert!(start.elapsed() >= SHORT);
    let attempt = last(&fake);
    assert_eq!(
        (attempt.fate, attempt.status, attempt.committed),
        (Some("hang"), None, false)
    );
    put(&client(&fake), vec![datum("m", 1.0)]).await.unwrap();
}

#[tokio::test]
async fn a_delay_ends_well_unless_the_client_has_left() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::Delay(SHORT))]);
    let start = Instant::now();
    put(&client(&fake), vec![datum("m", 1.0)]).await.unwrap();
    assert!(start.elapsed() >= SHORT);
    put(&impatient(&fake, SHORT / 3), vec![datum("m", 1.0)])
        .await
        .unwrap_err();
    // The client's runtime must run for its connection to be closed.
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(fake.accepted().len(), 1);
}

#[tokio::test]
async fn a_reset_before_the_body_accepts_nothing() {
    let (fake, outcome) = once(Fate::ResetBeforeBody).await;
    assert!(
        matches!(outcome, Err(SdkError::DispatchFailure(_))),
        "{outcome:?}"
    );
    let attempt = last(&fake);
    assert_eq!(
        (attempt.fate, attempt.status, attempt.datums),
        (Some("reset_before_body"), None, None)
    );
    assert!(fake.accepted().is_empty());
}

#[tokio::test]
async fn a_reset_after_the_commit_makes_a_retry_a_duplicate() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::first(1, Fate::ResetAfterCommit)]);
    put(&retrying(&fake, 2), vec![datum("m", 3.0)]).await.unwrap();
    let attempts = fake.attempts();
    let fates: Vec<_> = attempts.iter().map(|a| (a.fate, a.status, a.committed)).collect();
    assert_eq!(
        fates,
        [(Some("reset_after_commit"), None, true), (None, Some(200), true)]
    );
    let accepted = fake.accepted();
    assert_eq!((accepted.len(), keys(&accepted).len()), (2, 1));
    let window = merged(&accepted, Duration::ZERO).into_values().next().unwrap();
    assert_eq!((window.sample_count, window.average()), (2.0, Some(3.0)));
}

#[tokio::test]
async fn a_bad_request_is_refused_even_if_its_answer_was_to_be_spoilt() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::ResetAfterCommit)]);
    let error = put(&client(&fake), vec![datum("m", f64::NAN)]).await.unwrap_err();
    assert!(error.into_service_error().is_invalid_parameter_value_exception());
}

#[tokio::test]
async fn a_trickle_is_slow_but_whole() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::Trickle(Duration::from_millis(2)))]);
    let start = Instant::now();
    put(&client(&fake), vec![datum("m", 1.0)]).await.unwrap();
    // Status line and headers have more than 100 bytes.
    assert!(
        start.elapsed() >= Duration::from_millis(200),
        "{:?}",
        start.elapsed()
    );
    let outcome = put(
        &impatient(&fake, Duration::from_millis(50)),
        vec![datum("m", 1.0)],
    )
    .await;
    assert!(matches!(outcome, Err(SdkError::TimeoutError(_))), "{outcome:?}");
    assert_eq!(fake.accepted().len(), 2);
}

#[tokio::test]
async fn an_answer_without_end_must_be_cut_off_by_the_client() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::Endless)]);
    let outcome = put(&impatient(&fake, SHORT), vec![datum("m", 1.0)]).await;
    assert!(matches!(outcome, Err(SdkError::TimeoutError(_))), "{outcome:?}");
    assert!(last(&fake).committed);
}

#[tokio::test]
async fn an_empty_200_looks_like_success_and_accepts_nothing() {
    use aws_sdk_cloudwatch::operation::RequestId;
    let (fake, outcome) = once(Fate::EmptyOk).await;
    assert_eq!(outcome.unwrap().request_id(), None);
    assert!(fake.accepted().is_empty());
}

#[tokio::test]
async fn a_skewed_signature_is_refused_until_it_has_the_services_time() {
    for code in [SkewCode::RequestTimeTooSkewed, SkewCode::SignatureDoesNotMatch] {
        let fake = FakeCloudWatch::start().unwrap();
        fake.play([Rule::always(Fate::Skew { seconds: 3600, code })]);
        let error = put(&client(&fake), vec![datum("m", 1.0)]).await.unwrap_err();
        assert_eq!(error.raw_response().unwrap().status().as_u16(), 403);
        assert_eq!(
            error.into_service_error().code(),
            Some(format!("{code:?}").as_str())
        );
        // The SDK signs anew with the time of the Date header.
        put(&retrying(&fake, 2), vec![datum("m", 1.0)]).await.unwrap();
        let attempts = fake.take_attempts();
        let statuses: Vec<_> = attempts.iter().map(|attempt| attempt.status).collect();
        assert_eq!(statuses, [Some(403), Some(403), Some(200)]);
        assert_ne!(
            attempts[1].headers["x-amz-date"],
            attempts[2].headers["x-amz-date"]
        );
    }
}

#[tokio::test]
async fn a_small_skew_shows_in_the_date_alone() {
    let fake = FakeCloudWatch::start().unwrap();
    let code = SkewCode::default();
    fake.play([Rule::always(Fate::Skew { seconds: -120, code })]);
    put(&client(&fake), vec![datum("m", 1.0)]).await.unwrap();
    let arrived = fake.accepted()[0].arrived;
    let behind = fake.attempts()[0].at.duration_since(arrived).unwrap();
    assert!((118..=122).contains(&behind.as_secs()), "{behind:?}");
}

#[tokio::test]
async fn throttling_by_percentage_is_the_same_for_the_same_seed() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let fake = FakeCloudWatch::start().unwrap();
        fake.play([Rule::always(Fate::Throttle).percent(40, 5)]);
        let client = client(&fake);
        for _ in 0..50 {
            let _ = put(&client, vec![datum("m", 1.0)]).await;
        }
        runs.push(
            fake.attempts()
                .iter()
                .map(|attempt| attempt.status)
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(runs[0], runs[1]);
    let throttled = runs[0].iter().filter(|status| **status == Some(400)).count();
    assert!((10..=30).contains(&throttled), "{throttled} of 50");
}

#[tokio::test]
async fn the_sdk_retries_what_the_service_says_is_temporary() {
    let fake = FakeCloudWatch::start().unwrap();
    let internal = Fate::ServerError {
        status: 500,
        body: true,
    };
    fake.play([Rule::first(1, Fate::Throttle), Rule::first(1, internal)]);
    put(&retrying(&fake, 3), vec![datum("m", 1.0)]).await.unwrap();
    assert_eq!(fake.attempts().len(), 3);
    assert_eq!(fake.accepted().len(), 1);
}

#[tokio::test]
async fn connections_are_refused_for_a_span() {
    let fake = FakeCloudWatch::start().unwrap();
    let client = client(&fake);
    put(&client, vec![datum("m", 1.0)]).await.unwrap();
    fake.refuse_for(SHORT);
    let outcome = put(&client, vec![datum("m", 1.0)]).await;
    assert!(
        matches!(outcome, Err(SdkError::DispatchFailure(_))),
        "{outcome:?}"
    );
    assert_eq!(fake.attempts().len(), 1);
    tokio::time::sleep(SHORT * 2).await;
    put(&client, vec![datum("m", 1.0)]).await.unwrap();
}
