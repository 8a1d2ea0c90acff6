//! The script file: the node, and what goes wrong when.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use http_stub::script::{Refusal, refusals, rules};
use http_stub::{Keys, Rule, ScriptError};

use crate::node::{Credentials, Expiry, Node, SpotAction};
use crate::trouble::Trouble;

/// EC2 gives a spot instance two minutes.
const SPOT_WARNING: Duration = Duration::from_mins(2);

/// A node, rules in order, and when connections are refused.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Script {
    /// What is described.
    pub node: Node,
    /// The first that is in force and suits decides.
    pub rules: Vec<Rule<Trouble>>,
    /// Spans without a listener, counted from the script's start.
    pub refuse: Vec<Refusal>,
}

impl Script {
    /// Reads a script file; times of notices count from `start`.
    pub fn parse(text: &str, start: SystemTime) -> Result<Self, ScriptError> {
        let mut document = Keys::document(text)?;
        let script = Self {
            node: read_node(&mut document, start),
            rules: rules(&mut document, Trouble::read),
            refuse: refusals(&mut document),
        };
        document.finish().map(|()| script)
    }
}

fn read_node(document: &mut Keys, start: SystemTime) -> Node {
    let mut node = Node::default();
    if let Some(mut keys) = document.table("node") {
        let texts = [
            ("instance_id", &mut node.instance_id),
            ("image_id", &mut node.image_id),
            ("instance_type", &mut node.instance_type),
            ("life_cycle", &mut node.life_cycle),
            ("region", &mut node.region),
            ("availability_zone", &mut node.availability_zone),
            ("account_id", &mut node.account_id),
        ];
        for (key, text) in texts {
            replace(text, keys.text(key));
        }
        if let Some(role) = keys.text("role") {
            node.role = Some(role).filter(|role| !role.is_empty());
        }
        node.tags = tags(&mut keys);
        document.absorb(keys);
    }
    if let Some(mut keys) = document.table("credentials") {
        read_credentials(&mut keys, &mut node.credentials);
        document.absorb(keys);
    }
    if let Some(mut keys) = document.table("spot") {
        node.spot_action = Some(spot_action(&mut keys, start));
        document.absorb(keys);
    }
    if let Some(mut keys) = document.table("rebalance") {
        node.rebalance = Some(start + keys.millis("from_ms").unwrap_or_default());
        document.absorb(keys);
    }
    node
}

fn replace(text: &mut String, by: Option<String>) {
    if let Some(by) = by {
        *text = by;
    }
}

fn tags(node: &mut Keys) -> Option<BTreeMap<String, String>> {
    let mut keys = node.table("tags")?;
    let mut tags = BTreeMap::new();
    for name in keys.names() {
        let value = keys.text(&name);
        // EC2 cannot let tags be seen in metadata whose keys would be two paths.
        if name.contains('/') {
            keys.complain(&format!("`{name}` cannot be seen in metadata: it has a slash"));
        }
        tags.extend(value.map(|value| (name, value)));
    }
    node.absorb(keys);
    Some(tags)
}

fn read_credentials(keys: &mut Keys, credentials: &mut Credentials) {
    replace(&mut credentials.access_key_id, keys.text("access_key_id"));
    replace(&mut credentials.secret_access_key, keys.text("secret_access_key"));
    replace(&mut credentials.token, keys.text("token"));
    match (keys.millis("expires_after_ms"), keys.instant("expiration")) {
        (Some(time), None) => credentials.expiry = Expiry::After(time),
        (None, Some(instant)) => credentials.expiry = Expiry::At(instant),
        (Some(_), Some(_)) => keys.complain("`expires_after_ms` and `expiration` exclude each other"),
        (None, None) => {}
    }
}

fn spot_action(keys: &mut Keys, start: SystemTime) -> SpotAction {
    let noticed = start + keys.millis("from_ms").unwrap_or_default();
    SpotAction {
        action: keys.text("action").unwrap_or_else(|| "terminate".to_owned()),
        time: noticed + keys.millis("warning_ms").unwrap_or(SPOT_WARNING),
        noticed,
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::trouble::Fate;

    fn parse(text: &str) -> Result<Script, ScriptError> {
        Script::parse(text, UNIX_EPOCH)
    }

    fn complaint(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_script_is_the_default_node() {
        assert_eq!(parse("").unwrap(), Script::default());
    }

    #[test]
    fn the_node_is_read_with_tags_credentials_and_notices() {
        let text = r#"
            [node]
            instance_id = "i-1"
            role = ""
            tags = { Name = "gpu-1" }
            [credentials]
            access_key_id = "A"
            expiration = "1970-01-01T00:00:09Z"
            [spot]
            from_ms = 1000
            [rebalance]
        "#;
        let node = parse(text).unwrap().node;
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!((node.instance_id.as_str(), node.role), ("i-1", None));
        assert_eq!(node.tags.unwrap()["Name"], "gpu-1");
        assert_eq!(node.credentials.access_key_id, "A");
        assert_eq!(node.credentials.expiry, Expiry::At(at(9)));
        let spot = node.spot_action.unwrap();
        assert_eq!(
            (spot.action.as_str(), spot.noticed, spot.time),
            ("terminate", at(1), at(121))
        );
        assert_eq!(node.rebalance, Some(at(0)));
        let after = parse("[credentials]\nexpires_after_ms = 5")
            .unwrap()
            .node
            .credentials
            .expiry;
        assert_eq!(after, Expiry::After(Duration::from_millis(5)));
    }

    #[test]
    fn every_fate_is_read_by_its_name() {
        for (keys, fate) in [
            ("", Fate::Hang),
            ("ms = 5", Fate::Delay(Duration::from_millis(5))),
            ("", Fate::Reset),
            ("status = 503", Fate::Error { status: 503 }),
            ("", Fate::Html { status: 200 }),
            ("bytes = 10", Fate::Huge { bytes: 10 }),
            ("", Fate::NotUtf8),
            ("", Fate::Endless),
            ("text = \"x\"", Fate::Wrong { text: "x".to_owned() }),
        ] {
            let text = format!("[[rule]]\nfate = \"{}\"\npath = \"/latest\"\n{keys}", fate.name());
            let script = parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(script.rules, [Rule::always(Trouble::on("/latest", fate))]);
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            (
                "[node]\ninstanceid = \"i\"",
                "node: `instanceid` means nothing here",
            ),
            (
                "[node.tags]\n\"a/b\" = \"c\"",
                "node, tags: `a/b` cannot be seen in metadata",
            ),
            ("[node.tags]\na = 1", "node, tags: `a` must be text"),
            (
                "[credentials]\nexpiration = \"soon\"",
                "`expiration` must be an instant like",
            ),
            (
                "[credentials]\nexpiration = \"2026-01-31T12:00:00Z\"\nexpires_after_ms = 1",
                "exclude each other",
            ),
            (
                "[[rule]]\nfate = \"hang\"\npath = \"latest\"",
                "rule 1: `path` must begin with a slash",
            ),
            (
                "[[rule]]\nfate = \"explode\"",
                "rule 1: there is no fate \"explode\"",
            ),
            ("node = 1", "`node` must be a table"),
        ] {
            let said = complaint(text);
            assert!(said.contains(expected), "{text}: {said}");
        }
    }
}
