//! What the script has the programs do.

use std::time::Duration;

use fake_mps::Running;
use rustix::process::Signal;

use crate::stage::{Stage, lives, wait_until};

/// Long enough for an answer that comes: one takes 3 ms.
const NO_ANSWER: Duration = Duration::from_millis(300);

fn asking(stage: &Stage, command: &str) -> Running {
    let mut ui = Running::start(&mut stage.mps.control(&stage.pipe)).unwrap();
    ui.say(command).unwrap();
    ui.close_stdin();
    ui
}

#[test]
fn a_wedged_daemon_answers_when_the_script_lets_it() {
    let stage = Stage::new("");
    let _daemon = stage.daemon(&[]);
    stage.mps.play("[control]\nwedged = true").unwrap();
    // It hears what came before it looked at the script.
    let mut ui = asking(&stage, "get_server_list\n");
    while ui.ended_within(NO_ANSWER).unwrap().is_some() {
        ui = asking(&stage, "get_server_list\n");
    }
    stage.mps.play("").unwrap();
    assert_eq!(ui.wait().unwrap().code(), Some(0));
}

#[test]
fn a_log_that_nobody_reads_wedges_the_daemon_until_it_is_read() {
    use std::io::Read;
    use std::process::Stdio;
    let stage = Stage::new("[control]\nlog_lines_per_s = 100000");
    let mut control = stage.mps.control(&stage.pipe);
    let mut daemon = control.arg("-f").stdout(Stdio::piped()).spawn().unwrap();
    wait_until(
        || stage.pipe.join("nvidia-cuda-mps-control.pid").exists(),
        || "no daemon".to_owned(),
    );
    let mut ui = asking(&stage, "get_server_list\n");
    while ui.ended_within(NO_ANSWER).unwrap().is_some() {
        ui = asking(&stage, "get_server_list\n");
    }
    stage.mps.play("").unwrap();
    let mut pipe = daemon.stdout.take().unwrap();
    let reader = std::thread::spawn(move || pipe.read_to_end(&mut Vec::new()));
    assert_eq!(ui.wait().unwrap().code(), Some(0));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    reader.join().unwrap().unwrap();
}

