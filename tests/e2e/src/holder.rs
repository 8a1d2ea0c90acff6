//! The process that holds a node: `holder.sh`, its orders and its answers.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use crate::cache::{need, tail};
use crate::{Cache, Error, Spec};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/holder.sh");
/// How long the mounts may take, and the end of a node that is killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the holder says about its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Its disk is mounted.
    Ready,
    /// systemd-nspawn has ended with this status: 0 after a power-off, 133 after a reboot.
    Ended(i32),
}

/// The holder of one node. Everything is gone when it is dropped.
pub(crate) struct Holder {
    process: Child,
    /// Orders; closed, it ends.
    orders: Option<ChildStdin>,
    answers: Receiver<Said>,
    console: File,
    /// Where the node's disk is mounted, in the holder's eyes.
    disk: PathBuf,
}

impl Holder {
    /// Makes namespaces and mounts of a node.
    pub(crate) fn start(cache: &Cache, spec: &Spec) -> Result<Self, Error> {
        for (program, package) in [
            ("unshare", "util-linux"),
            ("nsenter", "util-linux"),
            ("flock", "util-linux"),
            ("mount", "mount"),
            ("systemd-nspawn", "systemd-container"),
        ] {
            need(program, package)?;
        }
        let (root, mount_point) = (cache.root()?, cache.mount_point()?);
        // No name in any folder: it is gone with those who have it open.
        let console = tempfile::tempfile().map_err(Error::io("make the console of a node"))?;
        let copy = console
            .try_clone()
            .map_err(Error::io("make the console of a node"))?;
        let mut process = command(&mount_point, &root, spec)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(copy)
            .spawn()
            .map_err(Error::io("start the holder of a node"))?;
        let orders = process.stdin.take();
        let answers = read(
            process
                .stdout
                .take()
                .expect("it was asked to be a pipe four lines above"),
        );
        let holder = Self {
            process,
            orders,
            answers,
            console,
            disk: mount_point.join("root"),
        };
        match holder.answer(Instant::now() + PATIENCE) {
            Some(Said::Ready) => Ok(holder),
            _ => Err(Error::NotPermitted(tail(&holder.console(), 8))),
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Starts the node.
    pub(crate) fn boot(&mut self) {
        let orders = self.orders.as_mut().expect("it is closed on drop alone");
        // A holder that is gone is noticed by the answer that does not come.
        let _ = orders.write_all(b"boot\n");
    }

    /// What it says next, until the deadline; `None` as well when it is gone.
    pub(crate) fn answer(&self, deadline: Instant) -> Option<Said> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.answers.recv_timeout(left).ok()
    }

    /// Everything that was written on the console so far, and what the holder complained about.
    pub(crate) fn console(&self) -> String {
        let length = self.console.metadata().map_or(0, |metadata| metadata.len());
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        match self.console.read_exact_at(&mut bytes, 0) {
            Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("the console cannot be read: {error}"),
        }
    }

    /// Where the disk of the node is mounted, as seen by the process `keeper`.
    pub(crate) fn disk_through(&self, keeper: u32) -> PathBuf {
        let inside = self.disk.strip_prefix("/").unwrap_or(&self.disk);
        Path::new("/proc")
            .join(keeper.to_string())
            .join("root")
            .join(inside)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.orders.take());
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // The kernel ends what PID 1 leaves behind, so this takes a process that hangs in the kernel.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(mount_point: &Path, root: &Path, spec: &Spec) -> Command {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let group = format!("gpushare-e2e-{}-{number}", std::process::id());
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--", "sh", "-eu", SCRIPT, "hold"])
        .arg(mount_point)
        .arg(mount_point.with_file_name("holders.lock"))
        .arg(group)
        .arg(root)
        .arg(&spec.disk)
        .args(spec.arguments())
        // A group of its own: whoever kills the test and its group lets the holder clean up.
        .process_group(0)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("LC_ALL", "C.UTF-8");
    command
}

fn read(stdout: impl Read + Send + 'static) -> Receiver<Said> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let said = match line.split_once(' ') {
                Some(("ended", status)) => Said::Ended(status.parse().unwrap_or(-1)),
                _ => Said::Ready,
            };
            if sender.send(said).is_err() {
                break;
            }
        }
    });
    receiver
}
