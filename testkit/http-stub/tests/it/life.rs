//! Start, shut doors, end.

use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use http_stub::{Exchange, Handler, Server};

use crate::stage::{PATIENCE, read_until, send, server};

fn refused(server: &Server) -> bool {
    match TcpStream::connect(server.address()) {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            true
        }
    }
}

#[test]
fn a_shut_door_refuses_cuts_and_opens_again() {
    let server = server();
    let mut kept = send(&server, "POST /echo HTTP/1.1\r\nContent-Length: 1\r\n\r\na");
    read_until(&mut kept, "\r\n\r\na");
    server.refuse(&[(Duration::ZERO, Some(Duration::from_millis(300)))]);
    assert!(refused(&server));
    assert!(matches!(kept.read(&mut [0]), Ok(0) | Err(_)));
    let start = Instant::now();
    while refused(&server) {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut stream = send(&server, "POST /echo HTTP/1.1\r\nContent-Length: 1\r\n\r\nb");
    read_until(&mut stream, "\r\n\r\nb");
}

#[test]
fn spans_can_lie_ahead_have_no_end_and_be_replaced() {
    let server = server();
    server.refuse(&[(Duration::from_hours(1), None)]);
    assert!(!refused(&server));
    server.refuse(&[(Duration::ZERO, None)]);
    assert!(refused(&server));
    server.refuse(&[]);
    assert!(!refused(&server));
    server.refuse(&[(Duration::ZERO, Some(Duration::ZERO))]);
    assert!(!refused(&server));
}

#[test]
fn a_port_that_is_taken_is_named() {
    let server = server();
    let handler = Holding(mpsc::channel().0);
    let Err(error) = Server::start(server.address(), Arc::new(handler)) else {
        panic!("two servers share a port");
    };
    assert_eq!(
        error.to_string(),
        format!("listen on {}; is the port taken?", server.address())
    );
}

#[test]
fn dropping_the_server_ends_whatever_it_is_busy_with() {
    let server = server();
    let mut hanging = send(&server, "GET /hang HTTP/1.1\r\n\r\n");
    let mut idle = send(&server, "POST /echo HTTP/1.1\r\nContent-Length: 1\r\n\r\na");
    read_until(&mut idle, "\r\n\r\na");
    let mut endless = send(&server, "GET /endless HTTP/1.1\r\n\r\n");
    read_until(&mut endless, "\r\n\r\n");
    let half_a_head = send(&server, "GET /ha");
    let address = server.address();
    let start = Instant::now();
    drop(server);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(
        TcpStream::connect(address).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    for mut stream in [hanging.try_clone().unwrap(), idle, half_a_head] {
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    }
    assert!(matches!(hanging.read(&mut [0]), Ok(0) | Err(_)));
}

/// Holds every request for ever and says what ended that.
struct Holding(Sender<bool>);

impl Handler for Holding {
    fn handle(&self, exchange: &mut Exchange<'_>) -> io::Result<()> {
        let elapsed = exchange.hold(None)?;
        self.0.send(elapsed).map_err(io::Error::other)
    }
}

#[test]
fn a_held_request_ends_when_its_client_leaves() {
    let (sender, ended) = mpsc::channel();
    let server = Server::start(SocketAddr::from(([127, 0, 0, 1], 0)), Arc::new(Holding(sender))).unwrap();
    let stream = send(&server, "GET / HTTP/1.1\r\n\r\n");
    assert_eq!(
        ended.recv_timeout(Duration::from_millis(50)),
        Err(RecvTimeoutError::Timeout)
    );
    drop(stream);
    assert_eq!(ended.recv_timeout(PATIENCE), Ok(false));
}
