//! The configuration file of an agent that plays: all its paths below one directory, its AWS on this machine.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Every group of metrics that is built.
pub(crate) const ALL_GROUPS: &[&str] = &["host", "gpu", "health", "mps", "agent"];

pub(crate) struct Settings<'a> {
    /// State, spool, and a kmsg of its own.
    pub(crate) dir: &'a Path,
    /// At most 107 bytes, the length of a socket address.
    pub(crate) socket: &'a Path,
    /// What the node is called in place of what its metadata say.
    pub(crate) instance_type: Option<&'a str>,
    /// Where CloudWatch is played.
    pub(crate) endpoint_url: &'a str,
    /// With a unit, as in "1s".
    pub(crate) sample_interval: &'a str,
    /// With a unit, as in "10s".
    pub(crate) publish_interval: &'a str,
    /// `publish.groups`.
    pub(crate) groups: &'a [&'a str],
    /// Path of the library, or its bare name for the loader to find.
    pub(crate) nvml_library: &'a Path,
    /// Between two lists of the processes on a GPU, with a unit.
    pub(crate) process_interval: &'a str,
    /// Absent: MPS is off.
    pub(crate) mps: Option<MpsSettings>,
}

/// MPS as on a host without systemd.
pub(crate) struct MpsSettings {
    /// Short: a socket in a GPU's directory below has a path of at most 107 bytes.
    pub(crate) dir: PathBuf,
    /// As short as that.
    pub(crate) client_dir: PathBuf,
    pub(crate) control_binary: PathBuf,
    pub(crate) exclusive_process: bool,
    /// With a unit, as in "2s".
    pub(crate) probe_interval: &'static str,
}

impl MpsSettings {
    fn keys(&self) -> Vec<(&'static str, String)> {
        let path = |path: &Path| quoted(&path.to_string_lossy());
        vec![
            ("backend", quoted("process")),
            ("dir", path(&self.dir)),
            ("client_dir", path(&self.client_dir)),
            ("control_binary", path(&self.control_binary)),
            ("exclusive_process", self.exclusive_process.to_string()),
            ("probe_interval", quoted(self.probe_interval)),
        ]
    }
}

impl Settings<'_> {
    /// Creates what the file names, writes it to `config.toml` in the directory, and returns its path.
    pub(crate) fn write(&self) -> anyhow::Result<PathBuf> {
        fs_err::create_dir_all(self.dir.join("state"))?;
        fs_err::write(self.dir.join("kmsg"), "")?;
        let path = self.dir.join("config.toml");
        fs_err::write(&path, self.render())?;
        Ok(path)
    }

    fn render(&self) -> String {
        let below = |name: &str| quoted(&self.dir.join(name).to_string_lossy());
        let mut text = String::new();
        let mut section = |name: &str, keys: &[(&str, String)]| {
            let _ = writeln!(text, "[{name}]");
            for (key, value) in keys {
                let _ = writeln!(text, "{key} = {value}");
            }
            text.push('\n');
        };
        let off = || [("enabled", "false".to_owned())];
        let mut node = vec![("state_dir", below("state"))];
        node.extend(self.instance_type.map(|name| ("instance_type", quoted(name))));
        section("node", &node);
        section("sample", &[("interval", quoted(self.sample_interval))]);
        section(
            "publish",
            &[
                ("target", quoted("cloudwatch")),
                ("endpoint_url", quoted(self.endpoint_url)),
                ("interval", quoted(self.publish_interval)),
                ("groups", serde_json::Value::from(self.groups).to_string()),
            ],
        );
        section("spool", &[("dir", below("spool"))]);
        section(
            "gpu",
            &[
                ("nvml_library", quoted(&self.nvml_library.to_string_lossy())),
                ("kmsg", below("kmsg")),
            ],
        );
        match &self.mps {
            Some(mps) => section("mps", &mps.keys()),
            None => section("mps", &off()),
        }
        section("slices", &off());
        section(
            "pods",
            &[
                ("enabled", "false".to_owned()),
                ("interval", quoted(self.process_interval)),
            ],
        );
        section("status", &[("socket", quoted(&self.socket.to_string_lossy()))]);
        text
    }
}

/// A TOML string. JSON's escapes are a subset of TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_survive_and_nothing_lies_outside() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a \"quoted\" \\ name");
        let settings = Settings {
            dir: &dir,
            socket: &dir.join("status.sock"),
            instance_type: None,
            endpoint_url: "http://127.0.0.1:9",
            sample_interval: "1s",
            publish_interval: "10s",
            groups: ALL_GROUPS,
            nvml_library: Path::new("libnvidia-ml.so.1"),
            process_interval: "5s",
            mps: Some(MpsSettings {
                dir: dir.join("mps"),
                client_dir: dir.join("clients"),
                control_binary: "nvidia-cuda-mps-control".into(),
                exclusive_process: false,
                probe_interval: "2s",
            }),
        };
        let text = fs_err::read_to_string(settings.write().unwrap()).unwrap();
        let table: toml::Table = toml::from_str(&text).unwrap();
        for (section, key) in [
            ("node", "state_dir"),
            ("spool", "dir"),
            ("mps", "dir"),
            ("mps", "client_dir"),
            ("gpu", "kmsg"),
            ("status", "socket"),
        ] {
            let path = Path::new(table[section][key].as_str().unwrap());
            assert!(path.starts_with(&dir), "{section}.{key} = {}", path.display());
        }
        assert_eq!(table["gpu"]["nvml_library"].as_str(), Some("libnvidia-ml.so.1"));
        assert_eq!(table["publish"]["interval"].as_str(), Some("10s"));
        let groups: Vec<_> = table["publish"]["groups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|group| group.as_str().unwrap())
            .collect();
        assert_eq!(groups, ALL_GROUPS);
        assert!(!text.contains("instance_type"));
        assert!(dir.join("kmsg").is_file());
    }
}
