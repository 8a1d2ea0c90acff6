//! The instance that the service describes.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// What the service knows of its instance. The default is an unremarkable GPU node without instance tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `instance-id`.
    pub instance_id: String,
    /// `ami-id`.
    pub image_id: String,
    /// `instance-type`.
    pub instance_type: String,
    /// `placement/region`.
    pub region: String,
    /// `placement/availability-zone`.
    pub availability_zone: String,
    /// The account, in the identity document.
    pub account_id: String,
    /// `tags/instance/…`; `None` where the instance does not let its tags be seen, as by default: 404.
    pub tags: Option<BTreeMap<String, String>>,
    /// The role of the instance profile; `None` without one: 404 below `iam`.
    pub role: Option<String>,
    /// What that role's path gives.
    pub credentials: Credentials,
    /// `instance-life-cycle`: `spot` or `on-demand`.
    pub life_cycle: String,
    /// `spot/instance-action`.
    pub spot_action: Option<SpotAction>,
    /// `events/recommendations/rebalance`: the time of the notice, 404 before.
    pub rebalance: Option<SystemTime>,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            instance_id: "i-0123456789abcdef0".to_owned(),
            image_id: "ami-0123456789abcdef0".to_owned(),
            instance_type: "g5.12xlarge".to_owned(),
            region: "us-east-1".to_owned(),
            availability_zone: "us-east-1a".to_owned(),
            account_id: "123456789012".to_owned(),
            tags: None,
            role: Some("node".to_owned()),
            credentials: Credentials::default(),
            life_cycle: "on-demand".to_owned(),
            spot_action: None,
            rebalance: None,
        }
    }
}

/// Credentials of the instance's role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `AccessKeyId`.
    pub access_key_id: String,
    /// `SecretAccessKey`.
    pub secret_access_key: String,
    /// `Token`.
    pub token: String,
    /// `Expiration`.
    pub expiry: Expiry,
}

impl Default for Credentials {
    fn default() -> Self {
        Self {
            access_key_id: "ASIAFAKEFAKEFAKEFAKE".to_owned(),
            secret_access_key: "not-a-secret".to_owned(),
            token: "not-a-session-token".to_owned(),
            // What EC2 hands out is good for about six hours.
            expiry: Expiry::After(Duration::from_hours(6)),
        }
    }
}

/// When credentials end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// So long after each answer.
    After(Duration),
    /// At this instant, which may have passed.
    At(SystemTime),
}

/// A notice that a spot instance will be taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpotAction {
    /// `terminate`, `stop` or `hibernate`.
    pub action: String,
    /// When that will happen: two minutes after the notice on EC2.
    pub time: SystemTime,
    /// From when on the notice is there, 404 before.
    pub noticed: SystemTime,
}
