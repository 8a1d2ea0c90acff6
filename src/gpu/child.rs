//! The NVML child as a process: started, spoken to, killed. When to do which is [`super::plan`]'s business.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::{ExitStatus, Stdio};

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio_util::bytes::BytesMut;
use tokio_util::codec::{Decoder, LengthDelimitedCodec};

use super::wire::{self, FromChild, Setup};

/// The running binary, even after a package upgrade replaced the file: both ends must speak the same frames.
const SELF: &str = "/proc/self/exe";

/// Why a child could not be started or heard.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// No socket pair.
    #[error("cannot make the socket pair for the NVML process")]
    Socket(#[source] io::Error),
    /// No process.
    #[error("cannot start the NVML process ({SELF} nvml)")]
    Spawn(#[source] io::Error),
    /// The setup did not get through.
    #[error("cannot tell the NVML process what to do")]
    Setup(#[source] io::Error),
}

/// What a child did.
#[derive(Debug)]
pub enum ChildEvent {
    /// It sent a message.
    Said(FromChild),
    /// Its stream ended, with the error if it was cut or made no sense. It should be gone soon.
    Silenced(Option<io::Error>),
    /// It is gone.
    Gone(io::Result<ExitStatus>),
}

/// A child process and the stream of frames from it.
#[derive(Debug)]
pub struct Child {
    process: tokio::process::Child,
    /// `None` once the stream has ended, at either end.
    stream: Option<UnixStream>,
    codec: LengthDelimitedCodec,
    received: BytesMut,
}

impl Child {
    /// Starts a child. `arguments` come before the `nvml` command: logging options.
    pub fn start(setup: &Setup, arguments: &[String]) -> Result<Self, ChildError> {
        let (ours, theirs) = StdUnixStream::pair().map_err(ChildError::Socket)?;
        wire::write_frame(&ours, setup).map_err(ChildError::Setup)?;
        ours.set_nonblocking(true).map_err(ChildError::Socket)?;
        let process = Command::new(SELF)
            .args(arguments)
            .arg("nvml")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            // A library that prints must not write into the batches on our standard output.
            .stdout(Stdio::null())
            // Not in the terminal's foreground group: Ctrl-C is the agent's to handle.
            .process_group(0)
            // It has nothing to say to systemd, and NVIDIA's library even less.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .kill_on_drop(true)
            .spawn()
            .map_err(ChildError::Spawn)?;
        let stream = UnixStream::from_std(ours).map_err(ChildError::Socket)?;
        let codec = LengthDelimitedCodec::builder()
            .max_frame_length(wire::MAX_FRAME_BYTES)
            .new_codec();
        Ok(Self {
            process,
            stream: Some(stream),
            codec,
            received: BytesMut::new(),
        })
    }

    /// Its process id, while it has not been reaped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Waits for what happens next. After the stream has ended, that is the end of the process. Cancel-safe.
    pub async fn event(&mut self) -> ChildEvent {
        if self.stream.is_none() {
            return ChildEvent::Gone(self.process.wait().await);
        }
        match self.receive().await {
            Ok(Some(message)) => ChildEvent::Said(message),
            Ok(None) => {
                self.stream = None;
                ChildEvent::Silenced(None)
            }
            Err(error) => {
                self.stream = None;
                ChildEvent::Silenced(Some(error))
            }
        }
    }

    async fn receive(&mut self) -> io::Result<Option<FromChild>> {
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        loop {
            if let Some(frame) = self.codec.decode(&mut self.received)? {
                return wire::decode(&frame).map(Some);
            }
            if stream.read_buf(&mut self.received).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Closes the stream: a child that still listens ends by itself.
    pub fn close(&mut self) {
        self.stream = None;
    }

    /// Sends SIGKILL. An error means that it has ended already.
    pub fn kill(&mut self) {
        let _ = self.process.start_kill();
    }

    /// Whether the process still exists; reaps it when not.
    pub fn exists(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }
}
