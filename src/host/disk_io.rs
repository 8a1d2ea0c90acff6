//! Throughput of physical disks, from `/proc/diskstats` and the links of `/sys/block`.
//!
//! A byte is counted once: partitions, loop, ram, zram, device-mapper and md devices are left out, because the
//! disk below them counts it too.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use procfs_core::DiskStat;

use super::DiskIo;
use super::fault::{FaultLog, HostError};

/// diskstats counts in units of 512 bytes, whatever the sector size of the device (Documentation/block/stat).
const SECTOR_BYTES: f64 = 512.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sectors {
    read: u64,
    written: u64,
}

/// By kernel name.
type Counters = BTreeMap<String, Sectors>;

/// Turns successive readings of the disks' counters into rates.
#[derive(Debug)]
pub(super) struct DiskIoMeter {
    diskstats: PathBuf,
    sys_block: PathBuf,
    previous: Option<(Instant, Counters)>,
    /// What sysfs said of each device seen in the last reading: that never changes while the device exists.
    physical: BTreeMap<DeviceId, bool>,
    fault: FaultLog,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct DeviceId {
    name: String,
    major: i32,
    minor: i32,
}

impl DiskIoMeter {
    pub(super) fn new(root_dir: &Path) -> Self {
        Self {
            diskstats: root_dir.join("proc/diskstats"),
            sys_block: root_dir.join("sys/block"),
            previous: None,
            physical: BTreeMap::new(),
            fault: FaultLog::new("disk I/O"),
        }
    }

    /// Rates since the previous call; empty the first time and the time after a failure.
    pub(super) fn sample(&mut self) -> Vec<DiskIo> {
        let reading = self.read();
        let reading = self
            .fault
            .note(reading)
            .map(|counters| (Instant::now(), counters));
        let earlier = std::mem::replace(&mut self.previous, reading);
        match (&earlier, &self.previous) {
            (Some((then, old)), Some((now, new))) => rates(old, new, now.duration_since(*then)),
            _ => Vec::new(),
        }
    }

    /// Its name, while it cannot be read.
    pub(super) fn failing(&self) -> Option<&'static str> {
        self.fault.failing()
    }

    fn read(&mut self) -> Result<Counters, HostError> {
        let text = fs_err::read_to_string(&self.diskstats).map_err(HostError::Read)?;
        let known = std::mem::take(&mut self.physical);
        let mut counters = Counters::new();
        for (index, line) in text.lines().enumerate() {
            // procfs-core's own error asks to report a bug in procfs-core; the line says more.
            let stat = DiskStat::from_line(line)
                .map_err(|_| HostError::malformed(&self.diskstats, index + 1, line))?;
            let id = DeviceId {
                name: stat.name,
                major: stat.major,
                minor: stat.minor,
            };
            let physical = match known.get(&id) {
                Some(physical) => Some(*physical),
                None => is_physical(&self.sys_block, &id.name).map_err(HostError::Read)?,
            };
            // Not remembered when unknown: a disk is in diskstats a moment before it has its link.
            let Some(physical) = physical else { continue };
            if physical {
                let sectors = Sectors {
                    read: stat.sectors_read,
                    written: stat.sectors_written,
                };
                counters.insert(id.name.clone(), sectors);
            }
            self.physical.insert(id, physical);
        }
        Ok(counters)
    }
}

/// Whether the disk `name` has hardware (or a hypervisor) behind it; `None` for what is no whole disk.
fn is_physical(sys_block: &Path, name: &str) -> io::Result<Option<bool>> {
    // sysfs writes `!` for a slash in a device name, such as cciss/c0d0.
    let entry = sys_block.join(name.replace('/', "!"));
    let target = match fs_err::read_link(&entry) {
        Ok(target) => target,
        // A partition has no entry of its own. Without the folder nothing could be told apart.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return fs_err::metadata(sys_block).map(|_| None);
        }
        Err(error) => return Err(error),
    };
    Ok(Some(has_hardware(&target) && !is_hidden(&entry)))
}

/// `NVMe` multipath hangs the disk that users see below `virtual/nvme-subsystem`.
fn has_hardware(target: &Path) -> bool {
    let mut after = target
        .components()
        .skip_while(|part| part.as_os_str() != "virtual")
        .skip(1);
    match after.next() {
        None => true,
        Some(class) => class.as_os_str() == "nvme-subsystem",
    }
}

/// The paths of an `NVMe` multipath disk are in diskstats too, marked hidden; kernels without the mark hide none.
fn is_hidden(entry: &Path) -> bool {
    fs_err::read_to_string(entry.join("hidden")).is_ok_and(|mark| mark.trim() == "1")
}

