//! Servers that end, do not start, or keep what is gone.

use super::*;

#[test]
fn m11_a_server_that_keeps_ending_is_a_crash_loop_and_the_daemon_is_left_alone() {
    let mut stage = Stage::ready();
    for crash in 1..=3 {
        stage.pass(5);
        stage.server_ends.ended = crash;
        stage.answers(report(&[active(200 + u32::try_from(crash).unwrap(), &[])]));
        let decision = stage.decide();
        assert_eq!(step(&decision), None);
        assert_eq!(decision.state == MpsState::Ready, crash < 3, "{crash}");
    }
    assert!(why(&stage.decide()).contains("keeps crashing"));
    assert_eq!(stage.daemon.restarts(), 3);
    stage.pass(61);
    stage.answers(report(&[active(203, &[])]));
    assert_eq!(stage.decide().state, MpsState::Ready);
}

#[test]
fn m11_what_the_log_says_of_a_server_that_is_still_there_is_no_crash() {
    let mut stage = Stage::ready();
    for lines in 1..=9 {
        stage.pass(1);
        stage.server_ends.ended = 10 * lines;
        stage.answers(report(&[active(200, &[300])]));
        assert_eq!(stage.decide().state, MpsState::Ready, "{lines}");
    }
    assert_eq!(stage.daemon.restarts(), 0);
}

#[test]
fn m11_a_server_that_never_stays_for_a_probe_is_a_crash_loop_by_the_log_alone() {
    let mut stage = Stage::ready();
    for crash in 1..=3 {
        stage.pass(5);
        stage.server_ends.ended = crash;
        stage.answers(report(&[]));
        stage.decide();
    }
    assert!(
        why(&stage.decide()).contains("keeps crashing: 3"),
        "{:?}",
        stage.decide()
    );
}

#[test]
fn m11_ends_that_no_line_tells_of_in_time_count_once() {
    let mut stage = Stage::ready();
    for crash in 1..=2 {
        stage.pass(5);
        stage.answers(report(&[]));
        stage.decide();
        // The line comes a moment later, while there is no server yet.
        stage.server_ends.ended = crash;
        stage.answers(report(&[]));
        stage.decide();
        stage.answers(report(&[active(200 + u32::try_from(crash).unwrap(), &[])]));
        assert_eq!(stage.decide().state, MpsState::Ready);
    }
    stage.pass(5);
    stage.answers(report(&[active(300, &[])]));
    assert!(
        why(&stage.decide()).contains("keeps crashing: 3"),
        "no line came at all"
    );
}

#[test]
fn m26_a_list_of_servers_that_cannot_be_read_is_neither_an_end_nor_a_reason_to_start_one() {
    let mut stage = Stage::ready();
    for _ in 0..4 {
        stage.pass(5);
        let mut garbled = report(&[]);
        garbled.lists_all_servers = false;
        garbled.not_understood = vec!["get_server_list: <200>".into()];
        stage.answers(garbled);
        let decision = stage.decide();
        assert_eq!(step(&decision), None);
        assert!(why(&decision).contains("<200>"), "{decision:?}");
        stage.answers(report(&[active(200, &[])]));
        assert_eq!(stage.decide().state, MpsState::Ready);
    }
    assert_eq!(stage.daemon.restarts(), 0);
}

#[test]
fn m11_m24_a_server_that_makes_room_for_another_user_has_not_crashed_and_is_no_restart() {
    let mut stage = Stage::ready();
    for change in 1..=5 {
        stage.pass(1);
        stage.server_ends.ended += 1;
        stage.answers(report(&[]));
        stage.decide();
        stage.server_ends.yielded += 1;
        stage.answers(report(&[active(200 + change, &[])]));
        assert_eq!(stage.decide().state, MpsState::Ready, "{change}");
    }
    assert_eq!(stage.daemon.restarts(), 0);
    stage.answers(report(&[active(300, &[])]));
    stage.decide();
    assert_eq!(stage.daemon.restarts(), 1, "that one was nobody's wish");
}

