//! A node with one GPU and the programs of MPS.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};

use fake_mps::Installed;
use fake_mps::calls::Event as Started;
use gpushare::mps::events::file::EventReader;
use gpushare::mps::events::{DaemonEnded, Event};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Node, PATIENCE, exists, quoted, wait_for};

/// The GPU.
pub(super) const GPU: &str = "GPU-7f1c9a52-3d08-5b6e-9c41-2e8a60d7b3f4";

/// The GPU as fake-nvml plays it, and what else is played (TOML).
pub(super) fn gpu(more: &str) -> String {
    format!(
        "[[gpu]]\nuuid = \"{GPU}\"\nname = \"NVIDIA A10G\"\npci = \"00000000:00:1b.0\"\nmemory_mib = 24000\n{more}\n"
    )
}

/// The node.
pub(super) struct Scene {
    /// Dropped before the directory of its programs is: it kills what runs by its file.
    pub(super) mps: Installed,
    pub(super) node: Node,
}

impl Scene {
    /// With this script of fake-mps.
    pub(super) fn new(script: &str) -> Self {
        let node = Node::new(&gpu(""));
        let root = node.path("");
        fs_err::set_permissions(&root, PermissionsExt::from_mode(0o755)).unwrap();
        let mps = Installed::in_dir(node.path("mps-programs")).unwrap();
        mps.play(script).unwrap();
        let control = quoted(&wrapped(&mps, &node.path("driver")));
        let (dir, client_dir) = (quoted(&node.path("run/mps")), quoted(&node.path("run/clients")));
        let node = node
            .with("mps.enabled", "true")
            .with("mps.control_binary", &control)
            .with("mps.dir", &dir)
            .with("mps.client_dir", &client_dir);
        Self { mps, node }
    }

    /// With another setting.
    pub(super) fn with(mut self, key: &str, value: &str) -> Self {
        self.node = self.node.with(key, value);
        self
    }

    /// With this shell script in the place of the control daemon, which nobody can ask anything.
    pub(super) fn with_daemon(self, script: &str) -> Self {
        let path = self.node.path("daemon");
        let absent = "[ \"$1\" = -f ] || { echo 'Cannot find MPS control daemon process' >&2; exit 1; }\n";
        executable(&path, &format!("{absent}{script}"));
        self.with("mps.control_binary", &quoted(&path))
    }

    /// The daemon's directory.
    pub(super) fn daemon_dir(&self) -> PathBuf {
        self.node.path("run/mps").join(GPU)
    }

    /// What pods see.
    pub(super) fn client_dir(&self) -> PathBuf {
        self.node.path("run/clients").join(GPU)
    }

    /// Starts `gpushare mps run` and waits for READY.
    pub(super) fn start(&self) -> Run {
        let run = self.start_unseen();
        run.wait_ready();
        run
    }

    /// Starts `gpushare mps run`.
    pub(super) fn start_unseen(&self) -> Run {
        let log = self.node.path("run.log");
        let stderr = fs_err::OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .open(&log)
            .unwrap();
        self.start_into(Stdio::from(stderr.into_file()))
    }

    /// Starts `gpushare mps run` with its log going elsewhere.
    pub(super) fn start_into(&self, stderr: Stdio) -> Run {
        let notify = self.node.path(&format!("notify.{}", next_number()));
        let systemd = UnixDatagram::bind(&notify).unwrap();
        systemd.set_read_timeout(Some(PATIENCE)).unwrap();
        let log = self.node.path("run.log");
        let length = log.metadata().map_or(0, |found| found.len());
        let process = self
            .node
            .command(&["mps", "run", GPU])
            .env("NOTIFY_SOCKET", &notify)
            .stderr(stderr)
            .spawn()
            .unwrap();
        Run {
            process,
            systemd,
            log,
            length,
        }
    }

    /// Every event so far.
    pub(super) fn events(&self) -> Vec<Event> {
        let news = EventReader::new(self.daemon_dir().join("gpushare.events"))
            .read()
            .unwrap();
        assert_eq!((news.skipped, news.missed), (0, false));
        news.records.into_iter().map(|record| record.event).collect()
    }

