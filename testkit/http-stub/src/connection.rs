//! Buffered reading of one socket.

use std::io::{self, Read};
use std::net::TcpStream;

use crate::head::Head;

/// No client of AWS comes near it; what is longer is a mistake or an attack.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// More headers than any proxy adds.
const MAX_HEADERS: usize = 100;

/// A socket and what has been read from it but not yet used.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
    /// Bytes that were used up so far, of all requests.
    used: usize,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            used: 0,
        }
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// The next request's head; `None` when the peer has closed between two requests. `InvalidData` when it is none.
    pub(crate) fn next_head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(head) = parse(&self.buffer)? {
                self.take(head.bytes);
                return Ok(Some(head));
            }
            if self.buffer.len() > MAX_HEAD_BYTES {
                return Err(invalid("the head is longer than 64 KiB"));
            }
            if self.fill()? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    /// Exactly so many bytes.
    pub(crate) fn read_exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.fill_some()?;
        }
        Ok(self.take(count))
    }

    /// A line without its end. Size lines of chunks and trailers are short, so a long one is refused.
    pub(crate) fn read_line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let mut line = self.take(end + 2);
                line.truncate(end);
                return Ok(line);
            }
            if self.buffer.len() > MAX_HEAD_BYTES {
                return Err(invalid("a line of a chunked body is longer than 64 KiB"));
            }
            self.fill_some()?;
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        self.used += count;
        let rest = self.buffer.split_off(count);
        std::mem::replace(&mut self.buffer, rest)
    }

    fn fill_some(&mut self) -> io::Result<()> {
        match self.fill()? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        let count = self.stream.read(&mut chunk)?;
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(count)
    }
}

fn parse(buffer: &[u8]) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(buffer) {
        Ok(httparse::Status::Complete(bytes)) => Ok(Some(Head::of(&request, bytes))),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

pub(crate) fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
