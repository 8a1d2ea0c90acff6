//! What answers in the metadata service's place: a portal, a stranger, a service that refuses or does not stop.

use fake_imds::trouble::Fate;
use fake_imds::{Rule, Trouble};

use super::scene::{Cloud, INSTANCE, UNTAGGED, dimensions, only, waits_for};
use crate::harness::Node;
use crate::publish::scene::{stopped, with_credentials};

const DOCUMENT: &str = "/latest/dynamic/instance-identity/document";
const TOKEN: &str = "/latest/api/token";

/// The troubles, and what the status says of each.
fn troubles() -> Vec<(Trouble, &'static str)> {
    let odd = r#"{"instanceId": "i-0123456789abcdef0<script>", "region": "us-east-1"}"#;
    let foreign_region = r#"{"instanceId": "i-0123456789abcdef0", "region": "evil.example.com/"}"#;
    let wrong = |text: &str| Trouble::on(DOCUMENT, Fate::Wrong { text: text.into() });
    let error = |path, status| Trouble::on(path, Fate::Error { status });
    vec![
        (Trouble::everywhere(Fate::Html { status: 200 }), "not EC2's"),
        (
            Trouble::on(DOCUMENT, Fate::Html { status: 200 }),
            "<!DOCTYPE html>",
        ),
        (error(DOCUMENT, 302), "status 302"),
        (error(TOKEN, 302), "status 302"),
        (error(DOCUMENT, 401), "status 401"),
        (error(TOKEN, 401), "status 401"),
        (error(TOKEN, 403), "the service is off for this instance"),
        (error(DOCUMENT, 500), "status 500"),
        (wrong(""), "not an instance identity document"),
        (wrong("{}"), "not an instance identity document"),
        (wrong(odd), "is not one that EC2 gives"),
        (wrong(foreign_region), "is not one that EC2 gives"),
        (
            Trouble::on(DOCUMENT, Fate::Huge { bytes: 16 << 20 }),
            "length limit exceeded",
        ),
        (Trouble::on(DOCUMENT, Fate::NotUtf8), "invalid UTF-8"),
        (Trouble::on(DOCUMENT, Fate::Endless), "length limit exceeded"),
        (Trouble::on(DOCUMENT, Fate::Reset), "cannot be read"),
        (Trouble::on(DOCUMENT, Fate::Hang), "cannot be read"),
    ]
}

#[test]
fn answers_that_are_not_ec2s_are_refused_in_words_and_nothing_is_published() {
    for (trouble, words) in troubles() {
        let cloud = Cloud::new();
        cloud.imds.play([Rule::always(trouble.clone())]);
        let node = with_credentials(cloud.node());
        let agent = node.start();
        let status = agent.wait(&format!("{words:?} of {trouble:?}"), |status| {
            waits_for(status, words)
        });
        assert!(
            waits_for(&status, "the region from the instance metadata service"),
            "{trouble:?}: {status:#?}"
        );
        assert!(cloud.cloudwatch.attempts().is_empty(), "{trouble:?}");
        cloud.assert_only_version_2();
    }
}

#[test]
fn a_service_that_refuses_every_token_is_asked_patiently_and_found_when_it_is_well() {
    let cloud = Cloud::new();
    cloud
        .imds
        .play([Rule::always(Trouble::on(DOCUMENT, Fate::Error { status: 401 }))]);
    let node = cloud.node();
    let agent = node.start();
    agent.wait("three seconds of refusals", |status| {
        waits_for(status, "status 401") && status.agent.taken_at > status.agent.started_at + 3.0
    });
    let asked = cloud.imds.requests().len();
    // After 0, 1/4, 1/2, 1, 2 s or a little sooner, with a token each.
    assert!((4..=16).contains(&asked), "{asked} requests in three seconds");
    cloud.imds.play([]);
    cloud.wait_windows(&agent, 3);
    let status = agent.wait("the backlog has gone", |status| {
        status.publish.pending_windows <= 1
    });
    assert_eq!(status.sampler.ledger.dropped_total(), 0);
    stopped(agent);
    assert_eq!(dimensions(&cloud.cloudwatch.accepted()), only(&UNTAGGED));
    cloud.assert_well_behaved();
}

/// A node that finds its metadata service through its AWS profile. Only then is it unexpected that the service speaks
/// of another instance: an address in the environment is believed.
fn with_profile(cloud: &Cloud) -> Node {
    let node = cloud.bare_node();
    fs_err::create_dir_all(node.path(".aws")).unwrap();
    let profile = format!(
        "[default]\nec2_metadata_service_endpoint = {}\n",
        cloud.imds.url()
    );
    fs_err::write(node.path(".aws/config"), profile).unwrap();
    node
}

#[test]
fn the_document_of_another_instance_is_refused_by_name() {
    let cloud = Cloud::new();
    cloud
        .imds
        .change(|node| node.instance_id = "i-00000000000000bad".into());
    let node = with_profile(&cloud);
    let agent = node.start();
    agent.wait("the stranger is named", |status| {
        let words = format!("is about instance i-00000000000000bad, but this is instance {INSTANCE}");
        waits_for(status, &words) && status.publish.pending_windows >= 1
    });
    assert!(cloud.cloudwatch.attempts().is_empty());
    cloud.imds.change(|node| node.instance_id = INSTANCE.into());
    cloud.wait_windows(&agent, 2);
    stopped(agent);
    assert_eq!(dimensions(&cloud.cloudwatch.accepted()), only(&UNTAGGED));
    cloud.assert_well_behaved();
}

#[test]
fn hostile_credentials_are_named_as_such_and_nothing_is_sent() {
    let role = "/latest/meta-data/iam";
    for fate in [
        Fate::Html { status: 200 },
        Fate::Wrong { text: "{}".into() },
        Fate::Endless,
        Fate::Error { status: 500 },
    ] {
        let cloud = Cloud::new();
        cloud.imds.play([Rule::always(Trouble::on(role, fate.clone()))]);
        let node = cloud.node();
        let agent = node.start();
        let status = agent.wait(&format!("credentials are missing: {fate:?}"), |status| {
            status.publish.done.last_error.is_some()
        });
        let error = status.publish.done.last_error.unwrap();
        assert!(
            error.what.starts_with("no AWS credentials"),
            "{fate:?}: {error:?}"
        );
        assert!(cloud.cloudwatch.attempts().is_empty(), "{fate:?}");
        cloud.imds.play([]);
        cloud.wait_windows(&agent, 1);
        stopped(agent);
        cloud.assert_well_behaved();
    }
}
