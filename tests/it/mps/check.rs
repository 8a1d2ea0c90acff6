//! `gpushare check` before MPS runs, and what it says of each mistake.

use serde_json::Value;

use super::scene::{GPU, Scene, gpu};
use crate::harness::{output, quoted};

/// The findings of `gpushare check --json` about MPS, as "level subject: found; mend".
#[track_caller]
fn findings(scene: &Scene) -> Vec<String> {
    let (_, text, stderr) = output(scene.node.command(&["check", "--json"]));
    let all: Vec<Value> =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{stderr}"));
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    all.iter()
        .filter(|finding| text(finding, "subject").starts_with("mps"))
        // Of the machine that runs the tests.
        .filter(|finding| !text(finding, "found").starts_with("/tmp/nvidia-mps exists"))
        .map(|finding| {
            let [level, subject, found, mend] =
                ["level", "subject", "found", "mend"].map(|key| text(finding, key));
            format!("{level} {subject}: {found}; {mend}")
        })
        .collect()
}

/// A node whose agent would keep MPS as plain processes.
fn scene() -> Scene {
    Scene::new("")
        .with("mps.enabled", "true")
        .with("mps.backend", "\"process\"")
}

/// The only finding that is not ok.
#[track_caller]
fn wrong(scene: &Scene) -> String {
    let mut wrong = findings(scene);
    wrong.retain(|finding| !finding.starts_with("ok ") && !finding.contains("this is not root"));
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    wrong.remove(0)
}

#[test]
fn a_node_on_which_mps_would_come_up_has_nothing_to_mend() {
    let scene = scene();
    let found = findings(&scene);
    let subjects = [
        "mps.control_binary: ",
        "mps.dir: ",
        "mps.client_dir: ",
        "mps.backend: ",
        "mps: NVIDIA A10G takes 48 clients",
    ];
    assert_eq!(found.len(), subjects.len(), "{found:?}");
    for (finding, subject) in found.iter().zip(subjects) {
        assert!(finding.contains(subject), "{finding}");
        assert!(
            finding.starts_with("ok ") || finding.contains("this is not root"),
            "{finding}"
        );
    }
    assert!(!scene.daemon_dir().exists(), "nothing is made");
}

#[test]
fn mps_that_is_off_is_said_to_be_and_nothing_else_is_looked_at() {
    let off = scene()
        .with("mps.enabled", "false")
        .with("mps.control_binary", "\"/nowhere/control\"");
    assert_eq!(
        findings(&off),
        ["ok mps.enabled: off: programs share no GPU through MPS; "]
    );
    let without_gpus = scene().with("gpu.enabled", "false");
    let found = findings(&without_gpus);
    assert!(
        found.len() == 1 && found[0].contains("gpu.enabled = false"),
        "{found:?}"
    );
}

#[test]
fn m23_slices_that_no_client_can_use_are_an_error_with_the_number_to_set() {
    let scene = scene()
        .with("slices.enabled", "true")
        .with("slices.per_gpu", "60");
    let error = wrong(&scene);
    assert!(
        error.starts_with("error mps: NVIDIA A10G: slices.per_gpu = 60"),
        "{error}"
    );
    assert!(error.contains("set slices.per_gpu to 48 or less"), "{error}");
}

#[test]
fn m23_slices_that_are_too_small_are_a_warning_with_the_smallest_useful_number() {
    let scene = scene()
        .with("slices.enabled", "true")
        .with("slices.per_gpu", "48");
    let warning = wrong(&scene);
    assert!(
        warning.starts_with("warning mps: a slice of NVIDIA A10G is "),
        "{warning}"
    );
    assert!(
        warning.contains("ask for at least 2 slices in a container"),
        "{warning}"
    );
}

#[test]
fn m25_a_gpu_with_mig_is_an_error_with_the_command_that_switches_it_off() {
    let scene = scene();
    scene.node.play(&gpu("mig = true"));
    let error = wrong(&scene);
    assert!(error.starts_with("error mps: NVIDIA A10G: MIG is on"), "{error}");
    assert!(error.contains(&format!("nvidia-smi -i {GPU} -mig 0")), "{error}");
}

#[test]
fn what_mps_lacks_is_an_error_that_names_the_key() {
    let too_long = quoted(&std::path::PathBuf::from(format!("/{}", "d".repeat(90))));
    for (key, value, word) in [
        ("mps.control_binary", "\"/nowhere/control\"", "does not exist"),
        ("mps.control_binary", "\"/etc/passwd\"", "is not executable"),
        ("mps.dir", &*too_long, "make mps.dir shorter"),
        (
            "mps.client_dir",
            "\"/proc/clients\"",
            "set mps.client_dir to a place on a disk",
        ),
    ] {
        let error = wrong(&scene().with(key, value));
        assert!(error.starts_with(&format!("error {key}: ")), "{error}");
        assert!(error.contains(word), "{error}");
    }
}
