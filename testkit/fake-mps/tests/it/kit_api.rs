//! What tests of other packages rely on.

use std::io::ErrorKind;

use fake_mps::calls::Event;
use fake_mps::{Installed, Running};

use crate::stage::{Stage, lives};

#[test]
fn calls_tell_processes_from_commands() {
    let stage = Stage::new("");
    let daemon = stage.daemon(&["-multiuser-server"]);
    stage.said("get_server_list\nbogus x\n");
    let calls = stage.mps.calls().unwrap();
    let events: Vec<_> = calls.iter().map(|call| &call.event).collect();
    assert_eq!(
        events,
        [
            &Event::Control("-f -multiuser-server".to_owned()),
            &Event::Ui,
            &Event::Command("get_server_list".to_owned()),
            &Event::Command("bogus x".to_owned()),
        ]
    );
    assert_eq!(calls[0].pid, daemon.pid());
    assert!(calls.windows(2).all(|pair| pair[0].unix_us <= pair[1].unix_us));
    assert_eq!(stage.mps.uis().unwrap(), 1);
}

#[test]
fn a_line_that_never_comes_is_told_with_what_came() {
    let stage = Stage::new("");
    let mut client = stage.client();
    client.wait_for("without-mps").unwrap();
    client.close_stdin();
    let error = client.wait_for("connected").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert!(error.to_string().contains("connecting\nwithout-mps"), "{error}");
}

#[test]
fn nothing_outlives_an_installation() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    let mps = Installed::in_dir(dir.path()).unwrap();
    let mut daemon = Running::start(mps.control(&pipe).arg("-f")).unwrap();
    daemon.wait_for("To connect").unwrap();
    let client = Running::start(&mut mps.client(&pipe)).unwrap();
    let server = crate::stage::server_of(&client);
    daemon.signal(rustix::process::Signal::KILL).unwrap();
    daemon.wait().unwrap();
    assert!(lives(server));
    drop(mps);
    client.wait_for("server-gone").unwrap();
}

#[test]
fn a_program_called_by_no_known_name_says_which_there_are() {
    let output = std::process::Command::new(fake_mps::kit::program_path().unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nvidia-cuda-mps-server"));
}
