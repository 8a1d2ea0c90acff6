//! Who computes on a GPU without going through its MPS server. Pure.
//!
//! Such a process takes what slices promise to pods, and a GPU in `EXCLUSIVE_PROCESS` lets no MPS server start beside
//! it. NVML's list and the control daemon's are of different moments, so that neither alone accuses anybody: an
//! intruder has been in two lists of NVML running, was no client in any probe since the first of them, and there was
//! such a probe.

use std::collections::{BTreeMap, BTreeSet};

use super::protocol::{Server, ServerStatus};
use crate::gpu::GpuProcess;

/// The processes that compute on a GPU and are neither an MPS server nor a client of one.
///
/// `None` where the control daemon's answer names not all of them: it does not see who a client is (process id 0),
/// its list cannot be read, or a server was gone when its clients were asked for. `servers` is empty where there is none: then everybody is
/// outside.
#[must_use]
pub fn outsiders(processes: &[GpuProcess], servers: &[Server]) -> Option<BTreeSet<u32>> {
    let ours = members(servers)?;
    let computing = processes.iter().filter(|process| process.computes);
    Some(
        computing
            .map(|process| process.pid)
            .filter(|pid| !ours.contains(pid))
            .collect(),
    )
}

/// The process ids of the servers and of all their clients, if each is known.
fn members(servers: &[Server]) -> Option<BTreeSet<u32>> {
    let mut pids = BTreeSet::new();
    for server in servers {
        if server.status == ServerStatus::Gone {
            return None;
        }
        pids.insert(server.pid);
        pids.extend(server.clients.as_ref()?.iter().map(|client| client.pid));
    }
    (!pids.contains(&0)).then_some(pids)
}

/// What NVML listed, and when.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// Every process on the GPU.
    pub processes: &'a [GpuProcess],
    /// When the list was read, Unix seconds.
    pub at: f64,
}

/// What a probe of the control daemon said, and when. Only of one that succeeded.
#[derive(Clone, Copy, Debug)]
pub struct Probed<'a> {
    /// Every server, with its clients.
    pub servers: &'a [Server],
    /// When it was asked, Unix seconds.
    pub at: f64,
}

/// Those who were outside in the newest list of NVML, of one GPU.
#[derive(Clone, Debug, Default)]
pub struct Intruders {
    /// When the newest list was read.
    listed_at: Option<f64>,
    /// Who was outside in it, and when they were first.
    since: BTreeMap<u32, f64>,
}

