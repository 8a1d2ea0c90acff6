//! What is made of one GPU's probes, events and readings.

use std::collections::BTreeSet;

use tempfile::TempDir;

use super::super::job::{self, Outcome};
use super::*;
use crate::gpu::{ComputeMode, GpuProcess};
use crate::mps::events::file::EventLog;
use crate::mps::events::{DaemonEnded, Event};
use crate::mps::protocol::made_up::{active, report};
use crate::mps::{MpsGpu, Trouble};

const GRACE: Duration = Duration::from_secs(30);

/// One GPU with a directory of its own.
struct Stage {
    _root: TempDir,
    settings: MpsSettings,
    log: EventLog,
    gpu: Supervised,
    now: Instants,
}

impl Stage {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let settings = settings(|settings| settings.mps.dir = root.path().to_owned());
        let dir = root.path().join(UUID);
        fs_err::create_dir(&dir).unwrap();
        Self {
            log: EventLog::open(&dir.join("gpushare.events")).unwrap(),
            gpu: Supervised::new(&settings, &UUID.into()),
            settings,
            _root: root,
            now: Instants {
                monotonic: Duration::from_secs(1000),
                ..Instants::now()
            },
        }
    }

    /// One whose daemon runs as process 100 and has answered.
    fn ready() -> Self {
        let mut stage = Self::new();
        stage.take_in(&a10g());
        stage.is(Unit::Running { pid: 100 });
        stage.answers(&[]);
        assert_eq!(stage.look().state, MpsState::Ready);
        stage
    }

    fn pass(&mut self, time: Duration) {
        self.now.monotonic += time;
        self.now.wall += time;
    }

    fn take_in(&mut self, state: &GpuState) {
        let driver = inventory(Vec::new()).driver;
        self.gpu
            .take_in(&self.settings, &driver, state, self.now.monotonic);
    }

    fn is(&mut self, unit: Unit) {
        self.gpu.saw_unit(Ok(unit), GRACE, self.now.monotonic);
    }

    fn answers(&mut self, clients: &[u32]) {
        let outcome = Outcome::Probed {
            pid: 100,
            report: Ok(report(&[active(200, clients)])),
            gone_clients: BTreeSet::new(),
        };
        let gpu = UUID.into();
        self.gpu.on_done(Done { gpu, outcome }, self.now);
    }

    fn look(&mut self) -> MpsGpu {
        self.gpu.decide(self.settings.wish(), self.now);
        self.gpu.status(self.now.monotonic).unwrap()
    }
}

/// A reading of the compute mode as it should not be.
fn open_to_all(modes_at: f64) -> GpuState {
    let mut gpu = a10g();
    let newest = gpu.newest.as_mut().unwrap();
    newest.compute_mode = Some(ComputeMode::Default);
    newest.modes_at = Some(modes_at);
    gpu
}

#[test]
fn m05_a_call_that_does_not_come_back_is_a_silent_probe_again_and_again() {
    let mut stage = Stage::ready();
    stage.gpu.is_called(stage.now.monotonic);
    stage.pass(job::OVERDUE.saturating_sub(Duration::from_secs(1)));
    assert_eq!(stage.look().state, MpsState::Ready);
    stage.pass(Duration::from_secs(1));
    for probe in 1..=3 {
        assert_eq!(stage.look().state == MpsState::Ready, probe < 3, "{probe}");
        assert_eq!(
            stage.look().state == MpsState::Ready,
            probe < 3,
            "counted once: {probe}"
        );
        assert_eq!(stage.gpu.probe_due(), None, "no other call is made beside it");
        stage.pass(job::OVERDUE);
    }
    let gpu = stage.look();
    assert!(
        gpu.state.trouble().unwrap().why.contains("not even the start"),
        "{:?}",
        gpu.state
    );
    assert_eq!(gpu.server, None, "nothing is known of it any more");
    stage.answers(&[]);
    assert_eq!(stage.look().state, MpsState::Ready);
}

