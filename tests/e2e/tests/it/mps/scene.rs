//! A node with two GPUs and the programs of MPS.

use std::time::{Duration, Instant};

use e2e::{Node, PATIENCE, Spec, built};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::unit;

/// The GPUs, in the order of their numbers.
pub(crate) const UUIDS: [&str; 2] = [
    "GPU-0a000000-0000-4000-8000-000000000000",
    "GPU-0b000000-0000-4000-8000-000000000000",
];
/// The agent.
pub(crate) const AGENT: &str = unit::UNIT;
/// The driver lets only those change a setting who may.
const SCENARIO: &str = r#"
needs_admin = true
[[gpu]]
uuid = "GPU-0a000000-0000-4000-8000-000000000000"
name = "NVIDIA A10G"
pci = "00000000:00:1b.0"
memory_mib = 24000
[[gpu]]
uuid = "GPU-0b000000-0000-4000-8000-000000000000"
name = "NVIDIA A10G"
pci = "00000000:00:1c.0"
memory_mib = 24000
"#;
/// What an operator writes down.
pub(crate) const CONFIG: &str = "\
[node]
instance_id = \"i-0node\"
[publish]
target = \"stdout\"
interval = \"5s\"
groups = [\"agent\"]
[mps]
probe_interval = \"500ms\"
grace = \"1s\"
";
/// `gpushare mps run` gives its daemon a clean environment. Each GPU has a script of its own, so that one can fail.
const CONTROL: &str = "\
#!/bin/sh
export FAKE_MPS_SCRIPT=/etc/mps/\"${CUDA_MPS_PIPE_DIRECTORY##*/}.toml\"
exec /opt/mps/nvidia-cuda-mps-control \"$@\"
";
const MPS_UNIT_FILE: &str = "/usr/lib/systemd/system/gpushare-mps@.service";

/// A node whose agent keeps MPS on two GPUs.
pub(crate) struct Scene {
    pub(crate) node: Node,
}

/// The processes of one GPU's MPS, in the node's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pids {
    /// `gpushare mps run`.
    pub(crate) main: u32,
    /// The control daemon.
    pub(crate) daemon: u32,
    /// The server.
    pub(crate) server: u32,
}

/// The unit of a GPU's MPS.
pub(crate) fn mps_unit(gpu: usize) -> String {
    format!("gpushare-mps@{}.service", UUIDS[gpu])
}

/// A node with everything but the programs of MPS.
pub(super) fn without_mps(name: &str) -> Spec {
    with_gpus(unit::installed(name))
        .with_copy(
            unit::repository().join("systemd/gpushare-mps@.service"),
            MPS_UNIT_FILE,
            0o644,
        )
        .with_file("/etc/gpushare/config.toml", CONFIG, 0o644)
}

/// A node with everything, not yet started.
pub(super) fn installed(name: &str) -> Spec {
    with_programs(without_mps(name))
}

/// A node with all that is NVIDIA's and nothing that is ours.
pub(crate) fn bare(name: &str) -> Spec {
    with_programs(with_gpus(unit::bare(name)))
}

/// Two GPUs in place of the node's one.
pub(crate) fn with_gpus(spec: Spec) -> Spec {
    spec.with_file(
        "/etc/systemd/system/gpushare-mps@.service.d/gpus.conf",
        unit::DROP_IN,
        0o644,
    )
    .with_file("/etc/fakes/scenario.toml", SCENARIO, 0o644)
}

fn with_programs(spec: Spec) -> Spec {
    let played = built("fake-mps");
    let mut spec = spec
        .with_file("/usr/bin/nvidia-cuda-mps-control", CONTROL, 0o755)
        .with_bind(&played, "/opt/mps/nvidia-cuda-mps-control")
        .with_bind(&played, "/usr/bin/nvidia-cuda-mps-server")
        .with_bind(&played, "/usr/bin/fake-mps-client");
    for gpu in UUIDS {
        spec = spec.with_file(&format!("/etc/mps/{gpu}.toml"), "", 0o644);
    }
    spec
}

impl Scene {
    /// Boots the node and starts the agent.
    pub(super) fn boot(spec: &Spec) -> Self {
        let scene = Self {
            node: Node::boot(spec),
        };
        scene.node.succeed(&["systemctl", "start", AGENT]);
        scene
    }

    /// The same, and both GPUs are verified.
    pub(super) fn ready(spec: &Spec) -> Self {
        let scene = Self::boot(spec);
        scene.wait("both GPUs are ready", |status| {
            is_ready(status, 0) && is_ready(status, 1)
        });
        scene
    }

    /// What the agent says; nothing while there is none.
    pub(crate) fn status(&self) -> Option<Value> {
        let said = self.node.run(&["gpushare", "status", "--json"]).stdout;
        serde_json::from_str(&said).ok()
    }

