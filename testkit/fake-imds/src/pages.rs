//! What stands under which path at an instant. Pure.
//!
//! A path that leads on is listed, a line each, with a slash behind those that lead on further, as EC2 does it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use http_stub::clock::rfc3339;
use serde_json::json;

use crate::node::{Credentials, Expiry, Node};

const META_DATA: &str = "/latest/meta-data";

/// The text under a path, or the list of what is below it; `None`: 404.
pub(crate) fn find(node: &Node, now: SystemTime, path: &str) -> Option<String> {
    let pages = pages(node, now);
    pages.get(path).cloned().or_else(|| listing(&pages, path))
}

fn listing(pages: &BTreeMap<String, String>, path: &str) -> Option<String> {
    let folder = format!("{}/", path.trim_end_matches('/'));
    let below: BTreeSet<&str> = pages
        .keys()
        .filter_map(|page| page.strip_prefix(&folder))
        .map(|rest| rest.find('/').map_or(rest, |slash| &rest[..=slash]))
        .collect();
    (!below.is_empty()).then(|| below.into_iter().collect::<Vec<_>>().join("\n"))
}

fn pages(node: &Node, now: SystemTime) -> BTreeMap<String, String> {
    let mut pages = BTreeMap::from([(
        "/latest/dynamic/instance-identity/document".to_owned(),
        identity_document(node),
    )]);
    let mut add = |path: &str, text: String| pages.insert(format!("{META_DATA}/{path}"), text);
    add("instance-id", node.instance_id.clone());
    add("ami-id", node.image_id.clone());
    add("instance-life-cycle", node.life_cycle.clone());
    add("instance-type", node.instance_type.clone());
    add("placement/region", node.region.clone());
    add("placement/availability-zone", node.availability_zone.clone());
    add("services/domain", "amazonaws.com".to_owned());
    add("services/partition", "aws".to_owned());
    for (key, value) in node.tags.iter().flatten() {
        add(&format!("tags/instance/{key}"), value.clone());
    }
    if let Some(role) = &node.role {
        add("iam/info", instance_profile(node, role, now));
        let document = credentials(&node.credentials, now);
        add(&format!("iam/security-credentials/{role}"), document);
    }
    if let Some(spot) = node.spot_action.as_ref().filter(|spot| spot.noticed <= now) {
        let notice = json!({"action": spot.action, "time": rfc3339(spot.time)});
        add("spot/instance-action", notice.to_string());
    }
    if let Some(notice) = node.rebalance.filter(|notice| *notice <= now) {
        let notice = json!({"noticeTime": rfc3339(notice)});
        add("events/recommendations/rebalance", notice.to_string());
    }
    pages
}

fn identity_document(node: &Node) -> String {
    let document = json!({
        "accountId": node.account_id,
        "architecture": "x86_64",
        "availabilityZone": node.availability_zone,
        "imageId": node.image_id,
        "instanceId": node.instance_id,
        "instanceType": node.instance_type,
        "pendingTime": "2026-01-01T00:00:00Z",
        "privateIp": "10.0.0.10",
        "region": node.region,
        "version": "2017-09-30",
    });
    format!("{document:#}")
}

fn instance_profile(node: &Node, role: &str, now: SystemTime) -> String {
    let info = json!({
        "Code": "Success",
        "LastUpdated": rfc3339(now),
        "InstanceProfileArn": format!("arn:aws:iam::{}:instance-profile/{role}", node.account_id),
        "InstanceProfileId": "AIPAFAKEFAKEFAKEFAKE",
    });
    format!("{info:#}")
}

fn credentials(credentials: &Credentials, now: SystemTime) -> String {
    let expiration = match credentials.expiry {
        Expiry::After(time) => now + time,
        Expiry::At(instant) => instant,
    };
    let document = json!({
        "Code": "Success",
        "LastUpdated": rfc3339(now),
        "Type": "AWS-HMAC",
        "AccessKeyId": credentials.access_key_id,
        "SecretAccessKey": credentials.secret_access_key,
        "Token": credentials.token,
        "Expiration": rfc3339(expiration),
    });
    format!("{document:#}")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::node::SpotAction;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn meta(node: &Node, now: u64, path: &str) -> Option<String> {
        find(node, at(now), &format!("{META_DATA}/{path}"))
    }

    #[test]
    fn tags_are_there_only_where_they_are_on() {
        let mut node = Node::default();
        let path = "tags/instance/aws:autoscaling:groupName";
        assert_eq!(
            (meta(&node, 0, path), meta(&node, 0, "tags/instance")),
            (None, None)
        );
        let tag = ("aws:autoscaling:groupName".to_owned(), "gpus".to_owned());
        node.tags = Some(BTreeMap::from([tag]));
        assert_eq!(meta(&node, 0, path).as_deref(), Some("gpus"));
        let listed = meta(&node, 0, "tags/instance/").unwrap();
        assert_eq!(listed, "aws:autoscaling:groupName");
    }

    #[test]
    fn folders_are_listed() {
        let listed = meta(&Node::default(), 0, "").unwrap();
        assert_eq!(
            listed,
            "ami-id\niam/\ninstance-id\ninstance-life-cycle\ninstance-type\nplacement/\nservices/"
        );
        assert_eq!(
            meta(&Node::default(), 0, "iam/security-credentials/").as_deref(),
            Some("node")
        );
        assert_eq!(meta(&Node::default(), 0, "nothing"), None);
    }

    #[test]
    fn without_a_role_there_are_no_credentials() {
        let node = Node {
            role: None,
            ..Node::default()
        };
        assert_eq!(meta(&node, 0, "iam/security-credentials/"), None);
    }

    #[test]
    fn notices_appear_at_their_time() {
        let node = Node {
            spot_action: Some(SpotAction {
                action: "terminate".to_owned(),
                time: at(220),
                noticed: at(100),
            }),
            rebalance: Some(at(50)),
            ..Node::default()
        };
        assert_eq!(meta(&node, 99, "spot/instance-action"), None);
        assert_eq!(
            meta(&node, 100, "spot/instance-action").unwrap(),
            r#"{"action":"terminate","time":"1970-01-01T00:03:40Z"}"#
        );
        let rebalance = "events/recommendations/rebalance";
        assert_eq!(meta(&node, 49, rebalance), None);
        assert_eq!(
            meta(&node, 50, rebalance).unwrap(),
            r#"{"noticeTime":"1970-01-01T00:00:50Z"}"#
        );
    }

    #[test]
    fn credentials_end_when_they_are_told_to() {
        let mut node = Node::default();
        let expiration = |node: &Node, now| {
            let text = meta(node, now, "iam/security-credentials/node").unwrap();
            let document: serde_json::Value = serde_json::from_str(&text).unwrap();
            document["Expiration"].as_str().unwrap().to_owned()
        };
        assert_eq!(expiration(&node, 0), "1970-01-01T06:00:00Z");
        node.credentials.expiry = Expiry::At(at(10));
        assert_eq!(expiration(&node, 99), "1970-01-01T00:00:10Z");
    }
}