/// Rates of the disks in both readings whose counters did not go back; a new, vanished or replaced disk has
/// none this time.
fn rates(old: &Counters, new: &Counters, elapsed: Duration) -> Vec<DiskIo> {
    if elapsed.is_zero() {
        return Vec::new();
    }
    let per_second = |sectors: u64| sectors as f64 * SECTOR_BYTES / elapsed.as_secs_f64();
    new.iter()
        .filter_map(|(name, new)| {
            let old = old.get(name)?;
            Some(DiskIo {
                name: name.clone(),
                read_bytes_per_second: per_second(new.read.checked_sub(old.read)?),
                write_bytes_per_second: per_second(new.written.checked_sub(old.written)?),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A node with two disks (one in the multipath layout), a loop, a zram, an md and a dm device.
    const LINKS: &[(&str, &str)] = &[
        ("nvme0n1", "../devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1"),
        (
            "nvme1n1",
            "../devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1",
        ),
        ("loop0", "../devices/virtual/block/loop0"),
        ("zram0", "../devices/virtual/block/zram0"),
        ("md0", "../devices/virtual/block/md0"),
        ("dm-0", "../devices/virtual/block/dm-0"),
        (
            "cciss!c0d0",
            "../devices/pci0000:00/0000:00:05.0/cciss0/c0d0/block/cciss!c0d0",
        ),
    ];

    fn diskstats(read: u64, written: u64) -> String {
        let devices = [
            "259 0 nvme0n1",
            "259 1 nvme0n1p1",
            "259 2 nvme1n1",
            "7 0 loop0",
            "252 0 zram0",
        ];
        let more = ["9 0 md0", "253 0 dm-0", "104 0 cciss/c0d0"];
        let line = |device: &&str| format!("  {device} 1 0 {read} 5 2 0 {written} 6 0 7 8 0 0 0 0 0 0\n");
        devices.iter().chain(&more).map(line).collect()
    }

    fn node() -> (tempfile::TempDir, DiskIoMeter) {
        let root = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(root.path().join("sys/block")).unwrap();
        fs_err::create_dir_all(root.path().join("proc")).unwrap();
        for (name, target) in LINKS {
            symlink(target, root.path().join("sys/block").join(name)).unwrap();
        }
        let meter = DiskIoMeter::new(root.path());
        (root, meter)
    }

    fn names(rates: &[DiskIo]) -> Vec<&str> {
        rates.iter().map(|rate| rate.name.as_str()).collect()
    }

    #[test]
    fn whole_physical_disks_have_rates_from_the_second_sample_on() {
        let (_root, mut meter) = node();
        fs_err::write(&meter.diskstats, diskstats(100, 200)).unwrap();
        assert_eq!(meter.sample(), []);
        fs_err::write(&meter.diskstats, diskstats(300, 200)).unwrap();
        let rates = meter.sample();
        assert_eq!(names(&rates), ["cciss/c0d0", "nvme0n1", "nvme1n1"]);
        for rate in rates {
            assert!(
                rate.read_bytes_per_second > 0.0 && rate.write_bytes_per_second == 0.0,
                "{rate:?}"
            );
        }
    }

    #[test]
    fn rates_are_sectors_of_512_bytes_over_the_time() {
        let counters = |read, written| Counters::from([("a".to_owned(), Sectors { read, written })]);
        let of = |new: &Counters, millis| rates(&counters(1000, 50), new, Duration::from_millis(millis));
        let expected = DiskIo {
            name: "a".into(),
            read_bytes_per_second: 51_200.0,
            write_bytes_per_second: 0.0,
        };
        assert_eq!(of(&counters(1200, 50), 2000), [expected]);
        assert_eq!(of(&counters(999, 60), 1000), [], "read went back");
        assert_eq!(of(&counters(1001, 49), 1000), [], "written went back");
        assert_eq!(of(&counters(1200, 60), 0), [], "no time passed");
        assert_eq!(of(&Counters::new(), 1000), [], "vanished");
        assert_eq!(
            rates(&Counters::new(), &counters(1, 1), Duration::from_secs(1)),
            [],
            "new"
        );
    }

    #[test]
    fn a_failed_reading_is_absent_and_so_is_the_next() {
        let (root, mut meter) = node();
        let mut sample_with = |text: &str| {
            fs_err::write(&meter.diskstats, text).unwrap();
            (meter.sample().len(), meter.fault.is_failing())
        };
        assert_eq!(sample_with(&diskstats(1, 1)), (0, false));
        assert_eq!(sample_with(&diskstats(2, 2)), (3, false));
        assert_eq!(sample_with("259 0 nvme0n1 x\n"), (0, true));
        assert_eq!(sample_with(&diskstats(3, 3)), (0, false));
        assert_eq!(sample_with(&diskstats(4, 4)), (3, false));
        fs_err::remove_dir_all(root.path().join("sys")).unwrap();
        assert_eq!(
            sample_with(&diskstats(5, 5)),
            (0, true),
            "a partition cannot be told from a disk"
        );
    }

    #[test]
    fn a_disk_whose_link_comes_late_is_found() {
        let (_root, mut meter) = node();
        let link = meter.sys_block.join("nvme0n1");
        fs_err::remove_file(&link).unwrap();
        fs_err::write(&meter.diskstats, diskstats(1, 1)).unwrap();
        meter.sample();
        assert_eq!(names(&meter.sample()), ["cciss/c0d0", "nvme1n1"]);
        symlink(LINKS[0].1, &link).unwrap();
        meter.sample();
        assert_eq!(names(&meter.sample()), ["cciss/c0d0", "nvme0n1", "nvme1n1"]);
    }

    #[test]
    fn the_paths_of_a_multipath_disk_are_hidden() {
        let (root, meter) = node();
        let device = root.path().join("sys/devices/pci0000:00/nvme/nvme1/nvme1c1n1");
        fs_err::create_dir_all(&device).unwrap();
        symlink(
            "../devices/pci0000:00/nvme/nvme1/nvme1c1n1",
            meter.sys_block.join("nvme1c1n1"),
        )
        .unwrap();
        for (mark, physical) in [("0\n", true), ("1\n", false)] {
            fs_err::write(device.join("hidden"), mark).unwrap();
            assert_eq!(
                is_physical(&meter.sys_block, "nvme1c1n1").unwrap(),
                Some(physical)
            );
        }
    }
}
