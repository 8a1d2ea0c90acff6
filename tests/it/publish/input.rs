//! Endpoints, regions and clocks that are wrong: what the operator sees.

use fake_cloudwatch::fate::SkewCode;
use fake_cloudwatch::{FakeCloudWatch, Fate, Rule};
use gpushare::publish::fate::Class;

use super::scene::{
    assert_nothing_lost, everything_waits, node, node_without_endpoint, once, status_text, stopped,
    wait_failure, wait_well,
};
use crate::harness::{Agent, Node};
use crate::life::scene::assert_adds_up;

/// Asserts that the status says all of this.
#[track_caller]
fn assert_says(node: &Node, expected: &[&str]) {
    let text = status_text(node);
    for said in expected {
        assert!(text.contains(said), "not said: {said}\n{text}");
    }
}

#[test]
fn an_endpoint_that_answers_html_is_not_taken_for_cloudwatch() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::ProxyHtml { status: 200 })]);
    let node = node(&fake);
    let agent = node.start();
    wait_failure(&agent, Class::NotCloudWatch);
    assert_says(
        &node,
        &[
            "publishing has failed for ",
            " (not CloudWatch, ",
            "something else answers in CloudWatch's place: HTTP 200 with text/html",
            "mend: look at publish.endpoint_url, AWS_ENDPOINT_URL and the proxy",
        ],
    );
    let status = agent.wait("two windows wait", everything_waits);
    assert_adds_up(&status);
    fake.play([]);
    // What is left to send is sent at the end.
    stopped(agent);
    assert_nothing_lost(&fake, &status);
}

#[test]
fn an_endpoint_variable_that_is_no_url_is_named() {
    let node = node_without_endpoint("eu-west-1").with_env("AWS_ENDPOINT_URL_CLOUDWATCH", "http://[::1");
    let agent = node.start();
    wait_failure(&agent, Class::Misconfigured);
    assert_says(
        &node,
        &[
            "publishing has failed for ",
            " (misconfigured, ",
            "the request cannot be made: ",
            "`http://[::1`",
            "mend: look at publish.endpoint_url, AWS_ENDPOINT_URL and node.region",
        ],
    );
    assert_waits_in_the_spool(&node, agent);
}

#[test]
fn a_region_that_does_not_exist_shows_in_the_name_of_its_endpoint() {
    let node = node_without_endpoint("mars-north-1");
    let agent = node.start();
    let failed = agent.wait("a failure", |status| status.publish.done.last_error.is_some());
    // Without a name server the name is looked for until the time is up.
    let class = failed.publish.done.last_error.unwrap().class;
    assert!(
        [Class::Unreachable, Class::TimedOut].contains(&class),
        "{class:?}"
    );
    assert_says(
        &node,
        &[
            "monitoring.mars-north-1.amazonaws.com",
            "node.region",
            "publish.endpoint_url",
        ],
    );
    assert_waits_in_the_spool(&node, agent);
}

/// Asserts that an agent whose endpoint is wrong keeps what it samples, beyond its end.
#[track_caller]
fn assert_waits_in_the_spool(node: &Node, agent: Agent) {
    let status = agent.wait("two windows wait", everything_waits);
    assert_adds_up(&status);
    let ended = stopped(agent);
    let said = "not everything was published: the rest is in the spool, for the next start";
    assert!(ended.log.contains(said), "{}", ended.log);
    let next = node
        .start()
        .wait("the spool is open", |status| status.publish.earlier.runs == 1);
    assert!(next.publish.earlier.collected >= status.sampler.ledger.collected);
    assert_adds_up(&next);
}

#[test]
fn c10_a_clock_that_is_an_hour_wrong_is_named_loudly_and_data_arrives() {
    for (seconds, side) in [(3600, "behind"), (-3600, "ahead")] {
        for code in [SkewCode::RequestTimeTooSkewed, SkewCode::SignatureDoesNotMatch] {
            is_skewed(seconds, code, side);
        }
    }
}

/// Plays a service whose clock is so far ahead of the node's.
fn is_skewed(seconds: i64, code: SkewCode, side: &str) {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::Skew { seconds, code })]);
    let node = node(&fake);
    let agent = node.start();
    let skewed = wait_failure(&agent, Class::ClockSkewed);
    let shown = skewed.publish.done.clock_skew_seconds.unwrap();
    assert!((shown - seconds as f64).abs() < 5.0, "{shown}");
    // One refusal tells the time: everything after it is signed with it.
    let well = wait_well(&agent, 2);
    assert_adds_up(&well);
    assert_eq!(well.sampler.ledger.dropped_total(), 0);
    let problem = well
        .problems
        .iter()
        .find(|problem| problem.what.starts_with("the clock of this node is "));
    let problem = problem.unwrap_or_else(|| panic!("{:?}", well.problems));
    assert!(
        problem
            .what
            .ends_with(&format!(" s {side}: its data stands at the wrong time")),
        "{problem:?}"
    );
    assert_eq!(problem.mend, "set the clock: chronyc tracking");
    stopped(agent);
    assert_nothing_lost(&fake, &well);
    let attempts = fake.attempts();
    let refused: Vec<bool> = attempts.iter().map(|attempt| !attempt.committed).collect();
    assert!(refused[0] && !refused[1..].contains(&true), "{attempts:?}");
    let accepted = fake.accepted();
    assert_eq!(once(&accepted).len(), accepted.len(), "nothing was sent twice");
}
