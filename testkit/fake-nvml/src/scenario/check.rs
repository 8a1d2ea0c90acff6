//! What is wrong with a scenario that is well-formed TOML.
//!
//! All faults are collected, so that one run mends them all. A scenario that passes here cannot make an answer fail:
//! indices exist, curves are in order, ids can be parsed.

use std::collections::BTreeSet;

use super::{Gpu, Scenario};
use crate::ffi;
use crate::track::Track;

/// Most samples a second; above it sample times would crowd NVML's microsecond stamps for no use.
const MAX_RING_HZ: u32 = 1000;

/// Most memory, a pebibyte: above it only slips of the pen, and sums of bytes stay within 64 bits.
const MAX_MEMORY_MIB: u64 = 1 << 30;

pub(super) fn faults(scenario: &Scenario) -> Vec<String> {
    let mut faults = Faults::default();
    faults.require(version_pair(&scenario.cuda).is_some(), || {
        format!("cuda = {:?} is not \"major.minor\"", scenario.cuda)
    });
    faults.codes("errors", scenario.errors.values().copied());
    faults.codes("init.error", scenario.init.error);
    faults.functions("errors", scenario.errors.keys());
    for (index, gpu) in scenario.gpus.iter().enumerate() {
        faults.gpu(index, gpu);
    }
    faults.distinct("uuid", scenario.gpus.iter().map(|gpu| gpu.uuid.to_lowercase()));
    faults.distinct("pci", scenario.gpus.iter().map(|gpu| gpu.pci.to_lowercase()));
    faults.incidents(scenario);
    faults.0
}

