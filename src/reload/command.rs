//! `gpushare reload`.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Answer, ConfigurationStatus};
use crate::cli::Global;
use crate::commands::{Failure, load_config, print};
use crate::status::client::{self, ClientError};

/// How long the agent may take: its tasks end within ten seconds, and start within a few.
const LIMIT: Duration = Duration::from_secs(20);

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// The agent does not run with the new configuration.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It is wrong, or cannot be used while the agent runs.
    #[error("the agent refuses the configuration and goes on with the one before\n{why}")]
    Refused {
        /// In the agent's words.
        why: String,
    },
    /// Its tasks could not be started with it.
    #[error("the agent cannot work with this configuration and goes on with the one before: {why}")]
    Useless {
        /// In the agent's words.
        why: String,
    },
    /// It did not say so in time.
    #[error(
        "the agent has not taken the configuration up within {} s; look at: journalctl -u gpushare, gpushare status",
        LIMIT.as_secs()
    )]
    Late(#[source] Option<ClientError>),
    /// Another version of gpushare.
    #[error("the agent does not know what to reload is: it is another version of gpushare, restart it")]
    NotUnderstood,
}

/// Returns when the agent works with the configuration as it is now.
pub fn command(global: &Global) -> Result<(), Failure> {
    // A configuration that is wrong in any case is told in full, and without the agent.
    let config = load_config(global)?;
    let asked = &config.status.socket;
    let answer = client::request(asked, "reload")?;
    let answer = serde_json::from_str(&answer).map_err(|_| ReloadError::NotUnderstood)?;
    match answer {
        Answer::Unchanged => drop(print("nothing has changed\n")?),
        Answer::Refused { why } => return Err(ReloadError::Refused { why }.into()),
        Answer::Accepted {
            loads,
            changed,
            with_mps,
            socket,
        } => {
            wait(&[&socket, asked], loads)?;
            let _ = print(&told(&changed, &with_mps))?;
        }
    }
    Ok(())
}

fn told(changed: &[String], with_mps: &[String]) -> String {
    let mut text = format!("reloaded: {}\n", changed.join(", "));
    if !with_mps.is_empty() {
        text += &format!(
            "{}: each GPU's MPS keeps the old value until: gpushare mps restart GPU\n",
            with_mps.join(", ")
        );
    }
    text
}

/// Waits until the agent has tried so many configurations. It is where it wants to be, or still where it was.
fn wait(sockets: &[&Path], loads: u64) -> Result<(), ReloadError> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let seen: Vec<_> = sockets.iter().map(|socket| seen(socket)).collect();
        if let Some(status) = seen.iter().flatten().find(|status| status.loads >= loads) {
            let why = status.refused.clone();
            return why.map_or(Ok(()), |why| Err(ReloadError::Useless { why }));
        }
        if Instant::now() >= deadline {
            return Err(ReloadError::Late(seen.into_iter().find_map(Result::err)));
        }
        std::thread::sleep(PAUSE);
    }
}

fn seen(socket: &Path) -> Result<ConfigurationStatus, ClientError> {
    let answer = client::request(socket, "status")?;
    Ok(client::parse(socket, &answer)?.configuration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_mps_is_told_with_the_command() {
        let keys = |keys: &[&str]| -> Vec<String> { keys.iter().map(|key| (*key).to_owned()).collect() };
        assert_eq!(
            told(&keys(&["sample.interval"]), &[]),
            "reloaded: sample.interval\n"
        );
        let text = told(
            &keys(&["mps.grace", "mps.multi_user"]),
            &keys(&["mps.multi_user"]),
        );
        assert!(
            text.starts_with("reloaded: mps.grace, mps.multi_user\nmps.multi_user: "),
            "{text}"
        );
        assert!(text.ends_with("gpushare mps restart GPU\n"), "{text}");
    }
}
