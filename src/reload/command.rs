//! `gpushare reload`.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Answer, Change, Refusal};
use crate::cli::Global;
use crate::commands::{Failure, load_config, print};
use crate::status::Snapshot;
use crate::status::client::{self, ClientError};

/// How long the agent may take: its tasks end within 10.5 s, the spool within three more, and they start within a few.
const LIMIT: Duration = Duration::from_secs(20);

/// How long nobody may listen between two agents of a process: the spool may take three seconds to close, and as long to
/// open.
const BETWEEN: Duration = Duration::from_secs(10);

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// The agent does not run with the new configuration.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It is wrong, or cannot be used now.
    #[error("the agent refuses the configuration and goes on with the one before\n{}\nmend: {}", .0.why, .0.mend)]
    Refused(Refusal),
    /// Its tasks could not be started with it.
    #[error("the agent cannot work with this configuration and goes on with the one before: {why}")]
    Useless {
        /// In the agent's words.
        why: String,
    },
    /// The process is another one.
    #[error("the agent ended during the reload and was started anew; look at: journalctl -u gpushare")]
    Restarted,
    /// It did not say so in time.
    #[error(
        "the agent has not taken the configuration up within {} s, and may still do so; look at: journalctl -u gpushare, \
         gpushare status",
        LIMIT.as_secs()
    )]
    Late(#[source] Option<ClientError>),
    /// An earlier one does not come to its end, or the agent stops.
    #[error(
        "the agent has been busy with an earlier reload, or with its end, for {} s; look at: journalctl -u gpushare, \
         gpushare status",
        LIMIT.as_secs()
    )]
    Busy,
    /// Another version of gpushare.
    #[error("the agent does not know what to reload is: it is another version of gpushare, restart it")]
    NotUnderstood,
}

/// Returns when the agent works with the configuration as it is now.
pub fn command(global: &Global) -> Result<(), Failure> {
    // A configuration that is wrong in any case is told in full, and without the agent.
    let config = load_config(global)?;
    let asked = &config.status.socket;
    match ask(asked)? {
        Answer::Unchanged => drop(print("nothing has changed\n")?),
        Answer::Busy => return Err(ReloadError::Busy.into()),
        Answer::Refused(refusal) => return Err(ReloadError::Refused(refusal).into()),
        Answer::Accepted {
            loads,
            started_at,
            change,
            socket,
        } => {
            wait(&[&socket, asked], loads, started_at)?;
            let _ = print(&told(&change))?;
        }
    }
    Ok(())
}

/// Asks until the agent has time: another reload may be under way, which may have read an earlier configuration.
fn ask(socket: &Path) -> Result<Answer, Failure> {
    let deadline = Instant::now() + LIMIT;
    let mut between = None;
    loop {
        match client::request(socket, "reload") {
            Ok(answer) => match serde_json::from_str(&answer).map_err(|_| ReloadError::NotUnderstood)? {
                Answer::Busy if Instant::now() < deadline => between = Some(Instant::now() + BETWEEN),
                answer => return Ok(answer),
            },
            Err(ClientError::Unreachable { .. } | ClientError::Silent { .. })
                if between.is_some_and(|until| Instant::now() < until) => {}
            Err(error) => return Err(error.into()),
        }
        std::thread::sleep(PAUSE);
    }
}

fn told(change: &Change) -> String {
    let mut text = format!("reloaded: {}\n", change.keys.join(", "));
    if change.ends_mps {
        text += "MPS ends on every GPU, and its clients with it\n";
        return text;
    }
    for (keys, until) in [
        (&change.with_mps, "gpushare mps restart GPU"),
        (
            &change.with_sighup,
            "systemctl reload 'gpushare-mps@*', which no client notices, or: gpushare mps restart GPU",
        ),
    ] {
        if !keys.is_empty() {
            let keys = keys.join(", ");
            let _ = writeln!(text, "{keys}: each GPU's MPS keeps the old value until: {until}");
        }
    }
    text
}

/// Waits until the agent has tried so many configurations. It is where it wants to be, or still where it was.
fn wait(sockets: &[&Path], loads: u64, started_at: f64) -> Result<(), ReloadError> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let seen: Vec<_> = sockets.iter().map(|socket| seen(socket)).collect();
        if let Some(outcome) = seen
            .iter()
            .flatten()
            .find_map(|seen| outcome(seen, loads, started_at))
        {
            return outcome;
        }
        if Instant::now() >= deadline {
            return Err(ReloadError::Late(seen.into_iter().find_map(Result::err)));
        }
        std::thread::sleep(PAUSE);
    }
}

fn outcome(seen: &Snapshot, loads: u64, started_at: f64) -> Option<Result<(), ReloadError>> {
    let status = &seen.configuration;
    if seen.agent.started_at.total_cmp(&started_at).is_ne() {
        return Some(Err(ReloadError::Restarted));
    }
    if status.used >= loads {
        return Some(Ok(()));
    }
    let why = status.refused.as_ref().map(|refusal| refusal.why.clone());
    (status.loads >= loads).then(|| {
        Err(ReloadError::Useless {
            why: why.unwrap_or_default(),
        })
    })
}

fn seen(socket: &Path) -> Result<Snapshot, ClientError> {
    let answer = client::request(socket, "status")?;
    client::parse(socket, &answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reload::ConfigurationStatus;
    use crate::status::AgentInfo;

    fn change(keys: &[&str], with_mps: &[&str]) -> Change {
        let owned = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
        Change {
            keys: owned(keys),
            with_mps: owned(with_mps),
            with_sighup: Vec::new(),
            ends_mps: false,
        }
    }

    #[test]
    fn what_waits_for_mps_or_ends_it_is_told() {
        assert_eq!(
            told(&change(&["sample.interval"], &[])),
            "reloaded: sample.interval\n"
        );
        let text = told(&change(&["mps.grace", "mps.multi_user"], &["mps.multi_user"]));
        assert!(
            text.starts_with("reloaded: mps.grace, mps.multi_user\nmps.multi_user: "),
            "{text}"
        );
        assert!(text.ends_with("until: gpushare mps restart GPU\n"), "{text}");
        let shown = Change {
            with_sighup: vec!["mps.client_view".into()],
            ..change(&["mps.client_view"], &[])
        };
        assert!(
            told(&shown)
                .contains("mps.client_view: each GPU's MPS keeps the old value until: systemctl reload")
        );
        let off = Change {
            ends_mps: true,
            ..change(&["gpu.enabled"], &[])
        };
        assert!(told(&off).ends_with("and its clients with it\n"));
    }

    #[test]
    fn the_outcome_is_that_of_this_attempt_and_of_this_process() {
        let snapshot = |loads, used| Snapshot {
            agent: AgentInfo {
                started_at: 7.5,
                ..AgentInfo::default()
            },
            configuration: ConfigurationStatus {
                loads,
                used,
                ..ConfigurationStatus::default()
            },
            ..Snapshot::default()
        };
        assert!(outcome(&snapshot(1, 1), 2, 7.5).is_none(), "not yet");
        assert!(matches!(outcome(&snapshot(2, 2), 2, 7.5), Some(Ok(()))));
        assert!(matches!(
            outcome(&snapshot(2, 1), 2, 7.5),
            Some(Err(ReloadError::Useless { .. }))
        ));
        assert!(matches!(
            outcome(&snapshot(1, 1), 2, 7.25),
            Some(Err(ReloadError::Restarted))
        ));
    }
}
