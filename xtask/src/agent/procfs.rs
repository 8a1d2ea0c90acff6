//! What the kernel says about a process and its descendants.

use std::path::PathBuf;

use anyhow::Context;

/// A process that cannot be mistaken for a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Clock ticks since boot, field 22 of /proc/PID/stat.
    start_ticks: u64,
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

#[derive(Debug, PartialEq)]
struct Stat {
    zombie: bool,
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
                start_ticks: 4242
            })
        );
        assert_eq!(Stat::parse("77 (x) Z 1"), None);
    }

    #[test]
    fn this_process_is_alive() {
        let this = Process::find(std::process::id()).unwrap();
        assert!(this.alive());
        assert!(
            !Process {
                start_ticks: this.start_ticks + 1,
                ..this
            }
            .alive()
        );
    }
}
