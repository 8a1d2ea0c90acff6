//! A server with a handler that does what the path says, and a client with nothing between it and the socket.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use http_stub::{BodyError, Exchange, Handler, Response, Server};

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

struct ByPath;

impl Handler for ByPath {
    fn handle(&self, exchange: &mut Exchange<'_>) -> io::Result<()> {
        match exchange.head().path() {
            "/echo" => echo(exchange),
            "/unread" => exchange.send(&Response::with_body(403, "text/plain", "no")),
            "/reset" => exchange.reset(),
            "/hang" => exchange.hold(None).map(|_| ()),
            "/trickle" => exchange.trickle(&Response::empty(200), Duration::from_millis(1)),
            "/endless" => exchange.send_without_end(&Response::empty(200), Duration::from_millis(1)),
            _ => Ok(()),
        }
    }
}

fn echo(exchange: &mut Exchange<'_>) -> io::Result<()> {
    let body = match exchange.read_body(100) {
        Ok(body) => body.to_vec(),
        Err(BodyError::TooLong { .. }) => return exchange.send(&Response::empty(413)),
        Err(BodyError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
            return exchange.send(&Response::with_body(400, "text/plain", error.to_string()));
        }
        Err(BodyError::Io(error)) => return Err(error),
    };
    let bytes = exchange.wire_bytes().to_string();
    exchange.send(&Response::with_body(200, "text/plain", body).header("wire-bytes", bytes))
}

pub(crate) fn server() -> Server {
    Server::start(SocketAddr::from(([127, 0, 0, 1], 0)), Arc::new(ByPath)).unwrap()
}

/// Connects and sends these bytes.
pub(crate) fn send(server: &Server, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    stream
}

/// Reads until the text is there.
pub(crate) fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let mut byte = [0];
        let count = stream.read(&mut byte).unwrap();
        assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&text));
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

/// Everything up to the end of the connection.
pub(crate) fn read_all(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
