//! Answers as real daemons give them (550.163.01, 580.178.04, 595.99.02), and as none should.

use std::fmt::Write as _;

use super::*;

/// What a daemon prints for a script: each answer, then the refusal of the separator.
fn printed(answers: &[&str]) -> String {
    let mut text = String::new();
    for (index, answer) in answers.iter().enumerate() {
        let _ = writeln!(text, "{answer}Unknown command \"gpushare-{}\"", index + 1);
    }
    text
}

/// The report of one probe in which server 7 was known.
fn report_of_bytes(bytes: &[u8]) -> Report {
    let script = Script::probe(Some(7));
    let mut reading = Reading::default();
    reading.hear(&script, &script.answers(bytes));
    reading.report()
}

/// The same, by the answers to the list, the percentage, the limit, the status, the clients, `ps`.
fn report(answers: [&str; 6]) -> Report {
    report_of_bytes(printed(&answers).as_bytes())
}

const PS_550: &str = "\
PID       ID        SERVER         DEVICE             NAMESPACE      COMMAND        
9741      0         7              GPU-cb1213a3-d6a4  4026531836     ./nbody        
9742      1         7              GPU-cb1213a3-d6a4  4026532001     python3        
";
const PS_595: &str = "\
PID       ID        SERVER         DEVICE             NAMESPACE      COMMAND        ATTRIBUTES
9741      0         7              GPU-cb1213a3-d6a4  4026531836     ./nbody        -
9742      1         7              GPU-cb1213a3-d6a4  4026532001     python3        -
";
const PS_WIDE: &str = "\
STATUS    PID       ID        SERVER         DEVICE             NAMESPACE      COMMAND        PRIORITY
ACTIVE    9741      0         7              GPU-cb1213a3-d6a4  4026531836     ./nbody        0
ACTIVE    9742      1         7              GPU-cb1213a3-d6a4  4026532001     python3        1
";

fn client(pid: u32, command: Option<&str>) -> Client {
    Client {
        pid,
        command: command.map(str::to_owned),
    }
}

#[test]
fn the_script_asks_and_separates() {
    assert_eq!(
        Script::probe(Some(7)).text(),
        "get_server_list\ngpushare-1\n\
         get_default_active_thread_percentage\ngpushare-2\n\
         get_default_device_pinned_mem_limit 0\ngpushare-3\n\
         get_server_status 7\ngpushare-4\n\
         get_client_list 7\ngpushare-5\n\
         ps\ngpushare-6\n"
    );
    assert_eq!(Script::probe(None).0.len(), 4);
}

#[test]
fn orders_are_written_as_the_daemon_takes_them() {
    for (command, text) in [
        (Command::StartServer { uid: 0 }, "start_server -uid 0"),
        (
            Command::TerminateClient { server: 7, client: 8 },
            "terminate_client 7 8",
        ),
        (
            Command::ShutdownServer {
                server: 7,
                force: true,
            },
            "shutdown_server 7 -f",
        ),
        (
            Command::ShutdownServer {
                server: 7,
                force: false,
            },
            "shutdown_server 7",
        ),
        (
            Command::SetDefaultThreadPercentage(100.0),
            "set_default_active_thread_percentage 100",
        ),
        (
            Command::Quit {
                grace: Duration::from_secs(5),
            },
            "quit -t 5",
        ),
        (
            Command::Quit {
                grace: Duration::from_millis(200),
            },
            "quit -t 1",
        ),
    ] {
        assert_eq!(command.to_string(), text);
    }
}

#[test]
fn a_daemon_without_a_server_as_550_answers_it() {
    // Word for word from 550.163.01.
    let report = report([
        "",
        "100.0\n",
        "",
        "Server 7 not found\n",
        "Server 7 not found\n",
        "Server not found\n",
    ]);
    assert_eq!(
        report,
        Report {
            lists_all_servers: true,
            default_thread_percentage: Some(100.0),
            default_memory_limit: Some(String::new()),
            ..Report::default()
        }
    );
    assert!(report.limits_nobody());
}

