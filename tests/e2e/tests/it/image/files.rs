//! The files of `packer/` by themselves: their formatting, the lines that no test can run, and wrong variables.

use std::path::Path;
use std::process::{Command, Output};

use e2e::ImageTools;
use fs_err as fs;

use super::{package, template};
use crate::unit;

/// What `source-ami.pkr.hcl` asks of AWS that the simulated EC2 or packer 1.6.6 does not know.
const AWS_ONLY: [&str; 10] = [
    "metadata_options {",
    "http_endpoint = \"enabled\"",
    "http_tokens = \"required\"",
    "http_put_response_hop_limit = 1",
    "}",
    "imds_support = \"v2.0\"",
    "ssh_interface = \"session_manager\"",
    "iam_instance_profile = var.instance_profile",
    "temporary_key_pair_type = \"ed25519\"",
    "deprecate_at = var.deprecate_at",
];

fn run(program: &Path, arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder);
    command.env("CHECKPOINT_DISABLE", "1").env("HOME", folder);
    command.output().unwrap()
}

#[test]
fn packer_would_format_no_file_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let folder = template::original();
    let ran = run(
        &ImageTools::of_this_run().packer(),
        &["fmt", "-check", "-diff", folder.to_str().unwrap()],
        dir.path(),
    );
    assert!(ran.status.success() && ran.stdout.is_empty(), "{ran:?}");
}

#[test]
fn no_other_line_is_kept_from_the_tests() {
    let source = fs::read_to_string(template::original().join("source-ami.pkr.hcl")).unwrap();
    let (kept, aws) = template::split(&source);
    assert_eq!(aws, AWS_ONLY);
    for line in ["encrypted             = true", "volume_type           = \"gp3\""] {
        assert!(kept.contains(line), "{line}");
    }
}

#[test]
fn every_variable_is_documented() {
    let variables = fs::read_to_string(template::original().join("variables.pkr.hcl")).unwrap();
    let document = fs::read_to_string(unit::repository().join("docs/image.md")).unwrap();
    let names: Vec<&str> = variables
        .lines()
        .filter_map(|line| line.strip_prefix("variable \"")?.strip_suffix("\" {"))
        .filter(|name| *name != "ami_name_pattern")
        .collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(document.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn wrong_variables_are_refused_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let template = template::copy_with_ec2(dir.path(), "ami-1", "");
    let good = dir
        .path()
        .join(format!("gpushare-{}-1.x86_64.rpm", package::VERSION));
    fs::write(&good, "").unwrap();
    let package = format!("package={}", good.display());
    let packer = ImageTools::of_this_run().packer();
    let validate = |variables: &[&str]| {
        let mut arguments = vec!["validate"];
        arguments.extend(variables.iter().flat_map(|variable| ["-var", variable]));
        arguments.push(template.to_str().unwrap());
        let ran = run(&packer, &arguments, dir.path());
        // Packer breaks its lines.
        let text = String::from_utf8_lossy(&ran.stdout)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        (ran.status.success(), text)
    };
    let (valid, text) = validate(&[package.as_str()]);
    assert!(valid, "{text}");
    for (variable, said) in [
        (
            "package=gpushare.rpm",
            "The package is a file such as gpushare-0.1.0-1.x86_64.rpm",
        ),
        (
            "package=/none/gpushare-0.1.0-1.x86_64.rpm",
            "Bad source '/none/gpushare-0.1.0-1.x86_64.rpm'",
        ),
        (
            "kubernetes_version=v1.35",
            "The kubernetes_version is a minor version such as 1.35",
        ),
        (
            "kubernetes_version=1.22",
            "The kubernetes_version is a minor version such as 1.35",
        ),
        ("architecture=aarch64", "The architecture is x86_64 or arm64."),
        (
            "instance_type=g4dn.xlarge",
            "The builder must not have an accelerator",
        ),
        (
            "instance_type=p5.48xlarge",
            "The builder must not have an accelerator",
        ),
        ("commit=main", "The commit is a git hash"),
        (
            "deprecate_at=2027-06-30",
            "The time in deprecate_at is UTC, as in 2027-06-30T00:00:00Z.",
        ),
        ("config=/none/config.toml", "Bad source '/none/config.toml'"),
    ] {
        let (valid, text) = validate(&[package.as_str(), variable]);
        assert!(!valid && text.contains(said), "{variable}: {text}");
    }
    let other = dir.path().join("gpushare-0.1.0-1.aarch64.rpm");
    fs::write(&other, "").unwrap();
    let other = format!("package={}", other.display());
    let (valid, text) = validate(&[other.as_str()]);
    let both = r#"local.package_architecture as "aarch64", var.architecture as "x86_64""#;
    assert!(!valid && text.contains(both), "{text}");
    let (valid, text) = validate(&[other.as_str(), "architecture=arm64"]);
    assert!(valid, "{text}");
    for name in ["package", "ami_name_pattern"] {
        let text = fs::read_to_string(template.join("variables.pkr.hcl")).unwrap();
        let block = text.split(&format!("variable \"{name}\"")).nth(1).unwrap();
        let block = block.split("\n}").next().unwrap();
        assert!(!block.contains("default"), "{name} has to be said");
    }
}
