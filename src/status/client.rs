//! The other end of the status socket: `gpushare status`.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
        "the agent on {path} does not speak status version {VERSION}; it is another version of gpushare, restart it"
    )]
    Version {
        /// `status.socket`.
        path: PathBuf,
        /// What could not be understood.
        #[source]
        source: serde_json::Error,
    },
}

/// The agent's answer, as it was sent.
pub fn ask(socket: &Path) -> Result<String, ClientError> {
    let path = || socket.to_owned();
    let stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => ClientError::NotAllowed { path: path() },
        _ => ClientError::Unreachable { path: path(), source },
    })?;
    exchange(stream).map_err(|source| ClientError::Silent { path: path(), source })
}

fn exchange(mut stream: UnixStream) -> io::Result<String> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(b"status\n")?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER_BYTES).read_to_string(&mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer)
}

/// Understands an answer.
pub fn parse(socket: &Path, answer: &str) -> Result<Snapshot, ClientError> {
    serde_json::from_str(answer).map_err(|source| ClientError::Version {
        path: socket.to_owned(),
        source,
    })
}
