//! A node in a temporary directory, and the agent on it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fake_nvml::calllog::{self, Call};
use gpushare::status::Snapshot;
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

/// The longest any state may take to come about; a loaded machine is slow, a broken agent never gets there.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Directories, configuration and GPUs of a pretended node. Everything is removed when it is dropped.
pub(crate) struct Node {
    dir: TempDir,
    settings: Vec<(String, String)>,
    library: PathBuf,
    env: Vec<(String, String)>,
}

impl Node {
    /// A node that samples ten times a second and publishes every second, with the GPUs of `scenario` (TOML,
    /// see `testkit/fake-nvml/README.md`).
    pub(crate) fn new(scenario: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Self {
            dir,
            settings: Vec::new(),
            library: fake_nvml::library_path(),
            env: Vec::new(),
        };
        fs_err::write(node.path("kmsg"), "").unwrap();
        node.play(scenario);
        let path = |name: &str| quoted(&node.path(name));
        let (socket, state, kmsg, spool) = (path("status.sock"), path("state"), path("kmsg"), path("spool"));
        node.with("sample.interval", "\"100ms\"")
            .with("publish.target", "\"stdout\"")
            .with("publish.interval", "\"1s\"")
            .with("publish.groups", "[\"host\", \"gpu\", \"health\", \"agent\"]")
            .with("node.instance_id", "\"i-0test\"")
            .with("node.state_dir", &state)
            .with("spool.dir", &spool)
            .with("spool.min_free_bytes", "0")
            .with("status.socket", &socket)
            .with("gpu.kmsg", &kmsg)
            // MPS has tests of its own; elsewhere there is nobody to keep it.
            .with("mps.enabled", "false")
            .with("slices.enabled", "false")
    }

    /// Sets a configuration key to a TOML value; the last setting of a key counts.
    pub(crate) fn with(mut self, key: &str, value: &str) -> Self {
        self.settings.retain(|(known, _)| known != key);
        self.settings.push((key.into(), value.into()));
        self
    }

    /// Takes a configuration key back, so that its default counts.
    pub(crate) fn without(mut self, key: &str) -> Self {
        self.settings.retain(|(known, _)| known != key);
        self
    }

    /// Sets an environment variable of the agent (and of the NVML child).
    pub(crate) fn with_env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Uses an NVML library that lacks these symbols.
    pub(crate) fn without_symbols(mut self, symbols: &[&str]) -> Self {
        let copy = self.path("libnvidia-ml.so.1");
        fake_nvml::library_without(&fake_nvml::library_path(), &copy, symbols).unwrap();
        self.library = copy;
        self
    }

    /// Uses this file as the NVML library.
    pub(crate) fn with_library(mut self, path: impl Into<PathBuf>) -> Self {
        self.library = path.into();
        self
    }

    /// Switches the GPUs to another scenario, at once and as a whole. Its clock starts now.
    pub(crate) fn play(&self, scenario: &str) {
        let fresh = self.path("scenario.new");
        fs_err::write(&fresh, scenario).unwrap();
        fs_err::rename(&fresh, self.path("scenario.toml")).unwrap();
    }

    /// A path inside the node's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Appends a line to the kernel log.
    pub(crate) fn log_to_kernel(&self, line: &str) {
        let mut log = fs_err::OpenOptions::new()
            .append(true)
            .open(self.path("kmsg"))
            .unwrap();
        std::io::Write::write_all(&mut log, format!("{line}\n").as_bytes()).unwrap();
    }

    /// Every NVML call so far.
    pub(crate) fn nvml_calls(&self) -> Vec<Call> {
        let log = self.path("nvml.log");
        if log.exists() {
            calllog::read(&log).unwrap()
        } else {
            Vec::new()
        }
    }

    /// `gpushare ARGUMENTS` with this node's configuration and environment, output captured.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gpushare"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| leads_to_aws(name)) {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .arg("--config")
            .arg(self.write_config())
            .env_remove("NOTIFY_SOCKET")
            // No ~/.aws of whoever runs the tests.
            .env("HOME", self.dir.path())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("FAKE_NVML_SCENARIO", self.path("scenario.toml"))
            .env("FAKE_NVML_CALLLOG", self.path("nvml.log"))
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null());
        command
    }

    /// Starts the agent and waits until its status answers.
    pub(crate) fn start(&self) -> Agent {
        let agent = self.start_unseen();
        agent.wait("the status socket answers", |_| true);
        agent
    }

    /// Starts the agent without waiting for anything.
    pub(crate) fn start_unseen(&self) -> Agent {
        let mut agent = self.start_into(&["run"], Stdio::piped());
        let stdout = agent.process.stdout.take().unwrap();
        agent.reader = Some(read_lines(stdout, Arc::clone(&agent.lines)));
        agent
    }

    fn write_config(&self) -> PathBuf {
        let path = self.path("config.toml");
        let library = ("gpu.nvml_library".to_owned(), quoted(&self.library));
        let chosen = self.settings.iter().any(|(key, _)| key == "gpu.nvml_library");
        let settings = self.settings.iter().chain((!chosen).then_some(&library));
        // Dotted keys: no section has to be opened.
        let lines: Vec<String> = settings
            .map(|(key, value)| format!("{key} = {value}\n"))
            .collect();
        fs_err::write(&path, lines.concat()).unwrap();
        path
    }

    /// Starts the agent with these arguments, its standard output going elsewhere than into [`Agent::batches`].
    pub(crate) fn start_into(&self, arguments: &[&str], stdout: impl Into<Stdio>) -> Agent {
        self.spawn(self.command(arguments), stdout)
    }

    /// Starts an agent by a command of the caller's making.
    pub(crate) fn spawn(&self, mut command: Command, stdout: impl Into<Stdio>) -> Agent {
        let log = fs_err::File::create(self.path("agent.log")).unwrap();
        command.stdout(stdout).stderr(Stdio::from(log.into_file()));
        Agent {
            process: command.spawn().unwrap(),
            lines: Arc::default(),
            reader: None,
            socket: self.path("status.sock"),
            log: self.path("agent.log"),
        }
    }
}