#[test]
fn m26_clients_are_named_whatever_columns_ps_has() {
    for ps in [PS_550, PS_595, PS_WIDE] {
        let report = report(["7\n", "100.0\n", "", "ACTIVE\n", "9741\n9742\n", ps]);
        let server = Server {
            pid: 7,
            status: ServerStatus::Active,
            clients: Some(vec![client(9741, Some("./nbody")), client(9742, Some("python3"))]),
        };
        assert_eq!(report.servers, [server], "{ps}");
        assert_eq!(report.not_understood, [""; 0], "{ps}");
        assert_eq!(report.clients().count(), 2);
    }
}

#[test]
fn m26_a_command_may_contain_blanks_and_the_last_column_be_empty() {
    let ps = "\
PID       ID        SERVER         DEVICE        NAMESPACE      COMMAND         ATTRIBUTES
11        0         7              GPU-cb        4026531836     my tool --fast  -
12        1         7              GPU-cb        4026531836     train
";
    let report = report(["7\n", "100.0\n", "", "ACTIVE\n", "11\n12\n0\n", ps]);
    let expected = [
        client(11, Some("my tool --fast")),
        client(12, Some("train")),
        client(0, None),
    ];
    assert_eq!(report.servers[0].known_clients(), expected);
    assert_eq!(report.not_understood, [""; 0]);
}

#[test]
fn m26_clients_that_cannot_be_read_are_not_none() {
    for (answer, clients, has_none) in [
        ("", Some(0), true),
        ("9741\n", Some(1), false),
        ("Server 7 not found\n", Some(0), true),
        ("9741\nServer 7 is <busy>\n", None, false),
        ("Unknown command \"get_client_list\"\n", None, false),
    ] {
        let report = report(["7\n", "100.0\n", "", "ACTIVE\n", answer, "Server not found\n"]);
        let listed = report.servers[0].clients.as_ref();
        assert_eq!(listed.map(Vec::len), clients, "{answer}");
        assert_eq!(report.has_no_clients(), has_none, "{answer}");
    }
    let report = report(["<7>\n", "100.0\n", "", "", "", "Server not found\n"]);
    assert_eq!(report.servers, []);
    assert!(
        !report.has_no_clients(),
        "a list that is not understood is not empty"
    );
}

#[test]
fn every_status_of_a_server_is_told_apart() {
    for (answer, status) in [
        ("INITIALIZING\n", ServerStatus::Initializing),
        ("ACTIVE\n", ServerStatus::Active),
        ("FAULT\n", ServerStatus::Fault),
        ("Server 7 not found\n", ServerStatus::Gone),
        ("Unknown command \"get_server_status\"\n", ServerStatus::Unknown),
    ] {
        let report = report(["7\n", "100.0\n", "", answer, "", "Server not found\n"]);
        assert_eq!(report.servers[0].status, status, "{answer}");
        assert_eq!(report.not_understood, [""; 0], "{answer}");
    }
    let report = report(["7\n", "100.0\n", "", "DRAINING\n", "", ""]);
    assert_eq!(report.servers[0].status, ServerStatus::Unknown);
    assert_eq!(report.not_understood, ["get_server_status 7: DRAINING"]);
}

#[test]
fn a_server_that_is_new_in_the_list_is_asked_for() {
    let first = Script::probe(Some(6));
    let mut reading = Reading::default();
    let heard = printed(&[
        "7\n",
        "100.0\n",
        "",
        "Server 6 not found\n",
        "Server 6 not found\n",
        PS_550,
    ]);
    reading.hear(&first, &first.answers(heard.as_bytes()));
    assert_eq!(reading.unasked(), [7]);
    let second = Script::servers(&[7]);
    let heard = printed(&["ACTIVE\n", "9741\n", PS_550]);
    reading.hear(&second, &second.answers(heard.as_bytes()));
    assert_eq!(reading.unasked(), [0; 0]);
    let report = reading.report();
    assert_eq!(
        report.servers,
        [Server {
            pid: 7,
            status: ServerStatus::Active,
            clients: Some(vec![client(9741, Some("./nbody"))]),
        }],
        "and the one before is not there any more"
    );
}

