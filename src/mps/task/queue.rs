//! Clients that wait until a server for their user is there. Pure.
//!
//! Without `-multiuser-server` a daemon has one server, for one user; another user's client hangs in its first CUDA call
//! until the last client of the first user has ended. The client itself says nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::mps::Warning;
use crate::mps::events::Event;
use crate::mps::protocol::Report;

/// A server takes seconds to start; who waits for longer waits for another user.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much the age of a process and that of an event may differ: they are of different clocks.
const CLOCKS_DIFFER: Duration = Duration::from_secs(2);

/// Most clients that are remembered: more would tell nobody more.
const MOST: usize = 64;

/// Who waits on one GPU.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Whose server was started last.
    server_uid: Option<u32>,
    /// Process id -> user, and since when.
    waiting: BTreeMap<u32, (u32, Duration)>,
}

impl Queue {
    /// An event of the daemon's.
    pub(super) fn on_event(&mut self, event: &Event, now: Duration) {
        match event {
            Event::DaemonStarted { .. } => *self = Self::default(),
            Event::ServerStarting { uid, .. } => self.server_uid = Some(*uid),
            // Whoever waited for it is served.
            Event::ServerReady { .. } => self.waiting.retain(|_, (uid, _)| Some(*uid) != self.server_uid),
            Event::ClientQueued { pid, uid } if self.waiting.len() < MOST => {
                self.waiting.entry(*pid).or_insert((*uid, now));
            }
            _ => {}
        }
    }

    /// Whether this is the start of a server for another user than the one before.
    pub(super) fn is_for_another_user(&self, event: &Event) -> bool {
        match (event, self.server_uid) {
            (Event::ServerStarting { uid, .. }, Some(known)) => *uid != known,
            _ => false,
        }
    }

    /// A probe: who is a client waits no more, and who is gone neither. `age` is that of the process with this id, if
    /// there is one: one that is younger than the wait is another.
    pub(super) fn on_report(
        &mut self,
        report: &Report,
        age: impl Fn(u32) -> Option<Duration>,
        now: Duration,
    ) {
        self.waiting.retain(|pid, (_, since)| {
            let waits = now.saturating_sub(*since);
            *pid != 0
                && age(*pid).is_some_and(|age| age + CLOCKS_DIFFER >= waits)
                && !report.clients().any(|client| client.pid == *pid)
        });
    }

    /// Who has waited for too long.
    pub(super) fn warning(&self, now: Duration) -> Option<Warning> {
        let (pid, (uid, _)) = self
            .waiting
            .iter()
            .find(|(_, (_, since))| now.saturating_sub(*since) >= PATIENCE)?;
        let server = self
            .server_uid
            .map_or_else(|| "another user".to_owned(), |uid| format!("user {uid}"));
        Some(Warning {
            what: format!("process {pid} of user {uid} waits for the GPU, whose server is that of {server}"),
            mend: "set mps.multi_user = true (driver 580 or newer), or run all pods of a GPU as one user"
                .into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mps::protocol::made_up;

    const START: Duration = Duration::from_secs(100);

    fn queue() -> Queue {
        let mut queue = Queue::default();
        queue.on_event(&Event::ServerStarting { pid: 20, uid: 1000 }, START);
        queue.on_event(&Event::ClientQueued { pid: 31, uid: 2000 }, START);
        queue
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is what is asked for of a process")]
    fn old(_: u32) -> Option<Duration> {
        Some(Duration::from_hours(1))
    }

    fn report(clients: &[u32]) -> Report {
        made_up::report(&[made_up::active(20, clients)])
    }

    #[test]
    fn m24_a_second_user_that_waits_for_long_is_named_with_the_first() {
        let mut queue = queue();
        queue.on_report(&report(&[30]), old, START);
        assert_eq!(queue.warning(START + Duration::from_secs(29)), None);
        let warning = queue.warning(START + PATIENCE).unwrap();
        assert!(warning.what.contains("process 31 of user 2000"), "{warning:?}");
        assert!(warning.what.contains("that of user 1000"), "{warning:?}");
        assert!(warning.mend.contains("mps.multi_user"), "{warning:?}");
    }

    #[test]
    fn m24_a_process_that_took_the_number_of_one_that_waited_is_not_accused() {
        let mut queue = queue();
        let now = START + Duration::from_mins(10);
        queue.on_report(&report(&[30]), |_| Some(Duration::from_mins(5)), now);
        assert_eq!(queue.warning(now), None);
    }

    #[test]
    fn m24_who_waited_for_the_server_that_is_ready_waits_no_more_and_the_others_do() {
        let mut queue = queue();
        queue.on_event(&Event::ClientQueued { pid: 32, uid: 3000 }, START);
        queue.on_event(&Event::ServerStarting { pid: 21, uid: 2000 }, START);
        queue.on_event(&Event::ServerReady { pid: 21 }, START);
        let warning = queue.warning(START + PATIENCE).unwrap();
        assert!(warning.what.contains("process 32 of user 3000"), "{warning:?}");
        queue.on_event(&Event::ServerStarting { pid: 22, uid: 3000 }, START);
        queue.on_event(&Event::ServerReady { pid: 22 }, START);
        assert_eq!(queue.warning(START + PATIENCE), None);
    }

    #[test]
    fn m24_who_is_served_or_gone_waits_no_more() {
        let mut served = queue();
        served.on_report(&report(&[30, 31]), old, START);
        assert_eq!(served.warning(START + 2 * PATIENCE), None);
        let mut gone = queue();
        gone.on_report(
            &report(&[30]),
            |pid| (pid != 31).then_some(Duration::from_hours(1)),
            START,
        );
        assert_eq!(gone.warning(START + 2 * PATIENCE), None);
        let mut restarted = queue();
        restarted.on_event(
            &Event::DaemonStarted {
                pid: 10,
                multi_user: true,
            },
            START,
        );
        assert_eq!(restarted.warning(START + 2 * PATIENCE), None);
    }
}