/// Whether a variable of whoever runs the tests would lead the agent to a real service, or past a fake one.
fn leads_to_aws(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_uppercase();
    name.starts_with("AWS_") || name.ends_with("_PROXY")
}

fn read_lines(stdout: ChildStdout, lines: Arc<Mutex<Vec<Value>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let line = line.unwrap();
            let batch = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not a JSON line: {line}"));
            lines.lock().unwrap().push(batch);
        }
    })
}

/// A running agent. It is killed when it is dropped.
pub(crate) struct Agent {
    process: Child,
    lines: Arc<Mutex<Vec<Value>>>,
    reader: Option<JoinHandle<()>>,
    socket: PathBuf,
    log: PathBuf,
}

/// How an agent ended.
pub(crate) struct Ended {
    /// Its exit status.
    pub(crate) status: ExitStatus,
    /// Time from the signal to the end.
    pub(crate) took: Duration,
    /// Every batch it printed.
    pub(crate) batches: Vec<Value>,
    /// What it logged.
    pub(crate) log: String,
}

impl Agent {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The status, if it answers.
    pub(crate) fn status(&self) -> Option<Snapshot> {
        let answer = gpushare::status::client::request(&self.socket, "status").ok()?;
        Some(gpushare::status::client::parse(&self.socket, &answer).unwrap())
    }

    /// Waits until the status is as wanted, and returns it.
    pub(crate) fn wait(&self, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let mut last = None;
        let seen = wait_for(|| {
            last = self.status().or(last.take());
            last.clone().filter(|snapshot| wanted(snapshot))
        });
        seen.unwrap_or_else(|| panic!("never came: {what}\nlast status: {last:#?}\nlog:\n{}", self.log()))
    }

    /// Waits until the printed batches are as wanted, and returns what was extracted from them.
    pub(crate) fn wait_batches<T>(&self, what: &str, wanted: impl Fn(&[Value]) -> Option<T>) -> T {
        let seen = wait_for(|| wanted(&self.lines.lock().unwrap()));
        seen.unwrap_or_else(|| panic!("never printed: {what}\nlog:\n{}", self.log()))
    }

    /// Every batch printed so far.
    pub(crate) fn batches(&self) -> Vec<Value> {
        self.lines.lock().unwrap().clone()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs_err::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn terminate(self) -> Ended {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Waits for the end.
    pub(crate) fn ended(mut self) -> Ended {
        let begun = Instant::now();
        let status = wait_for(|| self.process.try_wait().unwrap());
        let status = status.unwrap_or_else(|| panic!("the agent does not end; log:\n{}", self.log()));
        let took = begun.elapsed();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        Ended {
            status,
            took,
            batches: self.batches(),
            log: self.log(),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Polls until there is an answer, for at most [`PATIENCE`].
pub(crate) fn wait_for<T>(mut poll: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        if let Some(answer) = poll() {
            return Some(answer);
        }
        if begun.elapsed() > PATIENCE {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One datum of a metric in some batches: dimensions as `Name=Value` without the node's own, values and counts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Datum {
    /// The metric.
    pub(crate) metric: String,
    /// `GPUNumber=0` and the like; empty for a metric of the whole node.
    pub(crate) label: String,
    /// Start of its window.
    pub(crate) timestamp: String,
    /// Distinct values with how often each occurred.
    pub(crate) values: Vec<(f64, f64)>,
}

impl Datum {
    /// How many samples it holds.
    pub(crate) fn samples(&self) -> f64 {
        self.values.iter().map(|(_, count)| count).sum()
    }
}

/// Every datum of a metric, in the order of printing.
pub(crate) fn datums(batches: &[Value], metric: &str) -> Vec<Datum> {
    let data = batches
        .iter()
        .flat_map(|batch| batch["MetricData"].as_array().unwrap());
    data.filter(|datum| datum["MetricName"] == metric)
        .map(datum)
        .collect()
}

fn datum(json: &Value) -> Datum {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let numbers = |key: &str| json[key].as_array().unwrap().iter().map(|n| n.as_f64().unwrap());
    let node = ["InstanceId", "ImageId", "InstanceType", "AutoScalingGroupName"];
    let labels = json["Dimensions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|d| !node.iter().any(|n| d["Name"] == *n));
    let label: Vec<String> = labels
        .map(|d| format!("{}={}", text(&d["Name"]), text(&d["Value"])))
        .collect();
    Datum {
        metric: text(&json["MetricName"]),
        label: label.join(","),
        timestamp: text(&json["Timestamp"]),
        values: numbers("Values").zip(numbers("Counts")).collect(),
    }
}

/// Runs a command to its end and returns exit code, standard output and standard error.
pub(crate) fn output(mut command: Command) -> (i32, String, String) {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = read_text(child.stdout.take().unwrap());
    let stderr = read_text(child.stderr.take().unwrap());
    let status = wait_for(|| child.try_wait().unwrap());
    if status.is_none() {
        child.kill().unwrap();
    }
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    let status = status.unwrap_or_else(|| panic!("{command:?} does not end\n{stdout}{stderr}"));
    (status.code().unwrap_or(-1), stdout, stderr)
}

fn read_text(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    })
}

/// Whether a process exists.
pub(crate) fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// A path as a TOML string.
pub(crate) fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_str().unwrap())
}
