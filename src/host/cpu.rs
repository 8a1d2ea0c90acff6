//! Processor time, from the first line of `/proc/stat`.
//!
//! Not from sysinfo, although that reads the same line. It counts time waiting for I/O as idle, while the
//! CloudWatch agent's `cpu_usage_active`, whose name we publish under, is 100 minus idle and so counts it as
//! active; on a node that loads training data the two differ by tens of percent. It also keeps the last
//! figure when the file cannot be read, ignores readings less than 200 ms apart and rounds to f32.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::fault::{FaultLog, HostError};

/// user, nice, system, idle, iowait, irq, softirq, steal. The two guest columns that follow are left out: the
/// kernel has already counted them in user and nice.
const COLUMNS: usize = 8;
const IDLE: usize = 3;

/// The line is about 100 bytes; a file that is not `/proc/stat` must not be read to its end.
const LONGEST_LINE_BYTES: u64 = 1024;

/// Processor time since boot, in clock ticks, summed over all processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks([u64; COLUMNS]);

impl Ticks {
    /// Older kernels lack the last columns; what is missing counts as zero in both readings.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.strip_prefix("cpu ")?.split_ascii_whitespace();
        let mut ticks = [0; COLUMNS];
        for (column, slot) in ticks.iter_mut().enumerate() {
            match fields.next() {
                Some(field) => *slot = field.parse().ok()?,
                None if column > IDLE => break,
                None => return None,
            }
        }
        Some(Self(ticks))
    }

    /// Percent of the time since `earlier` that was not idle; `None` when no tick has passed.
    ///
    /// A column that went back counts as zero: the kernel documents that iowait may decrease.
    fn active_percent_since(&self, earlier: &Self) -> Option<f64> {
        let mut passed = [0; COLUMNS];
        for (slot, (new, old)) in passed.iter_mut().zip(self.0.iter().zip(&earlier.0)) {
            *slot = new.saturating_sub(*old);
        }
        let total: u64 = passed.iter().sum();
        let active = total - passed[IDLE];
        (total > 0).then(|| 100.0 * active as f64 / total as f64)
    }
}

/// Turns successive readings of `/proc/stat` into a percentage.
#[derive(Debug)]
pub(super) struct CpuMeter {
    path: PathBuf,
    previous: Option<Ticks>,
    fault: FaultLog,
}

impl CpuMeter {
    pub(super) fn new(root_dir: &Path) -> Self {
        Self {
            path: root_dir.join("proc/stat"),
            previous: None,
            fault: FaultLog::new("cpu"),
        }
    }

    /// Percent active since the previous call. After a failed read the next figure is absent too: it would
    /// cover more than one sample.
    pub(super) fn sample(&mut self) -> Option<f64> {
        let reading = read(&self.path);
        let ticks = self.fault.note(reading);
        let earlier = std::mem::replace(&mut self.previous, ticks);
        ticks?.active_percent_since(&earlier?)
    }

    /// Its name, while it cannot be read.
    pub(super) fn failing(&self) -> Option<&'static str> {
        self.fault.failing()
    }
}

fn read(path: &Path) -> Result<Ticks, HostError> {
    let file = fs_err::File::open(path).map_err(HostError::Read)?;
    let mut line = String::new();
    BufReader::new(file.take(LONGEST_LINE_BYTES))
        .read_line(&mut line)
        .map_err(HostError::Read)?;
    Ticks::parse(&line).ok_or_else(|| HostError::malformed(path, 1, &line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(line: &str) -> Ticks {
        Ticks::parse(line).unwrap()
    }

    #[test]
    fn active_is_everything_but_idle() {
        //                       user nice sys idle iowait irq softirq steal guest guest_nice
        let earlier = ticks("cpu  1000 10 500 8000 100 0 5 20 300 0");
        for (later, expected) in [
            ("cpu  1000 10 500 8100 100 0 5 20 300 0", 0.0),
            ("cpu  1100 10 500 8000 100 0 5 20 300 0", 100.0),
            ("cpu  1050 10 500 8050 100 0 5 20 300 0", 50.0),
            // Waiting for I/O and stolen time count as active.
            ("cpu  1000 10 500 8050 150 0 5 20 300 0", 50.0),
            ("cpu  1000 10 500 8075 100 0 5 45 300 0", 25.0),
            // Guest time is already in user: counted once.
            ("cpu  1050 10 500 8050 100 0 5 20 350 0", 50.0),
            ("cpu  1123 10 500 8877 100 0 5 20 300 0", 12.3),
        ] {
            assert_eq!(
                ticks(later).active_percent_since(&earlier),
                Some(expected),
                "{later}"
            );
        }
    }

    #[test]
    fn a_column_that_goes_back_counts_as_zero() {
        let earlier = ticks("cpu  1000 10 500 8000 100 0 5 20 0 0");
        let later = ticks("cpu  1050 10 500 8050 90 0 5 20 0 0");
        assert_eq!(later.active_percent_since(&earlier), Some(50.0));
        assert_eq!(earlier.active_percent_since(&earlier), None);
        let rebooted = ticks("cpu  1 1 1 1 1 0 0 0 0 0");
        assert_eq!(rebooted.active_percent_since(&earlier), None);
    }

    #[test]
    fn short_lines_of_old_kernels_parse_and_others_do_not() {
        assert_eq!(ticks("cpu  1 2 3 4\n"), Ticks([1, 2, 3, 4, 0, 0, 0, 0]));
        for line in ["", "cpu0 1 2 3 4", "cpu 1 2 3", "cpu 1 2 x 4", "cpu 1 2 3 -4"] {
            assert_eq!(Ticks::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn the_first_reading_and_the_one_after_a_failure_are_absent() {
        let root = tempfile::tempdir().unwrap();
        let stat = root.path().join("proc/stat");
        fs_err::create_dir(root.path().join("proc")).unwrap();
        let mut meter = CpuMeter::new(root.path());
        let mut sample_with = |text: &str| {
            fs_err::write(&stat, text).unwrap();
            meter.sample()
        };
        assert_eq!(sample_with("cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 1 1 1 1\n"), None);
        assert_eq!(sample_with("cpu  30 0 0 70 0 0 0 0 0 0\n"), Some(30.0));
        assert_eq!(sample_with("intr 1 2 3\n"), None);
        assert_eq!(sample_with("cpu  60 0 0 140 0 0 0 0 0 0\n"), None);
        assert_eq!(sample_with("cpu  70 0 0 230 0 0 0 0 0 0\n"), Some(10.0));
        fs_err::remove_file(&stat).unwrap();
        assert_eq!(meter.sample(), None);
        assert!(meter.fault.is_failing());
    }
}
