//! Which mounts are asked for their space: pure decisions on the text of `/proc/self/mountinfo`.
//!
//! Invariants: one mount per device number, never one that another mount covers, never `autofs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use procfs_core::process::MountInfo;

use super::HostSettings;

/// One mount, with the escapes of mountinfo undone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_field_names,
    reason = "`mount_point` is what mount(8) and proc(5) call it"
)]
pub(super) struct Mount {
    pub(super) mount_point: PathBuf,
    /// `major:minor` of the super block. Bind mounts and btrfs subvolumes share it.
    pub(super) device_number: String,
    pub(super) source: String,
    pub(super) fs_type: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let info = MountInfo::from_line(line).ok()?;
        Some(Self {
            // procfs-core leaves the kernel's octal escapes in place.
            mount_point: unescape(info.mount_point.to_str()?).into(),
            device_number: info.majmin,
            source: info
                .mount_source
                .map_or_else(|| "none".to_owned(), |source| unescape(&source)),
            fs_type: info.fs_type,
        })
    }

    /// Whether a block device of this node is behind it; others (network, FUSE) are likelier to hang.
    pub(super) fn is_on_block_device(&self) -> bool {
        self.source.starts_with("/dev/")
    }
}

/// The mounts of a mountinfo file, and the first line that could not be understood.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ParsedMounts {
    pub(super) mounts: Vec<Mount>,
    /// Line number, from 1, and the line.
    pub(super) first_odd_line: Option<(usize, String)>,
}

/// Reads line by line: a mount point that is not UTF-8 must not hide all the others.
pub(super) fn parse(mountinfo: &[u8]) -> ParsedMounts {
    let mut parsed = ParsedMounts::default();
    for (index, line) in mountinfo.split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        match str::from_utf8(line).ok().and_then(Mount::parse) {
            Some(mount) => parsed.mounts.push(mount),
            None if parsed.first_odd_line.is_none() => {
                parsed.first_odd_line = Some((index + 1, String::from_utf8_lossy(line).into_owned()));
            }
            None => {}
        }
    }
    parsed
}

/// Undoes `\ooo`, with which the kernel writes space, tab, newline, backslash and `#`.
fn unescape(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let code = rest
            .get(at + 1..at + 4)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        let (decoded, width) = match code {
            Some(ascii) if ascii.is_ascii() => (char::from(ascii), 4),
            _ => ('\\', 1),
        };
        text.push(decoded);
        rest = &rest[at + width..];
    }
    text + rest
}

/// What the configuration leaves out.
#[derive(Clone, Debug)]
pub(super) struct MountFilter {
    excluded_mounts: Vec<PathBuf>,
    excluded_fs_types: Vec<String>,
}

impl MountFilter {
    pub(super) fn new(settings: &HostSettings) -> Self {
        Self {
            // Every path starts with the empty one: it would leave out everything.
            excluded_mounts: settings
                .exclude_mounts
                .iter()
                .filter(|mount| !mount.is_empty())
                .map(PathBuf::from)
                .collect(),
            excluded_fs_types: settings.exclude_fs_types.clone(),
        }
    }

    fn keeps(&self, mount: &Mount) -> bool {
        // statvfs(2) of an autofs mount point mounts what it stands for.
        mount.fs_type != "autofs"
            && !self
                .excluded_fs_types
                .iter()
                .any(|pattern| matches_type(pattern, &mount.fs_type))
            && !self
                .excluded_mounts
                .iter()
                .any(|prefix| mount.mount_point.starts_with(prefix))
    }
}

fn matches_type(pattern: &str, fs_type: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => fs_type.starts_with(prefix),
        None => fs_type == pattern,
    }
}

/// One mount per device, in the order of `mounts`: the shortest mount point that the filter keeps, the first
/// of several as short.
pub(super) fn select(mounts: &[Mount], filter: &MountFilter) -> Vec<Mount> {
    let mut top: BTreeMap<&Path, usize> = BTreeMap::new();
    for (index, mount) in mounts.iter().enumerate() {
        // The later mount on one mount point covers the earlier: statvfs(2) would answer for it.
        top.insert(&mount.mount_point, index);
    }
    let mut chosen: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, mount) in mounts.iter().enumerate() {
        if top.get(mount.mount_point.as_path()) != Some(&index) || !filter.keeps(mount) {
            continue;
        }
        let best = chosen.entry(&mount.device_number).or_insert(index);
        if length(mount) < length(&mounts[*best]) {
            *best = index;
        }
    }
    let mut indices: Vec<usize> = chosen.into_values().collect();
    indices.sort_unstable();
    indices.into_iter().map(|index| mounts[index].clone()).collect()
}

