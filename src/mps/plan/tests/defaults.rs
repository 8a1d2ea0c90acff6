//! Defaults that are not those of a fresh daemon.

use super::*;

#[test]
fn m08_a_daemon_whose_clients_cannot_be_counted_is_not_restarted_for_its_defaults() {
    let mut stage = Stage::new();
    stage.unit = running(100);
    let mut limited = unread(ServerStatus::Active);
    limited.default_thread_percentage = Some(33.0);
    stage.answers(limited);
    assert_eq!(step(&stage.decide()), None);
}

#[test]
fn m08_a_daemon_with_other_defaults_is_never_ready_and_replaced_while_it_has_no_clients() {
    for (limited, text) in limited_reports(&[]) {
        let mut stage = Stage::new();
        stage.unit = running(100);
        stage.answers(limited);
        let decision = stage.decide();
        assert!(matches!(decision.state, MpsState::Degraded(_)));
        assert!(why(&decision).contains(text), "{decision:?}");
        assert_eq!(step(&decision), Some(&Step::Restart));
    }
    for (limited, _) in limited_reports(&[300]) {
        let mut stage = Stage::new();
        stage.unit = running(100);
        stage.answers(limited);
        let decision = stage.decide();
        assert_eq!(step(&decision), None, "clients are not cut off for it");
        assert!(matches!(decision.state, MpsState::Degraded(_)));
    }
}

#[test]
fn m08_defaults_that_were_changed_under_a_verified_server_are_set_back() {
    for (limited, text) in limited_reports(&[300]) {
        let mut stage = Stage::ready();
        stage.answers(limited);
        let decision = stage.decide();
        assert!(why(&decision).contains(text), "{decision:?}");
        assert_eq!(step(&decision), Some(&Step::RestoreDefaults));
        assert_eq!(step(&stage.decide()), None, "not again at once");
        stage.answers(report(&[active(200, &[300])]));
        assert_eq!(stage.decide().state, MpsState::Ready);
    }
}

#[test]
fn m08_a_server_that_is_gone_and_still_listed_was_not_the_one_that_was_verified() {
    let [(mut limited, _), _] = limited_reports(&[300]);
    limited.servers.insert(0, server(199, ServerStatus::Gone, &[]));
    let mut stage = Stage::ready();
    stage.answers(limited.clone());
    assert_eq!(step(&stage.decide()), Some(&Step::RestoreDefaults), "200 was");
    limited.servers.swap(0, 1);
    limited.servers[0].status = ServerStatus::Gone;
    limited.servers[1].status = ServerStatus::Active;
    stage.pass(2);
    stage.answers(limited);
    assert_eq!(
        step(&stage.decide()),
        None,
        "nobody knows with which 199 was started"
    );
}

#[test]
fn m08_a_daemon_is_not_restarted_on_a_report_in_which_who_has_connected_since_is_not() {
    let [(alone, _), _] = limited_reports(&[]);
    let mut stage = Stage::new();
    stage.unit = running(100);
    stage.answers(alone);
    assert_eq!(
        step(&stage.decide()),
        Some(&Step::Restart),
        "which came to nothing"
    );
    let [(used, _), _] = limited_reports(&[300]);
    for _ in 0..30 {
        assert_eq!(stage.beat(used.clone()).step, None);
    }
}

/// One whose threads are limited and one whose memory is, with these clients.
fn limited_reports(clients: &[u32]) -> [(Report, &'static str); 2] {
    let (mut threads, mut memory) = (report(&[active(200, clients)]), report(&[active(200, clients)]));
    threads.default_thread_percentage = Some(33.0);
    memory.default_memory_limit = Some("2G".into());
    [(threads, "33.0"), (memory, "2G")]
}
