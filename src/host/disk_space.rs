//! Space of one file system: the call, and what its numbers mean.

use std::io;
use std::path::Path;

use rustix::fs::FileType;

use super::DiskSpace;
use super::mounts::Mount;

/// The numbers of statvfs(3) that we use, under its names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "the names that statvfs(3) documents")]
pub(super) struct Space {
    pub(super) f_frsize: u64,
    pub(super) f_blocks: u64,
    pub(super) f_bfree: u64,
    pub(super) f_bavail: u64,
    pub(super) f_files: u64,
    pub(super) f_ffree: u64,
}

/// Asks a file system for its space. May block for ever, as a network file system does without its server.
pub(super) trait SpaceSource: Send + Sync + 'static {
    /// The space of the file system that holds `path`; none of what is mounted on a file.
    fn space(&self, path: &Path) -> io::Result<Space>;
}

/// statvfs of the running kernel.
#[derive(Debug)]
pub(super) struct Statvfs;

impl SpaceSource for Statvfs {
    fn space(&self, path: &Path) -> io::Result<Space> {
        // Container runtimes and tools mount single files over others: nobody keeps data below one.
        let kind = rustix::io::retry_on_intr(|| rustix::fs::stat(path))?.st_mode;
        if FileType::from_raw_mode(kind) != FileType::Directory {
            return Ok(Space::default());
        }
        let found = rustix::io::retry_on_intr(|| rustix::fs::statvfs(path))?;
        Ok(Space {
            f_frsize: found.f_frsize,
            f_blocks: found.f_blocks,
            f_bfree: found.f_bfree,
            f_bavail: found.f_bavail,
            f_files: found.f_files,
            f_ffree: found.f_ffree,
        })
    }
}

/// `None` for a file system without size (proc, sysfs, a single file), where a percentage has no meaning.
pub(super) fn disk_space(mount: &Mount, space: &Space) -> Option<DiskSpace> {
    let used = space.f_blocks.saturating_sub(space.f_bfree);
    // More available than there is stands for a negative number: root has eaten into its reserve.
    let available = if space.f_bavail > space.f_blocks {
        0
    } else {
        space.f_bavail
    };
    let usable = used.saturating_add(available);
    (usable > 0).then(|| DiskSpace {
        path: mount.mount_point.clone(),
        device: mount.source.clone(),
        used_percent: 100.0 * used as f64 / usable as f64,
        inodes_free: (space.f_files > 0).then_some(space.f_ffree),
        total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
        available_bytes: available.saturating_mul(space.f_frsize),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACE: Space = Space {
        f_frsize: 4096,
        f_blocks: 1000,
        f_bfree: 300,
        f_bavail: 250,
        f_files: 64,
        f_ffree: 60,
    };

    #[test]
    fn a_file_that_is_mounted_over_another_is_no_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        fs_err::write(&file, "").unwrap();
        assert_eq!(Statvfs.space(&file).unwrap(), Space::default());
        assert_eq!(of(Space::default()), None);
        assert!(Statvfs.space(dir.path()).unwrap().f_blocks > 0);
    }

    fn of(space: Space) -> Option<DiskSpace> {
        let mount = Mount {
            mount_point: "/data".into(),
            device_number: "259:1".into(),
            source: "/dev/a".into(),
            fs_type: "ext4".into(),
        };
        disk_space(&mount, &space)
    }

    #[test]
    fn used_is_counted_as_df_does() {
        let disk = of(SPACE).unwrap();
        assert_eq!(Some(disk.used_percent), Some(100.0 * 700.0 / 950.0));
        assert_eq!((disk.total_bytes, disk.available_bytes), (4_096_000, 1_024_000));
        assert_eq!(
            (disk.path.to_str().unwrap(), disk.device.as_str()),
            ("/data", "/dev/a")
        );
        assert_eq!(disk.inodes_free, Some(60));
    }

    #[test]
    fn odd_answers_stay_in_range_or_are_absent() {
        assert_eq!(
            of(Space {
                f_files: 0,
                f_ffree: 0,
                ..SPACE
            })
            .unwrap()
            .inodes_free,
            None
        );
        assert_eq!(
            of(Space {
                f_blocks: 0,
                f_bfree: 0,
                f_bavail: 0,
                ..SPACE
            }),
            None
        );
        let negative = of(Space {
            f_bavail: 5_u64.wrapping_neg(),
            ..SPACE
        })
        .unwrap();
        assert_eq!((negative.used_percent, negative.available_bytes), (100.0, 0));
        assert_eq!(
            of(Space {
                f_bfree: 1001,
                ..SPACE
            })
            .map(|disk| disk.used_percent),
            Some(0.0)
        );
        let huge = of(Space {
            f_frsize: u64::MAX,
            ..SPACE
        })
        .unwrap();
        assert_eq!(huge.total_bytes, u64::MAX);
    }

    #[test]
    fn the_real_call_answers_and_fails_as_the_kernel_does() {
        let space = Statvfs.space(Path::new("/")).unwrap();
        assert!(space.f_frsize > 0 && space.f_bfree <= space.f_blocks, "{space:?}");
        let error = Statvfs.space(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
