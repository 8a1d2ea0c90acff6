//! What commands answer, measured on 550, 580 and 595 where nothing else is said.

use std::process::Command;

use crate::stage::{Stage, is_root};

/// Every command and its whole output. All of them end with 0.
#[test]
fn errors_are_text_and_end_with_0() {
    let stage = Stage::new("");
    let _daemon = stage.daemon(&[]);
    let cases = [
        ("get_server_list", ""),
        ("get_server_status 999", "Server 999 not found\n"),
        ("get_server_status", "A server PID is required\n"),
        ("get_server_status abc", "A server PID is required\n"),
        ("get_client_list 999", "Server 999 not found\n"),
        ("get_client_list", "Server 0 not found\n"),
        ("get_device_client_list", ""),
        ("get_device_client_list 999", "Server 999 not found\n"),
        ("ps", "Server not found\n"),
        ("ps -p 999", "Server 999 not found\nServer 999 not found\n\n"),
        ("get_active_thread_percentage 999", "Server 999 not found\n"),
        ("set_active_thread_percentage 999 10", "Server 999 not found\n"),
        ("set_device_pinned_mem_limit 999 0 1G", "Server 999 not found\n"),
        (
            "terminate_client 999 1",
            "Server 999 not found\nServer 999 not found!\n1\n",
        ),
        ("shutdown_server 999", "Server 999 not found\n"),
        (
            "start_server",
            "A user id (UID) is required to start a new server\n",
        ),
        (
            "set_default_client_priority 7",
            "Invalid priority value - must be 0 or 1!\n",
        ),
        ("bogus x y", "Unknown command \"bogus\"\n"),
        ("   get_server_list   ", ""),
    ];
    for (command, expected) in cases {
        assert_eq!(stage.said(command), expected, "{command}");
    }
    assert_eq!(stage.said("\n"), "Unknown command \"\"\n");
}

#[test]
fn several_commands_a_call_are_answered_in_turn() {
    let stage = Stage::new("");
    let _daemon = stage.daemon(&[]);
    let said =
        stage.said("get_default_active_thread_percentage\nget_server_list\nget_default_client_priority\n");
    assert_eq!(said, "100.0\n0\n");
    assert_eq!(stage.mps.uis().unwrap(), 1);
}

#[test]
fn an_invalid_percentage_prints_the_old_one_and_only_the_log_says_why() {
    let stage = Stage::new("");
    let daemon = stage.daemon(&[]);
    let set = |value: &str| stage.said(&format!("set_default_active_thread_percentage {value}"));
    assert_eq!(set("25"), "25.0\n");
    for wrong in ["0", "101", "abc", "-5", ""] {
        assert_eq!(set(wrong), "25.0\n", "{wrong}");
    }
    daemon
        .wait_for("Invalid percentage, expected between (0.0, 100.0]")
        .unwrap();
    assert_eq!(set("14.28"), "14.3\n");
    assert_eq!(set("50%"), "50.0\n");
    assert_eq!(set("1e1"), "10.0\n");
}

#[test]
fn a_pinned_limit_is_set_without_a_word_and_reads_back_rounded_down() {
    let stage = Stage::new("");
    let daemon = stage.daemon(&[]);
    for (value, shown) in [
        ("11500M", "11G\n"),
        ("512M", "512M\n"),
        ("1.5G", "1M\n"),
        ("2T", "2M\n"),
        ("0G", ""),
    ] {
        assert_eq!(
            stage.said(&format!("set_default_device_pinned_mem_limit 0 {value}")),
            ""
        );
        assert_eq!(
            stage.said("get_default_device_pinned_mem_limit 0"),
            shown,
            "{value}"
        );
    }
    daemon
        .wait_for("No default pinned memory limit set for the device!")
        .unwrap();
    assert_eq!(stage.said("set_default_device_pinned_mem_limit 32 2G"), "");
    daemon.wait_for("Invalid device ordinal!").unwrap();
}

