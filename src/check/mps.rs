//! Whether MPS would come up on this node.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::nvml::{Asked, Seen};
use super::{Finding, Level, directory};
use crate::config::{ClientView, Config, Mps, MpsBackend};
use crate::gpu::inventory::Newest;
use crate::gpu::wire::{Driver, FromChild};
use crate::gpu::{DriverState, GpuInfo, GpuState, GpuUuid, Health};
use crate::log::chain;
use crate::mps::backend::Backend;
use crate::mps::control::{self, SERVER};
use crate::mps::directories::Directories;
use crate::mps::run::{DEFAULT_PIPE_DIR, capturing};
use crate::mps::task::hardware::judge;
use crate::mps::task::{MpsSettings, hardware::Verdict};
use crate::mps::units::Units;

/// As long as every UUID of a driver, where there is no GPU to ask.
const ANY_GPU: &str = "GPU-00000000-0000-0000-0000-000000000000";

/// Everything about MPS. `asked` is what NVML said.
pub(super) fn findings(config: &Config, asked: Option<&Asked>) -> Vec<Finding> {
    if !config.mps.enabled {
        return vec![Finding::ok(
            "mps.enabled",
            "off: programs share no GPU through MPS",
        )];
    }
    let Some(asked) = asked else {
        return vec![Finding::ok(
            "mps.enabled",
            "off, because gpu.enabled = false: nobody says which GPUs there are",
        )];
    };
    let gpu = asked
        .readings
        .keys()
        .next()
        .cloned()
        .unwrap_or_else(|| ANY_GPU.into());
    let mut findings = vec![programs(&config.mps)];
    findings.extend(directories(&config.mps, &gpu));
    findings.push(backend(&config.mps, &gpu));
    findings.extend(default_pipe_dir(DEFAULT_PIPE_DIR.as_ref()));
    if let Ok(FromChild::Ready(driver)) = &asked.first {
        findings.extend(gpus(config, driver, asked));
    }
    findings
}

/// NVIDIA's programs.
fn programs(mps: &Mps) -> Finding {
    const KEY: &str = "mps.control_binary";
    let control = match control::resolve(&mps.control_binary) {
        Ok(control) => control,
        Err(error) => return Finding::error(KEY, chain(&error), error.mend()),
    };
    if control::server_beside(&control).is_none() {
        let mend = "install the driver's MPS programs anew, or put the server beside the control daemon";
        let found = format!(
            "{} is there, and its server, {SERVER}, is neither beside it nor in PATH",
            control.display()
        );
        return Finding::error(KEY, found, mend);
    }
    Finding::ok(KEY, format!("{}, and its server", control.display()))
}

/// Whether a daemon's files can be where they should.
fn directories(mps: &Mps, gpu: &GpuUuid) -> Vec<Finding> {
    let too_long = Directories::of(mps, gpu).err();
    let one = |key: &'static str, path: &Path| match &too_long {
        Some(error) if error.key() == key => {
            Finding::error(key, error.to_string(), "use a directory such as those below /run")
        }
        _ => directory(key, path),
    };
    let mut findings = vec![one("mps.dir", &mps.dir), one("mps.client_dir", &mps.client_dir)];
    if findings.iter().all(|finding| finding.level == Level::Ok) {
        findings.extend(together(mps));
    }
    findings
}

/// What is wrong with the two beside each other.
fn together(mps: &Mps) -> Option<Finding> {
    if mps.dir == mps.client_dir {
        return Some(Finding::error(
            "mps.client_dir",
            "it is mps.dir as well: pods would see the daemon's own files",
            "set mps.client_dir to another directory",
        ));
    }
    let (own, shown) = (device(&mps.dir)?, device(&mps.client_dir)?);
    (mps.client_view == ClientView::Links && own != shown).then(|| {
        Finding::error(
            "mps.client_dir",
            format!(
                "{} and {} are on two file systems: nothing can be linked from one into the other",
                mps.dir.display(),
                mps.client_dir.display()
            ),
            "set mps.dir and mps.client_dir to directories of one file system, such as two below /run",
        )
    })
}

/// The device of a directory, or of what it will be made in.
fn device(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find_map(|path| fs_err::metadata(path).ok());
    existing.map(|found| found.dev())
}

/// Who would keep the daemons.
fn backend(mps: &Mps, gpu: &GpuUuid) -> Finding {
    const KEY: &str = "mps.backend";
    match mps.backend {
        MpsBackend::Process if rustix::process::geteuid().is_root() => {
            Finding::ok(KEY, "the agent keeps the daemons, as plain processes")
        }
        MpsBackend::Process => Finding::warning(
            KEY,
            "this is not root: no compute mode can be set, and no server runs for other users",
            "run the agent as root",
        ),
        MpsBackend::Systemd => match systemd(gpu) {
            Ok(()) => Finding::ok(KEY, "systemd has gpushare-mps@.service"),
            Err((what, mend)) => Finding::error(KEY, what, mend),
        },
    }
}

fn systemd(gpu: &GpuUuid) -> Result<(), (String, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| (error.to_string(), "look at the limits of processes".to_owned()))?;
    // Every call of it is bounded.
    let unit = runtime.block_on(Units::new().unit(gpu));
    unit.map(drop).map_err(|error| (error.what, error.mend))
}

fn default_pipe_dir(path: &Path) -> Option<Finding> {
    let warning = capturing(path)?;
    Some(Finding::warning("mps", warning.what, warning.mend))
}