    /// How the newest daemon ended.
    pub(super) fn ended(&self) -> DaemonEnded {
        let ended = self.events().into_iter().rev().find_map(|event| match event {
            Event::DaemonEnded(ended) => Some(ended),
            _ => None,
        });
        ended.unwrap_or_else(|| panic!("no daemon ended: {:?}", self.events()))
    }

    /// The process ids of all control daemons so far.
    pub(super) fn daemons(&self) -> Vec<u32> {
        self.pids(|event| matches!(event, Started::Control(arguments) if arguments.contains("-f")))
    }

    /// The process ids of all servers so far.
    pub(super) fn servers(&self) -> Vec<u32> {
        self.pids(|event| matches!(event, Started::Server(_)))
    }

    fn pids(&self, wanted: impl Fn(&Started) -> bool) -> Vec<u32> {
        let calls = self.mps.calls().unwrap();
        calls
            .iter()
            .filter(|call| wanted(&call.event))
            .map(|call| call.pid)
            .collect()
    }

    /// What the daemon answers to root on the node.
    pub(super) fn said(&self, command: &str) -> String {
        self.mps
            .ask(&self.daemon_dir(), &format!("{command}\n"))
            .unwrap()
            .stdout
    }
}

/// `gpushare mps run` gives its daemon a clean environment, as a driver's programs want it: these put back what the
/// played ones need. A GPU has a script of its own where `dir/<uuid>.toml` is there when its daemon starts.
pub(crate) fn wrapped(mps: &Installed, dir: &Path) -> PathBuf {
    fs_err::create_dir(dir).unwrap();
    let variables = mps
        .env()
        .map(|(name, value)| format!("export {name}='{}'\n", value.to_str().unwrap()));
    let variables: String = variables
        .into_iter()
        .filter(|line| !line.starts_with("export PATH"))
        .collect();
    for name in ["nvidia-cuda-mps-control", "nvidia-cuda-mps-server"] {
        let real = mps.bin().join(name);
        let own = format!(
            "own='{}'/\"${{CUDA_MPS_PIPE_DIRECTORY##*/}}.toml\"\n\
             if [ -e \"$own\" ]; then export FAKE_MPS_SCRIPT=\"$own\"; fi\n",
            dir.display()
        );
        executable(
            &dir.join(name),
            &format!("{variables}{own}exec '{}' \"$@\"\n", real.display()),
        );
    }
    dir.join("nvidia-cuda-mps-control")
}

fn executable(path: &Path, script: &str) {
    fs_err::write(path, format!("#!/bin/sh\n{script}")).unwrap();
    fs_err::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// A number that no other start of this process has.
fn next_number() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// A running `gpushare mps run`. It is killed when it is dropped.
pub(super) struct Run {
    process: Child,
    systemd: UnixDatagram,
    log: PathBuf,
    /// Of the log before it.
    length: u64,
}

impl Run {
    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits for READY, and returns the status line with it.
    #[track_caller]
    pub(super) fn wait_ready(&self) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length = self
                .systemd
                .recv(&mut buffer)
                .unwrap_or_else(|error| panic!("never ready: {error}\n{}", self.log()));
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if said.lines().any(|line| line == "READY=1") {
                return said;
            }
        }
    }

    /// Sends a signal.
    pub(super) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    /// Waits for the end. Returns the exit code and what it logged.
    #[track_caller]
    pub(super) fn ended(mut self) -> (Option<i32>, String) {
        let status: Option<ExitStatus> = wait_for(|| self.process.try_wait().unwrap());
        let status = status.unwrap_or_else(|| panic!("it does not end\n{}", self.log()));
        (status.code(), self.log())
    }

    /// What it has logged.
    pub(super) fn log(&self) -> String {
        let mut text = String::new();
        let mut file = fs_err::File::open(&self.log).unwrap();
        file.seek(SeekFrom::Start(self.length)).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends a signal.
pub(super) fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// Whether a process runs, or is a zombie whose parent has not noticed.
pub(super) fn runs(pid: u32) -> bool {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    exists(pid) && !stat.contains(") Z ")
}

/// Waits until a process is gone.
#[track_caller]
pub(super) fn wait_gone(pid: u32) {
    wait_for(|| (!runs(pid)).then_some(())).unwrap_or_else(|| panic!("process {pid} is still there"));
}
