//! Who wins: the configuration, the metadata service, the kubelet's files.

use super::scene::{Cloud, INSTANCE, dimensions, only, write};
use crate::publish::scene::{stopped, with_credentials};

const KUBECONFIG: &str = "users:\n- name: kubelet\n  user:\n    exec:\n      command: aws-iam-authenticator\n      args:\n      - token\n      - -i\n      - prod-1\n      - --region\n      - eu-west-1\n";
const KUBELET_ENVIRONMENT: &str =
    "NODEADM_KUBELET_ARGS=--node-ip=10.0.0.7 --node-labels=eks.amazonaws.com/nodegroup=gpu-a,team=x\n";
const EKS_DIMENSIONS: &str = "[\"InstanceId\", \"ClusterName\", \"NodegroupName\"]";

#[test]
fn what_is_configured_wins_value_by_value() {
    let cloud = Cloud::new();
    cloud.tag("found");
    let node = cloud
        .node()
        .with("node.instance_type", "\"mine.large\"")
        .with("node.auto_scaling_group", "\"my group\"");
    let agent = node.start();
    cloud.wait_windows(&agent, 1);
    stopped(agent);
    let expected = [
        ("AutoScalingGroupName", "my group"),
        ("ImageId", "ami-0123456789abcdef0"),
        ("InstanceId", INSTANCE),
        ("InstanceType", "mine.large"),
    ];
    assert_eq!(dimensions(&cloud.cloudwatch.accepted()), only(&expected));
    let asked_for_tag = cloud.imds.requests();
    let asked_for_tag = asked_for_tag.iter().any(|request| request.path.contains("/tags"));
    assert!(!asked_for_tag, "what is configured is not asked for");
    cloud.assert_well_behaved();

    let kept = fs_err::read_to_string(node.path("state/identity.json")).unwrap();
    assert!(
        kept.contains("g5.12xlarge") && !kept.contains("mine.large"),
        "an override that is taken away leaves nothing behind: {kept}"
    );
}

#[test]
fn a_node_that_is_told_everything_asks_for_nothing_but_credentials_and_notices() {
    let cloud = Cloud::new();
    let node = cloud
        .node()
        .with("node.instance_id", "\"build-7\"")
        .with("node.image_id", "\"none\"")
        .with("node.instance_type", "\"box\"")
        .with("node.region", "\"eu-west-1\"")
        .with("node.auto_scaling_group", "\"shelf\"");
    let agent = node.start();
    cloud.wait_windows(&agent, 1);
    stopped(agent);
    let expected = [
        ("AutoScalingGroupName", "shelf"),
        ("ImageId", "none"),
        ("InstanceId", "build-7"),
        ("InstanceType", "box"),
    ];
    assert_eq!(dimensions(&cloud.cloudwatch.accepted()), only(&expected));
    for request in cloud.imds.requests() {
        let wanted = [
            "/latest/api/token",
            "/latest/meta-data/iam/",
            "/latest/meta-data/instance-life-cycle",
        ];
        assert!(
            wanted.iter().any(|start| request.path.starts_with(start)),
            "{request:?}"
        );
    }
    cloud.assert_well_behaved();
}

#[test]
fn cluster_and_node_group_come_from_the_files_that_the_bootstrap_writes() {
    let cloud = Cloud::new();
    let node = cloud.node().with("publish.dimensions", EKS_DIMENSIONS);
    let agent = node.start();
    agent.wait("the kubelet's files are waited for", |status| {
        let waiting = status.node_waiting_for.as_deref().unwrap_or_default();
        waiting.contains("ClusterName, NodegroupName from the kubelet's files")
            && status.publish.pending_windows > 0
    });
    write(&node, "var/lib/kubelet/kubeconfig", KUBECONFIG);
    write(&node, "etc/eks/kubelet/environment", KUBELET_ENVIRONMENT);
    cloud.wait_windows(&agent, 2);
    let status = agent.status().unwrap();
    assert_eq!(status.sampler.ledger.dropped_total(), 0);
    stopped(agent);
    let expected = [
        ("ClusterName", "prod-1"),
        ("InstanceId", INSTANCE),
        ("NodegroupName", "gpu-a"),
    ];
    assert_eq!(dimensions(&cloud.cloudwatch.accepted()), only(&expected));
    cloud.assert_well_behaved();
}

#[test]
fn a_node_group_that_the_files_do_not_name_is_left_out_soon_and_an_override_wins() {
    let cloud = Cloud::new();
    let node = cloud
        .node()
        .with("publish.dimensions", EKS_DIMENSIONS)
        .with("node.cluster", "\"mine\"");
    write(&node, "var/lib/kubelet/kubeconfig", KUBECONFIG);
    write(
        &node,
        "etc/eks/kubelet/environment",
        "NODEADM_KUBELET_ARGS=--node-labels=team=x\n",
    );
    let agent = node.start();
    cloud.wait_windows(&agent, 1);
    stopped(agent);
    let expected = [("ClusterName", "mine"), ("InstanceId", INSTANCE)];
    assert_eq!(dimensions(&cloud.cloudwatch.accepted()), only(&expected));
}

#[test]
fn the_kubelets_files_are_not_asked_about_dimensions_that_nobody_wants() {
    let cloud = Cloud::new();
    let node = with_credentials(cloud.node());
    write(&node, "var/lib/kubelet/kubeconfig", KUBECONFIG);
    let agent = node.start();
    cloud.wait_windows(&agent, 1);
    stopped(agent);
    assert_eq!(
        dimensions(&cloud.cloudwatch.accepted()),
        only(&super::scene::UNTAGGED)
    );
}