    /// The status once it is so.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        self.wait_for(what, PATIENCE, is_so)
    }

    /// As [`Self::wait`], with another limit.
    #[track_caller]
    pub(super) fn wait_for(&self, what: &str, limit: Duration, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if let Some(status) = self.status() {
                if is_so(&status) {
                    return status;
                }
                last = Some(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mps = last.map(|status| status["mps"].clone());
        self.node
            .fail(&format!("never came within {limit:?}: {what}\n{mps:#?}"))
    }

    /// Another script of this GPU's MPS, now.
    pub(crate) fn play(&self, gpu: usize, script: &str) {
        let path = self.node.path(format!("/etc/mps/{}.toml", UUIDS[gpu]));
        let fresh = path.with_extension("fresh");
        fs_err::write(&fresh, script).unwrap();
        fs_err::rename(fresh, path).unwrap();
    }

    /// The compute modes that were set through NVML, the newest last: 0 is DEFAULT, 3 is `EXCLUSIVE_PROCESS`.
    pub(crate) fn compute_modes(&self, gpu: usize) -> Vec<u32> {
        let path = self.node.path("/etc/fakes/scenario.toml.state");
        let text = fs_err::read_to_string(path).unwrap_or_default();
        let lines = text.lines().filter(|line| line.contains(UUIDS[gpu]));
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
            .collect()
    }

    /// Waits until the unit is in this state.
    #[track_caller]
    pub(crate) fn wait_unit(&self, gpu: usize, state: &str) {
        self.node.wait_until(state, PATIENCE, || {
            (self.node.property(&mps_unit(gpu), "ActiveState") == state).then_some(())
        });
    }

    /// The processes of a GPU's MPS that is ready.
    #[track_caller]
    pub(crate) fn pids(&self, gpu: usize) -> Pids {
        let status = self.wait("a verified MPS", |status| is_ready(status, gpu));
        let file = format!("/run/gpushare/mps/{}/nvidia-cuda-mps-control.pid", UUIDS[gpu]);
        let main = self.node.property(&mps_unit(gpu), "MainPID").parse().unwrap();
        Pids {
            main,
            daemon: fs_err::read_to_string(self.node.path(file))
                .unwrap()
                .trim()
                .parse()
                .unwrap(),
            server: server(&status, gpu).unwrap(),
        }
    }

    /// Whether a process of the node runs.
    pub(crate) fn runs(&self, pid: u32) -> bool {
        self.node.path(format!("/proc/{pid}/exe")).exists()
    }

    /// Sends a signal to a process of the node.
    pub(super) fn signal(&self, pid: u32, signal: Signal) {
        let outside = self.node.host_pid(pid).unwrap();
        kill_process(Pid::from_raw(outside.cast_signed()).unwrap(), signal).unwrap();
    }

    /// A CUDA program in a pod: in the kubelet's slice, and it sees the directory of this GPU's clients, read-only, and
    /// nothing else of ours. It lives until its unit is stopped.
    pub(crate) fn pod(&self, gpu: usize, name: &str, uid: u32) {
        // The node has no such users, as it has none of those of pods.
        let as_user = format!("setpriv --reuid={uid} --regid={uid} --clear-groups");
        self.node.succeed(&[
            "systemd-run",
            "--quiet",
            &format!("--unit={name}"),
            &format!("--slice=kubepods-besteffort-{name}.slice"),
            "--property=TemporaryFileSystem=/run/gpushare:ro",
            &format!("--property=BindReadOnlyPaths={}", view(gpu)),
            &format!("--setenv=CUDA_MPS_PIPE_DIRECTORY={}", view(gpu)),
            "sh",
            "-c",
            &format!("sleep infinity | exec {as_user} fake-mps-client"),
        ]);
    }

    /// Waits until the pod's program has said this.
    #[track_caller]
    pub(crate) fn wait_pod(&self, name: &str, said: &str) {
        self.node
            .wait_until(said, PATIENCE, || self.pod_said(name, said).then_some(()));
    }

    /// Whether the pod's program has said this.
    pub(crate) fn pod_said(&self, name: &str, said: &str) -> bool {
        self.node.journal(name).lines().any(|line| line.starts_with(said))
    }
}

/// The directory that pods of this GPU see.
pub(super) fn view(gpu: usize) -> String {
    format!("/run/gpushare/clients/{}", UUIDS[gpu])
}

/// Whether the GPU's MPS is verified.
pub(crate) fn is_ready(status: &Value, gpu: usize) -> bool {
    of(status, gpu)["state"]["state"] == "ready"
}

/// What is wrong with the GPU's MPS, and the mend; empty where nothing is.
pub(super) fn trouble(status: &Value, gpu: usize) -> String {
    let state = &of(status, gpu)["state"];
    let text = |key: &str| state[key].as_str().unwrap_or_default();
    format!("{} {}", text("why"), text("mend")).trim().to_owned()
}

/// The server's process.
pub(super) fn server(status: &Value, gpu: usize) -> Option<u32> {
    of(status, gpu)["server"]["pid"].as_u64()?.try_into().ok()
}

/// How many clients the server has.
pub(crate) fn clients(status: &Value, gpu: usize) -> usize {
    of(status, gpu)["server"]["clients"]
        .as_array()
        .map_or(0, Vec::len)
}

/// The part of the status that is this GPU's.
pub(crate) fn of(status: &Value, gpu: usize) -> &Value {
    &status["mps"]["gpus"][gpu]
}