#[test]
fn a_uuid_names_a_device_on_580_and_is_dropped_without_a_word_on_550() {
    let uuid = "GPU-0123abcd-0123-0123-0123-0123456789ab";
    let commands = format!(
        "set_default_device_pinned_mem_limit {uuid} 2G\nget_default_device_pinned_mem_limit {uuid}\n"
    );
    for (version, shown) in [(550, ""), (580, "2G\n")] {
        let stage = Stage::new(&format!("version = {version}"));
        let _daemon = stage.daemon(&[]);
        assert_eq!(stage.said(&commands), shown, "{version}");
    }
}

/// 221 and, on 550, 288 bytes: counted on the real log.
#[test]
fn a_call_writes_so_many_bytes_of_log() {
    let stage = Stage::new("version = 550");
    let daemon = stage.daemon(&[]);
    for (command, lines, bytes) in [
        ("get_server_list", 4, 221),
        ("get_default_active_thread_percentage", 5, 288),
    ] {
        let before = daemon.lines().len();
        stage.said(command);
        daemon.wait_for(&format!("Cmd:{command}")).unwrap();
        crate::stage::wait_until(
            || daemon.lines().len() >= before + lines,
            || daemon.lines().join("\n"),
        );
        let said = &daemon.lines()[before..];
        // The number of the process has 5 places, or more.
        let digits = daemon.pid().to_string().len().saturating_sub(5) * lines;
        let length: usize = said.iter().map(|line| line.len() + 1).sum();
        assert_eq!(length - digits, bytes, "{said:?}");
    }
}

/// The socket decides: root that sees only `control` is refused as anybody else is.
#[test]
fn root_through_a_view_with_control_alone_reads_and_cannot_write() {
    let stage = Stage::new("");
    let _daemon = stage.daemon(&[]);
    let view = stage.path("view");
    fs_err::create_dir(&view).unwrap();
    for name in ["control", "log"] {
        fs_err::hard_link(stage.pipe.join(name), view.join(name)).unwrap();
    }
    let ask = |command: &str| stage.mps.ask(&view, command).unwrap().stdout;
    assert_eq!(ask("get_default_active_thread_percentage"), "100.0\n");
    let refused = ask("set_default_active_thread_percentage 5");
    let end = "Control deamon settings can only be modified by the user started it or by the root user.\n";
    assert!(
        refused.starts_with("Insufficient privileges for UID ") && refused.ends_with(end),
        "{refused}"
    );
    assert_eq!(ask("quit"), "Not enough privilege to execute quit command\n");
    assert_eq!(stage.said("get_default_active_thread_percentage"), "100.0\n");
}

/// As a user other than root's; root alone can become one.
#[test]
fn another_user_reads_and_cannot_write() {
    if !is_root() {
        // The view above proves the same path for whoever runs the tests.
        return root_through_a_view_with_control_alone_reads_and_cannot_write();
    }
    let stage = Stage::new("");
    let _daemon = stage.daemon(&[]);
    let ask = |command: &str| {
        let mut ui = stage.mps.control(&stage.pipe);
        as_nobody(&mut ui);
        crate::stage::output(&mut ui, command)
    };
    assert_eq!(ask("get_default_active_thread_percentage"), "100.0\n");
    assert_eq!(ask("get_server_list"), "");
    assert!(
        ask("set_default_device_pinned_mem_limit 0 1G")
            .starts_with("Insufficient privileges for UID 65534. ")
    );
    let other =
        "Insufficient privileges for UID 65534. Only the root user may start server for another user.\n";
    assert_eq!(ask("start_server -uid 0"), other);
    assert_eq!(ask("quit"), "Not enough privilege to execute quit command\n");
    assert_eq!(
        ask("terminate_client 1 1"),
        "Server 1 not found\nServer 1 not found!\n1\n"
    );
}

fn as_nobody(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.uid(65534).gid(65534);
}