impl Intruders {
    /// Takes in the newest list and the newest probe, each of which may be the one before still. Returns the process
    /// ids of all intruders in ascending order.
    pub fn observe(&mut self, listed: Listed<'_>, probed: Probed<'_>) -> Vec<u32> {
        let Some(outside) = outsiders(listed.processes, probed.servers) else {
            // Nobody is accused on half of the evidence, and who was suspected stays so.
            return Vec::new();
        };
        if self.listed_at == Some(listed.at) {
            // A list that is not new adds nobody: who was a client when it came may have ended since.
            self.since.retain(|pid, _| outside.contains(pid));
        } else {
            let first = |pid: &u32| self.since.get(pid).copied().unwrap_or(listed.at);
            self.since = outside.iter().map(|pid| (*pid, first(pid))).collect();
            self.listed_at = Some(listed.at);
        }
        let proven = self
            .since
            .iter()
            .filter(|(_, since)| **since < listed.at && **since < probed.at);
        proven.map(|(pid, _)| *pid).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mps::protocol::Client;

    const NOBODY: [u32; 0] = [];

    fn computing(pids: &[u32]) -> Vec<GpuProcess> {
        let process = |pid: &u32| GpuProcess {
            pid: *pid,
            memory_bytes: None,
            computes: true,
        };
        pids.iter().map(process).collect()
    }

    fn server(pid: u32, clients: &[u32]) -> Server {
        let client = |pid: &u32| Client {
            pid: *pid,
            command: None,
        };
        Server {
            pid,
            status: ServerStatus::Active,
            clients: Some(clients.iter().map(client).collect()),
        }
    }

    /// One observation: NVML's list read at an instant, then the control daemon's answer at another.
    fn observe(
        intruders: &mut Intruders,
        (listed_at, pids): (u32, &[u32]),
        (probed_at, servers): (u32, &[Server]),
    ) -> Vec<u32> {
        let processes = computing(pids);
        let listed = Listed {
            processes: &processes,
            at: listed_at.into(),
        };
        let probed = Probed {
            servers,
            at: probed_at.into(),
        };
        intruders.observe(listed, probed)
    }

    #[test]
    fn m18_a_process_beside_mps_is_an_intruder_in_the_second_list() {
        let mut intruders = Intruders::default();
        let servers = [server(10, &[11])];
        assert_eq!(
            observe(&mut intruders, (100, &[10, 11, 99]), (101, &servers)),
            NOBODY
        );
        assert_eq!(
            observe(&mut intruders, (100, &[10, 11, 99]), (111, &servers)),
            NOBODY,
            "the same list again"
        );
        assert_eq!(
            observe(&mut intruders, (115, &[10, 11, 99]), (111, &servers)),
            [99]
        );
        assert_eq!(
            observe(&mut intruders, (115, &[10, 11, 99]), (121, &servers)),
            [99],
            "still there"
        );
        assert_eq!(observe(&mut intruders, (130, &[10, 11]), (121, &servers)), NOBODY);
    }

    #[test]
    fn m18_without_a_server_whoever_computes_is_in_its_way() {
        let mut intruders = Intruders::default();
        observe(&mut intruders, (100, &[98, 99]), (101, &[]));
        assert_eq!(observe(&mut intruders, (115, &[98, 99]), (111, &[])), [98, 99]);
    }

    #[test]
    fn m18_who_has_just_become_a_client_is_none() {
        let mut intruders = Intruders::default();
        let (before, after) = ([server(10, &[])], [server(10, &[11])]);
        // It was listed by NVML before the control daemon was asked again.
        assert_eq!(observe(&mut intruders, (100, &[10, 11]), (99, &before)), NOBODY);
        assert_eq!(observe(&mut intruders, (100, &[10, 11]), (109, &after)), NOBODY);
        assert_eq!(observe(&mut intruders, (115, &[10, 11]), (109, &after)), NOBODY);
    }

    #[test]
    fn m18_nobody_is_accused_before_the_control_daemon_was_asked_again() {
        let mut intruders = Intruders::default();
        let servers = [server(10, &[])];
        observe(&mut intruders, (100, &[10, 11]), (99, &servers));
        assert_eq!(observe(&mut intruders, (115, &[10, 11]), (99, &servers)), NOBODY);
        assert_eq!(observe(&mut intruders, (115, &[10, 11]), (116, &servers)), [11]);
    }

    #[test]
    fn m18_a_client_that_has_ended_is_none_although_nvml_still_lists_it() {
        let mut intruders = Intruders::default();
        let (with, without) = ([server(10, &[11])], [server(10, &[])]);
        observe(&mut intruders, (100, &[10, 11]), (99, &with));
        observe(&mut intruders, (115, &[10, 11]), (109, &with));
        assert_eq!(observe(&mut intruders, (115, &[10, 11]), (119, &without)), NOBODY);
        assert_eq!(observe(&mut intruders, (130, &[10]), (119, &without)), NOBODY);
    }

    #[test]
    fn m18_a_process_that_only_draws_is_none() {
        let mut list = computing(&[10, 99]);
        list[1].computes = false;
        assert_eq!(outsiders(&list, &[server(10, &[])]), Some(BTreeSet::new()));
    }

    #[test]
    fn m18_an_answer_that_does_not_name_every_client_accuses_nobody() {
        let list = computing(&[10, 99]);
        assert_eq!(outsiders(&list, &[server(10, &[0])]), None);
        let mut gone = server(10, &[]);
        gone.status = ServerStatus::Gone;
        assert_eq!(outsiders(&list, std::slice::from_ref(&gone)), None);
        let mut intruders = Intruders::default();
        let servers = [server(10, &[])];
        observe(&mut intruders, (100, &[10, 99]), (101, &servers));
        assert_eq!(observe(&mut intruders, (115, &[10, 99]), (111, &[gone])), NOBODY);
        assert_eq!(observe(&mut intruders, (115, &[10, 99]), (121, &servers)), [99]);
    }
}
