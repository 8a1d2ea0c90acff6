//! The processes of a node as this machine sees them, out of `/proc`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// One process.
#[derive(Debug)]
struct Member {
    parent: u32,
    /// Its process id in this namespace and in each below, down to its own.
    ids: Vec<u32>,
}

/// The descendants of one process.
#[derive(Debug)]
pub(crate) struct Family(BTreeMap<u32, Member>);

impl Family {
    /// As of now; a process that ends meanwhile may be missing.
    pub(crate) fn of(ancestor: u32) -> Self {
        let all = all();
        let mut known = BTreeSet::from([ancestor]);
        // Generation by generation: a child may have a smaller number than its parent.
        loop {
            let born = all.iter().filter(|(_, member)| known.contains(&member.parent));
            let fresh: Vec<u32> = born
                .map(|(pid, _)| *pid)
                .filter(|pid| !known.contains(pid))
                .collect();
            if fresh.is_empty() {
                break;
            }
            known.extend(fresh);
        }
        known.remove(&ancestor);
        Self(all.into_iter().filter(|(pid, _)| known.contains(pid)).collect())
    }

    /// The process that is PID 1 of a namespace, `depth` namespaces below this one.
    pub(crate) fn first(&self, depth: usize) -> Option<u32> {
        let here = 1;
        let wanted = |member: &Member| member.ids.len() == here + depth && member.ids.last() == Some(&1);
        self.0
            .iter()
            .find(|(_, member)| wanted(member))
            .map(|(pid, _)| *pid)
    }

    /// The process that has this id in a namespace `depth` below this one.
    pub(crate) fn named(&self, id: u32, depth: usize) -> Option<u32> {
        let wanted = |member: &Member| member.ids.get(depth) == Some(&id);
        self.0
            .iter()
            .find(|(_, member)| wanted(member))
            .map(|(pid, _)| *pid)
    }

    /// All of them.
    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.0.keys().copied()
    }
}

fn all() -> BTreeMap<u32, Member> {
    let entries = fs_err::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| Some((pid, read(pid)?))).collect()
}

/// `None` when it has ended meanwhile.
fn read(pid: u32) -> Option<Member> {
    let path = PathBuf::from("/proc").join(pid.to_string()).join("status");
    parse(&fs_err::read_to_string(path).ok()?)
}

fn parse(status: &str) -> Option<Member> {
    let field = |name: &str| {
        let mut lines = status.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };
    // Inside a container `/proc` counts from its own namespace on, so the first id is always the one seen here.
    let ids = field("NSpid")?.split_whitespace().map(|id| id.parse().ok());
    Some(Member {
        parent: field("PPid")?.trim().parse().ok()?,
        ids: ids.collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_ids_from_here_down_to_its_own_namespace() {
        let status = "Name:\tsystemd\nPid:\t25622\nPPid:\t25619\nNSpid:\t25622\t6\t1\nThreads:\t1\n";
        let member = parse(status).unwrap();
        assert_eq!((member.parent, member.ids), (25619, vec![25622, 6, 1]));
        assert!(parse("Name:\tx\nPPid:\t1\n").is_none());
    }

    #[test]
    fn only_descendants_belong_to_the_family() {
        let child = std::process::Command::new("sleep").arg("60").spawn();
        let mut child = child.unwrap();
        let family = Family::of(std::process::id());
        assert!(family.pids().any(|pid| pid == child.id()) && !family.pids().any(|pid| pid == 1));
        assert_eq!(family.named(child.id(), 0), Some(child.id()));
        assert!(Family::of(child.id()).pids().next().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
