//! The whole life of an image in EC2: `source-ami.pkr.hcl` less the lines for AWS alone, against moto.
//!
//! moto makes a snapshot of its own for every image, so that what makes the image encrypted is looked for where it is
//! said: in the request that starts the instance with its volume.

use std::path::Path;

use e2e::{PATIENCE, Running};
use fs_err as fs;
use serde_json::{Value, json};

use super::builder::{Builder, accelerated};
use super::{package, template};
use crate::unit;

/// Of a network that only this node has; `ec2.py` has it, too.
const PORT: &str = "5005";
const BASE: &str = "ami-0ba5e000000000000";
const BASE_NAME: &str = "amazon-eks-node-al2023-x86_64-nvidia-1.35-v20261114";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const KEY: &str = "alias/gpushare";

#[test]
fn the_image_in_ec2_is_encrypted_tagged_and_named_and_nothing_else_is_left() {
    let builder = Builder::boot(&accelerated("ec2"));
    let _moto = start_moto(&builder);
    import_key(&builder);
    let template = template::copy_with_ec2(builder.folder(), BASE, &in_place_of_aws(&builder.key()));
    let package = package::deb(builder.folder());
    let ran = builder.packer_build(
        &template,
        &[
            ("package", package.to_str().unwrap()),
            ("region", "us-east-1"),
            ("kms_key_id", KEY),
            // EC2 takes the base image's otherwise; moto wants to be told.
            ("volume_gib", "20"),
            ("commit", COMMIT),
            ("tags", "{team=\"ml\"}"),
        ],
    );
    assert_eq!(ran.code, 0, "{ran:#?}");
    let found = ask(&builder, &["describe"]);
    let image = assert_left(&found);
    assert_image(image);
    assert_tagged(image, image["Name"].as_str().unwrap());
    let id = &image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"];
    let snapshots = found["snapshots"].as_array().unwrap();
    let snapshot = snapshots.iter().find(|snapshot| &snapshot["SnapshotId"] == id);
    assert_tagged(snapshot.unwrap(), image["Name"].as_str().unwrap());
    let requests = ask(&builder, &["requests", "requests"]);
    assert_started(&requests);
    assert_permitted(&requests);
    assert_manifest(&builder, image);
    assert_eq!(
        builder.node.property("gpushare.service", "UnitFileState"),
        "enabled"
    );
}

/// The simulated EC2, in the node's network. It knows one image, and notes what it is asked.
fn start_moto(builder: &Builder) -> Running {
    let base = json!([{
        "ami_id": BASE, "name": BASE_NAME, "owner_id": "602401143452", "architecture": "x86_64", "state": "available",
        "public": true, "description": "", "image_location": "", "image_type": "machine", "sriov": "simple",
        "root_device_type": "ebs", "root_device_name": "/dev/xvda", "virtualization_type": "hvm", "hypervisor": "xen",
    }]);
    let amis = builder.folder().join("amis.json");
    fs::write(&amis, base.to_string()).unwrap();
    let mut command = builder.python();
    command
        .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", PORT])
        .env("MOTO_AMIS_PATH", amis)
        .env("MOTO_ENABLE_RECORDING", "1")
        .env("MOTO_RECORDER_FILEPATH", builder.folder().join("requests"));
    builder.node.beside(&command)
}

fn import_key(builder: &Builder) {
    fs::copy(
        builder.node.path("/run/key.pub"),
        builder.folder().join("key.pub"),
    )
    .unwrap();
    assert_eq!(ask(builder, &["import-key", "key.pub"]), "rehearsal");
}

#[track_caller]
fn ask(builder: &Builder, arguments: &[&str]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/image/ec2.py");
    let mut command = builder.python();
    command.arg(script).args(arguments);
    let ran = builder.node.beside(&command).wait(2 * PATIENCE).unwrap();
    serde_json::from_str(&ran.stdout).unwrap_or_else(|_| builder.node.fail(&ran.stderr))
}

/// The node is the instance, whatever address moto gives it, and moto is EC2.
fn in_place_of_aws(key: &Path) -> String {
    format!(
        "
  access_key              = \"a\"
  secret_key              = \"b\"
  custom_endpoint_ec2     = \"http://127.0.0.1:{PORT}\"
  skip_region_validation  = true
  skip_metadata_api_check = true
  ssh_host                = \"127.0.0.1\"
  ssh_keypair_name        = \"rehearsal\"
  ssh_private_key_file    = \"{}\"
",
        key.display()
    )
}

