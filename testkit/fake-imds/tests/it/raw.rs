//! A client with nothing between it and the socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Sends a request of these headers and returns the connection.
pub(crate) fn send(url: &str, method: &str, path: &str, headers: &[&str]) -> TcpStream {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let headers = [headers, &["host: x", "connection: close"]].concat().join("\r\n");
    stream
        .write_all(format!("{method} {path} HTTP/1.1\r\n{headers}\r\n\r\n").as_bytes())
        .unwrap();
    stream
}

/// Status, head and body of the answer.
pub(crate) fn ask(url: &str, method: &str, path: &str, headers: &[&str]) -> (u16, String, Vec<u8>) {
    let mut answer = Vec::new();
    send(url, method, path, headers).read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let body = answer.split_off(end + 4);
    let head = String::from_utf8(answer).unwrap();
    (head[9..12].parse().unwrap(), head, body)
}

/// A token for an hour.
pub(crate) fn token(url: &str) -> String {
    let ttl = ["x-aws-ec2-metadata-token-ttl-seconds: 3600"];
    let (status, _, body) = ask(url, "PUT", "/latest/api/token", &ttl);
    assert_eq!(status, 200);
    String::from_utf8(body).unwrap()
}

/// Status and text under a path, asked with this token.
pub(crate) fn get(url: &str, token: &str, path: &str) -> (u16, String) {
    let header = format!("x-aws-ec2-metadata-token: {token}");
    let (status, _, body) = ask(url, "GET", path, &[&header]);
    (status, String::from_utf8(body).unwrap())
}
