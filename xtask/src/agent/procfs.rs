//! What the kernel says about a process and its descendants.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

/// A process that cannot be mistaken for a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Clock ticks since boot, field 22 of /proc/PID/stat.
    start_ticks: u64,
}

/// Memory of one process, in bytes, from `/proc/PID/smaps_rollup`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) rss_bytes: u64,
    /// Shared pages count by the share of each process in them.
    pub(crate) pss_bytes: u64,
}

impl Process {
    /// None when there is no such process, or only its zombie.
    pub(crate) fn find(pid: u32) -> Option<Self> {
        let stat = Stat::read(pid).ok()?;
        (!stat.zombie).then_some(Self {
            pid,
            start_ticks: stat.start_ticks,
        })
    }

    pub(crate) fn alive(self) -> bool {
        Self::find(self.pid) == Some(self)
    }

    /// Children, their children, and so on, from /proc/PID/task/TID/children; those that end meanwhile are left out.
    pub(crate) fn descendants(self) -> Vec<Self> {
        let mut found = Vec::new();
        let mut unvisited = vec![self.pid];
        while let Some(pid) = unvisited.pop() {
            let children = children(pid);
            unvisited.extend(&children);
            found.extend(children.into_iter().filter_map(Self::find));
        }
        found
    }

    /// Time on a CPU, in user and kernel mode, of this process alone; exact to a clock tick, 10 ms.
    pub(crate) fn cpu_time(self) -> anyhow::Result<Duration> {
        let ticks = Stat::read(self.pid)?.cpu_ticks;
        Ok(Duration::from_secs_f64(
            ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        ))
    }

    /// The same of all its children that have ended and were waited for, and of theirs.
    pub(crate) fn children_time(self) -> anyhow::Result<Duration> {
        let ticks = Stat::read(self.pid)?.children_ticks;
        Ok(Duration::from_secs_f64(
            ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        ))
    }

    /// The file that it runs.
    pub(crate) fn program(self) -> anyhow::Result<PathBuf> {
        Ok(fs_err::read_link(format!("/proc/{}/exe", self.pid))?)
    }

    /// Time on a CPU of its first thread, to the nanosecond, from `/proc/PID/schedstat`.
    pub(crate) fn first_thread_time(self) -> anyhow::Result<Duration> {
        let path = format!("/proc/{}/schedstat", self.pid);
        let text = fs_err::read_to_string(&path)?;
        let nanoseconds = text
            .split_whitespace()
            .next()
            .and_then(|first| first.parse().ok());
        // A kernel without CONFIG_SCHED_INFO has zeroes, or no such file.
        let nanoseconds = nanoseconds.filter(|time| *time > 0);
        Ok(Duration::from_nanos(nanoseconds.with_context(|| {
            format!("{path} tells no time: this kernel does not count it")
        })?))
    }

    /// The most memory that was ever resident, in bytes: `VmHWM` of `/proc/PID/status`.
    pub(crate) fn peak_rss_bytes(self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.pid);
        let text = fs_err::read_to_string(&path)?;
        kib(&text, "VmHWM")
            .map(|kib| kib * 1024)
            .with_context(|| format!("{path} has no VmHWM"))
    }

    /// How many files, sockets and the like it has open.
    pub(crate) fn open_files(self) -> anyhow::Result<usize> {
        Ok(fs_err::read_dir(format!("/proc/{}/fd", self.pid))?.count())
    }

    /// How many threads it has.
    pub(crate) fn threads(self) -> anyhow::Result<usize> {
        Ok(fs_err::read_dir(format!("/proc/{}/task", self.pid))?.count())
    }

    pub(crate) fn memory(self) -> anyhow::Result<Memory> {
        let path = format!("/proc/{}/smaps_rollup", self.pid);
        let text = fs_err::read_to_string(&path)?;
        memory(&text).with_context(|| format!("{path} has no Rss and Pss"))
    }
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs_err::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let files = tasks.flatten().map(|task| task.path().join("children"));
    files
        .filter_map(|file: PathBuf| fs_err::read_to_string(file).ok())
        .flat_map(|pids| numbers(&pids))
        .collect()
}

fn numbers(pids: &str) -> Vec<u32> {
    pids.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

fn memory(text: &str) -> Option<Memory> {
    Some(Memory {
        rss_bytes: kib(text, "Rss")? * 1024,
        pss_bytes: kib(text, "Pss")? * 1024,
    })
}

/// The number in a line such as `Rss:  14 kB`.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[derive(Debug, PartialEq)]
struct Stat {
    zombie: bool,
    cpu_ticks: u64,
    children_ticks: u64,
    start_ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let text = fs_err::read_to_string(&path)?;
        Self::parse(&text).with_context(|| format!("{path} is not as proc(5) says"))
    }

    /// The name in parentheses may hold anything, blanks and parentheses too: fields count from the last one, which
    /// closes field 2.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        let ticks = |number: usize| field(number)?.parse::<u64>().ok();
        Some(Self {
            zombie: field(3)? == "Z",
            cpu_ticks: ticks(14)? + ticks(15)?,
            children_ticks: ticks(16)? + ticks(17)?,
            start_ticks: ticks(22)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_an_odd_name() {
        let text = "77 (a b) R) S 1 77 77 0 -1 4194560 9 0 0 0 120 30 5 6 20 0 1 0 4242 1 2 3";
        assert_eq!(
            Stat::parse(text),
            Some(Stat {
                zombie: false,
                cpu_ticks: 150,
                children_ticks: 11,
                start_ticks: 4242
            })
        );
        assert_eq!(Stat::parse("77 (x) Z 1"), None);
    }

    #[test]
    fn memory_takes_the_totals_only() {
        let text = "55d0-7ffc ---p 00000000 00:00 0 [rollup]\nRss:  14 kB\nPss:   9 kB\nPss_Anon:  5 kB\n";
        assert_eq!(
            memory(text),
            Some(Memory {
                rss_bytes: 14 * 1024,
                pss_bytes: 9 * 1024
            })
        );
        assert_eq!(memory("Rss: 14 kB\n"), None);
    }

    #[test]
    fn this_process_is_alive_and_has_memory() {
        let this = Process::find(std::process::id()).unwrap();
        assert!(this.alive());
        assert!(
            !Process {
                start_ticks: this.start_ticks + 1,
                ..this
            }
            .alive()
        );
        let memory = this.memory().unwrap();
        assert!(memory.rss_bytes >= memory.pss_bytes && memory.pss_bytes > 0);
        // The kernel counts resident pages in batches: the two need not agree to the page.
        assert!(this.peak_rss_bytes().unwrap() > memory.rss_bytes / 2);
        assert!(this.first_thread_time().unwrap() > Duration::ZERO);
        assert!(this.open_files().unwrap() > 2 && this.threads().unwrap() > 1);
    }
}