#[test]
fn a_daemon_without_a_server_gets_one_ahead_of_the_first_client() {
    let mut stage = Stage::ready();
    stage.answers(report(&[]));
    let decision = stage.decide();
    assert_eq!(step(&decision), Some(&Step::StartServer));
    assert!(matches!(decision.state, MpsState::Degraded(_)));
    assert_eq!(step(&stage.decide()), None, "not again at once");
    stage.pass(1);
    stage.intruders = vec![4242];
    stage.answers(report(&[]));
    let decision = stage.decide();
    assert_eq!(step(&decision), Some(&Step::StartServer));
    assert!(
        why(&decision).contains("process 4242 is on the GPU past MPS"),
        "{decision:?}"
    );
}

#[test]
fn m13_a_client_whose_process_is_gone_is_dropped_after_a_while() {
    let mut stage = Stage::ready();
    stage.gone_clients = BTreeSet::from([300]);
    for second in 0..=30 {
        stage.answers(report(&[active(200, &[300, 301])]));
        let decision = stage.decide();
        assert_eq!(decision.state, MpsState::Ready);
        let dropped = Step::Terminate {
            server: 200,
            clients: vec![300],
        };
        assert_eq!(
            step(&decision),
            (second == 30).then_some(&dropped),
            "after {second} s"
        );
        stage.pass(1);
    }
}

#[test]
fn m13_a_server_that_keeps_dead_clients_is_named_and_replaced_once_nobody_else_is_on_it() {
    let mut stage = Stage::ready();
    stage.gone_clients = BTreeSet::from([300]);
    let mut told = Vec::new();
    let mut watch = |stage: &mut Stage, clients: &[u32], seconds: u32| {
        for _ in 0..seconds {
            stage.pass(1);
            stage.answers(report(&[active(200, clients)]));
            let decision = stage.decide();
            assert_eq!(decision.state, MpsState::Ready);
            told.extend(decision.step.map(|(step, _)| step));
        }
    };
    watch(&mut stage, &[300, 301], 31);
    assert_eq!(stage.daemon.warning(), None, "it was told once");
    watch(&mut stage, &[300, 301], 60);
    let warning = stage.daemon.warning().unwrap();
    assert!(warning.what.ends_with(": 300"), "{warning:?}");
    // The last one that is alive has left.
    watch(&mut stage, &[300], 60);
    let terminate = Step::Terminate {
        server: 200,
        clients: vec![300],
    };
    let shut_down = Step::ShutDownServer { server: 200 };
    assert_eq!(
        told,
        [
            terminate.clone(),
            terminate.clone(),
            terminate,
            shut_down,
            Step::Restart
        ]
    );
    stage.answers(report(&[active(201, &[])]));
    assert_eq!(stage.decide().state, MpsState::Ready);
    assert_eq!(stage.daemon.warning(), None);
}

#[test]
fn m13_who_has_connected_since_the_newest_probe_is_not_shut_down_with_dead_clients() {
    let mut stage = Stage::ready();
    stage.gone_clients = BTreeSet::from([300]);
    let dropped = Step::Terminate {
        server: 200,
        clients: vec![300],
    };
    for _ in 0..2 {
        let mut steps = std::iter::repeat_with(|| stage.beat(report(&[active(200, &[300])])).step);
        let (told, _) = steps.by_ref().take(60).flatten().next().unwrap();
        assert_eq!(told, dropped);
    }
    for _ in 0..WISH.grace.as_secs() - 1 {
        assert_eq!(stage.beat(report(&[active(200, &[300])])).step, None);
    }
    let decision = stage.beat(report(&[active(200, &[300, 301])]));
    assert_eq!(step(&decision), Some(&dropped), "301 is there by now");
}

