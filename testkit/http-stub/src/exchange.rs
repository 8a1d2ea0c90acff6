//! One request and every way to answer it, decent or not.
//!
//! A handler reads the body or leaves it, then answers once, or not at all. Whatever it left undone ends the connection.
//! All waiting ends at once when the peer leaves or the server ends. A peer that shuts down only its sending side
//! counts as one that left: no HTTP client of AWS does that while it waits for an answer.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::connection::{Connection, invalid};
use crate::head::Head;
use crate::response::Response;

/// How long an answer that was sent before the whole request was read is given to arrive.
const LINGER: Duration = Duration::from_secs(1);

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is longer than the handler wanted to read.
    #[error("the body is longer than {limit} bytes")]
    TooLong {
        /// The handler's limit, bytes.
        limit: usize,
    },
    /// The peer left, the server ended, or the body is not framed as HTTP wants it.
    #[error("read the body")]
    Io(#[from] io::Error),
}

/// A request whose head was read, and the connection to answer on.
pub struct Exchange<'c> {
    connection: &'c mut Connection,
    head: Head,
    arrived: SystemTime,
    /// Bytes that the connection had used up before this request.
    before: usize,
    body: Option<Vec<u8>>,
    answered: bool,
    broken: bool,
}

impl<'c> Exchange<'c> {
    pub(crate) fn new(connection: &'c mut Connection, head: Head) -> Self {
        Self {
            before: connection.used() - head.bytes,
            connection,
            arrived: SystemTime::now(),
            body: None,
            answered: false,
            broken: false,
            head,
        }
    }

    /// The request's head.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// When the head was complete, by the machine's clock.
    #[must_use]
    pub fn arrived(&self) -> SystemTime {
        self.arrived
    }

    /// Bytes of this request that were read from the wire so far, with head and chunk framing.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        self.connection.used() - self.before
    }

    /// Reads the body, by length or by chunks. A client that waits for it is told to go on.
    pub fn read_body(&mut self, limit: usize) -> Result<&[u8], BodyError> {
        if self.body.is_none() {
            if self.head.has_word("expect", "100-continue") {
                self.connection
                    .stream
                    .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            self.body = Some(self.receive(limit)?);
        }
        Ok(self.body.as_deref().unwrap_or_default())
    }

    fn receive(&mut self, limit: usize) -> Result<Vec<u8>, BodyError> {
        let chunked = self.head.has_word("transfer-encoding", "chunked");
        let length = self.head.header("content-length");
        match (chunked, length) {
            (true, Some(_)) => Err(invalid("both Content-Length and chunks").into()),
            (true, None) => self.receive_chunks(limit),
            (false, None) => Ok(Vec::new()),
            (false, Some(length)) => {
                let length: usize = length
                    .trim()
                    .parse()
                    .map_err(|_| invalid("Content-Length is not a number"))?;
                if length > limit {
                    return Err(BodyError::TooLong { limit });
                }
                Ok(self.connection.read_exactly(length)?)
            }
        }
    }

    fn receive_chunks(&mut self, limit: usize) -> Result<Vec<u8>, BodyError> {
        let mut body = Vec::new();
        loop {
            let mut line = self.connection.read_line()?;
            line.extend_from_slice(b"\r\n");
            let Ok(httparse::Status::Complete((_, size))) = httparse::parse_chunk_size(&line) else {
                return Err(invalid("a chunk's size is not a number").into());
            };
            if size == 0 {
                break;
            }
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if size > limit - body.len() {
                return Err(BodyError::TooLong { limit });
            }
            body.extend(self.connection.read_exactly(size)?);
            if !self.connection.read_line()?.is_empty() {
                return Err(invalid("a chunk is longer than its size").into());
            }
        }
        while !self.connection.read_line()?.is_empty() {}
        Ok(body)
    }

    /// Sends the answer.
    pub fn send(&mut self, response: &Response) -> io::Result<()> {
        self.answered = true;
        let bytes = response.whole(self.may_go_on());
        self.connection.stream.write_all(&bytes)
    }

    /// Sends the answer byte by byte with a pause before each.
    pub fn trickle(&mut self, response: &Response, pause: Duration) -> io::Result<()> {
        self.answered = true;
        for byte in response.whole(self.may_go_on()) {
            if !self.hold(Some(pause))? {
                self.broken = true;
                return Ok(());
            }
            self.connection.stream.write_all(&[byte])?;
        }
        Ok(())
    }

    /// Sends the answer's head and then a chunked body that never ends, 1 KiB every `pause`, until the peer has enough.
    pub fn send_without_end(&mut self, response: &Response, pause: Duration) -> io::Result<()> {
        self.broken = true;
        let head = response.head("transfer-encoding: chunked", false);
        self.connection.stream.write_all(&head)?;
        let mut chunk = b"400\r\n".to_vec();
        chunk.resize(chunk.len() + 0x400, b' ');
        chunk.extend_from_slice(b"\r\n");
        while self.hold(Some(pause))? {
            self.connection.stream.write_all(&chunk)?;
        }
        Ok(())
    }

    /// Ends the connection with a RST: whatever of the answer was not yet read is lost to the peer.
    pub fn reset(&mut self) -> io::Result<()> {
        self.broken = true;
        // The server closes the socket when the handler returns; a linger time of zero makes that a reset.
        rustix::net::sockopt::set_socket_linger(&self.connection.stream, Some(Duration::ZERO))?;
        Ok(())
    }

    /// Waits; `None` is for ever. False as soon as the peer has left or the server ends.
    pub fn hold(&self, duration: Option<Duration>) -> io::Result<bool> {
        let end = duration.map(|duration| Instant::now() + duration);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            let mut sockets = [PollFd::new(&self.connection.stream, PollFlags::RDHUP)];
            match poll(&mut sockets, timeout.as_ref()) {
                Ok(0) if left.is_some() => return Ok(true),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether the next request can be read from this connection.
    pub(crate) fn may_go_on(&self) -> bool {
        let left_unread = self.body.is_none() && self.has_body();
        self.answered && !self.broken && !left_unread && self.head.keep_alive
    }

    /// Closing a socket with unread bytes resets it and may destroy the answer on its way: read them first, for a while.
    pub(crate) fn finish(self) {
        let unread = self.body.is_none() && self.has_body();
        if self.broken || !self.answered || !unread {
            return;
        }
        let stream = &mut self.connection.stream;
        let ready = stream.shutdown(Shutdown::Write).is_ok() && stream.set_read_timeout(Some(LINGER)).is_ok();
        let end = Instant::now() + LINGER;
        let mut sink = [0; 16 * 1024];
        while ready && Instant::now() < end && matches!(stream.read(&mut sink), Ok(1..)) {}
    }

    fn has_body(&self) -> bool {
        let length = self.head.header("content-length");
        self.head.header("transfer-encoding").is_some() || length.is_some_and(|length| length.trim() != "0")
    }
}
