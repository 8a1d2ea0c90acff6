//! The limits through the SDK: what it makes of the refusals. Every single limit has its test beside the code.

use std::time::{Duration, SystemTime};

use aws_sdk_cloudwatch::error::ProvideErrorMetadata;
use aws_sdk_cloudwatch::types::{Dimension, MetricDatum};
use fake_cloudwatch::{Clock, FakeCloudWatch};

use crate::client::{client, datum, put, stamp};

/// The code and the message of a refusal, which must have the status 400 and accept nothing.
async fn refusal(fake: &FakeCloudWatch, data: Vec<MetricDatum>) -> (String, String) {
    let error = put(&client(fake), data).await.unwrap_err();
    assert_eq!(error.raw_response().unwrap().status().as_u16(), 400);
    assert!(fake.accepted().is_empty());
    let error = error.into_service_error();
    let by_code = match error.code().unwrap() {
        "InvalidParameterValue" => error.is_invalid_parameter_value_exception(),
        "InvalidParameterCombination" => error.is_invalid_parameter_combination_exception(),
        "MissingParameter" => error.is_missing_required_parameter_exception(),
        _ => false,
    };
    assert!(by_code, "{error:?}");
    (
        error.code().unwrap().to_owned(),
        error.message().unwrap().to_owned(),
    )
}

#[tokio::test]
async fn one_bad_datum_refuses_the_request_and_is_named() {
    let fake = FakeCloudWatch::start().unwrap();
    let old = SystemTime::now() - Duration::from_hours(15 * 24);
    let mut data = vec![datum("a", 1.0), datum("b", 2.0), datum("c", f64::NAN)];
    data[1].timestamp = Some(stamp(old));
    let (code, message) = refusal(&fake, data).await;
    assert_eq!(code, "InvalidParameterValue");
    assert_eq!(
        message,
        "The parameter MetricData.member.2.Timestamp must specify a time within the past two weeks.\n\
         The value NaN for parameter MetricData.member.3.Value is invalid."
    );
    let attempts = fake.attempts();
    assert_eq!(attempts[0].message.as_ref(), Some(&message));
    assert_eq!((attempts[0].status, attempts[0].committed), (Some(400), false));
}

#[tokio::test]
async fn the_other_two_errors_are_those_of_the_model() {
    let fake = FakeCloudWatch::start().unwrap();
    let mut both = datum("a", 1.0);
    both.values = Some(vec![1.0]);
    assert_eq!(refusal(&fake, vec![both]).await.0, "InvalidParameterCombination");
    let mut neither = datum("a", 1.0);
    neither.value = None;
    assert_eq!(refusal(&fake, vec![neither]).await.0, "MissingParameter");
}

#[tokio::test]
async fn counts_of_datums_values_and_dimensions_are_limited() {
    let fake = FakeCloudWatch::start().unwrap();
    let many = (0..1001).map(|n| datum("a", f64::from(n))).collect();
    assert!(
        refusal(&fake, many)
            .await
            .1
            .contains("MetricData must not have a size greater than 1000")
    );
    let mut wide = datum("a", 1.0);
    (wide.value, wide.values) = (None, Some(vec![1.0; 151]));
    let (_, message) = refusal(&fake, vec![wide]).await;
    assert_eq!(
        message,
        "The collection MetricData.member.1.Values must not have a size greater than 150."
    );
    let mut deep = datum("a", 1.0);
    let dimension = |n| Dimension::builder().name(format!("d{n}")).value("v").build();
    deep.dimensions = Some((0..31).map(dimension).collect());
    assert!(
        refusal(&fake, vec![deep])
            .await
            .1
            .contains("Dimensions must not have a size greater than 30")
    );
}

#[tokio::test]
async fn a_megabyte_is_counted_before_compression() {
    let fake = FakeCloudWatch::start().unwrap();
    let wide = |n: usize| {
        let mut datum = datum(&format!("m{n}"), 1.0);
        (datum.value, datum.values) = (None, Some(vec![0.5; 150]));
        datum
    };
    let error = put(&client(&fake), (0..700).map(wide).collect())
        .await
        .unwrap_err();
    assert_eq!(error.raw_response().unwrap().status().as_u16(), 413);
    assert_eq!(error.into_service_error().code(), None);
    let attempt = fake.attempts().remove(0);
    assert!(
        attempt.body_bytes.unwrap() > 1_000_000 && attempt.wire_bytes < 100_000,
        "{attempt:?}"
    );
    put(&client(&fake), (0..500).map(wide).collect()).await.unwrap();
    assert!(fake.attempts()[1].body_bytes.unwrap() <= 1_000_000);
}

#[tokio::test]
async fn time_stamps_are_judged_by_the_clock_that_a_test_sets() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.set_clock(Clock::Ahead(15 * 86_400));
    assert!(
        refusal(&fake, vec![datum("a", 1.0)])
            .await
            .1
            .contains("within the past two weeks")
    );
    fake.set_clock(Clock::Ahead(-3 * 3600));
    assert!(
        refusal(&fake, vec![datum("a", 1.0)])
            .await
            .1
            .contains("no more than two hours in the future")
    );
    fake.set_clock(Clock::Real);
    put(&client(&fake), vec![datum("a", 1.0)]).await.unwrap();
}
