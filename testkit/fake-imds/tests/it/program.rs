//! The program around the fake. Arguments and re-reading are tested with fake-cloudwatch, which has the same frame.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::raw::{get, token};

#[test]
fn it_plays_a_script_and_says_its_url() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("script.toml");
    fs_err::write(&path, "[node]\ninstance_id = \"i-1\"\n[spot]\n").unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_fake-imds"))
        .arg("--script")
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut url)
        .unwrap();
    let token = token(url.trim());
    let id = get(url.trim(), &token, "/latest/meta-data/instance-id");
    let (status, notice) = get(url.trim(), &token, "/latest/meta-data/spot/instance-action");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(id, (200, "i-1".to_owned()));
    assert_eq!(status, 200);
    assert!(notice.contains("terminate"), "{notice}");
}