/// One image, and nothing of the machine that it was made on.
fn assert_left(found: &Value) -> &Value {
    assert_eq!(found["images"].as_array().unwrap().len(), 1, "{found:#}");
    assert_eq!(found["instances"].as_array().unwrap().len(), 1, "{found:#}");
    assert_eq!(found["instances"][0]["State"]["Name"], "terminated", "{found:#}");
    assert_eq!(found["volumes"], json!([]), "{found:#}");
    assert_eq!(found["groups"], json!(["default"]));
    assert_eq!(found["keys"], json!(["rehearsal"]), "the test's");
    &found["images"][0]
}

fn assert_image(image: &Value) {
    let name = image["Name"].as_str().unwrap();
    let start = format!("gpushare-eks-al2023-x86_64-nvidia-1.35-v{}-20", package::VERSION);
    assert!(name.starts_with(&start) && name.len() <= 128, "{name}");
    assert_eq!(image["Public"], false);
}

fn assert_tagged(thing: &Value, name: &str) {
    for (key, value) in [
        ("Name", name),
        ("gpushare:version", package::VERSION),
        ("gpushare:commit", COMMIT),
        ("gpushare:kubernetes-version", "1.35"),
        ("gpushare:architecture", "x86_64"),
        ("gpushare:base-image", BASE),
        ("gpushare:base-image-name", BASE_NAME),
        ("team", "ml"),
    ] {
        let mut tags = thing["Tags"].as_array().unwrap().iter();
        let tag = tags.find(|tag| tag["Key"] == key);
        assert_eq!(tag.unwrap()["Value"], value, "{key}: {thing:#}");
    }
}

/// The root volume is encrypted with the wanted key from its first byte on; its snapshot and the image follow.
fn assert_started(requests: &Value) {
    let requests = requests.as_array().unwrap();
    let mut started = requests.iter().filter(|one| one["Action"] == "RunInstances");
    let start = started.next().unwrap();
    assert!(started.next().is_none());
    for (key, value) in [
        ("ImageId", BASE),
        ("InstanceType", "m6i.large"),
        ("BlockDeviceMapping.1.DeviceName", "/dev/xvda"),
        ("BlockDeviceMapping.1.Ebs.Encrypted", "true"),
        ("BlockDeviceMapping.1.Ebs.KmsKeyId", KEY),
        ("BlockDeviceMapping.1.Ebs.VolumeType", "gp3"),
        ("BlockDeviceMapping.1.Ebs.VolumeSize", "20"),
        ("BlockDeviceMapping.1.Ebs.DeleteOnTermination", "true"),
    ] {
        assert_eq!(start[key], value, "{key}: {start:#}");
    }
    assert_eq!(
        start["BlockDeviceMapping.2.DeviceName"],
        Value::Null,
        "one volume"
    );
    let tags = start.as_object().unwrap();
    let tagged = |kind: &str| {
        let mut kinds = tags
            .iter()
            .filter(|(key, value)| key.ends_with(".ResourceType") && *value == kind);
        kinds.next().is_some()
    };
    assert!(tagged("instance") && tagged("volume"), "{start:#}");
    // moto takes it and forgets it.
    let described = format!(
        "EKS 1.35 node for shared GPUs: gpushare {} on the AL2023 NVIDIA image ({BASE})",
        package::VERSION
    );
    assert!(requests.iter().any(|one| one["Description.Value"] == *described));
    // A copy would take minutes, and is what encrypts an image that was not encrypted before.
    assert!(!requests.iter().any(|one| one["Action"] == "CopyImage"));
}

/// Packer asks for nothing that docs/image.md does not list, but for the port of the host that is logged in to here: with
/// the session manager none is opened.
fn assert_permitted(requests: &Value) {
    let document = fs::read_to_string(unit::repository().join("docs/image.md")).unwrap();
    let actions = requests.as_array().unwrap().iter().map(|one| &one["Action"]);
    let here_alone = ["AuthorizeSecurityGroupIngress"];
    let mut missing: Vec<&str> = actions
        .filter_map(Value::as_str)
        .filter(|action| !here_alone.contains(action) && !document.contains(&format!("\"ec2:{action}\"")))
        .collect();
    missing.sort_unstable();
    missing.dedup();
    assert_eq!(missing, [""; 0]);
}

fn assert_manifest(builder: &Builder, image: &Value) {
    let text = fs::read_to_string(builder.folder().join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    let build = &manifest["builds"][0];
    let id = image["ImageId"].as_str().unwrap();
    assert_eq!(build["artifact_id"], format!("us-east-1:{id}"));
    assert_eq!(build["custom_data"]["ami_name"], image["Name"]);
}
