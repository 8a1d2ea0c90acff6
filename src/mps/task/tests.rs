use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::*;
use crate::gpu::inventory::{Health, Newest, Reason};
use crate::gpu::{DriverState, GpuInfo, GpuState, Memory};
use crate::mps::MpsState;
use crate::mps::backend::Unit;
use crate::mps::events::Event;
use crate::mps::events::file::EventLog;

mod one_gpu;

const UUID: &str = "GPU-480d6b9e-f5c1-5e7a-86d3-a2b7f10c945e";

/// A backend that does what a test says and writes down what it was told.
#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    units: BTreeMap<GpuUuid, Unit>,
    broken: bool,
    orders: Vec<String>,
}

impl Scripted {
    fn with(self, change: impl FnOnce(&mut Script)) -> Self {
        change(&mut self.0.lock().unwrap());
        self
    }

    fn orders(&self) -> Vec<String> {
        self.0.lock().unwrap().orders.clone()
    }

    fn order(&self, what: &str, gpu: &GpuUuid) -> Result<(), BackendError> {
        let mut script = self.0.lock().unwrap();
        script.orders.push(format!("{what} {gpu}"));
        script.check()
    }
}

impl Script {
    fn check(&self) -> Result<(), BackendError> {
        let error = || BackendError {
            what: "systemd is away".into(),
            mend: "bring it back".into(),
        };
        if self.broken { Err(error()) } else { Ok(()) }
    }
}

impl Backend for Scripted {
    async fn unit(&mut self, gpu: &GpuUuid) -> Result<Unit, BackendError> {
        let script = self.0.lock().unwrap();
        script.check()?;
        Ok(script.units.get(gpu).cloned().unwrap_or(Unit::Inactive))
    }

    async fn start(&mut self, gpu: &GpuUuid) -> Result<(), BackendError> {
        self.order("start", gpu)
    }

    async fn stop(&mut self, gpu: &GpuUuid) -> Result<(), BackendError> {
        self.order("stop", gpu)?;
        self.0.lock().unwrap().units.remove(gpu);
        Ok(())
    }

    async fn restart(&mut self, gpu: &GpuUuid) -> Result<(), BackendError> {
        self.order("restart", gpu)
    }

    async fn reload(&mut self, gpu: &GpuUuid) -> Result<(), BackendError> {
        self.order("reload", gpu)
    }

    async fn forget(&mut self, gpu: &GpuUuid) -> Result<(), BackendError> {
        self.order("forget", gpu)?;
        self.0.lock().unwrap().units.remove(gpu);
        Ok(())
    }

    async fn known(&mut self) -> Result<Vec<GpuUuid>, BackendError> {
        let script = self.0.lock().unwrap();
        script.check()?;
        let is_alive = |unit: &Unit| !matches!(unit, Unit::Inactive | Unit::Failed(_));
        let alive = script.units.iter().filter(|(_, unit)| is_alive(unit));
        Ok(alive.map(|(gpu, _)| gpu.clone()).collect())
    }

    async fn changed(&mut self) {
        std::future::pending::<()>().await;
    }
}

fn settings(change: impl FnOnce(&mut MpsSettings)) -> MpsSettings {
    let mut settings = MpsSettings {
        mps: config::Config::default().mps,
        gpu_enabled: true,
        slices: Some(10),
    };
    change(&mut settings);
    settings
}

fn a10g() -> GpuState {
    GpuState {
        number: "0".into(),
        info: GpuInfo {
            uuid: UUID.into(),
            model: "NVIDIA A10G".into(),
            pci_bus_id: "00000000:00:1B.0".into(),
            nvml_index: 0,
            compute_capability: Some((8, 6)),
        },
        health: Health::default(),
        newest: Some(Newest {
            memory: Some(Memory {
                total_bytes: 24 << 30,
                reserved_bytes: 0,
                used_bytes: 0,
                free_bytes: 24 << 30,
            }),
            ..Newest::default()
        }),
    }
}

fn inventory(gpus: Vec<GpuState>) -> GpuStatus {
    GpuStatus {
        enabled: true,
        driver: DriverState::Ready {
            driver_version: "580.95.05".into(),
            cuda_version: None,
            unreadable: 0,
        },
        gpus,
        ..GpuStatus::default()
    }
}

