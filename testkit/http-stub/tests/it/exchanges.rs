//! Framing of requests, and answers that are no good.

use std::io::{ErrorKind, Read, Write};

use crate::stage::{read_all, read_until, send, server};

const CHUNKED: &str = "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn a_connection_is_kept_for_the_next_request() {
    let server = server();
    let mut stream = send(&server, "POST /echo HTTP/1.1\r\nContent-Length: 3\r\n\r\none");
    let answer = read_until(&mut stream, "one");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(!answer.contains("connection: close"), "{answer}");
    stream
        .write_all(b"POST /echo HTTP/1.1\r\nContent-Length: 3\r\nConnection: close\r\n\r\ntwo")
        .unwrap();
    let answer = read_all(stream);
    assert!(
        answer.contains("connection: close") && answer.ends_with("two"),
        "{answer}"
    );
}

#[test]
fn two_requests_in_one_packet_are_two() {
    let server = server();
    let one = "POST /echo HTTP/1.1\r\nContent-Length: 1\r\n\r\n";
    let mut stream = send(&server, &format!("{one}a{one}b"));
    read_until(&mut stream, "\r\n\r\na");
    read_until(&mut stream, "\r\n\r\nb");
}

#[test]
fn chunks_are_joined_and_all_bytes_on_the_wire_count() {
    let server = server();
    let request = format!("{CHUNKED}3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: t\r\n\r\n");
    let mut stream = send(&server, &request);
    let answer = read_until(&mut stream, "abcde");
    assert!(
        answer.contains(&format!("wire-bytes: {}\r\n", request.len())),
        "{answer}"
    );
}

#[test]
fn a_client_that_waits_before_its_body_is_told_to_go_on() {
    let server = server();
    let head = "POST /echo HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    let mut stream = send(&server, head);
    assert_eq!(
        read_until(&mut stream, "\r\n\r\n"),
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    stream.write_all(b"abc").unwrap();
    read_until(&mut stream, "abc");
}

#[test]
fn wrong_framing_is_answered_and_ends_the_connection() {
    let server = server();
    for request in [
        "POST /echo HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        "POST /echo HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        &format!("{CHUNKED}zz\r\n"),
        &format!("{CHUNKED}2\r\nabc\r\n"),
        "\u{1}\r\n\r\n",
    ] {
        let answer = read_all(send(&server, request));
        assert!(answer.starts_with("HTTP/1.1 400 "), "{request:?}: {answer}");
    }
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(70_000));
    assert!(read_all(send(&server, &long)).starts_with("HTTP/1.1 400 "));
}

#[test]
fn a_body_over_the_limit_is_not_read() {
    let server = server();
    for request in [
        format!(
            "POST /echo HTTP/1.1\r\nContent-Length: 101\r\n\r\n{}",
            "a".repeat(101)
        ),
        format!("{CHUNKED}60\r\n{}\r\n60\r\n", "a".repeat(0x60)),
        format!("{CHUNKED}ffffffffffffffff\r\n"),
    ] {
        assert!(
            read_all(send(&server, &request)).starts_with("HTTP/1.1 413 "),
            "{request}"
        );
    }
}

#[test]
fn an_answer_before_the_body_arrives_whole() {
    let server = server();
    let head = "POST /unread HTTP/1.1\r\nContent-Length: 300000\r\n\r\n";
    let stream = send(&server, &format!("{head}{}", "a".repeat(300_000)));
    assert!(read_all(stream).ends_with("no"));
}

#[test]
fn a_reset_is_a_reset() {
    let server = server();
    let mut stream = send(&server, "GET /reset HTTP/1.1\r\n\r\n");
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn an_unanswered_request_ends_the_connection() {
    let server = server();
    assert_eq!(read_all(send(&server, "GET /silent HTTP/1.1\r\n\r\n")), "");
}

#[test]
fn a_trickle_arrives_in_single_bytes_and_whole() {
    let server = server();
    let mut stream = send(&server, "GET /trickle HTTP/1.1\r\nConnection: close\r\n\r\n");
    let mut buffer = [0; 64];
    assert_eq!(stream.read(&mut buffer).unwrap(), 1);
    assert!(read_all(stream).ends_with("content-length: 0\r\nconnection: close\r\n\r\n"));
}

#[test]
fn an_answer_without_end_goes_on() {
    let server = server();
    let mut stream = send(&server, "GET /endless HTTP/1.1\r\n\r\n");
    let mut buffer = vec![0; 100_000];
    stream.read_exact(&mut buffer).unwrap();
    let text = String::from_utf8(buffer).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"),
        "{text}"
    );
}
