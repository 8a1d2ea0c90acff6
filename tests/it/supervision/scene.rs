//! A node with GPUs and the programs of MPS.

use std::path::PathBuf;

use fake_mps::{Installed, Running};
use gpushare::mps::{MpsGpu, MpsState};
use gpushare::status::Snapshot;

use crate::harness::{Agent, Node, quoted, wait_for};
use crate::mps::scene::wrapped;

/// The GPUs of every scene, in the order of their numbers.
pub(super) const UUIDS: [&str; 2] = [
    "GPU-0a000000-0000-4000-8000-000000000000",
    "GPU-0b000000-0000-4000-8000-000000000000",
];

/// A node with two A10Gs that keeps its MPS daemons as plain processes. They end with it.
pub(super) struct Scene {
    pub(super) mps: Installed,
    pub(super) node: Node,
}

impl Scene {
    pub(super) fn new() -> Self {
        let node = Node::new(&gpus(""));
        let mps = Installed::in_dir(node.path("kit")).unwrap();
        let (dir, clients) = (quoted(&node.path("m")), quoted(&node.path("c")));
        let control = quoted(&wrapped(&mps, &node.path("driver")));
        let node = node
            .with("mps.enabled", "true")
            .with("mps.control_binary", &control)
            .with("mps.backend", "\"process\"")
            .with("mps.dir", &dir)
            .with("mps.client_dir", &clients)
            .with("mps.probe_interval", "\"300ms\"")
            .with("mps.grace", "\"1s\"")
            .with("pods.interval", "\"500ms\"")
            .with("slices.enabled", "true")
            .with("slices.per_gpu", "10")
            .with("publish.groups", "[\"gpu\", \"mps\", \"agent\"]");
        Self { mps, node }
    }

    /// The same with other settings.
    pub(super) fn with(mut self, key: &str, value: &str) -> Self {
        self.node = self.node.with(key, value);
        self
    }

    /// Another script of this GPU's MPS alone, now; the first one before its daemon starts.
    pub(super) fn play(&self, gpu: usize, script: &str) {
        let path = self.node.path("driver").join(format!("{}.toml", UUIDS[gpu]));
        let fresh = path.with_extension("fresh");
        fs_err::write(&fresh, script).unwrap();
        fs_err::rename(fresh, path).unwrap();
    }

    /// The directory that pods of this GPU see.
    pub(super) fn view(&self, gpu: usize) -> PathBuf {
        self.node.path("c").join(UUIDS[gpu])
    }

    /// The directory of this GPU's daemon.
    pub(super) fn pipe(&self, gpu: usize) -> PathBuf {
        self.node.path("m").join(UUIDS[gpu])
    }

    /// A CUDA program in a pod on this GPU, connected.
    pub(super) fn client(&self, gpu: usize) -> Running {
        let client = Running::start(&mut self.mps.client(&self.view(gpu))).unwrap();
        client.wait_for("connected server=").unwrap();
        client
    }

    /// The control daemon's own process of this GPU.
    pub(super) fn daemon(&self, gpu: usize) -> u32 {
        let file = self.pipe(gpu).join("nvidia-cuda-mps-control.pid");
        let pid = wait_for(|| fs_err::read_to_string(&file).ok()?.trim().parse().ok());
        pid.unwrap_or_else(|| panic!("no daemon in {}", file.display()))
    }

    /// Starts the agent and waits until both GPUs are verified.
    pub(super) fn start(&self) -> Agent {
        let agent = self.node.start();
        agent.wait("both GPUs are ready", |snapshot| {
            ready(snapshot, 0) && ready(snapshot, 1)
        });
        agent
    }
}

/// Two A10Gs; `keys` (TOML) follow those of the second.
pub(super) fn gpus(keys: &str) -> String {
    let gpu = |at: usize| {
        format!(
            "[[gpu]]\nuuid = {:?}\nname = \"NVIDIA A10G\"\npci = \"00000000:00:1{at}.0\"\nmemory_mib = 24000\n\
             reserved_mib = 4000\nused_mib = 0\nutilization = 7\n",
            UUIDS[at]
        )
    };
    gpu(0) + &gpu(1) + keys
}

pub(super) fn mps(snapshot: &Snapshot, gpu: usize) -> Option<&MpsGpu> {
    snapshot.mps.gpus.get(gpu)
}

pub(super) fn ready(snapshot: &Snapshot, gpu: usize) -> bool {
    mps(snapshot, gpu).is_some_and(|gpu| gpu.state == MpsState::Ready)
}

/// Why this GPU is degraded or down; empty where it is not.
pub(super) fn why(snapshot: &Snapshot, gpu: usize) -> String {
    let trouble = mps(snapshot, gpu).and_then(|gpu| gpu.state.trouble());
    trouble.map_or_else(String::new, |trouble| trouble.why.clone())
}

/// The process ids of a GPU: its supervisor's and its server's.
pub(super) fn pids(snapshot: &Snapshot, gpu: usize) -> (Option<u32>, Option<u32>) {
    let gpu = mps(snapshot, gpu).unwrap();
    (gpu.pid, gpu.server.as_ref().map(|server| server.pid))
}