#[test]
fn m08_defaults_are_read_back_and_never_guessed() {
    for (percentage, limit, expected) in [
        ("14.3\n", "2G\n", (Some(14.3), Some("2G"))),
        ("100.0\n", "512M\n", (Some(100.0), Some("512M"))),
        ("100.0\n", "0\n", (Some(100.0), Some("0"))),
        ("", "", (None, Some(""))),
        ("old\n", "17.5X\n", (None, None)),
        ("-5\n", "M\n", (None, None)),
        ("101\n", "-1G\n", (None, None)),
        ("NaN\n", "2G\n3G\n", (None, None)),
        ("100.0\n50.0\n", "\u{fffd}\n", (None, None)),
    ] {
        let report = report(["", percentage, limit, "ACTIVE\n", "", ""]);
        let found = (
            report.default_thread_percentage,
            report.default_memory_limit.as_deref(),
        );
        assert_eq!(found, expected, "{percentage:?} {limit:?}");
        assert!(!report.limits_nobody(), "{percentage:?} {limit:?}");
    }
}

#[test]
fn m26_an_unknown_ps_costs_the_commands_and_nothing_else() {
    for ps in [
        "CLIENT SERVER NAME\n9741 7 ./nbody\n",
        "Unknown command \"ps\"\n",
        "PID COMMAND\nnine ./nbody\n",
        "\u{1}\u{2}\u{fffd}\n",
    ] {
        let report = report(["7\n", "100.0\n", "", "ACTIVE\n", "9741\n", ps]);
        assert_eq!(report.servers[0].known_clients(), [client(9741, None)], "{ps:?}");
        assert!(report.limits_nobody(), "{ps:?}");
        assert_eq!(report.not_understood.len(), 1, "{:?}", report.not_understood);
        assert!(
            report.not_understood[0].starts_with("ps: "),
            "{:?}",
            report.not_understood
        );
    }
}

#[test]
fn m26_text_beside_the_numbers_is_told_and_the_numbers_count() {
    let report = report([
        "Warning: something\n7\n",
        "100.0\n",
        "",
        "ACTIVE\n",
        "Server 7 is <busy>\n",
        "",
    ]);
    assert_eq!(report.servers[0].pid, 7);
    assert_eq!(
        report.not_understood,
        [
            "get_server_list: Warning: something",
            "get_client_list 7: Server 7 is <busy>"
        ]
    );
}

#[test]
fn m26_a_missing_separator_mixes_two_answers_and_spoils_no_other() {
    let whole = printed(&["7\n", "100.0\n", "", "ACTIVE\n", "9741\n", PS_550]);
    let cut = whole.replace("Unknown command \"gpushare-2\"\n", "");
    let report = report_of_bytes(cut.as_bytes());
    assert_eq!(report.default_thread_percentage, None);
    assert_eq!(report.default_memory_limit, None);
    assert_eq!(report.servers[0].known_clients(), [client(9741, Some("./nbody"))]);
    assert!(
        report
            .not_understood
            .iter()
            .any(|text| text.ends_with("mem_limit 0: 100.0")),
        "{:?}",
        report.not_understood
    );
}

#[test]
fn m26_a_separator_is_found_however_it_is_refused() {
    let whole = printed(&["7\n", "100.0\n", "", "ACTIVE\n", "9741\n", PS_550]);
    let other = whole
        .replace("Unknown command \"", "ERROR: no such command: ")
        .replace('"', ".");
    assert_eq!(
        report_of_bytes(other.as_bytes()),
        report_of_bytes(whole.as_bytes())
    );
}

