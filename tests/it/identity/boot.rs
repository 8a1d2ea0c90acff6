//! The metadata service, the tags, the region and the credentials come late, or never.

use std::time::Duration;

use fake_imds::trouble::Fate;
use fake_imds::{Rule, Trouble};
use gpushare::publish::fate::Class;
use gpushare::status::Snapshot;

use super::scene::{
    Cloud, INSTANCE, UNTAGGED, assert_gapless, dimensions, only, problems, waits_for, windows_of,
};
use crate::harness::{Node, wait_for};
use crate::publish::scene::{stopped, with_credentials};

/// What stands in the status while publishing fails for want of something.
fn fails_for(status: &Snapshot, class: Class) -> bool {
    let publish = &status.publish.done;
    publish.failing_since.is_some()
        && publish
            .last_error
            .as_ref()
            .is_some_and(|error| error.class == class)
}

#[test]
fn c11_what_is_sampled_before_the_metadata_service_answers_arrives_with_the_nodes_dimensions() {
    let cloud = Cloud::new();
    cloud.imds.vanish(None);
    let node = cloud.node();
    let agent = node.start();
    let waiting = agent.wait("three windows wait for the metadata service", |status| {
        status.publish.pending_windows >= 3
            && waits_for(status, "InstanceType")
            && waits_for(status, "the instance metadata service (")
    });
    assert_eq!(waiting.publish.done.attempts, 0);
    assert_eq!(waiting.sampler.ledger.dropped_total(), 0);

    cloud.imds.appear();
    cloud.wait_windows(&agent, 5);
    let status = agent.wait("the backlog has gone", |status| {
        status.publish.pending_windows <= 1
    });
    assert_eq!(status.sampler.ledger.dropped_total(), 0, "{status:#?}");
    assert_eq!(status.node_waiting_for, None);
    assert_eq!(status.node.instance_id.as_deref(), Some(INSTANCE));
    let started_at = status.agent.started_at;
    stopped(agent);
    let accepted = cloud.cloudwatch.accepted();
    assert_gapless(&accepted, started_at);
    assert_eq!(dimensions(&accepted), only(&UNTAGGED));
    cloud.assert_well_behaved();
}

#[test]
fn c11_a_second_start_needs_no_metadata_service() {
    let cloud = Cloud::new();
    cloud.tag("gpu-nodes");
    let node = with_credentials(cloud.node());
    let first = node.start();
    cloud.wait_windows(&first, 1);
    let kept = wait_for(|| node.path("state/identity.json").exists().then_some(()));
    assert_eq!(kept, Some(()), "the identity is kept: {}", first.log());
    stopped(first);
    let before = dimensions(&cloud.cloudwatch.take_accepted());
    assert_eq!(before.len(), 1);
    assert!(before.first().unwrap().values().any(|value| value == "gpu-nodes"));

    cloud.imds.vanish(None);
    let second = node.start();
    cloud.wait_windows(&second, 2);
    let status = second.wait("the backlog has gone", |status| {
        status.publish.pending_windows <= 1
    });
    assert_eq!(status.sampler.ledger.dropped_total(), 0);
    stopped(second);
    let accepted = cloud.cloudwatch.accepted();
    assert_eq!(dimensions(&accepted), before, "no series is a new one");
    assert_gapless(&accepted, status.agent.started_at);
}

#[test]
fn c11_the_cache_of_another_instance_is_not_used() {
    let cloud = Cloud::new();
    cloud.imds.vanish(None);
    let node = with_credentials(cloud.node());
    fs_err::create_dir_all(node.path("state")).unwrap();
    let cache = r#"{"instance_id": "i-00000000000000bad", "image_id": "ami-1", "instance_type": "p5.48xlarge", "region": "eu-west-1"}"#;
    fs_err::write(node.path("state/identity.json"), cache).unwrap();
    let agent = node.start();
    // A cache that counts does so after five seconds.
    let status = agent.wait("six seconds pass", |status| {
        status.agent.taken_at > status.agent.started_at + 6.0
    });
    assert!(waits_for(&status, "InstanceType"), "{status:#?}");
    assert_eq!(
        (status.node.instance_id.as_deref(), status.node.instance_type),
        (Some(INSTANCE), None),
        "the firmware names the instance, and nobody its type"
    );
    let ended = agent.terminate();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    let said = [
        "the cached identity is of another instance",
        "the AWS region is not known",
        "not everything was published: the rest is in the spool, for the next start",
    ];
    for words in said {
        assert!(ended.log.contains(words), "{words}: {}", ended.log);
    }
    assert!(cloud.cloudwatch.attempts().is_empty());
}

