//! A clock that is not CloudWatch's. That the wall clock is stepped is played by the unit tests: no test may do it here.

use fake_cloudwatch::{AcceptedDatum, Clock};
use gpushare::publish::fate::Class;
use gpushare::status::Snapshot;
use serde_json::Value;

use super::scene::{Cloud, assert_gapless, problems, windows_of};
use crate::harness::output;
use crate::life::scene::assert_adds_up;
use crate::publish::scene::stopped;

/// Whether the last answer showed CloudWatch's clock so many seconds ahead of ours.
fn is_behind(status: &Snapshot, seconds: f64) -> bool {
    let skew = status.publish.done.clock_skew_seconds;
    skew.is_some_and(|skew| (skew - seconds).abs() < 3.0)
}

const GAUGE: &str = "clock_skew_seconds";

fn gauge(accepted: &[AcceptedDatum]) -> Vec<&AcceptedDatum> {
    let is_gauge = |datum: &&AcceptedDatum| datum.key.series.metric == GAUGE;
    accepted.iter().filter(is_gauge).collect()
}

#[test]
fn c10_a_clock_an_hour_off_is_loud_and_costs_no_window() {
    for (seconds, side) in [(3600_i32, "behind"), (-3600, "ahead")] {
        let cloud = Cloud::new();
        cloud.cloudwatch.set_clock(Clock::Ahead(i64::from(seconds)));
        let node = cloud
            .node()
            .with("publish.groups", "[\"host\", \"agent\", \"health\"]");
        let agent = node.start();
        cloud.wait_windows(&agent, 3);
        cloud.wait_accepted(&agent, GAUGE, |accepted| !gauge(accepted).is_empty());
        let status = agent.wait("the skew is seen", |status| {
            is_behind(status, f64::from(seconds)) && status.publish.pending_windows <= 1
        });
        let said = problems(&status);
        let (begin, end) = ("the clock of this node is ", format!(" s {side}: "));
        assert!(
            said.contains(begin) && said.contains(&end) && said.contains("chronyc"),
            "{said}"
        );
        let (code, json, _) = output(node.command(&["status", "--json"]));
        let json: Value = serde_json::from_str(&json).unwrap();
        let skew = json["publish"]["clock_skew_seconds"].as_f64().unwrap();
        assert_eq!(code, 0);
        assert!((skew - f64::from(seconds)).abs() < 3.0, "{skew}");
        assert_eq!(status.sampler.ledger.dropped_total(), 0);
        stopped(agent);
        let accepted = cloud.cloudwatch.accepted();
        assert_gapless(&accepted, status.agent.started_at);
        assert_gauge(&accepted, f64::from(seconds));
        cloud.assert_well_behaved();
    }
}

/// Asserts that the gauge says this skew of the whole instance, in every sample.
#[track_caller]
fn assert_gauge(accepted: &[AcceptedDatum], seconds: f64) {
    for datum in gauge(accepted) {
        let is_near = |skew: &f64| (skew - seconds).abs() < 3.0;
        assert!(datum.values.iter().all(is_near), "{datum:?}");
        let labels: Vec<&str> = datum.key.series.dimensions.keys().map(String::as_str).collect();
        assert_eq!(
            (datum.unit.as_deref(), labels),
            (Some("Seconds"), vec!["InstanceId"])
        );
    }
}

#[test]
fn c10_the_gauge_of_the_clock_is_billed_only_to_those_who_choose_its_group() {
    let cloud = Cloud::new();
    let node = cloud.node().without("publish.groups");
    let agent = node.start();
    cloud.wait_windows(&agent, 1);
    agent.wait("the server's clock is seen", |status| is_behind(status, 0.0));
    // Two whole windows in which it could have been.
    let seen = windows_of(&cloud.cloudwatch.accepted(), "mem_used_percent").len();
    cloud.wait_windows(&agent, seen + 3);
    stopped(agent);
    let accepted = cloud.cloudwatch.accepted();
    assert!(gauge(&accepted).is_empty(), "{:?}", gauge(&accepted));
}

#[test]
fn c10_a_clock_that_agrees_is_no_problem() {
    let cloud = Cloud::new();
    let node = cloud.node();
    let agent = node.start();
    cloud.wait_windows(&agent, 1);
    let status = agent.wait("the server's clock is seen", |status| is_behind(status, 0.0));
    assert!(!problems(&status).contains("clock"), "{}", problems(&status));
    stopped(agent);
}

#[test]
fn c10_what_is_stamped_too_far_ahead_waits_loudly_until_the_clock_is_right() {
    let cloud = Cloud::new();
    cloud.cloudwatch.set_clock(Clock::Ahead(-3 * 3600));
    let node = cloud.node();
    let agent = node.start();
    let status = agent.wait("CloudWatch has refused a window", |status| {
        let error = status.publish.done.last_error.as_ref();
        error.is_some_and(|error| error.class == Class::ClockSkewed) && is_behind(status, -3.0 * 3600.0)
    });
    assert_adds_up(&status);
    assert_eq!(status.sampler.ledger.dropped_total(), 0);
    let said = problems(&status);
    for words in [
        " s ahead: its data stands at the wrong time",
        "(clock skewed, ",
        "two hours in the future",
        "chronyc tracking",
    ] {
        assert!(said.contains(words), "not said: {words}\n{said}");
    }
    assert!(cloud.cloudwatch.accepted().is_empty());

    // For the agent it is one whether CloudWatch's clock moves or its own.
    cloud.cloudwatch.set_clock(Clock::Real);
    cloud.wait_windows(&agent, 2);
    let well = agent.wait("the backlog has gone", |status| {
        status.publish.pending_windows <= 1 && is_behind(status, 0.0)
    });
    assert_adds_up(&well);
    assert_eq!(well.sampler.ledger.dropped_total(), 0);
    stopped(agent);
    assert_gapless(&cloud.cloudwatch.accepted(), well.agent.started_at);
}
