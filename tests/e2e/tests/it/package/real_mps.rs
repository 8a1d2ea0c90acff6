//! All of it at once: the package, NVIDIA's own control daemon, a metadata service and a CloudWatch.
//!
//! NVIDIA's server needs a GPU, so that none becomes ready here.

use e2e::{Edition, Node, PATIENCE, RealMps};
use serde_json::Value;

use super::installer::{CONFIG_FILE, Installer, complaints, with_packages};
use crate::lifetime::{CLOUDWATCH, IMDS, TO_CLOUDWATCH, with_aws};
use crate::mps::scene::{AGENT, UUIDS, mps_unit, with_gpus};
use crate::unit;

const NONE: [String; 0] = [];
const PROBES: &str = "[mps]\nprobe_interval = \"500ms\"\n";

#[test]
fn a_whole_node_works_is_upgraded_under_nvidias_daemons_and_is_left_as_it_was() {
    let mps = RealMps::of_this_run();
    let spec = with_packages(with_aws(with_gpus(unit::bare("whole"))))
        .with_bind(mps.control(), "/usr/bin/nvidia-cuda-mps-control")
        .with_bind(mps.server(), "/usr/bin/nvidia-cuda-mps-server")
        .with_file(CONFIG_FILE, format!("{TO_CLOUDWATCH}{PROBES}"), 0o644);
    let node = Node::boot(&spec);
    node.succeed(&["systemctl", "start", IMDS, CLOUDWATCH]);
    assert_eq!(complaints(&node, &Installer::Rpm.install(Edition::Old)), NONE);
    for gpu in 0..UUIDS.len() {
        node.wait_until("its unit", PATIENCE, || {
            (node.property(&mps_unit(gpu), "ActiveState") == "active").then_some(())
        });
    }
    assert_publishes(&node);
    let before = daemons(&node);
    assert_eq!(before.lines().count(), UUIDS.len(), "{before}");
    let agent = node.property(AGENT, "MainPID");

    assert_eq!(complaints(&node, &Installer::Rpm.install(Edition::New)), NONE);
    assert_ne!(node.property(AGENT, "MainPID"), agent);
    assert_publishes(&node);
    assert_eq!(daemons(&node), before);

    assert_eq!(complaints(&node, &Installer::Rpm.remove()), NONE);
    let left = node.run(&["pgrep", "--list-name", "^(gpushare|nvidia-cuda-mps)"]);
    assert_eq!((left.code, left.stdout.as_str()), (1, ""), "none runs");
    assert!(!node.path("/run/gpushare").exists());
}

/// CloudWatch takes windows, nothing waits for long, and the line of systemd says so beside GPUs and MPS.
fn assert_publishes(node: &Node) {
    node.wait_until("windows are accepted", PATIENCE, || {
        let said = node.run(&["gpushare", "status", "--json"]).stdout;
        let status: Value = serde_json::from_str(&said).ok()?;
        let count = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64);
        (count("/publish/windows")? >= 3 && count("/publish/pending_windows")? <= 1).then_some(())
    });
    node.wait_until("the status line", PATIENCE, || {
        let status = node.succeed(&["systemctl", "status", "--no-pager", AGENT]);
        let whole = ["2/2 GPUs healthy", "MPS 0/2 ready", "cloudwatch: ", "last window"];
        whole.iter().all(|part| status.contains(part)).then_some(())
    });
}

/// The control daemons by process id.
fn daemons(node: &Node) -> String {
    node.succeed(&["pgrep", "--full", "^(/usr/bin/)?nvidia-cuda-mps-control -f"])
}
