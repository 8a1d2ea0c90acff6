use super::*;
use crate::gpu::wire::{Modes, RingSample};

const LIMIT: Duration = Duration::from_secs(3);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn driver(uuids: &[&str]) -> Driver {
    let gpu = |(index, uuid): (usize, &&str)| GpuInfo {
        uuid: (*uuid).into(),
        model: "NVIDIA A10G".into(),
        pci_bus_id: format!("00000000:{index:02X}:1B.0"),
        nvml_index: u32::try_from(index).unwrap(),
        compute_capability: Some((8, 6)),
    };
    Driver {
        driver_version: "580.95.05".into(),
        cuda_version: None,
        gpus: uuids.iter().enumerate().map(gpu).collect(),
        unreadable: 0,
    }
}

fn inventory(uuids: &[&str]) -> Inventory {
    let mut inventory = Inventory::new(Numbers::default(), "boot".into());
    inventory.driver_ready(&driver(uuids), at(0), at(0));
    inventory
}

fn read(inventory: &mut Inventory, uuid: &str, now: Duration, change: impl Fn(&mut Reading)) {
    let mut reading = Reading::new(uuid.into(), now);
    change(&mut reading);
    inventory.read(&reading, now, now).unwrap();
}

fn reasons(inventory: &Inventory, number: usize) -> Vec<String> {
    inventory.states()[number]
        .health
        .reasons
        .iter()
        .map(Reason::to_string)
        .collect()
}

#[test]
fn a_lost_gpu_is_unhealthy_and_its_neighbour_is_not() {
    let mut inventory = inventory(&["a", "b"]);
    read(&mut inventory, "a", at(1), |reading| {
        reading.fault = Some(GpuFault::Lost);
    });
    read(&mut inventory, "b", at(1), |_| ());
    assert_eq!(reasons(&inventory, 0), ["lost (fallen off the bus)"]);
    assert!(inventory.states()[1].is_healthy());
    assert!(inventory.incomplete());
    read(&mut inventory, "a", at(9), |_| ());
    assert!(inventory.states()[0].is_healthy() && !inventory.incomplete());
}

#[test]
fn a_gpu_that_the_driver_lists_no_more_is_missing_and_keeps_its_number() {
    let mut inventory = inventory(&["a", "b"]);
    inventory.driver_ready(&driver(&["b"]), at(5), at(5));
    let states = inventory.states();
    assert_eq!((&*states[0].number, &*states[1].number), ("0", "1"));
    assert_eq!(
        states[0].health,
        Health {
            reasons: vec![Reason::Missing],
            since: Some(5)
        }
    );
    assert!(states[1].is_healthy());
}

#[test]
fn a_gpu_of_this_boot_is_missed_after_a_restart_of_the_agent_and_one_of_another_boot_is_not() {
    let mut numbers = Numbers::default();
    numbers.assign("boot", &driver(&["a", "b"]).gpus);
    let mut restarted = Inventory::new(numbers.clone(), "boot".into());
    restarted.driver_ready(&driver(&["b"]), at(1), at(1));
    assert_eq!(restarted.states().len(), 2);
    assert_eq!(reasons(&restarted, 0), ["missing"]);
    assert!(Inventory::new(numbers, "next boot".into()).states().is_empty());
}

#[test]
fn silence_makes_a_gpu_stuck_and_one_answer_makes_it_well() {
    let mut inventory = inventory(&["a", "b"]);
    read(&mut inventory, "b", at(4), |_| ());
    assert_eq!(inventory.mark_silent(LIMIT, at(4), at(4)), 1);
    assert!(inventory.states()[0].is_stuck() && !inventory.states()[1].is_stuck());
    read(&mut inventory, "a", at(5), |_| ());
    assert!(inventory.states()[0].is_healthy());
}

#[test]
fn losing_the_driver_makes_every_gpu_unhealthy_until_it_is_back() {
    let mut inventory = inventory(&["a"]);
    inventory.driver_unavailable(at(7));
    assert_eq!(reasons(&inventory, 0), ["no driver"]);
    assert_eq!(inventory.states()[0].newest, None);
    inventory.driver_ready(&driver(&["a"]), at(9), at(9));
    assert!(inventory.states()[0].is_healthy());
}

#[test]
fn a_fatal_xid_stays_until_the_driver_says_otherwise() {
    let mut inventory = inventory(&["a", "b"]);
    assert_eq!(
        inventory.xid("0000:01:1b", 79, at(10), at(10)).as_deref(),
        Some("1")
    );
    assert_eq!(reasons(&inventory, 1), ["XID 79, replace the node"]);
    read(&mut inventory, "b", at(11), |reading| {
        reading.recovery_action = Some(0);
    });
    assert_eq!(
        reasons(&inventory, 1).len(),
        1,
        "the verdict may not be formed yet"
    );
    read(&mut inventory, "b", at(16), |reading| {
        reading.recovery_action = Some(0);
    });
    assert!(inventory.states()[1].is_healthy());
}

#[test]
fn without_a_verdict_a_fatal_xid_ends_when_the_gpu_was_away() {
    let mut inventory = inventory(&["a"]);
    inventory.xid("0000:00:1B", 48, at(1), at(1));
    read(&mut inventory, "a", at(60), |_| ());
    inventory.driver_ready(&driver(&["a"]), at(61), at(61));
    assert_eq!(reasons(&inventory, 0), ["XID 48, needs a reset"]);
    inventory.driver_unavailable(at(70));
    inventory.driver_ready(&driver(&["a"]), at(80), at(80));
    assert!(inventory.states()[0].is_healthy());
}