#[test]
fn m18_a_mode_that_was_read_before_the_daemon_set_it_is_no_drift() {
    let mut stage = Stage::new();
    stage.is(Unit::Inactive);
    for second in 0..60 {
        stage.pass(Duration::from_secs(1));
        stage.take_in(&open_to_all(f64::from(second)));
    }
    stage.is(Unit::Running { pid: 100 });
    stage.answers(&[]);
    for _ in 0..60 {
        stage.pass(Duration::from_secs(1));
        stage.take_in(&open_to_all(59.0));
        assert_eq!(stage.look().state, MpsState::Ready);
    }
    stage.take_in(&open_to_all(120.0));
    assert_eq!(
        stage.look().state,
        MpsState::Ready,
        "the mode may have been set just now"
    );
    stage.pass(Duration::from_secs(10));
    stage.take_in(&open_to_all(125.0));
    let gpu = stage.look();
    let trouble = gpu.state.trouble().unwrap();
    assert!(trouble.why.contains("EXCLUSIVE_PROCESS"), "{trouble:?}");
}

#[test]
fn what_was_so_under_a_daemon_that_is_away_is_not_told() {
    let mut stage = Stage::ready();
    let clients: Vec<u32> = (300..348).collect();
    let mut used = a10g();
    let newest = used.newest.as_mut().unwrap();
    newest.processes = Some(vec![GpuProcess {
        pid: 99,
        memory_bytes: None,
        computes: true,
    }]);
    for second in 0..3 {
        let at = stage.now.wall.as_secs_f64();
        used.newest.as_mut().unwrap().processes_at = Some(at);
        stage.take_in(&used);
        stage.pass(Duration::from_secs(5));
        stage.answers(&clients);
        stage.take_in(&used);
        let told: Vec<String> = stage
            .look()
            .warnings
            .into_iter()
            .map(|warning| warning.what)
            .collect();
        let (past, full) = ("used past MPS by process 99", "has 48 MPS clients");
        assert_eq!(
            told.iter().any(|told| told.contains(past)),
            second > 0,
            "{told:?}"
        );
        assert!(told.iter().any(|told| told.contains(full)), "{told:?}");
    }
    stage.is(Unit::Inactive);
    stage.take_in(&used);
    let gpu = stage.look();
    assert_eq!((gpu.warnings, gpu.server), (Vec::new(), None));
}

#[test]
fn m07_a_daemon_that_ends_before_it_is_ready_is_a_restart_that_failed() {
    let mut stage = Stage::new();
    let started = || Event::DaemonStarted {
        pid: 100,
        multi_user: true,
    };
    let ended = || {
        Event::DaemonEnded(DaemonEnded {
            code: Some(1),
            signal: None,
            trouble: Some(Trouble {
                why: "it ended with 1".into(),
                mend: "mend".into(),
            }),
        })
    };
    let tell = |stage: &mut Stage, event| stage.log.append(event).unwrap();
    for event in [started(), ended()] {
        tell(&mut stage, event);
    }
    stage.take_in(&a10g());
    stage.is(Unit::Starting);
    assert_eq!(stage.look().restarts, 0, "that was before the agent");
    for event in [started(), ended(), started(), ended(), started()] {
        tell(&mut stage, event);
    }
    stage.is(Unit::Starting);
    assert_eq!(stage.look().restarts, 2);
    for event in [Event::DaemonReady { pid: 100 }, ended()] {
        tell(&mut stage, event);
    }
    stage.is(Unit::Starting);
    assert_eq!(
        stage.look().restarts,
        2,
        "the next one counts when it has come up"
    );
}

#[test]
fn m07_a_start_that_fails_counts_once_whether_it_tells_of_its_end_or_not() {
    let mut stage = Stage::new();
    stage.take_in(&a10g());
    stage.is(Unit::Inactive);
    let trouble = Trouble {
        why: "it has not answered".into(),
        mend: "mend".into(),
    };
    let begun = Event::Begun { pid: 90 };
    let started = Event::DaemonStarted {
        pid: 100,
        multi_user: true,
    };
    let told_to = Event::DaemonEnded(DaemonEnded {
        code: None,
        signal: Some(9),
        trouble: None,
    });
    let silent = [
        begun.clone(),
        started.clone(),
        Event::NotStarted(trouble),
        told_to.clone(),
    ];
    let killed = [begun.clone(), started.clone()];
    let stopped = [begun.clone(), started.clone(), told_to];
    let ready = [begun, started, Event::DaemonReady { pid: 100 }];
    let runs: [(&[Event], u64); 6] = [
        (&silent, 1),
        (&killed, 1),
        (&killed, 2),
        (&stopped, 3),
        (&ready, 3),
        (&ready, 3),
    ];
    for (run, restarts) in runs {
        for event in run {
            stage.log.append(event.clone()).unwrap();
        }
        stage.is(Unit::Starting);
        assert_eq!(stage.look().restarts, restarts, "{run:?}");
    }
}
