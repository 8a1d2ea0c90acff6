//! A client with nothing between it and the socket.

use std::io::{Read, Write};
use std::net::TcpStream;

use ciborium::Value;
use fake_cloudwatch::FakeCloudWatch;

use crate::client::PATIENCE;

pub(crate) const PATH: &str = "/service/GraniteServiceVersion20100801/operation/PutMetricData";

/// What the SDK sends with every request.
pub(crate) const HEADERS: [&str; 4] = [
    "smithy-protocol: rpc-v2-cbor",
    "content-type: application/cbor",
    "x-amz-date: 20260131T120000Z",
    "authorization: AWS4-HMAC-SHA256 Credential=K/20260131/r/monitoring/aws4_request, SignedHeaders=host, Signature=0",
];

/// One datum of the metric `m`.
pub(crate) fn body() -> Vec<u8> {
    let datum = Value::Map(vec![
        ("MetricName".into(), "m".into()),
        ("Value".into(), 1.5.into()),
    ]);
    let input = Value::Map(vec![
        ("Namespace".into(), "Raw".into()),
        ("MetricData".into(), Value::Array(vec![datum])),
    ]);
    let mut bytes = Vec::new();
    ciborium::into_writer(&input, &mut bytes).unwrap();
    bytes
}

/// The head of a request with these headers.
pub(crate) fn head(method: &str, path: &str, headers: &[&str]) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\n{}\r\n\r\n", headers.join("\r\n")).into_bytes()
}

/// A whole request to the operation, after whose answer the connection ends.
pub(crate) fn request(headers: &[&str], body: &[u8]) -> Vec<u8> {
    let length = format!("content-length: {}", body.len());
    let all = [headers, &[length.as_str(), "connection: close"]].concat();
    let mut bytes = head("POST", PATH, &all);
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn connect(url: &str) -> TcpStream {
    let stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends these bytes and reads until the connection ends.
pub(crate) fn exchange(url: &str, request: &[u8]) -> String {
    let mut stream = connect(url);
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// `GET` of one of the fake's own pages, without the head.
pub(crate) fn page(url: &str, path: &str) -> String {
    let answer = exchange(url, &head("GET", path, &["connection: close"]));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

pub(crate) fn put(fake: &FakeCloudWatch, headers: &[&str], body: &[u8]) -> String {
    exchange(&fake.url(), &request(headers, body))
}