fn length(mount: &Mount) -> usize {
    mount.mount_point.as_os_str().len()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    /// A g5 node as the EKS image sets it up: root disk, EFI partition, striped instance store, pods.
    const EKS_NODE: &str = "\
22 1 259:1 / / rw,noatime shared:1 - xfs /dev/nvme0n1p1 rw,attr2,inode64,noquota
23 22 0:21 / /proc rw,nosuid shared:2 - proc proc rw
24 22 0:22 / /sys rw,nosuid shared:3 - sysfs sysfs rw
25 22 0:5 / /dev rw,nosuid shared:4 - devtmpfs devtmpfs rw,size=4096k
26 22 0:24 / /run rw,nosuid,nodev shared:5 - tmpfs tmpfs rw,size=3200000k,mode=755
27 22 259:3 / /boot/efi rw,noatime shared:6 - vfat /dev/nvme0n1p128 rw,fmask=0077
28 22 0:30 / /proc/sys/fs/binfmt_misc rw shared:7 - autofs systemd-1 rw,fd=29,pgrp=1,timeout=0
29 22 9:0 / /mnt/k8s-disks/0 rw,noatime shared:8 - xfs /dev/md0 rw,sunit=1024
30 22 9:0 /kubelet /var/lib/kubelet rw,noatime shared:8 - xfs /dev/md0 rw,sunit=1024
31 22 9:0 /containerd /var/lib/containerd rw,noatime shared:8 - xfs /dev/md0 rw,sunit=1024
32 26 0:40 / /run/containerd/io.containerd.grpc.v1.cri/sandboxes/4f/shm rw - tmpfs shm rw,size=65536k
33 26 0:41 / /run/containerd/io.containerd.runtime.v2.task/k8s.io/4f/rootfs rw - overlay overlay rw,lowerdir=/a:/b
34 30 0:42 / /var/lib/kubelet/pods/8e0c/volumes/kubernetes.io~projected/token rw - tmpfs tmpfs rw
35 30 259:4 / /var/lib/kubelet/plugins/kubernetes.io/csi/ebs/globalmount rw - ext4 /dev/nvme2n1 rw
36 30 259:4 / /var/lib/kubelet/pods/8e0c/volumes/kubernetes.io~csi/data/mount rw - ext4 /dev/nvme2n1 rw
37 22 0:50 / /shared rw,relatime - nfs4 fs-1.efs.eu-west-1.amazonaws.com:/ rw,vers=4.1,hard
38 22 259:5 / /data\\040sets\\134old rw - ext4 /dev/nvme3n1 rw
39 22 259:6 / /runner rw - ext4 /dev/nvme4n1 rw
40 22 259:7 / /run/build rw - ext4 /dev/nvme5n1 rw
";

    fn filter(mounts: &[&str], fs_types: &[&str]) -> MountFilter {
        MountFilter::new(&HostSettings {
            root_dir: "/".into(),
            exclude_mounts: mounts.iter().map(ToString::to_string).collect(),
            exclude_fs_types: fs_types.iter().map(ToString::to_string).collect(),
        })
    }

    fn usual_filter() -> MountFilter {
        filter(
            &["/run", "/var/lib/kubelet", "/var/lib/containerd", "/boot"],
            &["tmpfs", "devtmpfs", "proc", "sysfs", "overlay", "nfs*", "fuse*"],
        )
    }

    fn paths(text: &str, filter: &MountFilter) -> Vec<String> {
        let parsed = parse(text.as_bytes());
        assert_eq!(parsed.first_odd_line, None);
        let kept = select(&parsed.mounts, filter);
        kept.iter()
            .map(|mount| mount.mount_point.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn an_eks_node_has_one_mount_per_device() {
        assert_eq!(
            paths(EKS_NODE, &usual_filter()),
            ["/", "/mnt/k8s-disks/0", "/data sets\\old", "/runner"]
        );
    }

    #[test]
    fn without_excludes_all_devices_but_autofs_remain_once_each() {
        let kept = select(&parse(EKS_NODE.as_bytes()).mounts, &filter(&[], &[]));
        let mut devices: Vec<_> = kept.iter().map(|mount| mount.device_number.as_str()).collect();
        assert_eq!(devices.len(), 15);
        devices.sort_unstable();
        devices.dedup();
        assert_eq!(devices.len(), 15);
        assert!(kept.iter().all(|mount| mount.fs_type != "autofs"));
        let volume = kept.iter().find(|mount| mount.device_number == "259:4").unwrap();
        assert_eq!(
            volume.mount_point,
            Path::new("/var/lib/kubelet/plugins/kubernetes.io/csi/ebs/globalmount")
        );
    }

    #[test]
    fn five_hundred_bind_mounts_are_one_series() {
        let mut text = EKS_NODE.to_owned();
        for pod in 0..500 {
            writeln!(
                text,
                "{} 22 259:1 /x /srv/pod-{pod}/config rw - xfs /dev/nvme0n1p1 rw",
                100 + pod
            )
            .unwrap();
        }
        assert_eq!(paths(&text, &usual_filter()), paths(EKS_NODE, &usual_filter()));
    }

    #[test]
    fn btrfs_subvolumes_are_one_series() {
        let text = "\
20 1 0:35 /root / rw - btrfs /dev/nvme0n1p3 rw,subvol=/root
21 20 0:35 /home /home rw - btrfs /dev/nvme0n1p3 rw,subvol=/home
";
        assert_eq!(paths(text, &filter(&[], &[])), ["/"]);
    }

    #[test]
    fn the_shortest_mount_point_wins_and_the_first_of_equals() {
        let text = "\
20 1 259:1 / /long/path rw - ext4 /dev/a rw
21 1 259:1 / /two rw - ext4 /dev/a rw
22 1 259:1 / /one rw - ext4 /dev/a rw
";
        assert_eq!(paths(text, &filter(&[], &[])), ["/two"]);
        assert_eq!(paths(text, &filter(&["/two", "/one"], &[])), ["/long/path"]);
    }

    #[test]
    fn a_covered_mount_is_not_reported_under_the_path_of_its_cover() {
        let text = "\
1 1 0:2 / / rw - rootfs rootfs rw
20 1 259:1 / / rw - ext4 /dev/a rw
21 20 259:2 / /data rw - ext4 /dev/b rw
22 21 0:60 / /data rw - tmpfs tmpfs rw
23 20 0:61 / /net rw - autofs systemd-1 rw
24 23 0:62 / /net rw - nfs4 server:/ rw
";
        assert_eq!(paths(text, &filter(&[], &["tmpfs"])), ["/", "/net"]);
    }

    #[test]
    fn excludes_go_by_path_component_and_type_pattern() {
        for (mounts, fs_types, kept) in [
            (&["/run"][..], &[][..], false),
            (&["/run/"], &[], false),
            (&["/ru"], &[], true),
            (&["/run/build/deeper"], &[], true),
            (&[""], &[], true),
            (&["/"], &[], false),
            (&[], &["ext4"], false),
            (&[], &["ext"], true),
            (&[], &["ext*"], false),
            (&[], &["*"], false),
            (&[], &[""], true),
        ] {
            let found = paths(
                "40 22 259:7 / /run/build rw - ext4 /dev/a rw\n",
                &filter(mounts, fs_types),
            );
            assert_eq!(!found.is_empty(), kept, "{mounts:?} {fs_types:?}");
        }
    }

    #[test]
    fn escapes_are_undone_and_other_backslashes_kept() {
        for (escaped, plain) in [
            (r"/a\040b", "/a b"),
            (r"\011\012\134\043", "\t\n\\#"),
            (r"/é\040é", "/é é"),
            (r"/a\", r"/a\"),
            (r"/a\04", r"/a\04"),
            (r"/a\09x", r"/a\09x"),
            (r"/a\400", r"/a\400"),
            (r"/a\04é", r"/a\04é"),
        ] {
            assert_eq!(unescape(escaped), plain);
        }
    }

    #[test]
    fn an_odd_line_hides_no_other() {
        let mut text =
            b"20 1 259:1 / / rw - ext4 /dev/a rw\n21 1 259:2 / /\xff rw - ext4 /dev/b rw\nnonsense\n"
                .to_vec();
        text.extend_from_slice(b"22 1 259:3 / /c rw - ext4 none rw\n");
        let parsed = parse(&text);
        let found: Vec<_> = parsed
            .mounts
            .iter()
            .map(|mount| mount.mount_point.to_str().unwrap())
            .collect();
        assert_eq!(found, ["/", "/c"]);
        assert_eq!(parsed.mounts[1].source, "none");
        assert_eq!(parsed.first_odd_line.unwrap().0, 2);
    }
}
