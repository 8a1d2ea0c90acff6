//! What a change of the configuration means for a running agent. Pure.

use crate::config::{Config, Values};

/// Where daemons and clients look for each other: a daemon that runs keeps the old place, and an agent that looks in the
/// new one would take it for dead.
const FIXED_WITH_MPS: [&str; 3] = ["mps.backend", "mps.dir", "mps.client_dir"];

/// What `gpushare mps run` reads when it starts.
const WITH_MPS: [&str; 4] = [
    "mps.client_view",
    "mps.control_binary",
    "mps.exclusive_process",
    "mps.multi_user",
];

/// What is changed.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// Every key with another value, in order.
    pub keys: Vec<String>,
    /// Those of them that take effect with the next start of each MPS daemon.
    pub with_mps: Vec<String>,
}

/// The change cannot be made while MPS runs.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}: cannot be changed while MPS runs, whose daemons and clients keep the old value; set mps.enabled = false and \
     reload (this ends the clients), then change it, set mps.enabled = true and reload again",
    keys.join(", ")
)]
pub struct Fixed {
    /// The keys.
    pub keys: Vec<String>,
}

/// Compares the configuration that is used with another one.
///
/// # Errors
/// [`Fixed`], where the change would lose daemons that run.
pub fn change(used: &Config, before: &Values, after: &Values) -> Result<Change, Fixed> {
    let keys = before.differing(after);
    let among = |some: &[&str]| -> Vec<String> {
        let known = keys.iter().filter(|key| some.contains(&key.as_str()));
        known.cloned().collect()
    };
    let fixed = among(&FIXED_WITH_MPS);
    if used.mps.enabled && used.gpu.enabled && !fixed.is_empty() {
        return Err(Fixed { keys: fixed });
    }
    let with_mps = among(&WITH_MPS);
    Ok(Change { with_mps, keys })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Loaded, Sources};

    fn loaded(settings: &[&str]) -> Loaded {
        let sources = Sources {
            set: settings.iter().map(|setting| (*setting).to_owned()).collect(),
            ..Sources::default()
        };
        config::read(&sources).unwrap()
    }

    fn changed(before: &[&str], after: &[&str]) -> Result<Change, Fixed> {
        let (before, after) = (loaded(before), loaded(after));
        change(&before.config, &before.values, &after.values)
    }

    #[test]
    fn every_key_with_another_value_is_named_however_it_was_given() {
        let none = changed(&["sample.interval=1s"], &["publish.max_series=500"]).unwrap();
        assert_eq!(none.keys, [""; 0], "these are the defaults");
        let some = changed(&["sample.interval=2s"], &["publish.groups=[\"gpu\"]"]).unwrap();
        assert_eq!(some.keys, ["publish.groups", "sample.interval"]);
        assert_eq!(some.with_mps, [""; 0]);
    }

    #[test]
    fn what_daemons_read_at_their_start_waits_for_it() {
        let some = changed(&[], &["mps.multi_user=false", "mps.grace=5s"]).unwrap();
        assert_eq!(some.keys, ["mps.grace", "mps.multi_user"]);
        assert_eq!(some.with_mps, ["mps.multi_user"]);
    }

    #[test]
    fn the_place_of_daemons_that_run_is_not_changed() {
        let refused = changed(&[], &["mps.dir=\"/run/other\"", "mps.grace=5s"]).unwrap_err();
        assert_eq!(refused.keys, ["mps.dir"]);
        assert!(refused.to_string().contains("mps.enabled = false"), "{refused}");
        let off = ["mps.enabled=false", "slices.enabled=false"];
        let moved = changed(&off, &["mps.dir=\"/run/other\""]).unwrap();
        assert_eq!(moved.keys, ["mps.dir", "mps.enabled", "slices.enabled"]);
    }

    #[test]
    fn the_keys_that_are_named_here_exist() {
        let known = loaded(&[]).values;
        for key in FIXED_WITH_MPS.iter().chain(&WITH_MPS) {
            assert!(known.has(key), "{key}");
        }
    }
}