/// `"13.0"` as (13, 0).
pub(crate) fn version_pair(text: &str) -> Option<(i32, i32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A PCI bus id as (domain, bus, device); NVML writes the domain with four or eight digits.
pub(crate) fn pci_address(text: &str) -> Option<(u32, u32, u32)> {
    let (domain, rest) = text.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    let hex = |digits: &str, most: usize| {
        (!digits.is_empty() && digits.len() <= most).then(|| u32::from_str_radix(digits, 16).ok())?
    };
    hex(function, 1)?;
    Some((hex(domain, 8)?, hex(bus, 2)?, hex(device, 2)?))
}

#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn require(&mut self, good: bool, fault: impl FnOnce() -> String) {
        if !good {
            self.0.push(fault());
        }
    }

    fn gpu(&mut self, index: usize, gpu: &Gpu) {
        let key = |name: &str| format!("gpu[{index}].{name}");
        self.require(pci_address(&gpu.pci).is_some(), || {
            format!("{} = {:?} is not domain:bus:device.function", key("pci"), gpu.pci)
        });
        self.require(!gpu.uuid.is_empty() && gpu.uuid.len() < 80, || {
            format!("{} must have 1 to 79 characters", key("uuid"))
        });
        self.require(gpu.name.len() < 64, || {
            format!("{} must have at most 63 characters", key("name"))
        });
        let sizes = gpu.processes.iter().filter_map(|process| process.memory_mib);
        self.require(
            sizes.chain([gpu.memory_mib]).all(|mib| mib <= MAX_MEMORY_MIB),
            || {
                format!(
                    "{} is more than {MAX_MEMORY_MIB}, here or of a process",
                    key("memory_mib")
                )
            },
        );
        self.require(gpu.reserved_mib <= gpu.memory_mib, || {
            format!("{} is more than memory_mib", key("reserved_mib"))
        });
        self.require((1..=MAX_RING_HZ).contains(&gpu.ring_hz), || {
            format!("{} must be 1 to {MAX_RING_HZ}", key("ring_hz"))
        });
        self.require(gpu.period_ms != Some(0), || {
            format!("{} must be above 0", key("period_ms"))
        });
        let capability = gpu.compute_capability.as_deref();
        self.require(capability.is_none_or(|text| version_pair(text).is_some()), || {
            format!("{} is not \"major.minor\"", key("compute_capability"))
        });
        self.tracks(&key, gpu);
        self.fields(&key, gpu);
        self.functions(&key("errors"), gpu.errors.keys());
        self.codes(&key("errors"), gpu.errors.values().copied());
    }

    fn tracks(&mut self, key: &dyn Fn(&str) -> String, gpu: &Gpu) {
        let percent = Some(100.0);
        for (name, track, most) in [
            ("utilization", Some(&gpu.utilization), percent),
            ("memory_busy", Some(&gpu.memory_busy), percent),
            ("encoder", Some(&gpu.encoder), percent),
            ("decoder", Some(&gpu.decoder), percent),
            (
                "used_mib",
                gpu.used_mib.as_ref(),
                Some((gpu.memory_mib - gpu.reserved_mib.min(gpu.memory_mib)) as f64),
            ),
            ("power_watts", Some(&gpu.power_watts), None),
            ("temperature", Some(&gpu.temperature), None),
            ("memory_temperature", gpu.memory_temperature.as_ref(), None),
            ("sm_clock_mhz", Some(&gpu.sm_clock_mhz), None),
            ("memory_clock_mhz", Some(&gpu.memory_clock_mhz), None),
        ] {
            if let Some(track) = track {
                self.track(&key(name), track, most);
            }
        }
        for (number, process) in gpu.processes.iter().enumerate() {
            let name = key(&format!("process[{number}].utilization"));
            if let Some(track) = &process.utilization {
                self.track(&name, track, percent);
            }
        }
    }

    fn track(&mut self, key: &str, track: &Track, most: Option<f64>) {
        self.require(track.is_in_order(), || {
            format!("{key}: points must be there and in order of time")
        });
        let most = most.unwrap_or(f64::MAX);
        self.require(track.values().all(|value| (0.0..=most).contains(&value)), || {
            format!("{key}: values must be 0 to {most}")
        });
    }

    fn fields(&mut self, key: &dyn Fn(&str) -> String, gpu: &Gpu) {
        for (id, field) in &gpu.fields {
            let counts = field.value.is_some() || field.ramp_per_s.is_some();
            self.require(counts != field.error.is_some(), || {
                format!(
                    "{} needs either error, or value and ramp_per_s or one of them",
                    key(&format!("fields.{id}"))
                )
            });
            self.codes(&key(&format!("fields.{id}.error")), field.error);
        }
    }

    fn incidents(&mut self, scenario: &Scenario) {
        let faults = scenario.faults.iter().map(|fault| ("fault", fault.gpu));
        let hangs = scenario
            .hangs
            .iter()
            .filter_map(|hang| hang.gpu.map(|gpu| ("hang", gpu)));
        let events = scenario.events.iter().map(|event| ("event", event.gpu));
        for (what, gpu) in faults.chain(hangs).chain(events) {
            self.require(gpu < scenario.gpus.len(), || {
                format!(
                    "{what}.gpu = {gpu}, but there are {} GPUs, counted from 0",
                    scenario.gpus.len()
                )
            });
        }
        self.functions("hang.function", scenario.hangs.iter().map(|hang| &hang.function));
        self.functions(
            "fault.functions",
            scenario
                .faults
                .iter()
                .flat_map(|fault| fault.functions.iter().flatten()),
        );
        let gone = scenario
            .driver_gone
            .iter()
            .flat_map(|gone| [gone.error, gone.init_error]);
        self.codes("driver_gone error and init_error", gone);
    }

    fn functions<'a>(&mut self, key: &str, names: impl Iterator<Item = &'a String>) {
        for name in names {
            self.require(ffi::exports().any(|export| export == name), || {
                format!("{key}: {name:?} is not a function of this library")
            });
        }
    }

    fn codes(&mut self, key: &str, codes: impl IntoIterator<Item = u32>) {
        let success = codes.into_iter().any(|code| code == 0);
        self.require(!success, || {
            format!("{key}: 0 means success and cannot be an error")
        });
    }

    fn distinct(&mut self, key: &str, values: impl Iterator<Item = String>) {
        let mut seen = BTreeSet::new();
        for value in values {
            self.require(seen.insert(value.clone()), || {
                format!("two GPUs have {key} = {value:?}")
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::scenario::{Scenario, ScenarioError};

    fn faults(text: &str) -> Vec<String> {
        match Scenario::parse(text) {
            Err(ScenarioError::Meaning(faults)) => faults,
            other => panic!("expected faults of meaning, got {other:?}"),
        }
    }

    const GPU: &str = "[[gpu]]\nuuid = \"GPU-1\"\nname = \"T4\"\npci = \"0000:00:1e.0\"\nmemory_mib = 100\n";

    #[test]
    fn smallest_gpu_is_accepted() {
        assert_eq!(Scenario::parse(GPU).expect("valid").gpus.len(), 1);
    }

    #[test]
    fn all_faults_are_named_together() {
        let found = faults(&format!(
            "cuda = \"x\"\n[errors]\nnvmlNoSuchCall = 3\n{GPU}utilization = [[0, 101]]\n{GPU}[[fault]]\ngpu = 2\nkind = \"lost\"\nat_ms = 0\n"
        ));
        for part in [
            "cuda",
            "nvmlNoSuchCall",
            "gpu[0].utilization",
            "two GPUs have uuid",
            "two GPUs have pci",
            "fault.gpu = 2",
        ] {
            assert!(
                found.iter().any(|fault| fault.contains(part)),
                "{part} is missing in {found:?}"
            );
        }
    }

    #[test]
    fn unknown_key_and_wrong_type_are_syntax_errors() {
        for text in [
            "drivers = \"1\"",
            "[init]\nhang_ms = \"later\"",
            "[[gpu]]\nutilization = \"x\"",
        ] {
            assert!(
                matches!(Scenario::parse(text), Err(ScenarioError::Syntax(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn field_with_error_and_value_is_refused() {
        let found = faults(&format!(
            "{GPU}[gpu.fields]\n82 = {{ error = 3, value = 1 }}\n4 = {{}}\n"
        ));
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn pci_addresses_are_read_in_both_spellings() {
        use super::pci_address;
        assert_eq!(pci_address("00000000:00:1E.0"), pci_address("0000:00:1e.0"));
        assert_eq!(pci_address("0001:af:02.0"), Some((1, 0xaf, 2)));
        assert_eq!(pci_address("0000-00-1e.0"), None);
    }
}
