//! The agent's end of the status socket.
//!
//! A client sends one line, a command, and gets one JSON document back. One that sends nothing, or does not
//! read, is cut off; it holds up nobody.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Snapshots;
use crate::reload::{Answer, Request};

/// Time for a whole exchange.
const EXCHANGE: Duration = Duration::from_secs(2);
/// Clients at one time; one more waits. So many may be silent before anybody notices.
const CLIENTS: usize = 64;
/// No command is longer.
const COMMAND_BYTES: u64 = 256;
/// Owner and group may ask; who is in root's group may read what root knows anyway.
const SOCKET_MODE: u32 = 0o660;

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The directory cannot be made.
    #[error(
        "status.socket: cannot make its directory (run as root, or set status.socket to a directory you may write to)"
    )]
    Directory(#[source] io::Error),
    /// The lock cannot be taken for a reason other than another instance.
    #[error(
        "status.socket: cannot lock {path} (run as root, or set status.socket to a directory you may write to)"
    )]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another agent runs.
    #[error(
        "another gpushare{} already serves {socket}; stop it first, or give this one a status.socket and a node.state_dir of its own",
        pid.as_ref().map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    AlreadyRunning {
        /// Its socket.
        socket: PathBuf,
        /// Its process id, if it has written one.
        pid: Option<String>,
    },
    /// Something else is there, and it may be precious.
    #[error(
        "status.socket: {path} exists and is not a socket; move it away, or set status.socket to another path"
    )]
    NotASocket {
        /// The configured path.
        path: PathBuf,
    },
    /// The socket itself.
    #[error("status.socket: cannot listen on {path}")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The bound socket, and the lock that makes this agent the only one on it. Removes the socket when dropped.
#[derive(Debug)]
pub struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
    _lock: fs_err::File,
}

impl StatusSocket {
    /// Takes the lock `<path>.lock` and binds the socket, replacing one that a dead agent has left.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        if let Some(directory) = path.parent() {
            fs_err::create_dir_all(directory).map_err(SocketError::Directory)?;
        }
        let lock = lock(path)?;
        let bind_error = |source| SocketError::Bind {
            path: path.to_owned(),
            source,
        };
        match fs_err::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => fs_err::remove_file(path).map_err(bind_error)?,
            Ok(_) => {
                return Err(SocketError::NotASocket {
                    path: path.to_owned(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(bind_error(error)),
        }
        let listener = UnixListener::bind(path).map_err(bind_error)?;
        fs_err::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(bind_error)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Serves clients until shutdown. `reloads` is where those go that want another configuration.
    pub async fn run(
        self,
        snapshots: Snapshots,
        reloads: mpsc::Sender<Request>,
        shutdown: CancellationToken,
    ) {
        let room = Arc::new(Semaphore::new(CLIENTS));
        let clients = TaskTracker::new();
        loop {
            // Cancel-safe: accept yields a connection or nothing.
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                // Out of file descriptors: a busy loop would only make it worse.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            // Clients that say nothing may hold all places, but not the shutdown. Cancel-safe.
            let place = tokio::select! {
                () = shutdown.cancelled() => return,
                place = Arc::clone(&room).acquire_owned() => place,
            };
            let (snapshots, reloads) = (snapshots.clone(), reloads.clone());
            let shutdown = shutdown.clone();
            clients.spawn(async move {
                // A client that went away or was too slow is its own affair, and at the end what they see of the store
                // must go with the store.
                // An answer that is there is still written.
                tokio::select! {
                    biased;
                    _ = tokio::time::timeout(EXCHANGE, answer(stream, &snapshots, &reloads)) => {}
                    () = shutdown.cancelled() => {}
                }
                drop(place);
            });
        }
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        let _ = fs_err::remove_file(&self.path);
    }
}

fn lock(socket: &Path) -> Result<fs_err::File, SocketError> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let failed = |source| SocketError::Lock {
        path: path.clone(),
        source,
    };
    let file = fs_err::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let pid = fs_err::read_to_string(&path)
                .ok()
                .map(|text| text.trim().to_owned());
            let pid = pid.filter(|pid| !pid.is_empty());
            return Err(SocketError::AlreadyRunning {
                socket: socket.to_owned(),
                pid,
            });
        }
        Err(error) => return Err(failed(error.into())),
    }
    // Only so that the message above can name the holder.
    let _ = file.set_len(0);
    let _ = io::Write::write_all(&mut &file, format!("{}\n", std::process::id()).as_bytes());
    Ok(file)
}

async fn answer(
    stream: UnixStream,
    snapshots: &Snapshots,
    reloads: &mpsc::Sender<Request>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut command = String::new();
    (&mut stream).take(COMMAND_BYTES).read_line(&mut command).await?;
    let answer = match command.trim() {
        "status" => serde_json::to_vec(&snapshots.take())?,
        "reload" => serde_json::to_vec(&reloaded(reloads).await?)?,
        other => serde_json::to_vec(&serde_json::json!({ "error": format!("unknown command {other:?}") }))?,
    };
    stream.write_all(&answer).await?;
    stream.shutdown().await
}

async fn reloaded(reloads: &mpsc::Sender<Request>) -> io::Result<Answer> {
    let (request, answer) = oneshot::channel();
    // An agent that stops takes no requests any more.
    let stops = |()| io::ErrorKind::ConnectionAborted;
    reloads.send(request).await.map_err(|_| stops(()))?;
    Ok(answer.await.map_err(|_| stops(()))?)
}
