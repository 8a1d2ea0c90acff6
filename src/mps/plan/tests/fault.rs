//! Servers that take no clients any more.

use super::*;

#[test]
fn m12_a_fault_names_its_clients_gives_them_time_then_replaces_the_server() {
    let mut stage = Stage::ready();
    let faulty = |clients: &[u32]| report(&[server(200, ServerStatus::Fault, clients)]);
    stage.answers(faulty(&[300, 301]));
    let decision = stage.decide();
    assert_eq!(step(&decision), None);
    assert!(
        why(&decision).contains("300 (./train), 301 (./train)"),
        "{decision:?}"
    );
    assert_eq!(decision.probe_at, Some(stage.now + FAST));
    stage.pass(29);
    stage.answers(faulty(&[301]));
    assert_eq!(step(&stage.decide()), None);
    stage.pass(1);
    stage.answers(faulty(&[301]));
    let terminate = Step::Terminate {
        server: 200,
        clients: vec![301],
    };
    assert_eq!(step(&stage.decide()), Some(&terminate));
    assert_eq!(step(&stage.decide()), None, "once");
    stage.pass(5);
    stage.answers(faulty(&[301]));
    assert_eq!(step(&stage.decide()), Some(&Step::ShutDownServer { server: 200 }));
    stage.pass(1);
    stage.answers(report(&[]));
    assert_eq!(step(&stage.decide()), Some(&Step::StartServer));
    stage.answers(report(&[active(201, &[])]));
    assert_eq!(stage.decide().state, MpsState::Ready);
}

#[test]
fn m12_clients_are_terminated_by_a_new_report_alone() {
    let mut stage = Stage::ready();
    stage.answers(report(&[server(200, ServerStatus::Fault, &[300])]));
    stage.decide();
    stage.pass(WISH.grace.as_secs());
    let decision = stage.decide();
    assert_eq!((step(&decision), decision.probe_at), (None, Some(stage.now)));
    stage.answers(report(&[active(200, &[301])]));
    let decision = stage.decide();
    assert_eq!((step(&decision), &decision.state), (None, &MpsState::Ready));
}

#[test]
fn m12_a_server_that_recovers_when_its_clients_have_gone_is_left_alone() {
    let mut stage = Stage::ready();
    stage.answers(report(&[server(200, ServerStatus::Fault, &[300])]));
    stage.decide();
    stage.pass(2);
    stage.answers(report(&[server(200, ServerStatus::Fault, &[])]));
    assert_eq!(step(&stage.decide()), None);
    stage.pass(1);
    stage.answers(report(&[active(200, &[])]));
    let decision = stage.decide();
    assert_eq!((step(&decision), &decision.state), (None, &MpsState::Ready));
}

#[test]
fn m12_clients_of_a_faulty_server_that_nobody_could_count_get_their_time_as_well() {
    let mut stage = Stage::ready();
    let mut steps = Vec::new();
    for second in 0..=40 {
        stage.answers(unread(ServerStatus::Fault));
        let decision = stage.decide();
        assert!(why(&decision).contains("cannot be read"), "{decision:?}");
        steps.extend(decision.step.map(|(step, _)| (second, step)));
        stage.pass(1);
    }
    assert_eq!(
        steps,
        [(35, Step::ShutDownServer { server: 200 }), (40, Step::Restart)]
    );
}

#[test]
fn m12_a_server_that_does_not_end_takes_its_daemon_along() {
    let mut stage = Stage::ready();
    let faulty = || report(&[server(200, ServerStatus::Fault, &[])]);
    let mut steps = Vec::new();
    for _ in 0..12 {
        stage.answers(faulty());
        steps.extend(stage.decide().step.map(|(step, _)| step));
        stage.pass(1);
    }
    assert_eq!(steps, [Step::ShutDownServer { server: 200 }, Step::Restart]);
}

#[test]
fn m11_a_server_that_was_told_to_end_has_not_crashed() {
    let mut stage = Stage::ready();
    for crash in 1..=2 {
        stage.server_ends.ended = crash;
        stage.answers(report(&[active(197 + u32::try_from(crash).unwrap(), &[])]));
        assert_eq!(stage.decide().state, MpsState::Ready);
    }
    stage.server_ends.ended = 2;
    stage.answers(report(&[server(199, ServerStatus::Fault, &[])]));
    assert_eq!(step(&stage.decide()), None);
    stage.pass(5);
    stage.answers(report(&[server(199, ServerStatus::Fault, &[])]));
    assert_eq!(step(&stage.decide()), Some(&Step::ShutDownServer { server: 199 }));
    stage.server_ends.ended = 3;
    stage.answers(report(&[active(201, &[])]));
    assert_eq!(stage.decide().state, MpsState::Ready);
    stage.server_ends.ended = 4;
    stage.answers(report(&[active(202, &[])]));
    assert!(why(&stage.decide()).contains("keeps crashing"));
}