/// What the agent would say of each GPU. What is said of all GPUs of a model is said once.
fn gpus(config: &Config, driver: &Driver, asked: &Asked) -> Vec<Finding> {
    let settings = MpsSettings {
        mps: config.mps.clone(),
        gpu_enabled: true,
        slices: config.slices.enabled.then_some(config.slices.per_gpu),
    };
    let state = DriverState::Ready {
        driver_version: driver.driver_version.clone(),
        cuda_version: driver.cuda_version.clone(),
        unreadable: driver.unreadable,
    };
    let mut findings: Vec<Finding> = Vec::new();
    for info in &driver.gpus {
        let seen = asked.readings.get(&info.uuid);
        let verdict = judge(&settings, &state, &gpu(info, seen));
        let finding = judged(&settings, info, seen, verdict);
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    findings
}

fn gpu(info: &GpuInfo, seen: Option<&Seen>) -> GpuState {
    GpuState {
        number: "".into(),
        info: info.clone(),
        health: Health::default(),
        newest: seen.map(|seen| Newest {
            memory: seen.memory,
            compute_mode: seen.modes.and_then(|modes| modes.compute_mode),
            mig: seen.modes.and_then(|modes| modes.mig),
            ..Newest::default()
        }),
    }
}

fn judged(settings: &MpsSettings, info: &GpuInfo, seen: Option<&Seen>, verdict: Verdict) -> Finding {
    let model = &info.model;
    if let Some(trouble) = verdict.refusal.or(verdict.objection) {
        return Finding::error("mps", format!("{model}: {}", trouble.why), trouble.mend);
    }
    if seen.is_none() {
        return Finding::warning(
            "mps",
            format!(
                "{} cannot be read: whether MPS can be on it is not known",
                info.uuid
            ),
            "look at: dmesg | grep -i nvrm",
        );
    }
    if let Some(small) = verdict.small_slices {
        return Finding::warning("mps", small.what, small.mend);
    }
    let clients = verdict
        .client_limit
        .map_or_else(String::new, |limit| format!(" takes {limit} clients"));
    match settings.slices {
        Some(per_gpu) => Finding::ok("mps", format!("{model}{clients}; slices.per_gpu is {per_gpu}")),
        None => Finding::ok("mps", format!("{model}{clients}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Both directories in one that is there.
    fn mps(root: &Path) -> Mps {
        let mut mps = Config::default().mps;
        mps.dir = root.join("mps");
        mps.client_dir = root.join("clients");
        mps
    }

    fn executable(path: &Path) {
        fs_err::write(path, "#!/bin/sh\n").unwrap();
        fs_err::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    #[test]
    fn m20_directories_of_one_file_system_are_well_and_all_others_name_the_key() {
        let root = tempfile::tempdir().unwrap();
        let gpu = ANY_GPU.into();
        let levels = |mps: &Mps| {
            let findings = directories(mps, &gpu);
            findings
                .into_iter()
                .map(|found| (found.level, found.subject, found.found))
                .collect::<Vec<_>>()
        };
        let good = mps(root.path());
        assert!(levels(&good).iter().all(|(level, ..)| *level == Level::Ok));
        let shared = Mps {
            client_dir: good.dir.clone(),
            ..good.clone()
        };
        assert!(
            matches!(&levels(&shared)[2], (Level::Error, "mps.client_dir", found) if found.contains("pods would see"))
        );
        let long = Mps {
            dir: root.path().join("x".repeat(80)),
            ..good.clone()
        };
        let found = levels(&long);
        assert!(matches!(&found[0], (Level::Error, "mps.dir", found) if found.contains("107 is the most")));
        assert_eq!((found[1].0, found.len()), (Level::Ok, 2));
        let kernels = Mps {
            client_dir: "/proc/gpushare".into(),
            ..good
        };
        assert_eq!(levels(&kernels)[1].0, Level::Error);
    }

    #[test]
    fn m20_directories_of_two_file_systems_can_share_no_links() {
        let (one, other) = (
            tempfile::tempdir().unwrap(),
            tempfile::tempdir_in("/dev/shm").unwrap(),
        );
        let mut apart = Mps {
            client_dir: other.path().join("clients"),
            ..mps(one.path())
        };
        let finding = together(&apart).unwrap();
        assert!(
            finding.found.contains("two file systems") && finding.mend.contains("mps.client_dir"),
            "{finding:?}"
        );
        apart.client_view = ClientView::Directory;
        assert_eq!(together(&apart), None);
    }

    #[test]
    fn a_control_daemon_without_its_server_is_an_error_and_one_that_is_none_names_the_key() {
        let root = tempfile::tempdir().unwrap();
        let mut mps = mps(root.path());
        mps.control_binary = root.path().join("nvidia-cuda-mps-control");
        let missing = programs(&mps);
        assert!(
            missing.found.ends_with("does not exist") && missing.mend.contains("mps.control_binary"),
            "{missing:?}"
        );
        fs_err::write(&mps.control_binary, "").unwrap();
        assert!(programs(&mps).found.ends_with("is not executable"));
        executable(&mps.control_binary);
        let alone = programs(&mps);
        assert!(
            alone.level == Level::Error && alone.found.contains(SERVER),
            "{alone:?}"
        );
        executable(&root.path().join(SERVER));
        assert_eq!(programs(&mps).level, Level::Ok);
    }

    #[test]
    fn m19_the_default_pipe_directory_is_a_warning() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(default_pipe_dir(&root.path().join("none")), None);
        let finding = default_pipe_dir(root.path()).unwrap();
        assert!(
            finding.level == Level::Warning && finding.mend.contains("rm -r"),
            "{finding:?}"
        );
    }
}
