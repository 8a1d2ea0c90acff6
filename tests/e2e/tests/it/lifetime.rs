//! What a node goes through: a reboot in the middle of an outage, a driver that comes late, a disk without room.

use e2e::{Node, PATIENCE, Spec, built};
use serde_json::Value;

use super::unit::{NVML, UNIT, installed, main_pid, wait_for_gpu, without_driver};

/// Units that play AWS, in the node.
pub(super) const CLOUDWATCH: &str = "fake-cloudwatch.service";
pub(super) const IMDS: &str = "fake-imds.service";

/// The beginning of a configuration that publishes to [`CLOUDWATCH`].
pub(super) const TO_CLOUDWATCH: &str = "\
[publish]
endpoint_url = \"http://127.0.0.1:4566\"
interval = \"1s\"
[spool]
min_free_bytes = \"1MiB\"
";
const WITHOUT_MPS: &str = "\
[mps]
enabled = false
[slices]
enabled = false
";
const ONLINE_DROP_IN: &str = "\
[Service]
Environment=FAKE_NVML_SCENARIO=/etc/fakes/scenario.toml AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:1338
";

/// A node with a metadata service, and a CloudWatch that has to be started.
fn online(name: &str) -> Spec {
    let config = format!("{TO_CLOUDWATCH}{WITHOUT_MPS}");
    with_aws(installed(name)).with_file("/etc/gpushare/config.toml", config, 0o644)
}

/// The same on any node, whose configuration has to name the endpoint.
pub(super) fn with_aws(spec: Spec) -> Spec {
    let unit = |program: &str, port: u16| {
        format!(
            "[Service]\nExecStart=/usr/bin/{program} --listen 127.0.0.1:{port}\n[Install]\nWantedBy=multi-user.target\n"
        )
    };
    spec.with_bind(built("fake-cloudwatch"), "/usr/bin/fake-cloudwatch")
        .with_bind(built("fake-imds"), "/usr/bin/fake-imds")
        .with_file(
            &format!("/etc/systemd/system/{CLOUDWATCH}"),
            unit("fake-cloudwatch", 4566),
            0o644,
        )
        .with_file(
            &format!("/etc/systemd/system/{IMDS}"),
            unit("fake-imds", 1338),
            0o644,
        )
        .with_file(
            "/etc/systemd/system/gpushare.service.d/gpus.conf",
            ONLINE_DROP_IN,
            0o644,
        )
}

/// What the agent says, once it is as wanted.
fn wait(node: &Node, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    node.wait_until(what, PATIENCE, || {
        let said = node.run(&["gpushare", "status", "--json"]).stdout;
        serde_json::from_str(&said).ok().filter(|status| wanted(status))
    })
}

fn count(status: &Value, pointer: &str) -> u64 {
    status
        .pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or_default()
}

#[test]
fn what_an_outage_has_left_in_the_spool_is_published_after_a_reboot() {
    let mut node = Node::boot(&online("outage"));
    node.succeed(&["systemctl", "enable", "--now", IMDS, UNIT]);
    let before = wait(&node, "windows wait", |status| {
        count(status, "/publish/pending_windows") >= 3
    });
    assert_eq!(count(&before, "/publish/windows"), 0);

    node.reboot();
    assert_eq!(
        node.property(UNIT, "ActiveState"),
        "active",
        "{}",
        node.journal(UNIT)
    );
    let after = wait(&node, "they still wait", |status| {
        count(status, "/publish/pending_windows") >= 3
    });
    assert_eq!(
        count(&after, "/publish/earlier/runs"),
        1,
        "{}",
        node.journal(UNIT)
    );
    let found = count(&after, "/publish/earlier/collected");
    assert!(found > 0, "{after:#}");

    node.succeed(&["systemctl", "start", CLOUDWATCH]);
    let end = wait(&node, "everything is published", |status| {
        count(status, "/publish/pending_windows") == 0 && count(status, "/publish/windows") > 3
    });
    assert!(count(&end, "/publish/samples") >= found, "{end:#}");
    assert_eq!(
        end["sampler"]["ledger"]["dropped"],
        serde_json::json!({}),
        "{end:#}"
    );
    node.wait_until("it stands in the status line", PATIENCE, || {
        let status = node.succeed(&["systemctl", "status", "--no-pager", UNIT]);
        status.contains("cloudwatch: last window").then_some(())
    });
}

#[test]
fn a_driver_that_comes_late_is_taken_up_by_the_agent_that_runs() {
    let node = Node::boot(&without_driver("late"));
    node.succeed(&["systemctl", "start", UNIT]);
    let pid = main_pid(&node);
    let status = node.wait_until("the line says so", PATIENCE, || {
        let status = node.succeed(&["systemctl", "status", "--no-pager", UNIT]);
        status.contains("no GPUs: ").then_some(status)
    });
    assert!(status.contains("problems: gpushare status"), "{status}");
    let said = node.succeed(&["gpushare", "status"]);
    assert!(said.contains("accelerated"), "the standard AMI has none: {said}");

    // Whole or not at all, as a package manager does it.
    let fresh = node.path("/usr/lib/libnvidia-ml.so.new");
    fs_err::copy(fake_nvml::library_path(), &fresh).unwrap();
    fs_err::rename(fresh, node.path(NVML)).unwrap();
    wait_for_gpu(&node);
    assert_eq!(main_pid(&node), pid);
}

#[test]
fn a_var_without_room_is_named_and_keeps_nothing_from_working() {
    let node = Node::boot(&installed("full"));
    let folder = "/var/lib/gpushare";
    node.succeed(&["mkdir", "-p", folder]);
    node.succeed(&["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder]);
    node.succeed(&[
        "dd",
        "if=/dev/zero",
        &format!("of={folder}/ballast"),
        "bs=1k",
        "count=60",
    ]);
    node.succeed(&["systemctl", "start", UNIT]);
    wait_for_gpu(&node);
    let status = wait(&node, "windows go on", |status| {
        count(status, "/publish/windows") >= 3
    });
    let problems = status["problems"].to_string();
    assert!(
        problems.contains("the spool") && problems.contains("free space"),
        "{problems}"
    );
    let checked = node.run(&["gpushare", "check"]);
    assert!(checked.stdout.contains("spool"), "{}", checked.stdout);
    let journal = node.journal(UNIT);
    assert!(journal.contains("MetricData"), "{journal}");
}