#[test]
fn c12_without_tags_the_group_is_left_out_and_one_that_turns_up_later_is_announced_and_changes_nothing() {
    let cloud = Cloud::new();
    let node = cloud.node();
    let agent = node.start();
    cloud.wait_windows(&agent, 1);
    let log = agent.log();
    assert!(
        log.contains("published without this dimension") && log.contains("InstanceMetadataTags is disabled"),
        "{log}"
    );

    cloud.tag("gpu-nodes");
    let announced = "the dimensions change at the next start of the agent";
    let heard = wait_for(|| agent.log().contains(announced).then_some(()));
    assert_eq!(heard, Some(()), "{}", agent.log());
    let so_far = windows_of(&cloud.cloudwatch.accepted(), "mem_used_percent").len();
    cloud.wait_windows(&agent, so_far + 2);
    let ended = stopped(agent);
    let lines = ended.log.lines().filter(|line| line.contains(announced));
    let lines: Vec<&str> = lines.collect();
    assert!(
        lines.len() == 1 && lines[0].contains("AutoScalingGroupName=gpu-nodes"),
        "{lines:?}"
    );
    assert_eq!(dimensions(&cloud.cloudwatch.take_accepted()), only(&UNTAGGED));

    let next = node.start();
    cloud.wait_windows(&next, 1);
    let tagged = [&[("AutoScalingGroupName", "gpu-nodes")], &UNTAGGED[..]].concat();
    assert_eq!(dimensions(&cloud.cloudwatch.accepted()), only(&tagged));
    stopped(next);
    cloud.assert_well_behaved();
}

#[test]
fn c12_tags_that_fail_are_waited_for_within_a_limit() {
    for fate in [
        Fate::Error { status: 500 },
        Fate::Hang,
        Fate::Html { status: 200 },
    ] {
        let cloud = Cloud::new();
        cloud
            .imds
            .play([Rule::always(Trouble::on("/latest/meta-data/tags", fate.clone()))]);
        let node = cloud.node();
        let agent = node.start();
        cloud.wait_windows(&agent, 1);
        let log = agent.log();
        assert!(
            log.contains("the instance tags could not be read in time"),
            "{fate:?}: {log}"
        );
        stopped(agent);
        assert_eq!(
            dimensions(&cloud.cloudwatch.accepted()),
            only(&UNTAGGED),
            "{fate:?}"
        );
        cloud.assert_well_behaved();
    }
}

#[test]
fn a_role_that_is_attached_later_is_found_and_nothing_is_lost() {
    let cloud = Cloud::new();
    cloud.imds.change(|node| node.role = None);
    let node = cloud.node();
    let agent = node.start();
    let status = agent.wait("credentials are missing, twice", |status| {
        let in_a_row = status
            .publish
            .done
            .last_error
            .as_ref()
            .map_or(0, |error| error.in_a_row);
        fails_for(status, Class::NoCredentials) && in_a_row >= 2
    });
    let said = problems(&status);
    assert!(
        said.contains("no AWS credentials")
            && said.contains("attach an IAM role that allows cloudwatch:PutMetricData"),
        "{said}"
    );
    assert!(cloud.cloudwatch.attempts().is_empty(), "nothing is sent unsigned");

    // A service that was restarted knows no token of before.
    cloud.imds.forget_tokens();
    cloud.imds.change(|node| node.role = Some("node".into()));
    cloud.wait_windows(&agent, 3);
    let status = agent.wait("the backlog has gone", |status| {
        status.publish.pending_windows <= 1 && status.publish.done.failing_since.is_none()
    });
    assert_eq!(status.sampler.ledger.dropped_total(), 0);
    stopped(agent);
    assert_gapless(&cloud.cloudwatch.accepted(), status.agent.started_at);
    cloud.assert_well_behaved();
}

