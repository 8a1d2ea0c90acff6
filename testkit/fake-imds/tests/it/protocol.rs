//! Tokens, paths and the log.

use std::collections::BTreeMap;

use fake_imds::{Clock, FakeImds, TokenUse};

use crate::raw::{ask, get, token};

const ID: &str = "/latest/meta-data/instance-id";

#[test]
fn nothing_is_given_without_a_good_token() {
    let fake = FakeImds::start().unwrap();
    let url = fake.url();
    assert_eq!(ask(&url, "GET", ID, &[]).0, 401);
    assert_eq!(get(&url, "made-up", ID).0, 401);
    let good = token(&url);
    assert_eq!(get(&url, &good, ID), (200, "i-0123456789abcdef0".to_owned()));
    fake.set_clock(Clock::Ahead(3601));
    assert_eq!(get(&url, &good, ID).0, 401);
    fake.set_clock(Clock::Real);
    fake.forget_tokens();
    assert_eq!(get(&url, &good, ID).0, 401);
    let used: Vec<_> = fake.requests().iter().map(|request| request.token).collect();
    let [absent, unknown, expired] = [TokenUse::Absent, TokenUse::Unknown, TokenUse::Expired];
    assert_eq!(used, [absent, unknown, absent, TokenUse::Good, expired, unknown]);
}

#[test]
fn tokens_want_a_time_and_no_proxy() {
    let fake = FakeImds::start().unwrap();
    let ttl = "x-aws-ec2-metadata-token-ttl-seconds: 60";
    let put = |headers: &[&str]| ask(&fake.url(), "PUT", "/latest/api/token", headers);
    assert_eq!(put(&[]).0, 400);
    assert_eq!(put(&["x-aws-ec2-metadata-token-ttl-seconds: 21601"]).0, 400);
    assert_eq!(put(&[ttl, "x-forwarded-for: 10.0.0.1"]).0, 403);
    let (status, head, _) = put(&[ttl]);
    assert_eq!(status, 200);
    assert!(head.contains(&format!("\r\n{ttl}\r\n")), "{head}");
    assert_eq!(ask(&fake.url(), "POST", "/latest/api/token", &[ttl]).0, 405);
}

#[test]
fn the_identity_document_and_the_single_paths_agree() {
    let fake = FakeImds::start().unwrap();
    let (url, token) = (fake.url(), token(&fake.url()));
    let (_, text) = get(&url, &token, "/latest/dynamic/instance-identity/document");
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (path, key) in [
        ("instance-id", "instanceId"),
        ("ami-id", "imageId"),
        ("instance-type", "instanceType"),
        ("placement/region", "region"),
        ("placement/availability-zone", "availabilityZone"),
    ] {
        let (status, text) = get(&url, &token, &format!("/latest/meta-data/{path}"));
        assert_eq!(
            (status, text.as_str()),
            (200, document[key].as_str().unwrap()),
            "{path}"
        );
    }
}

#[test]
fn tags_appear_when_they_are_switched_on() {
    let fake = FakeImds::start().unwrap();
    let (url, token) = (fake.url(), token(&fake.url()));
    let path = "/latest/meta-data/tags/instance/aws:autoscaling:groupName";
    assert_eq!(get(&url, &token, path).0, 404);
    let tag = ("aws:autoscaling:groupName".to_owned(), "gpus".to_owned());
    fake.change(|node| node.tags = Some(BTreeMap::from([tag])));
    assert_eq!(get(&url, &token, path), (200, "gpus".to_owned()));
    assert_eq!(
        get(&url, &token, &path.replace(':', "%3A")),
        (200, "gpus".to_owned())
    );
}

#[test]
fn its_own_pages_show_the_log() {
    let fake = FakeImds::start().unwrap();
    get(&fake.url(), &token(&fake.url()), ID);
    let page = |path| String::from_utf8(ask(&fake.url(), "GET", path, &[]).2).unwrap();
    let text = page("/");
    assert!(
        text.starts_with("fake-imds: g5.12xlarge i-0123456789abcdef0 in us-east-1\n"),
        "{text}"
    );
    assert!(
        text.contains("200       good    GET /latest/meta-data/instance-id"),
        "{text}"
    );
    let rows: serde_json::Value = serde_json::from_str(&page("/requests")).unwrap();
    assert_eq!(
        (&rows[0]["method"], &rows[1]["token"]),
        (&"PUT".into(), &"good".into())
    );
    assert_eq!(fake.requests().len(), 2);
}
