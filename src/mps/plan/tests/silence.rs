//! Daemons that do not answer.

use super::*;

#[test]
fn m05_three_probes_without_an_answer_are_down_and_one_with_an_answer_is_back() {
    let mut stage = Stage::ready();
    for strike in 1..STRIKES {
        stage.pass(1);
        stage.is_silent();
        let decision = stage.decide();
        assert_eq!(
            (step(&decision), &decision.state),
            (None, &MpsState::Ready),
            "{strike}"
        );
        assert_eq!(decision.probe_at, Some(stage.now + FAST));
        assert_eq!(
            stage.decide().state,
            MpsState::Ready,
            "a probe is judged once: {strike}"
        );
    }
    stage.is_silent();
    let decision = stage.decide();
    assert_eq!(
        (step(&decision), why(&decision)),
        (Some(&Step::Restart), "it does not answer")
    );
    assert_eq!(decision.state, MpsState::Down(trouble("it does not answer")));
    stage.answers(report(&[active(200, &[])]));
    assert_eq!(stage.decide().state, MpsState::Ready);
}

#[test]
fn m05_a_silent_daemon_with_clients_at_work_is_restarted_after_the_grace() {
    let mut stage = Stage::ready();
    stage.answers(report(&[active(200, &[300])]));
    stage.decide();
    for _ in 0..STRIKES {
        stage.pass(1);
        stage.is_silent();
        let decision = stage.decide();
        assert_eq!(step(&decision), None);
    }
    assert_eq!(why(&stage.decide()), "it does not answer");
    stage.pass(WISH.grace.as_secs());
    stage.is_silent();
    assert_eq!(step(&stage.decide()), Some(&Step::Restart));
}

#[test]
fn m05_clients_that_nobody_could_count_are_waited_for_like_those_that_are_known() {
    let mut unread_stage = Stage::ready();
    unread_stage.answers(unread(ServerStatus::Active));
    unread_stage.decide();
    let mut never_answered = Stage::new();
    never_answered.unit = running(100);
    for stage in [&mut unread_stage, &mut never_answered] {
        for _ in 0..STRIKES {
            stage.pass(1);
            stage.is_silent();
            assert_eq!(step(&stage.decide()), None);
        }
        stage.pass(WISH.grace.as_secs());
        stage.is_silent();
        assert_eq!(step(&stage.decide()), Some(&Step::Restart));
    }
}

#[test]
fn m05_a_node_without_room_for_a_process_is_down_after_three_probes_and_its_daemon_is_left_alone() {
    let mut stage = Stage::ready();
    for probe in 1..=5 {
        stage.pass(WISH.grace.as_secs());
        stage.is_unanswered(Blame::Node, "no room");
        let decision = stage.decide();
        assert_eq!(step(&decision), None);
        assert_eq!(decision.state == MpsState::Ready, probe < STRIKES, "{probe}");
    }
    assert_eq!(why(&stage.decide()), "no room");
    stage.answers(report(&[active(200, &[])]));
    assert_eq!(stage.decide().state, MpsState::Ready);
}

#[test]
fn m05_what_kept_a_daemon_from_being_asked_is_no_silence_of_its_own() {
    for blame in [Blame::Node, Blame::Program] {
        let mut stage = Stage::ready();
        stage.answers(report(&[active(200, &[300])]));
        stage.decide();
        let mut strike = |blame, seconds| {
            stage.pass(seconds);
            stage.is_unanswered(blame, "no answer");
            step(&stage.decide()).cloned()
        };
        assert_eq!(strike(Blame::Daemon, 1), None);
        for _ in 0..4 {
            assert_eq!(strike(blame, WISH.grace.as_secs()), None);
        }
        // What was called last comes back late, and has used up all of its time.
        for _ in 0..STRIKES {
            assert_eq!(strike(Blame::Daemon, 1), None, "clients are at work");
        }
        assert_eq!(strike(Blame::Daemon, WISH.grace.as_secs()), Some(Step::Restart));
    }
}

#[test]
fn m05_a_daemon_that_may_answer_by_now_is_asked_before_its_clients_are_ended() {
    let mut stage = Stage::ready();
    stage.answers(report(&[active(200, &[300])]));
    stage.decide();
    for _ in 0..STRIKES {
        stage.is_silent();
        stage.decide();
    }
    stage.pass(WISH.grace.as_secs());
    let decision = stage.decide();
    assert_eq!((step(&decision), decision.probe_at), (None, Some(stage.now)));
    stage.answers(report(&[active(200, &[300])]));
    assert_eq!(stage.decide().state, MpsState::Ready);
}
