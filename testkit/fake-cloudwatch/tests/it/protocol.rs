//! What the SDK never does: other framings, missing headers, bodies that mean nothing; and the fake's own pages.

use std::io::{Read, Write};

use fake_cloudwatch::{FakeCloudWatch, Fate, Rule};

use crate::raw::{HEADERS, PATH, body, connect, exchange, head, page, put, request};

fn assert_refused(answer: &str, status: u16, code: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(
        answer.contains(&format!("x-amzn-query-error: {code};Sender\r\n")),
        "{answer}"
    );
}

#[test]
fn success_has_the_services_headers_and_no_body() {
    let fake = FakeCloudWatch::start().unwrap();
    let answer = put(&fake, &HEADERS, &body());
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\nsmithy-protocol: rpc-v2-cbor\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("\r\nx-amzn-requestid: ") && answer.contains("\r\ndate: "),
        "{answer}"
    );
    assert!(
        answer.contains("\r\ncontent-length: 0\r\n") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
    assert_eq!(fake.accepted()[0].values, [1.5]);
}

#[test]
fn chunks_and_a_client_that_waits_are_understood() {
    let fake = FakeCloudWatch::start().unwrap();
    let (body, mut stream) = (body(), connect(&fake.url()));
    let extra = ["transfer-encoding: chunked", "expect: 100-continue"];
    stream
        .write_all(&head("POST", PATH, &[&HEADERS[..], &extra].concat()))
        .unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    for half in [&body[..10], &body[10..]] {
        write!(stream, "{:x}\r\n", half.len()).unwrap();
        stream.write_all(half).unwrap();
        stream.write_all(b"\r\n").unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    let attempt = fake.attempts().remove(0);
    assert_eq!(attempt.headers["transfer-encoding"], "chunked");
    assert_eq!(attempt.body_bytes, Some(body.len()));
}

#[test]
fn requests_without_a_signature_are_refused_unless_told_otherwise() {
    let fake = FakeCloudWatch::start().unwrap();
    assert_refused(
        &put(&fake, &HEADERS[..3], &body()),
        403,
        "MissingAuthenticationToken",
    );
    let basic = [&HEADERS[..3], &["authorization: Basic eA=="]].concat();
    assert_refused(&put(&fake, &basic, &body()), 403, "MissingAuthenticationToken");
    let undated = [HEADERS[0], HEADERS[1], HEADERS[3]];
    assert_refused(&put(&fake, &undated, &body()), 403, "IncompleteSignature");
    assert!(fake.accepted().is_empty());
    fake.require_signature(false);
    assert!(put(&fake, &HEADERS[..2], &body()).starts_with("HTTP/1.1 200 "));
}

#[test]
fn other_protocols_and_paths_are_refused() {
    let fake = FakeCloudWatch::start().unwrap();
    assert_refused(
        &put(&fake, &HEADERS[1..], &body()),
        404,
        "UnknownOperationException",
    );
    let no_type = [HEADERS[0], HEADERS[2], HEADERS[3]];
    assert_refused(
        &put(&fake, &no_type, &body()),
        415,
        "UnsupportedMediaTypeException",
    );
    let other = PATH.replace("PutMetricData", "GetMetricData");
    let answer = exchange(&fake.url(), &head("POST", &other, &["connection: close"]));
    assert_refused(&answer, 404, "UnknownOperationException");
    assert_eq!(fake.attempts().len(), 2, "other operations are no attempts");
}

#[test]
fn bodies_that_mean_nothing_are_refused() {
    let fake = FakeCloudWatch::start().unwrap();
    let cut = &body()[..20];
    assert_refused(&put(&fake, &HEADERS, cut), 400, "SerializationException");
    assert_refused(&put(&fake, &HEADERS, b""), 400, "SerializationException");
    let gzip = [&HEADERS[..], &["content-encoding: gzip"]].concat();
    assert_refused(&put(&fake, &gzip, &body()), 400, "SerializationException");
    let brotli = [&HEADERS[..], &["content-encoding: br"]].concat();
    assert_refused(&put(&fake, &brotli, &body()), 400, "SerializationException");
    let both = [&HEADERS[..], &["transfer-encoding: chunked"]].concat();
    assert_refused(&put(&fake, &both, &body()), 400, "SerializationException");
    let huge = [&HEADERS[..], &["content-length: 99999999"]].concat();
    let answer = exchange(&fake.url(), &head("POST", PATH, &huge));
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(fake.attempts().iter().all(|attempt| attempt.datums.is_none()));
}

#[test]
fn a_half_sent_request_is_logged_and_accepts_nothing() {
    let fake = FakeCloudWatch::start().unwrap();
    let whole = request(&HEADERS, &body());
    let mut stream = connect(&fake.url());
    stream.write_all(&whole[..whole.len() - 5]).unwrap();
    drop(stream);
    assert!(fake.wait_for(crate::client::PATIENCE, |_, attempts| attempts.len() == 1));
    let url = fake.url();
    let attempts = fake.attempts();
    drop(fake);
    assert_eq!((attempts[0].status, attempts[0].committed), (None, false));
    assert!(std::net::TcpStream::connect(url.strip_prefix("http://").unwrap()).is_err());
}

#[test]
fn its_pages_show_what_was_accepted_and_what_was_not() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::first(1, Fate::Throttle)]);
    put(&fake, &HEADERS, &body());
    put(&fake, &HEADERS, &body());
    let summary = page(&fake.url(), "/");
    assert!(
        summary.contains("2 requests; 1 datums of 1 series accepted"),
        "{summary}"
    );
    assert!(
        summary.contains("1  400 Throttling throttle") && summary.contains("1  200"),
        "{summary}"
    );
    assert!(
        summary.contains("Raw m {}") && summary.contains("1.50"),
        "{summary}"
    );
    let accepted: serde_json::Value = serde_json::from_str(&page(&fake.url(), "/accepted")).unwrap();
    assert_eq!(accepted[0]["metric"], "m");
    assert_eq!(accepted[0]["values"][0], 1.5);
    let attempts: serde_json::Value = serde_json::from_str(&page(&fake.url(), "/attempts")).unwrap();
    assert_eq!(
        (&attempts[0]["code"], &attempts[1]["status"]),
        (&"Throttling".into(), &200.into())
    );
}
