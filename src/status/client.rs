//! The other end of the status socket: `gpushare status`.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::{Snapshot, VERSION};

/// The agent answers at once or is stuck.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A snapshot of 8 GPUs with 950 processes each needs less than a megabyte.
const MAX_ANSWER_BYTES: u64 = 16 * 1024 * 1024;

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent answers on {path}; is it running? (systemctl status gpushare, or: gpushare run)")]
    Unreachable {
        /// `status.socket`.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The socket is there, but not for us.
    #[error("not allowed to ask the agent on {path}; run as root")]
    NotAllowed {
        /// `status.socket`.
        path: PathBuf,
    },
    /// It listens, but does not answer.
    #[error("the agent on {path} does not answer")]
    Silent {
        /// `status.socket`.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The answer is of another version.
    #[error(
        "the agent on {path} speaks status version {theirs}, this is {VERSION}; it is another version of gpushare, restart it"
    )]
    Version {
        /// `status.socket`.
        path: PathBuf,
        /// The version of the answer.
        theirs: u32,
    },
    /// The answer is of no version.
    #[error("what answers on {path} is not a status of gpushare, or of another version; restart the agent")]
    Malformed {
        /// `status.socket`.
        path: PathBuf,
        /// What could not be understood.
        #[source]
        source: serde_json::Error,
    },
}

/// The agent's answer to a command, as it was sent.
pub fn request(socket: &Path, command: &str) -> Result<String, ClientError> {
    let path = || socket.to_owned();
    let stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => ClientError::NotAllowed { path: path() },
        _ => ClientError::Unreachable { path: path(), source },
    })?;
    exchange(stream, command).map_err(|source| ClientError::Silent { path: path(), source })
}

fn exchange(mut stream: UnixStream, command: &str) -> io::Result<String> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("{command}\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER_BYTES).read_to_string(&mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer)
}

/// What every version of an answer has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Understands an answer of this [`VERSION`].
pub fn parse(socket: &Path, answer: &str) -> Result<Snapshot, ClientError> {
    let malformed = |source| ClientError::Malformed {
        path: socket.to_owned(),
        source,
    };
    let Versioned { version: theirs } = serde_json::from_str(answer).map_err(malformed)?;
    if theirs != VERSION {
        return Err(ClientError::Version {
            path: socket.to_owned(),
            theirs,
        });
    }
    serde_json::from_str(answer).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(answer: &str) -> Result<Snapshot, ClientError> {
        parse(Path::new("/run/status.sock"), answer)
    }

    #[test]
    fn a_later_version_is_refused_by_its_number_whatever_else_it_says() {
        let error = parsed(r#"{"version": 2, "agent": "renamed"}"#).unwrap_err();
        assert!(matches!(error, ClientError::Version { theirs: 2, .. }), "{error}");
    }

    #[test]
    fn what_is_no_status_is_refused() {
        for answer in [
            "",
            "[]",
            r#"{"error": "unknown command"}"#,
            r#"{"version": 1, "agent": 7}"#,
        ] {
            let error = parsed(answer).unwrap_err();
            assert!(
                matches!(error, ClientError::Malformed { .. }),
                "{answer}: {error}"
            );
        }
    }

    #[test]
    fn a_field_that_the_agent_does_not_know_yet_has_its_default() {
        let answer = r#"{"version": 1, "agent": {"pid": 7}, "publish": {"windows": 3}, "new": true}"#;
        let snapshot = parsed(answer).unwrap();
        assert_eq!((snapshot.agent.pid, snapshot.publish.done.windows), (7, 3));
        assert_eq!(snapshot.publish.groups, Vec::<String>::new());
    }
}