/// The driver counts a GPU that it cannot open.
fn with_an_unreadable_gpu(gpus: Vec<GpuState>) -> GpuStatus {
    GpuStatus {
        driver: DriverState::Ready {
            driver_version: "580.95.05".into(),
            cuda_version: None,
            unreadable: 1,
        },
        ..inventory(gpus)
    }
}

/// The status once it is as wished, of a task that runs with these.
async fn run_until(
    settings: MpsSettings,
    backend: &Scripted,
    gpus: GpuStatus,
    is_wished: impl FnMut(&MpsStatus) -> bool,
) -> MpsStatus {
    let (_gpu_sender, gpu) = watch::channel(gpus);
    let (sender, mut status) = watch::channel(MpsStatus::default());
    let task = MpsTask::new(settings, backend.clone(), gpu, sender);
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(task.run(shutdown.clone()));
    let wait = tokio::time::timeout(Duration::from_mins(5), status.wait_for(is_wished));
    let reached = wait
        .await
        .expect("the status is never as wished")
        .unwrap()
        .clone();
    shutdown.cancel();
    running.await.unwrap();
    reached
}

/// The status after a while, in which the task has nothing more to do.
async fn run_for_three_minutes(settings: MpsSettings, backend: &Scripted, gpus: GpuStatus) -> MpsStatus {
    let (_gpu_sender, gpu) = watch::channel(gpus);
    let (sender, status) = watch::channel(MpsStatus::default());
    let task = MpsTask::new(settings, backend.clone(), gpu, sender);
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(task.run(shutdown.clone()));
    tokio::time::sleep(Duration::from_mins(3)).await;
    shutdown.cancel();
    running.await.unwrap();
    status.borrow().clone()
}

#[tokio::test(start_paused = true)]
async fn a_gpu_without_a_daemon_gets_one() {
    let backend = Scripted::default();
    let status = run_until(settings(|_| {}), &backend, inventory(vec![a10g()]), |status| {
        status.gpus.iter().any(|gpu| gpu.last_step.is_some())
    })
    .await;
    assert_eq!(backend.orders()[0], format!("start {UUID}"));
    let gpu = &status.gpus[0];
    assert_eq!((gpu.state.as_str(), gpu.client_limit), ("starting", Some(48)));
    assert_eq!(gpu.last_step.as_ref().unwrap().why, "it was not running");
}

