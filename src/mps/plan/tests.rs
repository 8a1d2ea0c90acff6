use std::collections::BTreeSet;

use super::*;
use crate::mps::backend::{BackendError, Ended};
use crate::mps::protocol::ServerStatus;
use crate::mps::protocol::made_up::{active, report, server};

mod defaults;
mod fault;
mod servers;
mod silence;

const WISH: Wish = Wish {
    probe_interval: Duration::from_secs(10),
    grace: Duration::from_secs(30),
    exclusive: true,
};

/// One GPU's daemon, and a world around it that a test changes.
struct Stage {
    daemon: Daemon,
    wish: Wish,
    now: Duration,
    device: Device,
    refusal: Option<Trouble>,
    objection: Option<Trouble>,
    is_quit: bool,
    unit: Result<Unit, BackendError>,
    probe: Option<Probe>,
    last_words: Option<Trouble>,
    server_ends: ServerEnds,
    failed_starts: u64,
    gone_clients: BTreeSet<u32>,
    has_drifted: bool,
    intruders: Vec<u32>,
}

impl Stage {
    fn new() -> Self {
        Self {
            daemon: Daemon::default(),
            wish: WISH,
            now: Duration::from_secs(1000),
            device: Device::Here,
            refusal: None,
            objection: None,
            is_quit: false,
            unit: Ok(Unit::Inactive),
            probe: None,
            last_words: None,
            server_ends: ServerEnds::default(),
            failed_starts: 0,
            gone_clients: BTreeSet::new(),
            has_drifted: false,
            intruders: Vec::new(),
        }
    }

    /// One whose daemon runs as process 100, is verified and has been so for a while.
    fn ready() -> Self {
        let mut stage = Self::new();
        stage.unit = running(100);
        stage.answers(report(&[active(200, &[])]));
        assert_eq!(stage.decide().state, MpsState::Ready);
        stage.pass(60);
        stage
    }