#[test]
fn credentials_come_from_the_metadata_service_past_a_proxy() {
    // Both are on this machine; another address of it keeps them apart for NO_PROXY.
    let mut cloud = Cloud::new();
    cloud.imds = fake_imds::FakeImds::start_at(([127, 0, 0, 2], 0).into()).unwrap();
    let node = cloud
        .node()
        .with_env("HTTP_PROXY", "http://127.0.0.1:9")
        .with_env("http_proxy", "http://127.0.0.1:9")
        .with_env("NO_PROXY", "127.0.0.1");
    let agent = node.start();
    cloud.wait_windows(&agent, 1);
    stopped(agent);
    cloud.assert_well_behaved();
}

#[test]
fn a_region_that_is_configured_later_is_found_and_nothing_is_lost() {
    let cloud = Cloud::new();
    let node = with_credentials(cloud.node())
        .with("node.instance_id", "\"i-1\"")
        .with("publish.dimensions", "[\"InstanceId\"]")
        .with_env("AWS_EC2_METADATA_DISABLED", "true");
    let agent = node.start();
    let status = agent.wait("the region is missing", |status| {
        fails_for(status, Class::NoRegion)
    });
    let said = problems(&status);
    assert!(
        said.contains("the AWS region is not known") && said.contains("set node.region or AWS_REGION"),
        "{said}"
    );
    fs_err::create_dir_all(node.path(".aws")).unwrap();
    fs_err::write(node.path(".aws/config"), "[default]\nregion = eu-north-1\n").unwrap();
    cloud.wait_windows(&agent, 3);
    let status = agent.wait("the backlog has gone", |status| {
        status.publish.pending_windows <= 1
    });
    assert_eq!(status.sampler.ledger.dropped_total(), 0);
    stopped(agent);
    assert_gapless(&cloud.cloudwatch.accepted(), status.agent.started_at);
    assert_eq!(signed_for(&cloud), "eu-north-1");
    assert!(
        cloud.imds.requests().is_empty(),
        "AWS_EC2_METADATA_DISABLED is set"
    );
}

#[test]
fn the_region_of_the_identity_document_is_signed_for() {
    let cloud = Cloud::new();
    cloud.imds.change(|node| node.region = "ap-southeast-2".into());
    let node = cloud.node();
    let agent = node.start();
    cloud.wait_windows(&agent, 1);
    stopped(agent);
    assert_eq!(signed_for(&cloud), "ap-southeast-2");
}

/// The region of every request's signature.
#[track_caller]
fn signed_for(cloud: &Cloud) -> String {
    let attempts = cloud.cloudwatch.attempts();
    let scopes = attempts.iter().map(|attempt| attempt.credential.clone().unwrap());
    let mut regions: Vec<String> = scopes
        .map(|scope| scope.split('/').nth(2).unwrap().to_owned())
        .collect();
    regions.dedup();
    assert_eq!(regions.len(), 1, "{regions:?}");
    regions.remove(0)
}

#[test]
fn a_node_that_waits_says_so_to_people_and_programs() {
    let cloud = Cloud::new();
    cloud.imds.vanish(None);
    let node = cloud.node();
    let agent = node.start();
    let waiting = "ImageId, InstanceType, the region from the instance metadata service (";
    agent.wait("it waits", |status| waits_for(status, waiting));
    assert!(said_by(&node, &["status", "--json"]).contains(waiting));
    let problem = agent.wait("it is a problem after a while", |status| {
        problems(status).contains("nothing is published until the node knows who it is")
    });
    assert!(problem.agent.taken_at - problem.agent.started_at >= Duration::from_secs(10).as_secs_f64());
    let said = said_by(&node, &["status"]);
    assert!(said.contains(waiting) && said.contains("(IMDSv2"), "{said}");
}

fn said_by(node: &Node, arguments: &[&str]) -> String {
    let (code, text, stderr) = crate::harness::output(node.command(arguments));
    assert_eq!((code, stderr.as_str()), (0, ""));
    text
}
