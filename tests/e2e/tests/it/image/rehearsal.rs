//! The rehearsal: everything that packer does to a builder, then the first boot of an instance.

use std::path::Path;

use e2e::{Node, PATIENCE};
use fs_err as fs;
use serde_json::Value;

use super::builder::{Builder, accelerated};
use super::{package, template};

const AGENT: &str = "gpushare.service";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Baked in.
const CONFIG: &str = "\
[node]
instance_id = \"i-0instance\"
[publish]
target = \"stdout\"
interval = \"1s\"
groups = [\"host\", \"gpu\", \"agent\"]
";
/// What a builder has of its own, besides what booting and logging in leave: the traces of an agent that ran on it.
const TRACES: [&str; 8] = [
    "/var/lib/gpushare/spool/windows-v1.db",
    "/var/lib/gpushare/gpus.json",
    "/var/lib/gpushare/identity.json",
    "/var/lib/cloud/instance/user-data.txt",
    "/var/lib/systemd/random-seed",
    "/var/log/cloud-init.log",
    "/var/log/audit/audit.log",
    concat!("/", "home/ec2-user/.bash_history"),
];

/// Of the session manager's agent, which writes as long as the machine runs.
const WRITTEN_TO_THE_END: [&str; 2] = ["/var/lib/amazon/ssm", "/var/log/amazon/ssm"];

#[test]
fn a_rehearsed_image_boots_to_an_active_agent_and_knows_nothing_of_its_builder() {
    let mut builder = Builder::boot(&accelerated("rehearsal"));
    for trace in TRACES {
        let path = builder.node.path(trace);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "of the builder").unwrap();
    }
    builder.node.succeed(&[
        "systemctl",
        "enable",
        "--quiet",
        "--now",
        "amazon-ssm-agent.service",
    ]);
    let seeds = builder
        .node
        .property("systemd-random-seed.service", "ActiveState");
    assert_eq!(seeds, "active", "it would save another seed");
    let id = builder.node.succeed(&["cat", "/etc/machine-id"]);
    let config = builder.folder().join("own.toml");
    fs::write(&config, CONFIG).unwrap();
    let ran = builder.rehearse(
        &package::rpm(builder.folder()),
        &[("config", config.to_str().unwrap()), ("commit", COMMIT)],
    );
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert!(ran.stdout.contains("gpushare image: valid"), "{ran:#?}");
    assert_manifest(&builder.folder().join("manifest.json"));
    assert_nothing_runs(&builder.node);
    assert_clean(&builder.node);
    let temporary = ["find", "/tmp", "/var/tmp", "/var/log/journal", "-type", "f"];
    let left = builder.node.succeed(&temporary);
    assert_eq!(left, "", "packer and the scripts leave no file behind");
    assert_installed(&builder.node);

    // What is on the disk now is the image.
    builder.node.poweroff();
    assert_clean(&builder.node);
    for folder in WRITTEN_TO_THE_END {
        let entries = fs::read_dir(builder.node.path(folder)).unwrap();
        assert_eq!(entries.count(), 0, "{folder}");
    }
    builder.node.switch_on();
    assert_boots(&builder.node);
    let new = builder.node.succeed(&["cat", "/etc/machine-id"]);
    assert!(new.trim().len() == 32 && new != id, "{new}");
}

fn assert_manifest(path: &Path) {
    let manifest: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let build = &manifest["builds"][0];
    assert_eq!(build["name"], "rehearsal");
    let data = &build["custom_data"];
    assert_eq!(data["gpushare_version"], package::VERSION);
    assert_eq!(data["commit"], COMMIT);
    assert_eq!(data["architecture"], "x86_64");
    let name = data["ami_name"].as_str().unwrap();
    let start = format!(
        "gpushare-eks-al2023-x86_64-nvidia-{}-v{}-20",
        data["kubernetes_version"].as_str().unwrap(),
        package::VERSION
    );
    assert!(name.starts_with(&start), "{name}");
}

fn assert_nothing_runs(node: &Node) {
    assert_eq!(node.run(&["pgrep", "gpushare"]).code, 1);
    assert_eq!(node.property(AGENT, "UnitFileState"), "enabled");
    assert_eq!(node.property(AGENT, "ActiveState"), "inactive");
    assert_eq!(node.property(AGENT, "ActiveEnterTimestamp"), "", "never");
}

fn assert_clean(node: &Node) {
    for gone in TRACES.into_iter().chain([
        "/var/lib/gpushare",
        "/tmp/gpushare-image",
        concat!("/", "home/ec2-user/.ssh/authorized_keys"),
        "/etc/ssh/ssh_host_ed25519_key",
        "/etc/hostname",
    ]) {
        assert!(!node.path(gone).exists(), "{gone}");
    }
    assert_eq!(fs::read_to_string(node.path("/etc/machine-id")).unwrap(), "");
}

fn assert_installed(node: &Node) {
    let drop_in = fs::read(node.path("/etc/eks/nodeadm.d/50-gpushare.yaml")).unwrap();
    assert_eq!(
        drop_in,
        fs::read(template::original().join("files/50-gpushare.yaml")).unwrap()
    );
    let config = fs::read_to_string(node.path("/etc/gpushare/config.toml")).unwrap();
    assert_eq!(config, CONFIG);
    assert_eq!(
        node.succeed(&["rpm", "--query", "--queryformat=%{VERSION}", "gpushare"]),
        package::VERSION
    );
}

/// As an instance of the image would.
fn assert_boots(node: &Node) {
    assert_eq!(
        node.state().as_deref(),
        Some("running"),
        "{}",
        node.journal(AGENT)
    );
    assert_eq!(node.property(AGENT, "ActiveState"), "active");
    let status = node.wait_until("a healthy GPU, and MPS on it", PATIENCE, || {
        let status = node.succeed(&["systemctl", "status", "--no-pager", AGENT]);
        (status.contains("1/1 GPUs healthy") && status.contains("MPS 1/1")).then_some(status)
    });
    assert!(status.contains("; enabled"), "{status}");
    let units = node.succeed(&["systemctl", "list-units", "--no-legend", "gpushare-mps@*.service"]);
    assert!(units.contains("active running"), "{units}");
    let status: Value = serde_json::from_str(&node.succeed(&["gpushare", "status", "--json"])).unwrap();
    let text = status.to_string();
    assert!(text.contains("i-0instance"), "{status:#}");
}

#[test]
fn a_configuration_that_is_wrong_ends_the_build() {
    let builder = Builder::boot(&accelerated("misconfigured"));
    let wrong = builder.folder().join("wrong.toml");
    fs::write(&wrong, "[slices]\nper_gpus = 48\n").unwrap();
    let package = package::rpm(builder.folder());
    let ran = builder.rehearse(&package, &[("config", wrong.to_str().unwrap())]);
    assert_eq!(ran.code, 1, "{ran:#?}");
    for said in ["slices.per_gpus", "Mend the file that -var config names"] {
        assert!(ran.stdout.contains(said), "{ran:#?}");
    }
    assert!(!builder.folder().join("manifest.json").exists());
}