#[test]
fn m13_clients_that_were_dropped_and_others_that_die_later_are_not_one_case() {
    let mut stage = Stage::ready();
    for pid in 300..310 {
        stage.gone_clients = BTreeSet::from([pid]);
        let mut steps = Vec::new();
        for _ in 0..=30 {
            stage.answers(report(&[active(200, &[pid])]));
            steps.extend(stage.decide().step.map(|(step, _)| step));
            stage.pass(1);
        }
        let clients = vec![pid];
        assert_eq!(steps, [Step::Terminate { server: 200, clients }]);
    }
    assert_eq!(stage.daemon.warning(), None);
}

/// Steps of a minute, or more, in which the server is starting, with the second at which each was taken.
fn steps_while_starting(stage: &mut Stage, server_pid: u32, seconds: u32) -> Vec<(u32, Step)> {
    let mut steps = Vec::new();
    for second in 0..=seconds {
        stage.answers(report(&[server(server_pid, ServerStatus::Initializing, &[])]));
        steps.extend(stage.decide().step.map(|(step, _)| (second, step)));
        stage.pass(1);
    }
    steps
}

#[test]
fn a_server_that_does_not_come_up_is_told_with_who_is_in_the_way_and_replaced() {
    let mut stage = Stage::ready();
    stage.intruders = vec![4242];
    let steps = steps_while_starting(&mut stage, 201, 35);
    assert_eq!(
        steps,
        [(30, Step::ShutDownServer { server: 201 }), (35, Step::Restart)]
    );
    stage.intruders = Vec::new();
    stage.unit = running(101);
    stage.decide();
    assert_eq!(
        steps_while_starting(&mut stage, 202, 59),
        [],
        "it may only be slow"
    );
    stage.answers(report(&[server(202, ServerStatus::Initializing, &[])]));
    let decision = stage.decide();
    assert!(
        why(&decision).contains("server 202 has been starting for 60 s"),
        "{decision:?}"
    );
    assert_eq!(step(&decision), Some(&Step::ShutDownServer { server: 202 }));
    stage.answers(report(&[active(203, &[])]));
    assert_eq!(stage.decide().state, MpsState::Ready);
    assert_eq!(
        steps_while_starting(&mut stage, 204, 30),
        [(30, Step::ShutDownServer { server: 204 })],
        "one came up"
    );
}

#[test]
fn a_server_that_starts_over_after_a_fault_has_its_time_like_a_new_one() {
    let mut stage = Stage::ready();
    stage.answers(report(&[server(200, ServerStatus::Fault, &[])]));
    stage.decide();
    stage.pass(3);
    assert_eq!(steps_while_starting(&mut stage, 200, 29), []);
}

#[test]
fn who_keeps_servers_from_starting_is_named_in_a_crash_loop_as_well() {
    let mut stage = Stage::ready();
    stage.intruders = vec![4242];
    for failure in 1..=3 {
        stage.pass(1);
        stage.server_ends.ended = failure;
        stage.answers(report(&[]));
        stage.decide();
    }
    let decision = stage.decide();
    assert!(why(&decision).contains("keeps crashing: 3"), "{decision:?}");
    assert!(
        why(&decision).contains("process 4242 is on the GPU past MPS"),
        "{decision:?}"
    );
}

#[test]
fn a_short_grace_is_no_limit_on_the_start_of_a_server() {
    let mut stage = Stage::ready();
    stage.wish.grace = Duration::from_secs(1);
    assert_eq!(
        steps_while_starting(&mut stage, 201, 30),
        [(30, Step::ShutDownServer { server: 201 })]
    );
}

#[test]
fn who_keeps_a_server_from_coming_up_is_named() {
    let mut stage = Stage::ready();
    stage.intruders = vec![4242];
    stage.answers(report(&[server(201, ServerStatus::Initializing, &[])]));
    let decision = stage.decide();
    assert!(
        why(&decision).contains("process 4242 is on the GPU past MPS"),
        "{decision:?}"
    );
}