#[test]
fn a_log_whose_reader_has_gone_is_harmless() {
    use std::process::Stdio;
    let stage = Stage::new("");
    let mut control = stage.mps.control(&stage.pipe);
    let mut daemon = control.arg("-f").stdout(Stdio::piped()).spawn().unwrap();
    drop(daemon.stdout.take());
    wait_until(
        || stage.ask("get_server_list").code == Some(0),
        || "no daemon".to_owned(),
    );
    assert_eq!(stage.said("get_default_active_thread_percentage"), "100.0\n");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

#[test]
fn a_stopped_daemon_answers_nothing_until_it_goes_on() {
    let stage = Stage::new("");
    let daemon = stage.daemon(&[]);
    daemon.signal(Signal::STOP).unwrap();
    let mut ui = asking(&stage, "get_server_list\n");
    assert!(ui.ended_within(NO_ANSWER).unwrap().is_none());
    daemon.signal(Signal::CONT).unwrap();
    assert_eq!(ui.wait().unwrap().code(), Some(0));
}

#[test]
fn a_daemon_dies_after_so_many_commands_and_its_command_line_ends_with_1_and_no_word() {
    let stage = Stage::new("[control]\ncrash_after = 2");
    let mut daemon = stage.daemon(&[]);
    let answer = stage.ask("get_default_active_thread_percentage\nget_server_list\nget_server_list\n");
    assert_eq!(
        (answer.code, answer.stdout.as_str(), answer.stderr.as_str()),
        (Some(1), "100.0\n", "")
    );
    assert_eq!(daemon.wait().unwrap().code(), None);
    assert!(stage.pipe.join("nvidia-cuda-mps-control.pid").exists());
}

#[test]
fn settings_are_ignored_without_a_word() {
    let stage = Stage::new("[control]\nignores_settings = true");
    let _daemon = stage.daemon(&[]);
    assert_eq!(stage.said("set_default_active_thread_percentage 25"), "100.0\n");
    assert_eq!(stage.said("set_default_device_pinned_mem_limit 0 2G"), "");
    assert_eq!(stage.said("get_default_device_pinned_mem_limit 0"), "");
}

#[test]
fn a_daemon_starts_with_other_settings_than_the_default_ones() {
    let stage = Stage::new("[start]\npercentage = 50.0\npinned_limits = { 0 = \"2G\" }");
    let _daemon = stage.daemon(&[]);
    assert_eq!(stage.said("get_default_active_thread_percentage"), "50.0\n");
    assert_eq!(stage.said("get_default_device_pinned_mem_limit 0"), "2G\n");
}

#[test]
fn answers_are_replaced_by_text_and_by_bytes() {
    let stage = Stage::new(
        "[control]\nanswers = { ps = \"PID WHO\\n7 me\\n\", get_server_list = \"\" }\nanswers_hex = { get_client_list = \"41ff00420a\" }",
    );
    let _daemon = stage.daemon(&[]);
    assert_eq!(stage.said("ps -p 4"), "PID WHO\n7 me\n");
    assert_eq!(stage.said("get_client_list 4"), "A\u{fffd}\0B\n");
}

#[test]
fn a_slow_daemon_answers_late() {
    let stage = Stage::new("[control]\nanswer_delay_ms = 400");
    let _daemon = stage.daemon(&[]);
    let mut ui = asking(&stage, "get_server_list\n");
    assert!(ui.ended_within(NO_ANSWER).unwrap().is_none());
    assert_eq!(ui.wait().unwrap().code(), Some(0));
}

#[test]
fn a_slow_start_makes_nothing_before_it_listens() {
    let stage = Stage::new("[start]\ndelay_ms = 300");
    let _starting = Running::start(stage.mps.control(&stage.pipe).arg("-f")).unwrap();
    assert_eq!(stage.ask("get_server_list").code, Some(1));
    wait_until(
        || stage.ask("get_server_list").code == Some(0),
        || "no daemon".to_owned(),
    );
}

#[test]
fn servers_crash_in_a_loop_while_a_client_asks() {
    let stage = Stage::new("[server]\nlives_ms = 20");
    let daemon = stage.daemon(&[]);
    let mut gone = 0;
    while gone < 3 {
        let (client, server) = stage.connected();
        client.wait_for("server-gone").unwrap();
        daemon
            .wait_for(&format!("Server {server} exited with status 1"))
            .unwrap();
        gone += 1;
    }
    let fatal = daemon.lines();
    let fatal = fatal
        .iter()
        .filter(|line| line.contains("Server encountered a fatal exception. Shutting down"));
    assert!(fatal.count() >= 3);
}

#[test]
fn a_held_gpu_keeps_every_server_from_starting() {
    let stage = Stage::new("[server]\ngpu_busy = true");
    let daemon = stage.daemon(&[]);
    stage
        .client()
        .wait_for("error 805 MPS_CONNECTION_FAILED")
        .unwrap();
    daemon
        .wait_for("all CUDA-capable devices are busy or unavailable")
        .unwrap();
}

#[test]
fn clients_that_are_none_are_listed() {
    let stage = Stage::new("[[ghost]]\npid = 4000001\ncommand = \"./gone\"");
    let _daemon = stage.daemon(&[]);
    let server = stage.server("ACTIVE");
    assert_eq!(stage.said(&format!("get_client_list {server}")), "4000001\n");
    assert!(
        stage
            .said("ps")
            .lines()
            .nth(1)
            .unwrap()
            .trim_end()
            .ends_with("./gone")
    );
}

#[test]
fn a_client_that_ended_unnoticed_is_listed_until_it_is_terminated() {
    let stage = Stage::new("[server]\nkeeps_dead_clients = true\nignores_terminate = true");
    let _daemon = stage.daemon(&[]);
    let (client, server) = stage.connected();
    let pid = i32::try_from(client.pid()).unwrap();
    let list = format!("get_client_list {server}");
    stage.until(&list, &format!("{pid}\n"));
    drop(client);
    assert!(!lives(pid));
    let terminate = format!("terminate_client {server} {pid}");
    assert_eq!(stage.said(&terminate), "0\n");
    // The server has looked at its clients since then: it took another one.
    let (other, _) = stage.connected();
    stage.until(&list, &format!("{pid}\n{}\n", other.pid()));
    stage.mps.play("[server]\nkeeps_dead_clients = true").unwrap();
    assert_eq!(stage.said(&terminate), "0\n");
    stage.until(&list, &format!("{}\n", other.pid()));
}

#[test]
fn a_server_ignores_shutdown_and_force() {
    let stage = Stage::new("[server]\nignores_shutdown = true\nignores_force = true");
    let mut daemon = stage.daemon(&[]);
    let server = stage.server("ACTIVE");
    let _quit = asking(&stage, "quit -t 0\n");
    daemon.wait_for("Force shutting down server").unwrap();
    assert!(daemon.ended_within(NO_ANSWER).unwrap().is_none() && lives(server));
    stage.mps.play("").unwrap();
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
}

#[test]
fn under_a_wrong_script_the_last_good_one_goes_on() {
    let stage = Stage::new("[control]\nanswers = { bogus = \"7\\n\" }");
    let _daemon = stage.daemon(&[]);
    // A command line that was started under the good script: those that start under a wrong one refuse it.
    let mut ui = Running::start(&mut stage.mps.control(&stage.pipe)).unwrap();
    ui.say("get_default_active_thread_percentage\n").unwrap();
    ui.wait_for("100.0").unwrap();
    let refused = stage.mps.play("[control]\nwedge = true").unwrap_err();
    assert!(refused.to_string().contains("wedge"), "{refused}");
    let new = stage.path("new");
    fs_err::write(&new, "nonsense").unwrap();
    fs_err::rename(&new, stage.mps.script()).unwrap();
    ui.say("bogus\n").unwrap();
    ui.wait_for("7").unwrap();
    assert_eq!(stage.ask("bogus").code, Some(64));
}