#[test]
fn an_application_xid_is_counted_and_condemns_nobody() {
    let mut inventory = inventory(&["a"]);
    assert!(inventory.xid("0000:00:1b", 31, at(1), at(1)).is_some());
    assert!(inventory.states()[0].is_healthy());
    assert_eq!(inventory.xid("0000:77:00", 31, at(1), at(1)), None);
}

#[test]
fn the_drivers_verdict_is_a_reason_and_changes_with_it() {
    let mut inventory = inventory(&["a"]);
    read(&mut inventory, "a", at(1), |reading| {
        reading.recovery_action = Some(1);
    });
    assert_eq!(reasons(&inventory, 0), ["driver asks: reset the GPU"]);
    read(&mut inventory, "a", at(2), |reading| {
        reading.recovery_action = Some(2);
    });
    assert_eq!(reasons(&inventory, 0), ["driver asks: reboot the node"]);
    assert_eq!(
        inventory.states()[0].health.since,
        Some(1),
        "unhealthy all the while"
    );
    read(&mut inventory, "a", at(3), |reading| {
        reading.recovery_action = Some(0);
    });
    assert!(inventory.states()[0].is_healthy());
}

#[test]
fn lists_and_modes_hold_until_they_are_read_again_and_say_how_old_they_are() {
    let process = GpuProcess {
        pid: 7,
        memory_bytes: None,
        computes: true,
    };
    let mut inventory = inventory(&["a"]);
    read(&mut inventory, "a", at(1), |reading| {
        reading.processes = Some(vec![process]);
        reading.modes = Some(Modes {
            compute_mode: Some(ComputeMode::ExclusiveProcess),
            mig: Some(false),
        });
    });
    read(&mut inventory, "a", at(2), |_| ());
    let newest = inventory.states()[0].newest.clone().unwrap();
    assert_eq!((newest.processes_at, newest.modes_at), (Some(1.0), Some(1.0)));
    assert_eq!(newest.processes, Some(vec![process]));
    assert_eq!(
        (newest.compute_mode, newest.mig),
        (Some(ComputeMode::ExclusiveProcess), Some(false))
    );
    read(&mut inventory, "a", at(3), |reading| {
        reading.modes = Some(Modes {
            compute_mode: Some(ComputeMode::Default),
            mig: None,
        });
    });
    let newest = inventory.states()[0].newest.clone().unwrap();
    assert_eq!((newest.processes_at, newest.modes_at), (Some(1.0), Some(3.0)));
    assert_eq!(
        (newest.compute_mode, newest.mig),
        (Some(ComputeMode::Default), None)
    );
}

#[test]
fn the_status_of_an_older_agent_is_read() {
    let mut inventory = inventory(&["a"]);
    read(&mut inventory, "a", at(1), |_| ());
    let state = inventory.states().remove(0);
    let mut json = serde_json::to_value(&state).unwrap();
    json["info"].as_object_mut().unwrap().remove("compute_capability");
    let newest = json["newest"].as_object_mut().unwrap();
    for key in ["processes_at", "compute_mode", "mig", "modes_at"] {
        newest.remove(key).unwrap();
    }
    let read: GpuState = serde_json::from_value(json).unwrap();
    assert_eq!(read.info.compute_capability, None);
    assert_eq!(read.newest, state.newest);
}

#[test]
fn the_next_child_goes_on_where_the_last_one_stopped() {
    let mut inventory = inventory(&["a", "b"]);
    read(&mut inventory, "a", at(1), |reading| {
        reading.newest_sample = Some(77);
    });
    read(&mut inventory, "a", at(2), |_| ());
    assert_eq!(inventory.seen(), [("a".into(), 77)]);
}

#[test]
fn pci_addresses_are_compared_by_value() {
    assert!(same_pci("00000000:61:00.0", "0000:61:00"));
    assert!(same_pci("00000000:00:1E.0", "0000:00:1e"));
    assert!(!same_pci("00000000:61:00.0", "0000:62:00"));
    assert!(!same_pci("", ""));
}

#[test]
fn what_the_driver_lists_no_more_is_missing_and_not_stuck_as_well() {
    let mut inventory = inventory(&["a", "b"]);
    inventory.driver_stuck(at(9));
    inventory.driver_ready(&driver(&["b"]), at(12), at(12));
    assert_eq!(reasons(&inventory, 0), ["missing"]);
}

#[test]
fn a_gpu_whose_every_call_fails_is_unhealthy_and_a_reading_of_the_ring_alone_clears_nothing() {
    let mut inventory = inventory(&["a"]);
    read(&mut inventory, "a", at(1), |reading| {
        reading.fault = Some(GpuFault::Failing);
    });
    assert_eq!(reasons(&inventory, 0), ["every NVML call fails"]);
    read(&mut inventory, "a", at(2), |reading| reading.whole = false);
    assert_eq!(reasons(&inventory, 0), ["every NVML call fails"]);
    read(&mut inventory, "a", at(3), |_| ());
    assert!(inventory.states()[0].is_healthy());
}

#[test]
fn a_reading_of_the_ring_alone_keeps_the_values_of_the_last_whole_one() {
    let mut inventory = inventory(&["a"]);
    read(&mut inventory, "a", at(1), |reading| {
        reading.temperature_celsius = Some(40);
    });
    read(&mut inventory, "a", at(2), |reading| {
        reading.whole = false;
        reading.utilization = vec![RingSample {
            unix_us: 2_000_000,
            percent: 30,
        }];
    });
    let newest = inventory.states()[0].newest.clone().unwrap();
    assert_eq!(
        (newest.temperature_celsius, newest.utilization_percent),
        (Some(40.0), Some(30.0))
    );
    assert!(newest.at < 1.5, "the age is that of the values");
}