    fn decide(&mut self) -> Decision {
        let seen = Seen {
            device: self.device,
            refusal: self.refusal.as_ref(),
            objection: self.objection.as_ref(),
            is_quit: self.is_quit,
            unit: &self.unit,
            probe: self.probe.as_ref(),
            last_words: self.last_words.as_ref(),
            server_ends: self.server_ends,
            failed_starts: self.failed_starts,
            gone_clients: &self.gone_clients,
            has_drifted: self.has_drifted,
            intruders: &self.intruders,
        };
        self.daemon.decide(self.wish, &seen, self.now)
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn probed(&mut self, outcome: Result<Report, Unanswered>) {
        let pid = match self.unit {
            Ok(Unit::Running { pid }) => pid,
            _ => 0,
        };
        self.probe = Some(Probe {
            number: self.probe.as_ref().map_or(1, |probe| probe.number + 1),
            pid,
            at: self.now,
            outcome,
        });
    }

    fn answers(&mut self, report: Report) {
        self.probed(Ok(report));
    }

    fn is_silent(&mut self) {
        self.is_unanswered(Blame::Daemon, "it does not answer");
    }

    fn is_unanswered(&mut self, blame: Blame, why: &str) {
        self.probed(Err(Unanswered {
            blame,
            trouble: trouble(why),
        }));
    }

    /// A second of the task's: what is decided on the newest report, which is a new one where one is due.
    fn beat(&mut self, report: Report) -> Decision {
        self.pass(1);
        let decision = self.decide();
        if decision.probe_at.is_none_or(|at| at > self.now) {
            return decision;
        }
        assert_eq!(decision.step, None, "a probe is not due beside a step");
        self.answers(report);
        self.decide()
    }
}

fn trouble(why: &str) -> Trouble {
    Trouble {
        why: why.into(),
        mend: "mend".into(),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it is what the backend answers")]
fn running(pid: u32) -> Result<Unit, BackendError> {
    Ok(Unit::Running { pid })
}

fn ended(code: i32) -> Unit {
    Unit::Failed(Ended {
        code: Some(code),
        result: "exit-code".into(),
    })
}

fn step(decision: &Decision) -> Option<&Step> {
    decision.step.as_ref().map(|(step, _)| step)
}

fn why(decision: &Decision) -> &str {
    decision.state.trouble().map_or("", |trouble| &trouble.why)
}

/// A report whose server's clients cannot be read.
fn unread(status: ServerStatus) -> Report {
    let mut report = report(&[server(200, status, &[])]);
    report.servers[0].clients = None;
    report.not_understood = vec!["get_client_list 200: <busy>".into()];
    report
}

#[test]
fn m09_a_daemon_is_started_probed_and_ready_only_when_it_is_verified() {
    let mut stage = Stage::new();
    let decision = stage.decide();
    assert_eq!(
        (step(&decision), &decision.state),
        (Some(&Step::Start), &MpsState::Starting)
    );
    stage.unit = Ok(Unit::Starting);
    assert_eq!(
        stage.decide(),
        Decision::of(MpsState::Starting),
        "nothing to probe yet"
    );
    stage.unit = running(100);
    let decision = stage.decide();
    assert_eq!(
        (decision.state, decision.probe_at),
        (MpsState::Starting, Some(stage.now))
    );
    stage.answers(report(&[server(200, ServerStatus::Initializing, &[])]));
    assert_eq!(stage.decide().state, MpsState::Starting);
    stage.answers(report(&[active(200, &[])]));
    let decision = stage.decide();
    assert_eq!((step(&decision), &decision.state), (None, &MpsState::Ready));
    assert_eq!(decision.probe_at, Some(stage.now + WISH.probe_interval));
}

#[test]
fn m15_a_daemon_that_is_well_is_adopted_with_its_clients_and_not_touched() {
    let mut stage = Stage::new();
    stage.unit = running(100);
    assert_eq!(stage.decide().step, None);
    stage.answers(report(&[active(200, &[300, 301])]));
    let decision = stage.decide();
    assert_eq!((decision.step, decision.state), (None, MpsState::Ready));
    assert_eq!(stage.daemon.restarts(), 0);
}

#[test]
fn nothing_is_started_or_stopped_while_nobody_knows_whether_there_is_a_gpu() {
    for (unit, state) in [
        (Unit::Inactive, MpsState::NoDriver),
        (Unit::Starting, MpsState::Starting),
        (ended(1), MpsState::NoDriver),
    ] {
        let mut stage = Stage::new();
        stage.device = Device::Unknown;
        stage.unit = Ok(unit);
        assert_eq!(stage.decide(), Decision::of(state));
    }
    let mut stage = Stage::ready();
    stage.device = Device::Unknown;
    let decision = stage.decide();
    assert_eq!(
        (decision.step, decision.state),
        (None, MpsState::Ready),
        "a driver that hangs is no reason"
    );
}

#[test]
fn a_daemon_is_probed_and_judged_while_the_driver_hangs_but_not_restarted() {
    let mut stage = Stage::ready();
    stage.device = Device::Unknown;
    assert!(stage.decide().probe_at.is_some());
    stage.answers(report(&[server(200, ServerStatus::Fault, &[300])]));
    assert!(why(&stage.decide()).contains("300"), "a fault is told");
    for _ in 0..=STRIKES {
        stage.is_silent();
        stage.pass(30);
        assert_eq!(stage.decide().step, None);
    }
    assert_eq!(
        stage.decide().state,
        MpsState::Down(trouble("it does not answer"))
    );
    let mut refused = Stage::ready();
    refused.device = Device::Unknown;
    refused.refusal = Some(trouble("MIG is on"));
    assert_eq!(
        refused.decide(),
        Decision::of(MpsState::Down(trouble("MIG is on")))
    );
}

#[test]
fn m01_a_daemon_that_was_killed_is_verified_anew_and_counted() {
    let mut stage = Stage::ready();
    stage.unit = Ok(Unit::Starting);
    assert_eq!(stage.decide().state, MpsState::Starting);
    stage.unit = running(101);
    let decision = stage.decide();
    assert_eq!(
        (decision.state, decision.probe_at),
        (MpsState::Starting, Some(stage.now))
    );
    stage.answers(report(&[active(201, &[])]));
    assert_eq!(stage.decide().state, MpsState::Ready);
    assert_eq!(
        stage.daemon.restarts(),
        1,
        "the daemon and its server are one restart"
    );
}

#[test]
fn m07_starts_that_fail_are_counted_with_the_restarts() {
    let mut stage = Stage::ready();
    stage.unit = Ok(Unit::Starting);
    stage.failed_starts = 2;
    stage.decide();
    assert_eq!(stage.daemon.restarts(), 2);
    stage.unit = running(101);
    stage.decide();
    assert_eq!(stage.daemon.restarts(), 3, "the third has come up");
}

#[test]
fn a_daemon_that_cannot_be_asked_is_down_and_not_restarted() {
    let mut stage = Stage::ready();
    for _ in 0..5 {
        stage.pass(1);
        stage.probed(Err(Unanswered {
            blame: Blame::Program,
            trouble: trouble("nvidia-cuda-mps-control is not there"),
        }));
        let decision = stage.decide();
        assert_eq!(step(&decision), None);
        assert_eq!(why(&decision), "nvidia-cuda-mps-control is not there");
    }
}

#[test]
fn m07_what_ends_for_want_of_something_is_started_again_ever_more_rarely_and_says_why() {
    let mut stage = Stage::new();
    assert_eq!(step(&stage.decide()), Some(&Step::Start));
    stage.unit = Ok(ended(69));
    stage.last_words = Some(trouble("no device"));
    let mut pauses = Vec::new();
    let mut last = stage.now;
    while pauses.len() < 8 {
        stage.pass(1);
        let decision = stage.decide();
        assert_eq!(decision.state, MpsState::Down(trouble("no device")));
        if step(&decision) == Some(&Step::Start) {
            pauses.push(stage.now.saturating_sub(last).as_secs());
            last = stage.now;
        }
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    stage.unit = running(100);
    stage.answers(report(&[active(200, &[])]));
    assert_eq!(stage.decide().state, MpsState::Ready);
    stage.unit = Ok(Unit::Starting);
    stage.last_words = None;
    assert_eq!(
        stage.decide().state,
        MpsState::Starting,
        "what was mended is over"
    );
}

#[test]
fn an_end_without_words_is_told_by_its_code() {
    for (ended, text) in [
        (ended(69), "something that it needs is not there"),
        (ended(1), "exit code 1"),
        (ended(64), "command line is wrong"),
        (ended(78), "configuration is wrong"),
        (
            Unit::Failed(Ended {
                code: None,
                result: "oom-kill".into(),
            }),
            "oom-kill",
        ),
    ] {
        let mut stage = Stage::new();
        stage.unit = Ok(ended);
        let decision = stage.decide();
        assert!(why(&decision).contains(text), "{decision:?}");
    }
}

#[test]
fn m26_answers_of_an_unknown_version_degrade_and_nothing_is_done_about_them() {
    let mut stage = Stage::ready();
    let mut strange = report(&[server(200, ServerStatus::Unknown, &[])]);
    strange.not_understood = vec!["Unknown command \"get_server_status\"".into()];
    stage.answers(strange.clone());
    let decision = stage.decide();
    assert_eq!(step(&decision), None);
    assert!(why(&decision).contains("get_server_status"), "{decision:?}");
    strange.default_thread_percentage = None;
    stage.answers(strange);
    let decision = stage.decide();
    assert_eq!(step(&decision), None);
    assert!(why(&decision).contains("settings cannot be read"), "{decision:?}");
}

#[test]
fn m17_the_daemon_of_a_gpu_that_is_gone_is_stopped_and_started_when_it_is_back() {
    let mut stage = Stage::ready();
    stage.device = Device::Gone;
    let decision = stage.decide();
    assert_eq!(
        (step(&decision), &decision.state),
        (Some(&Step::Stop), &MpsState::NoDriver)
    );
    stage.unit = Ok(Unit::Inactive);
    stage.pass(2);
    assert_eq!(stage.decide(), Decision::of(MpsState::NoDriver));
    stage.device = Device::Here;
    assert_eq!(step(&stage.decide()), Some(&Step::Start));
}

#[test]
fn m18_a_compute_mode_that_was_changed_is_named_and_set_again() {
    let mut stage = Stage::ready();
    stage.has_drifted = true;
    stage.intruders = vec![4242, 4243];
    stage.answers(report(&[active(200, &[])]));
    let decision = stage.decide();
    assert!(matches!(decision.state, MpsState::Degraded(_)));
    assert!(
        why(&decision).contains("processes 4242, 4243 are on it"),
        "{decision:?}"
    );
    assert_eq!(step(&decision), Some(&Step::Reload));
    assert_eq!(step(&stage.decide()), None, "not again at once");
    stage.has_drifted = false;
    assert_eq!(stage.decide().state, MpsState::Ready);
}

#[test]
fn m25_what_runs_on_a_gpu_that_mps_cannot_be_on_is_stopped_and_nothing_is_started() {
    let refused = || trouble("MIG is on");
    let mut stage = Stage::ready();
    stage.refusal = Some(refused());
    let decision = stage.decide();
    assert_eq!(
        (step(&decision), &decision.state),
        (Some(&Step::Stop), &MpsState::Down(refused()))
    );
    assert_eq!(step(&stage.decide()), None, "not again at once");
    for unit in [Unit::Inactive, Unit::Stopping, ended(69)] {
        let mut stage = Stage::new();
        stage.unit = Ok(unit);
        stage.refusal = Some(refused());
        assert_eq!(stage.decide(), Decision::of(MpsState::Down(refused())));
    }
}

#[test]
fn m23_more_slices_than_clients_keep_no_daemon_from_being_kept_but_from_being_ready() {
    let objection = || trouble("slices.per_gpu = 60 is above 48");
    let mut stage = Stage::ready();
    stage.objection = Some(objection());
    let decision = stage.decide();
    assert_eq!(
        (decision.step, decision.state),
        (None, MpsState::Degraded(objection()))
    );
    stage.answers(report(&[active(200, &[])]));
    let decision = stage.decide();
    assert_eq!(decision.probe_at, Some(stage.now + WISH.probe_interval));
    stage.answers(report(&[server(200, ServerStatus::Fault, &[300])]));
    assert!(why(&stage.decide()).contains("300"), "a fault is told");
    stage.answers(report(&[active(200, &[])]));
    stage.decide();
    for _ in 1..STRIKES {
        stage.is_silent();
        assert_eq!(why(&stage.decide()), objection().why, "as before");
    }
    stage.is_silent();
    assert_eq!(step(&stage.decide()), Some(&Step::Restart));
    stage.pass(2);
    stage.unit = Ok(ended(1));
    assert_eq!(step(&stage.decide()), Some(&Step::Start));
    stage.objection = None;
    stage.unit = running(101);
    stage.answers(report(&[active(201, &[])]));
    assert_eq!(stage.decide().state, MpsState::Ready);
}

#[test]
fn a_daemon_that_was_stopped_on_purpose_stays_stopped() {
    let mut stage = Stage::ready();
    stage.unit = Ok(Unit::Inactive);
    stage.is_quit = true;
    let decision = stage.decide();
    assert_eq!(decision.step, None);
    assert!(why(&decision).contains("on purpose"));
}

#[test]
fn a_daemon_that_was_stopped_on_purpose_stays_so_however_it_ended() {
    let mut stage = Stage::ready();
    stage.unit = Ok(ended(69));
    stage.is_quit = true;
    assert_eq!(stage.decide().step, None);
}

#[test]
fn what_systemd_starts_again_and_again_says_why() {
    let mut stage = Stage::new();
    stage.unit = Ok(Unit::Starting);
    assert_eq!(stage.decide().state, MpsState::Starting);
    stage.last_words = Some(trouble("it ended with 1"));
    assert_eq!(stage.decide().state, MpsState::Down(trouble("it ended with 1")));
}

#[test]
fn a_daemon_that_ends_while_the_driver_hangs_is_not_ready_any_more() {
    let mut stage = Stage::ready();
    stage.device = Device::Unknown;
    assert_eq!(stage.decide().state, MpsState::Ready);
    stage.unit = running(101);
    assert_eq!(stage.decide().state, MpsState::Starting);
}

#[test]
fn a_backend_that_does_not_work_is_the_reason() {
    let mut stage = Stage::ready();
    stage.unit = Err(BackendError {
        what: "systemd does not answer".into(),
        mend: "mend".into(),
    });
    assert_eq!(
        stage.decide(),
        Decision::of(MpsState::Down(trouble("systemd does not answer")))
    );
}

#[test]
fn what_is_not_ready_for_long_is_probed_more_slowly() {
    let mut stage = Stage::ready();
    stage.answers(report(&[server(201, ServerStatus::Initializing, &[])]));
    let decision = stage.decide();
    assert!(matches!(decision.state, MpsState::Degraded(_)));
    assert_eq!(decision.probe_at, Some(stage.now + SLOWED));
}
