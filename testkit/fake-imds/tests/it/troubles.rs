//! Everything that goes wrong on script, on a bare socket.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use fake_imds::{FakeImds, Fate, Rule, Trouble};

use crate::raw::{PATIENCE, ask, get, send, token};

const ID: &str = "/latest/meta-data/instance-id";

/// A fake on which the first request for the instance id has this fate, and a token for it.
fn prepared(what: Fate) -> (FakeImds, String) {
    let fake = FakeImds::start().unwrap();
    fake.play([Rule::first(1, Trouble::on(ID, what))]);
    let header = format!("x-aws-ec2-metadata-token: {}", token(&fake.url()));
    (fake, header)
}

#[test]
fn scripted_answers_come_once_and_then_all_is_well() {
    let page = b"<!DOCTYPE html>".to_vec();
    for (what, status, beginning) in [
        (Fate::Error { status: 503 }, 503, b"scripted".to_vec()),
        (Fate::Html { status: 200 }, 200, page.clone()),
        (Fate::Html { status: 403 }, 403, page),
        (Fate::Huge { bytes: 100_000 }, 200, vec![b'x'; 100_000]),
        (Fate::NotUtf8, 200, vec![0xff]),
        (
            Fate::Wrong {
                text: "{}".to_owned(),
            },
            200,
            b"{}".to_vec(),
        ),
        (Fate::Wrong { text: String::new() }, 200, Vec::new()),
    ] {
        let name = what.name();
        let (fake, header) = prepared(what);
        let (found, _, body) = ask(&fake.url(), "GET", ID, &[&header]);
        assert_eq!(found, status, "{name}");
        assert!(body.starts_with(&beginning), "{name}");
        assert_eq!(beginning.is_empty(), body.is_empty(), "{name}");
        let logged = fake.requests().pop().unwrap();
        assert_eq!((logged.fate, logged.status), (Some(name), Some(status)));
        assert_eq!(ask(&fake.url(), "GET", ID, &[&header]).2, b"i-0123456789abcdef0");
    }
}

#[test]
fn a_hang_lasts_until_the_client_leaves() {
    let (fake, header) = prepared(Fate::Hang);
    let mut stream = send(&fake.url(), "GET", ID, &[&header]);
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(fake.requests().pop().unwrap().status, None);
}

#[test]
fn a_delayed_answer_is_late_and_right() {
    let delay = Duration::from_millis(150);
    let (fake, header) = prepared(Fate::Delay(delay));
    let start = Instant::now();
    assert_eq!(ask(&fake.url(), "GET", ID, &[&header]).0, 200);
    assert!(start.elapsed() >= delay);
}

#[test]
fn a_reset_is_a_reset() {
    let (fake, header) = prepared(Fate::Reset);
    let error = send(&fake.url(), "GET", ID, &[&header])
        .read(&mut [0])
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn an_answer_without_end_goes_on() {
    let (fake, header) = prepared(Fate::Endless);
    let mut buffer = vec![0; 20_000];
    send(&fake.url(), "GET", ID, &[&header])
        .read_exact(&mut buffer)
        .unwrap();
    assert!(buffer.starts_with(b"HTTP/1.1 200 "));
}

#[test]
fn tokens_can_be_refused_while_the_rest_works() {
    let fake = FakeImds::start().unwrap();
    let good = token(&fake.url());
    let refused = Trouble::on("/latest/api/token", Fate::Error { status: 403 });
    fake.play([Rule::always(refused)]);
    assert_eq!(ask(&fake.url(), "PUT", "/latest/api/token", &[]).0, 403);
    assert_eq!(get(&fake.url(), &good, ID).0, 200);
    fake.play([]);
    token(&fake.url());
}

#[test]
fn it_vanishes_and_appears() {
    let fake = FakeImds::start().unwrap();
    let address = fake.url().strip_prefix("http://").unwrap().to_owned();
    let refused = || match TcpStream::connect(&address) {
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::ConnectionRefused,
    };
    fake.vanish(None);
    assert!(refused());
    fake.appear();
    assert!(!refused());
    fake.vanish(Some(Duration::from_millis(100)));
    assert!(refused());
    let start = Instant::now();
    while refused() {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
}
