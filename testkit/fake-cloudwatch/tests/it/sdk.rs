//! What the SDK sends arrives as it was meant.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_cloudwatch::operation::RequestId;
use aws_sdk_cloudwatch::types::{MetricDatum, StandardUnit, StatisticSet};
use fake_cloudwatch::{Clock, FakeCloudWatch, keys, merged};

use crate::client::{client, datum, put, stamp};

#[tokio::test]
async fn a_distribution_arrives_with_all_its_members() {
    let fake = FakeCloudWatch::start().unwrap();
    let window = UNIX_EPOCH
        + Duration::from_secs(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 60 * 60);
    let sent = MetricDatum::builder()
        .timestamp(stamp(window))
        .set_values(Some(vec![100.0, 0.0, 50.0]))
        .set_counts(Some(vec![1.0, 49.0, 10.0]))
        .unit(StandardUnit::Percent)
        .storage_resolution(1)
        .metric_name("gpu_utilization")
        .set_dimensions(datum("m", 0.0).dimensions)
        .build();
    let answer = put(&client(&fake), vec![sent]).await.unwrap();
    assert!(answer.request_id().is_some());

    let accepted = fake.accepted();
    let [datum] = accepted.as_slice() else {
        panic!("{accepted:?}")
    };
    assert_eq!(datum.key.series.namespace, "Test");
    assert_eq!(datum.key.series.metric, "gpu_utilization");
    assert_eq!(datum.key.series.dimensions["InstanceId"], "i-1");
    assert_eq!(datum.key.timestamp, window);
    assert_eq!(
        (datum.unit.as_deref(), datum.storage_resolution),
        (Some("Percent"), 1)
    );
    assert_eq!(keys(&accepted), BTreeSet::from([datum.key.clone()]));

    let minute = &merged(&accepted, Duration::from_mins(1))[&datum.key];
    assert_eq!([minute.sample_count, minute.sum], [60.0, 600.0]);
    assert_eq!([minute.minimum, minute.maximum], [0.0, 100.0]);
    assert_eq!(
        (minute.percentile(50.0), minute.percentile(99.0)),
        (Some(0.0), Some(100.0))
    );
}

#[tokio::test]
async fn what_is_not_said_has_the_services_defaults() {
    let fake = FakeCloudWatch::start().unwrap();
    let arrival = UNIX_EPOCH + Duration::from_hours(500_000);
    fake.set_clock(Clock::Fixed(arrival));
    let set = StatisticSet::builder()
        .sample_count(2.0)
        .sum(5.0)
        .minimum(1.0)
        .maximum(4.0)
        .build();
    let bare = |metric: &str| MetricDatum::builder().metric_name(metric);
    let data = vec![
        bare("value").value(7.0).build(),
        bare("set").statistic_values(set).build(),
    ];
    put(&client(&fake), data).await.unwrap();
    let accepted = fake.take_accepted();
    assert_eq!(
        (accepted[0].key.timestamp, accepted[0].arrived),
        (arrival, arrival)
    );
    assert_eq!(
        (&accepted[0].values, &accepted[0].counts),
        (&vec![7.0], &vec![1.0])
    );
    assert_eq!(
        (accepted[0].unit.as_deref(), accepted[0].storage_resolution),
        (None, 60)
    );
    assert!(accepted[1].values.is_empty());
    assert_eq!(accepted[1].statistics.unwrap().sum, 5.0);
    assert!(fake.accepted().is_empty());
}

#[tokio::test]
async fn a_large_request_comes_gzipped_and_is_logged_with_both_sizes() {
    let fake = FakeCloudWatch::start().unwrap();
    let data = (0..1000)
        .map(|n| datum(&format!("metric_{n}"), f64::from(n)))
        .collect();
    put(&client(&fake), data).await.unwrap();
    assert_eq!(keys(&fake.accepted()).len(), 1000);
    let attempts = fake.attempts();
    let attempt = &attempts[0];
    assert_eq!(attempt.headers["content-encoding"], "gzip");
    assert_eq!(
        (attempt.datums, attempt.status, attempt.committed),
        (Some(1000), Some(200), true)
    );
    assert!(attempt.body_bytes.unwrap() > 90_000, "{attempt:?}");
    assert!(attempt.wire_bytes < 30_000, "{attempt:?}");
    let credential = attempt.credential.as_deref().unwrap();
    assert!(credential.starts_with("AKIDEXAMPLE/"), "{credential}");
    assert!(
        credential.ends_with("/eu-central-1/monitoring/aws4_request"),
        "{credential}"
    );
    assert!(
        attempt.headers["user-agent"].contains("aws-sdk-rust"),
        "{attempt:?}"
    );
}
