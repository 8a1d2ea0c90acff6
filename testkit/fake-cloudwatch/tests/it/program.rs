//! The program around the fake.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::client::PATIENCE;
use crate::raw::{HEADERS, body, exchange, page, request};

/// A running program, ended with its test.
struct Program {
    child: Child,
    url: String,
}

impl Program {
    fn start(args: &[&str]) -> Self {
        let mut child = command(args).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let url = line.trim().to_owned();
        Self { child, url }
    }

    fn status(&self) -> String {
        exchange(&self.url, &request(&HEADERS, &body()))[9..12].to_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fake-cloudwatch"));
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn failure(args: &[&str]) -> (Option<i32>, String) {
    let output = command(args).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn it_says_its_url_and_lists_what_it_accepted() {
    let program = Program::start(&["--listen", "127.0.0.1:0"]);
    assert!(program.url.starts_with("http://127.0.0.1:"), "{}", program.url);
    assert_eq!(program.status(), "200");
    assert!(page(&program.url, "/").contains("1 datums of 1 series accepted"));
}

#[test]
fn a_changed_script_is_played_and_a_wrong_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("script.toml");
    let write = |text: &str| {
        let new = dir.path().join("new");
        fs_err::write(&new, text).unwrap();
        fs_err::rename(&new, &path).unwrap();
    };
    write("[[rule]]\nfate = \"server_error\"\nstatus = 503\n");
    let mut program = Program::start(&["--script", path.to_str().unwrap()]);
    assert_eq!(program.status(), "503");
    write("[[rule]]\nfate = \"expired_token\"\n");
    let start = Instant::now();
    while program.status() != "403" {
        assert!(start.elapsed() < PATIENCE);
    }
    write("[[rule]]\nfate = \"expired\"\n");
    let mut stderr = BufReader::new(program.child.stderr.take().unwrap());
    let mut complaint = String::new();
    stderr.read_line(&mut complaint).unwrap();
    assert!(
        complaint.contains("script.toml: the script is refused: rule 1: there is no fate \"expired\""),
        "{complaint}"
    );
    assert_eq!(program.status(), "403");
}

#[test]
fn wrong_arguments_and_scripts_are_named() {
    let (code, said) = failure(&["--port", "1"]);
    assert_eq!(code, Some(64), "{said}");
    assert!(
        said.contains("fake-cloudwatch: unknown argument --port; usage:"),
        "{said}"
    );
    let (code, said) = failure(&["--script", "no/such/script.toml"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no/such/script.toml"), "{said}");
    let taken = Program::start(&[]);
    let (code, said) = failure(&["--listen", taken.url.strip_prefix("http://").unwrap()]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is the port taken?"), "{said}");
}

#[test]
fn stdout_has_nothing_but_the_url() {
    let mut program = Program::start(&[]);
    assert_eq!(program.status(), "200");
    program.child.kill().unwrap();
    let mut rest = String::new();
    program
        .child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut rest)
        .unwrap();
    assert_eq!(rest, "");
}