#[test]
fn m26_an_answer_of_protocol_3_is_recognised_and_nothing_read_out_of_it() {
    let strange = "error: unknown module 'get_server_list'\nusage: <module> <verb>\n100.0\n7\n".to_owned();
    let unknown = Script::probe(Some(7)).0;
    let unknown = unknown
        .iter()
        .map(|command| format!("Unknown command \"{command}\"\n"));
    let unknown: Vec<String> = unknown.collect();
    let unknown: Vec<&str> = unknown.iter().map(String::as_str).collect();
    for printed in [strange, printed(&unknown)] {
        let report = report_of_bytes(printed.as_bytes());
        assert_eq!(report.servers, []);
        assert_eq!(report.default_thread_percentage, None);
        assert_eq!(report.default_memory_limit, None);
        assert!(
            report.not_understood[0].contains("does not speak protocol 2"),
            "{:?}",
            report.not_understood
        );
    }
}

#[test]
fn m26_noise_makes_a_report_with_gaps_and_is_shown_in_bounds() {
    let mut noise: Vec<u8> = (0..=255).cycle().take(60_000).collect();
    let long = format!("{}\n", "x".repeat(10_000));
    for bytes in [b"".as_slice(), b"\n\n\n", b"\0\0\0", long.as_bytes(), &noise] {
        let report = report_of_bytes(bytes);
        assert_eq!(report.servers, []);
        assert!(!report.limits_nobody());
        assert!(!report.not_understood.is_empty() && report.not_understood.len() <= 8);
        for text in &report.not_understood {
            assert!(
                text.chars().count() < 200 && !text.chars().any(char::is_control),
                "{text:?}"
            );
        }
    }
    // Noise in one answer stays in it.
    noise.retain(|byte| *byte != b'\n' && *byte != b'\r');
    let mut bytes = noise.clone();
    bytes.push(b'\n');
    bytes.extend(printed(&["", "100.0\n", "", "ACTIVE\n", "", ""]).into_bytes());
    assert!(report_of_bytes(&bytes).limits_nobody());
}

#[test]
fn m26_numbers_without_end_are_not_asked_for_one_by_one() {
    let script = Script::probe(None);
    let pids: Vec<String> = (1..1000).map(|pid| pid.to_string()).collect();
    let pids = pids.join("\n") + "\n";
    let mut reading = Reading::default();
    reading.hear(
        &script,
        &script.answers(printed(&[&pids, "100.0\n", "", ""]).as_bytes()),
    );
    assert_eq!(reading.unasked(), [1, 2, 3, 4]);
}

#[test]
fn a_pod_that_names_its_program_like_a_separator_changes_nothing_but_names() {
    let ps = PS_550.replace("./nbody", "x\nUnknown command \"gpushare-6\"\n7 0 7 G 1 y");
    let report = report(["7\n", "100.0\n", "", "ACTIVE\n", "9741\n9742\n", &ps]);
    assert!(report.limits_nobody());
    let pids: Vec<u32> = report.clients().map(|client| client.pid).collect();
    assert_eq!(pids, [9741, 9742]);
}

#[test]
fn a_refusal_is_told_in_the_daemons_words() {
    let refusal = |text: &str| {
        let script = Script(vec![Command::TerminateClient {
            server: 999,
            client: 1,
        }]);
        let printed = printed(&[text]);
        script.answers(printed.as_bytes())[0].refusal()
    };
    assert_eq!(refusal(""), None);
    assert_eq!(refusal("0\n"), None);
    assert_eq!(
        refusal("Server 999 not found\nServer 999 not found!\n1\n").as_deref(),
        Some("Server 999 not found")
    );
    assert!(refusal("Insufficient privileges for UID 65534. Only the root user may\n").is_some());
    assert!(refusal("The MPS control daemon is shutting down\n").is_some());
    assert!(refusal("Unknown command \"lspart\"\n").is_some());
    assert_eq!(Answer::Mixed(Vec::new()).refusal().as_deref(), Some("no answer"));
}
