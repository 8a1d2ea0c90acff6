//! The configuration as it is written: every key with its built-in default, values still unchecked.
//!
//! These structs are the list of keys: [`super::shape`] derives from them what is known and of which type, and a test
//! proves that `config/gpushare.toml` says the same. Durations and sizes are strings here; only validation reads them.
//! A key without a default is an `Option`.

use serde::{Deserialize, Serialize};

/// The whole file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) node: RawNode,
    pub(super) sample: RawSample,
    pub(super) publish: RawPublish,
    pub(super) spool: RawSpool,
    pub(super) host: RawHost,
    pub(super) gpu: RawGpu,
    pub(super) mps: RawMps,
    pub(super) slices: RawSlices,
    pub(super) pods: RawPods,
    pub(super) status: RawStatus,
    pub(super) prometheus: RawPrometheus,
}

/// Declares one section: its keys, their types and their defaults side by side.
macro_rules! section {
    ($name:ident { $($key:ident: $kind:ty = $default:expr),+ $(,)? }) => {
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct $name {
            $(pub(super) $key: $kind),+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default),+ }
            }
        }
    };
}

section!(RawNode {
    instance_id: Option<String> = None,
    image_id: Option<String> = None,
    instance_type: Option<String> = None,
    region: Option<String> = None,
    auto_scaling_group: Option<String> = None,
    cluster: Option<String> = None,
    nodegroup: Option<String> = None,
    state_dir: String = "/var/lib/gpushare".into(),
});

section!(RawSample {
    interval: String = "1s".into()
});

section!(RawPublish {
    target: String = "cloudwatch".into(),
    interval: String = "60s".into(),
    namespace: String = "GPUShare".into(),
    endpoint_url: Option<String> = None,
    groups: Vec<String> = strings(&["host", "gpu", "pods", "agent"]),
    dimensions: Vec<String> = strings(&["InstanceId", "ImageId", "InstanceType", "AutoScalingGroupName"]),
    max_series: u64 = 500,
    storage_resolution: u64 = 60,
    rollup: Vec<RawRollup> = Vec::new(),
});

section!(RawRollup {
    dimensions: Vec<String> = Vec::new(),
    metrics: Vec<String> = Vec::new(),
});

section!(RawSpool {
    dir: String = "/var/lib/gpushare/spool".into(),
    max_bytes: String = "64MiB".into(),
    min_free_bytes: String = "512MiB".into(),
});

section!(RawHost {
    root_dir: String = "/".into(),
    exclude_mounts: Vec<String> = strings(EXCLUDED_MOUNTS),
    exclude_fs_types: Vec<String> = strings(EXCLUDED_FS_TYPES),
});

section!(RawGpu {
    enabled: bool = true,
    nvml_library: String = "libnvidia-ml.so.1".into(),
    kmsg: String = "/dev/kmsg".into(),
});

section!(RawMps {
    enabled: bool = true,
    backend: String = "systemd".into(),
    dir: String = "/run/gpushare/mps".into(),
    client_dir: String = "/run/gpushare/clients".into(),
    control_binary: String = "nvidia-cuda-mps-control".into(),
    exclusive_process: bool = true,
    multi_user: bool = true,
    probe_interval: String = "10s".into(),
    grace: String = "30s".into(),
    client_view: String = "links".into(),
});

section!(RawSlices {
    enabled: bool = true,
    resource: String = "k8s.amazonaws.com/vgpu".into(),
    per_gpu: u64 = 48,
    kubelet_dir: String = "/var/lib/kubelet".into(),
    policy: String = "pack".into(),
    injection: String = "cdi".into(),
    cdi_dir: String = "/var/run/cdi".into(),
    threads: String = "share".into(),
    memory: String = "share".into(),
    boot_grace: String = "180s".into(),
    conflict: String = "warn".into(),
});

section!(RawPods {
    enabled: bool = true,
    interval: String = "15s".into(),
    identity: String = "workload".into(),
    proc_dir: String = "/proc".into(),
    container_log_dir: String = "/var/log/containers".into(),
});

section!(RawStatus {
    socket: String = "/run/gpushare/status.sock".into()
});

section!(RawPrometheus {
    listen: String = String::new()
});

/// What the node itself and its containers mount; none of it is a disk that an operator can fill or grow.
const EXCLUDED_MOUNTS: &[&str] = &[
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/boot/efi",
    "/var/lib/kubelet",
    "/var/lib/containerd",
    "/var/lib/docker",
    "/var/lib/containers",
    "/snap",
    "/var/lib/snapd",
];

/// Kernel views, images and memory (no disk behind them), then file systems of other machines, where one call may
/// hang for ever and one disk would be billed once per node.
const EXCLUDED_FS_TYPES: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup*",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "ramfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tmpfs",
    "tracefs",
    "aufs",
    "erofs",
    "iso9660",
    "overlay",
    "squashfs",
    "9p",
    "afs",
    "beegfs*",
    "ceph",
    "cifs",
    "fuse",
    "fuse.*",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs*",
    "smb*",
    "virtiofs",
];

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}
