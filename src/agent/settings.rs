//! What each task is told of the configuration.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use crate::cli::Global;
use crate::config::{Config, Target};
use crate::gpu::task::GpuSettings;
use crate::host::HostSettings;
use crate::identity::facts::Machine;
use crate::identity::machine;
use crate::log;
use crate::metrics::task::SamplerSettings;
use crate::mps::task::MpsSettings;
use crate::publish::cloudwatch::CloudWatchSettings;
use crate::publish::plan::BatchSettings;
use crate::publish::retry::Pacing;
use crate::publish::spool::{Origin, SpoolSettings};
use crate::publish::task::PublishSettings;

/// Everything is over within this time after SIGTERM when the last lines go to a pipe. systemd would wait 90 s, an
/// operator does not.
const STDOUT_STOP_LIMIT: Duration = Duration::from_millis(1500);

/// The same for CloudWatch: the publisher's own bound ([`Pacing::CLOUDWATCH`]), the grace of the request that is under
/// way, the spool's (`publish::task::SAVE_LIMIT`) before a hand-over and after the last attempt, and half a second to
/// spare.
const CLOUDWATCH_STOP_LIMIT: Duration = Duration::from_millis(10_500);

pub(super) fn host_settings(config: &Config) -> HostSettings {
    HostSettings {
        root_dir: config.host.root_dir.clone(),
        exclude_mounts: config.host.exclude_mounts.clone(),
        exclude_fs_types: config.host.exclude_fs_types.clone(),
    }
}

pub(super) fn sampler_settings(config: &Config) -> SamplerSettings {
    SamplerSettings {
        interval: config.sample.interval,
        publish_interval: config.publish.interval,
        max_series: config.publish.max_series - config.publish.rollup_series(),
        groups: config.publish.groups.clone(),
    }
}

pub(super) fn publish_settings(config: &Config) -> PublishSettings {
    PublishSettings {
        batch: BatchSettings {
            namespace: config.publish.namespace.clone(),
            dimensions: config.publish.dimensions.clone(),
            storage_resolution: config.publish.storage_resolution,
            rollups: config.publish.rollup.clone(),
        },
        interval: config.publish.interval,
        pacing: match config.publish.target {
            Target::Stdout => Pacing::STDOUT,
            Target::Cloudwatch => Pacing::CLOUDWATCH,
        },
        machine: machine_id(),
    }
}

pub(super) fn spool_settings(config: &Config) -> SpoolSettings {
    let instance = config.node.instance_id.clone();
    let by_firmware = || match machine::read(&config.host.root_dir) {
        Machine::Instance(id) => Some(id),
        Machine::Ec2 | Machine::Elsewhere | Machine::Unknown => None,
    };
    SpoolSettings {
        dir: config.spool.dir.clone(),
        max_bytes: config.spool.max_bytes,
        min_free_bytes: config.spool.min_free_bytes,
        interval: config.publish.interval,
        origin: Origin {
            instance: instance.or_else(by_firmware),
            boot: boot_id(),
            machine: machine_id(),
        },
    }
}

pub(super) fn cloudwatch_settings(config: &Config) -> CloudWatchSettings {
    CloudWatchSettings {
        region: config.node.region.clone(),
        endpoint_url: config.publish.endpoint_url.clone(),
    }
}

pub(super) fn stop_limit(target: Target) -> Duration {
    match target {
        Target::Stdout => STDOUT_STOP_LIMIT,
        Target::Cloudwatch => CLOUDWATCH_STOP_LIMIT,
    }
}

pub(super) fn gpu_settings(config: &Config, format: log::Format) -> GpuSettings {
    if let Err(error) = fs_err::create_dir_all(&config.node.state_dir) {
        tracing::warn!(%error, "node.state_dir cannot be made: GPU numbers will not be kept");
    }
    GpuSettings {
        library: config.gpu.nvml_library.clone(),
        kmsg: config.gpu.kmsg.clone(),
        interval: config.sample.interval,
        process_interval: config.pods.interval,
        numbers_file: config.node.state_dir.join("gpus.json"),
        child_arguments: vec!["--log-format".into(), format.as_str().into()],
    }
}

pub(super) fn mps_settings(config: &Config) -> MpsSettings {
    MpsSettings {
        mps: config.mps.clone(),
        gpu_enabled: config.gpu.enabled,
        slices: config.slices.enabled.then_some(config.slices.per_gpu),
    }
}

/// The global options of a command that is to see the configuration that the agent sees. It inherits the environment.
pub(super) fn arguments(global: &Global, format: log::Format) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["--log-format".into(), format.as_str().into()];
    if let Some(config) = &global.config {
        arguments.extend(["--config".into(), config.into()]);
    }
    for set in &global.set {
        arguments.extend(["--set".into(), set.into()]);
    }
    arguments
}

/// Identifies this boot of the machine. Without one every start counts as the same boot.
pub(super) fn boot_id() -> String {
    let text = fs_err::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"));
    text.map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Tells this machine from others; empty where it has no id.
fn machine_id() -> String {
    let text = fs_err::read_to_string(Path::new("/etc/machine-id"));
    text.map(|id| id.trim().to_owned()).unwrap_or_default()
}
