//! What goes wrong: the file that `FAKE_MPS_SCRIPT` names, read again by every part of the fake when it changes.
//!
//! The keys are described in the README. Without a script nothing goes wrong.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::device::Device;
use crate::version::Version;

/// The environment variable that names the script.
pub const SCRIPT: &str = "FAKE_MPS_SCRIPT";

/// Why a script is not played.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// The file cannot be read; the error names it.
    #[error("read the script")]
    Read(#[from] std::io::Error),
    /// An unknown key, or a value of the wrong kind.
    #[error("{path} is not a script: see the keys in testkit/fake-mps/README.md")]
    Parse {
        /// The file.
        path: String,
        /// Names the key and the line.
        #[source]
        source: Box<toml::de::Error>,
    },
}

/// All keys.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Script {
    pub(crate) version: Version,
    pub(crate) start: Start,
    pub(crate) control: Control,
    pub(crate) server: Server,
    pub(crate) device: Vec<Device>,
    pub(crate) ghost: Vec<Ghost>,
}

/// What a control daemon does when it starts.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Start {
    pub(crate) exit: Option<u8>,
    delay_ms: u64,
    pub(crate) percentage: Option<f64>,
    pub(crate) pinned_limits: BTreeMap<String, String>,
}

/// What goes wrong in a running control daemon.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Control {
    pub(crate) wedged: bool,
    pub(crate) crash_after: Option<u64>,
    answer_delay_ms: u64,
    pub(crate) ignores_settings: bool,
    pub(crate) answers: BTreeMap<String, String>,
    pub(crate) answers_hex: BTreeMap<String, String>,
    pub(crate) log_lines_per_s: u32,
}

/// What a server does.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "keys of a script, each on its own")]
pub(crate) struct Server {
    init_ms: u64,
    pub(crate) exit_at_start: Option<u8>,
    pub(crate) gpu_busy: bool,
    lives_ms: Option<u64>,
    pub(crate) fault: Fault,
    pub(crate) max_clients: usize,
    pub(crate) ignores_shutdown: bool,
    pub(crate) ignores_force: bool,
    pub(crate) ignores_terminate: bool,
    pub(crate) keeps_dead_clients: bool,
}

/// Whether a server is in the state FAULT.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    #[default]
    None,
    /// Until the script says otherwise.
    Held,
    /// Until the clients that it hit are gone, as the documentation says of the real one.
    UntilClientsEnd,
}

/// A client that the server lists although there is no such process.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ghost {
    pub(crate) pid: i32,
    #[serde(default)]
    pub(crate) command: String,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            init_ms: 0,
            exit_at_start: None,
            gpu_busy: false,
            lives_ms: None,
            fault: Fault::None,
            // SM 7.0 and later.
            max_clients: 48,
            ignores_shutdown: false,
            ignores_force: false,
            ignores_terminate: false,
            keeps_dead_clients: false,
        }
    }
}

impl Start {
    pub(crate) fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms)
    }
}

impl Control {
    pub(crate) fn answer_delay(&self) -> Duration {
        Duration::from_millis(self.answer_delay_ms)
    }

    /// The bytes that stand in for the answer to this command.
    pub(crate) fn answer(&self, command: &str) -> Option<Vec<u8>> {
        let hex = self.answers_hex.get(command).map(|digits| from_hex(digits));
        hex.or_else(|| Some(self.answers.get(command)?.as_bytes().to_vec()))
    }
}

impl Server {
    pub(crate) fn init(&self) -> Duration {
        Duration::from_millis(self.init_ms)
    }

    pub(crate) fn lives(&self) -> Option<Duration> {
        self.lives_ms.map(Duration::from_millis)
    }
}

/// Pairs of digits; what is not a pair of digits is left out.
fn from_hex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks_exact(2);
    pairs
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

pub(crate) fn read(path: &Path) -> Result<Script, ScriptError> {
    parse(path, &fs_err::read_to_string(path)?)
}

/// The script in `text`, which errors say to be that of `path`.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Script, ScriptError> {
    toml::from_str(text).map_err(|source| ScriptError::Parse {
        path: path.display().to_string(),
        source: Box::new(source),
    })
}

/// Tells one version of the file from the next.
type Stamp = (i64, i64, u64, u64);

/// A script and the file it is read from.
#[derive(Debug)]
pub(crate) struct Watched {
    path: Option<PathBuf>,
    stamp: Option<Stamp>,
    script: Script,
}

impl Watched {
    /// The script of this process's environment; an empty one without.
    pub(crate) fn from_env() -> Result<Self, ScriptError> {
        let path = std::env::var_os(SCRIPT).map(PathBuf::from);
        let stamp = path.as_deref().and_then(stamp);
        let script = path.as_deref().map(read).transpose()?.unwrap_or_default();
        Ok(Self { path, stamp, script })
    }

    /// The present script. A version that cannot be played is reported on stderr, and the last good one goes on.
    pub(crate) fn get(&mut self) -> &Script {
        if let Some(path) = &self.path {
            let now = stamp(path);
            if now != self.stamp {
                self.stamp = now;
                match read(path) {
                    Ok(script) => self.script = script,
                    Err(error) => complain(&error),
                }
            }
        }
        &self.script
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs_err::metadata(path).ok()?;
    Some((meta.mtime(), meta.mtime_nsec(), meta.ino(), meta.len()))
}

/// Says an error and its causes on stderr.
pub(crate) fn complain(error: &dyn std::error::Error) {
    let mut text = format!("fake-mps: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_and_versions_are_refused_by_name() {
        let refused = |text: &str| match parse(Path::new("x.toml"), text) {
            Err(ScriptError::Parse { source, .. }) => source.to_string(),
            other => panic!("{text} is read as {other:?}"),
        };
        assert!(refused("[control]\nwedge = true").contains("wedge"));
        assert!(refused("version = 581").contains("version 581 is not played"));
        assert!(refused("server = { fault = \"yes\" }").contains("until_clients_end"));
    }

    /// Every key that the README shows is one, and every key is shown.
    #[test]
    fn the_readme_shows_all_keys() {
        let readme = include_str!("../README.md");
        let example = readme
            .split("```toml\n")
            .nth(1)
            .unwrap()
            .split("```")
            .next()
            .unwrap();
        let script = parse(Path::new("README.md"), example).unwrap();
        assert_eq!(
            (script.server.max_clients, script.ghost.len(), script.device.len()),
            (48, 1, 1)
        );
        let keys = |name: &str| {
            let body = include_str!("script.rs")
                .split(&format!("struct {name} {{"))
                .nth(1)
                .unwrap();
            let fields = body
                .split("\n}")
                .next()
                .unwrap()
                .lines()
                .filter(|line| !line.contains("///"));
            let named =
                fields.filter_map(|line| line.trim().trim_start_matches("pub(crate) ").split_once(':'));
            named.map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
        };
        for key in ["Start", "Control", "Server", "Ghost"].into_iter().flat_map(keys) {
            assert!(
                example.contains(&format!("\n{key} = ")),
                "{key} is not in the README"
            );
        }
    }

    #[test]
    fn an_answer_may_be_bytes_that_are_no_text() {
        let script = parse(
            Path::new("x"),
            "[control]\nanswers = { ps = \"?\", quit = \"\" }\nanswers_hex = { ps = \"00ff0a\" }",
        );
        let control = script.unwrap().control;
        assert_eq!(control.answer("ps"), Some(vec![0, 255, 10]));
        assert_eq!(control.answer("quit"), Some(Vec::new()));
        assert_eq!(control.answer("get_server_list"), None);
    }
}
