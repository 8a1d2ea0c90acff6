//! What a change of the configuration means for a running agent. Pure.

use serde::{Deserialize, Serialize};

use crate::config::Loaded;

/// Where daemons and clients look for each other, and how daemons are asked: those that run keep the old value, and an
/// agent that uses the new one would take them for dead.
const FIXED_WITH_MPS: [&str; 4] = ["mps.backend", "mps.client_dir", "mps.control_binary", "mps.dir"];

/// What `gpushare mps run` reads when it starts, and not again.
const WITH_MPS: [&str; 1] = ["mps.multi_user"];

/// What it reads again at SIGHUP.
const WITH_SIGHUP: [&str; 2] = ["mps.client_view", "mps.exclusive_process"];

/// What is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Every key with another value, in order.
    pub keys: Vec<String>,
    /// Those of them that take effect with the next start of each MPS daemon.
    pub with_mps: Vec<String>,
    /// Those of them that take effect with the next start of each MPS daemon, or with a reload of its unit.
    #[serde(default)]
    pub with_sighup: Vec<String>,
    /// Whether MPS is switched off by it, and its clients end.
    pub ends_mps: bool,
}

/// The change cannot be made while MPS runs.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}: cannot be changed while MPS runs, whose daemons and clients keep the old value",
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
pub fn change(used: &Loaded, next: &Loaded) -> Result<Change, Fixed> {
    let keys = used.values.differing(&next.values);
    let among = |some: &[&str]| -> Vec<String> {
        let known = keys.iter().filter(|key| some.contains(&key.as_str()));
        known.cloned().collect()
    };
    let fixed = among(&FIXED_WITH_MPS);
    let has_mps = |loaded: &Loaded| loaded.config.mps.enabled && loaded.config.gpu.enabled;
    if has_mps(used) && !fixed.is_empty() {
        return Err(Fixed { keys: fixed });
    }
    Ok(Change {
        with_mps: among(&WITH_MPS),
        with_sighup: among(&WITH_SIGHUP),
        ends_mps: has_mps(used) && !has_mps(next),
        keys,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Sources};

    fn loaded(settings: &[&str]) -> Loaded {
        let sources = Sources {
            set: settings.iter().map(|setting| (*setting).to_owned()).collect(),
            ..Sources::default()
        };
        config::read(&sources).unwrap()
    }

    fn changed(before: &[&str], after: &[&str]) -> Result<Change, Fixed> {
        change(&loaded(before), &loaded(after))
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
        assert_eq!(some.with_sighup, [""; 0]);
        let some = changed(&[], &["mps.exclusive_process=false"]).unwrap();
        assert_eq!((some.with_mps.len(), some.with_sighup.len()), (0, 1));
    }

    #[test]
    fn the_place_of_daemons_that_run_is_not_changed() {
        let refused = changed(&[], &["mps.dir=\"/run/other\"", "mps.grace=5s"]).unwrap_err();
        assert_eq!(refused.keys, ["mps.dir"]);
        assert!(refused.to_string().starts_with("mps.dir: "), "{refused}");
        let off = ["mps.enabled=false", "slices.enabled=false"];
        let moved = changed(&off, &["mps.dir=\"/run/other\""]).unwrap();
        assert_eq!(moved.keys, ["mps.dir", "mps.enabled", "slices.enabled"]);
    }

    #[test]
    fn whatever_switches_mps_off_is_told() {
        for off in ["mps.enabled=false", "gpu.enabled=false"] {
            let after = [off, "slices.enabled=false"];
            assert!(changed(&[], &after).unwrap().ends_mps, "{off}");
            assert!(!changed(&after, &after).unwrap().ends_mps);
            assert!(!changed(&after, &[]).unwrap().ends_mps);
        }
    }

    #[test]
    fn the_keys_that_are_named_here_exist() {
        let known = loaded(&[]).values;
        for key in FIXED_WITH_MPS.iter().chain(&WITH_MPS).chain(&WITH_SIGHUP) {
            assert!(known.has(key), "{key}");
        }
    }
}