#[tokio::test(start_paused = true)]
async fn where_mps_is_off_what_runs_is_stopped_and_nothing_is_started() {
    for off in [
        |settings: &mut MpsSettings| settings.mps.enabled = false,
        |settings: &mut MpsSettings| settings.gpu_enabled = false,
    ] {
        let pid = 100;
        let backend = Scripted::default().with(|script| {
            script.units.insert(UUID.into(), Unit::Running { pid });
        });
        let status = run_for_three_minutes(settings(off), &backend, inventory(vec![a10g()])).await;
        assert_eq!(backend.orders(), [format!("stop {UUID}")]);
        assert!(!status.enabled && status.gpus.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn where_mps_is_off_a_compute_mode_that_nobody_put_back_is_put_back_by_its_process() {
    let root = tempfile::tempdir().unwrap();
    let kept = root.path().join(UUID).join("gpushare.compute-mode");
    fs_err::create_dir(root.path().join(UUID)).unwrap();
    fs_err::write(&kept, "default\n").unwrap();
    let backend = Scripted::default().with(|script| {
        // Between two attempts of systemd.
        script.units.insert(UUID.into(), Unit::Starting);
    });
    let off = settings(|settings| {
        settings.mps.enabled = false;
        settings.mps.dir = root.path().to_owned();
    });
    let (_gpu_sender, gpu) = watch::channel(inventory(vec![a10g()]));
    let (sender, _status) = watch::channel(MpsStatus::default());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(MpsTask::new(off, backend.clone(), gpu, sender).run(shutdown.clone()));
    tokio::time::sleep(Duration::from_secs(50)).await;
    let [stop, start, forget] = ["stop", "start", "forget"].map(|order| format!("{order} {UUID}"));
    assert_eq!(backend.orders(), [&*stop, &start], "not with every look");
    // Its unit may not know that MPS is off.
    assert!(root.path().join(UUID).join("gpushare.put-back").exists());
    fs_err::remove_file(kept).unwrap();
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(backend.orders(), [stop, start, forget]);
    shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_daemon_of_a_gpu_that_the_node_does_not_have_is_stopped() {
    let other = GpuUuid::from("GPU-00000000-0000-0000-0000-000000000000");
    let backend = Scripted::default().with(|script| {
        script.units.insert(other.clone(), Unit::Running { pid: 100 });
    });
    run_until(settings(|_| {}), &backend, inventory(vec![a10g()]), |status| {
        status.gpus.iter().any(|gpu| gpu.last_step.is_some())
    })
    .await;
    assert!(
        backend.orders().contains(&format!("stop {other}")),
        "{:?}",
        backend.orders()
    );
}

#[tokio::test(start_paused = true)]
async fn m17_no_daemon_is_stopped_while_the_driver_cannot_open_every_gpu() {
    let other = GpuUuid::from("GPU-00000000-0000-0000-0000-000000000000");
    let backend = Scripted::default().with(|script| {
        for uuid in [other, UUID.into()] {
            script.units.insert(uuid, Unit::Starting);
        }
    });
    let mut missing = a10g();
    missing.health.reasons = vec![Reason::Missing];
    run_for_three_minutes(settings(|_| {}), &backend, with_an_unreadable_gpu(vec![missing])).await;
    assert_eq!(backend.orders(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn m25_mig_is_refused_in_words_and_no_daemon_is_started() {
    let mut gpu = a10g();
    gpu.newest.as_mut().unwrap().mig = Some(true);
    let backend = Scripted::default();
    let status = run_until(settings(|_| {}), &backend, inventory(vec![gpu]), |status| {
        status.gpus.iter().any(|gpu| gpu.state.trouble().is_some())
    })
    .await;
    let trouble = status.gpus[0].state.trouble().unwrap();
    assert!(
        trouble.why.contains("MIG is on") && trouble.mend.contains("-mig 0"),
        "{trouble:?}"
    );
    assert_eq!(backend.orders(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn m25_a_daemon_that_runs_when_mig_is_switched_on_is_stopped() {
    let mut gpu = a10g();
    gpu.newest.as_mut().unwrap().mig = Some(true);
    let backend = Scripted::default().with(|script| {
        script.units.insert(UUID.into(), Unit::Running { pid: 100 });
    });
    let status = run_until(settings(|_| {}), &backend, inventory(vec![gpu]), |status| {
        status.gpus.iter().any(|gpu| gpu.last_step.is_some())
    })
    .await;
    assert_eq!(backend.orders(), [format!("stop {UUID}")]);
    assert!(status.gpus[0].state.trouble().unwrap().why.contains("MIG is on"));
}

#[tokio::test(start_paused = true)]
async fn m23_more_slices_than_clients_are_told_and_keep_no_daemon_from_being_started() {
    use super::hardware::judge;

    let many = settings(|settings| settings.slices = Some(60));
    let verdict = judge(&many, &inventory(Vec::new()).driver, &a10g());
    assert_eq!(verdict.refusal, None);
    let trouble = verdict.objection.unwrap();
    assert!(trouble.why.contains("slices.per_gpu = 60"), "{trouble:?}");
    assert!(
        trouble.mend.contains("set slices.per_gpu to 48 or less"),
        "{trouble:?}"
    );
    let backend = Scripted::default();
    run_until(many, &backend, inventory(vec![a10g()]), |status| {
        status.gpus.iter().any(|gpu| gpu.last_step.is_some())
    })
    .await;
    assert_eq!(backend.orders()[0], format!("start {UUID}"));
}

#[tokio::test(start_paused = true)]
async fn m23_slices_that_are_too_small_are_told() {
    let status = run_until(
        settings(|settings| settings.slices = Some(48)),
        &Scripted::default(),
        inventory(vec![a10g()]),
        |status| !status.gpus.is_empty(),
    )
    .await;
    let gpu = &status.gpus[0];
    assert_eq!(gpu.smallest_useful_slices, Some(2));
    assert!(gpu.warnings[0].what.contains("512 MiB"), "{:?}", gpu.warnings);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_away_is_told_and_asked_again() {
    let backend = Scripted::default().with(|script| script.broken = true);
    let status = run_until(settings(|_| {}), &backend, inventory(vec![a10g()]), |status| {
        !status.gpus.is_empty()
    })
    .await;
    let trouble = status.gpus[0].state.trouble().unwrap();
    assert_eq!(
        (trouble.why.as_str(), trouble.mend.as_str()),
        ("systemd is away", "bring it back")
    );
    backend.clone().with(|script| script.broken = false);
    run_until(settings(|_| {}), &backend, inventory(vec![a10g()]), |status| {
        status.gpus.iter().any(|gpu| gpu.state == MpsState::Starting)
    })
    .await;
}

#[test]
fn m17_only_a_gpu_that_is_gone_takes_its_daemon_along() {
    use super::hardware::device;
    use crate::gpu::wire::{Fault, FaultKind};
    use crate::mps::plan::Device;

    let unavailable = |kind| DriverState::Unavailable {
        fault: Fault {
            kind,
            detail: String::new(),
        },
    };
    let ready = inventory(Vec::new()).driver;
    let unreadable = with_an_unreadable_gpu(Vec::new()).driver;
    let well = a10g();
    let sick = |reason| {
        let mut gpu = a10g();
        gpu.health.reasons = vec![reason];
        gpu
    };
    for (driver, gpu, expected) in [
        (&ready, &well, Device::Here),
        (&ready, &sick(Reason::Lost), Device::Gone),
        (&ready, &sick(Reason::Missing), Device::Gone),
        (&unreadable, &sick(Reason::Missing), Device::Unknown),
        (&unreadable, &sick(Reason::Lost), Device::Gone),
        (&unreadable, &well, Device::Here),
        (&ready, &sick(Reason::Stuck), Device::Here),
        (&ready, &sick(Reason::ResetRequired), Device::Here),
        (&DriverState::Starting, &well, Device::Unknown),
        (&DriverState::Stuck, &well, Device::Unknown),
        (&unavailable(FaultKind::ChildDied), &well, Device::Unknown),
        (&unavailable(FaultKind::DriverNotLoaded), &well, Device::Gone),
        (&unavailable(FaultKind::VersionMismatch), &well, Device::NoDriver),
        (&unavailable(FaultKind::LibraryMissing), &well, Device::NoDriver),
    ] {
        assert_eq!(device(driver, gpu), expected, "{driver:?} {:?}", gpu.health);
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_fails_for_a_moment_takes_nothing_from_a_daemon_that_runs() {
    let mut gpu = Supervised::new(&settings(|_| {}), &UUID.into());
    let grace = Duration::from_secs(30);
    let at = Duration::from_secs(100);
    let error = || {
        Err(BackendError {
            what: "systemd is away".into(),
            mend: "bring it back".into(),
        })
    };
    gpu.saw_unit(Ok(Unit::Running { pid: 100 }), grace, at);
    gpu.saw_unit(error(), grace, at);
    gpu.saw_unit(error(), grace, at + grace / 2);
    let pid = |gpu: &mut Supervised, at| {
        gpu.decide(
            settings(|_| {}).wish(),
            Instants {
                monotonic: at,
                ..Instants::now()
            },
        );
        gpu.status(at).unwrap().pid
    };
    assert_eq!(pid(&mut gpu, at), Some(100));
    gpu.saw_unit(error(), grace, at + grace);
    assert_eq!(pid(&mut gpu, at), None, "it has been away for too long");
    gpu.saw_unit(Ok(Unit::Running { pid: 100 }), grace, at + 2 * grace);
    gpu.saw_unit(error(), grace, at + 2 * grace);
    assert_eq!(pid(&mut gpu, at), Some(100));
}

#[test]
fn a_process_that_could_not_write_that_it_is_ready_is_probed_after_a_while() {
    let root = tempfile::tempdir().unwrap();
    let events = root.path().join(UUID).join("gpushare.events");
    fs_err::create_dir(root.path().join(UUID)).unwrap();
    let plain = settings(|settings| {
        settings.mps.backend = config::MpsBackend::Process;
        settings.mps.dir = root.path().to_owned();
    });
    let mut gpu = Supervised::new(&plain, &UUID.into());
    let mut log = EventLog::open(&events).unwrap();
    log.append(Event::Begun { pid: 100 }).unwrap();
    let begun = Duration::from_secs(1000);
    let mut seen_at = |at| {
        gpu.saw_unit(Ok(Unit::Running { pid: 100 }), Duration::from_secs(30), at);
        gpu.decide(
            plain.wish(),
            Instants {
                monotonic: at,
                ..Instants::now()
            },
        );
        gpu.status(at).unwrap().pid
    };
    assert_eq!(seen_at(begun), None, "it is coming up");
    assert_eq!(seen_at(begun + Duration::from_secs(119)), None);
    assert_eq!(seen_at(begun + Duration::from_secs(121)), Some(100));
}
