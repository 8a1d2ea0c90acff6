//! NVIDIA's own MPS control daemon as a unit of a node. It needs no GPU; its server would.

use e2e::{Node, PATIENCE, RealMps, Spec};

const UNIT: &str = "mps.service";
const SERVICE: &str = "\
[Service]
Environment=CUDA_MPS_PIPE_DIRECTORY=/run/mps CUDA_MPS_LOG_DIRECTORY=/run/mps
ExecStart=nvidia-cuda-mps-control -f
RuntimeDirectory=mps
Restart=always
RestartSec=0
";

#[test]
fn the_daemon_answers_and_a_restart_by_systemd_brings_its_defaults_back() {
    let mps = RealMps::of_this_run();
    let spec = Spec::new("mps")
        .with_bind(mps.control(), "/usr/bin/nvidia-cuda-mps-control")
        .with_bind(mps.server(), "/usr/bin/nvidia-cuda-mps-server")
        .with_file("/etc/systemd/system/mps.service", SERVICE, 0o644);
    let node = Node::boot(&spec);
    node.succeed(&["systemctl", "start", UNIT]);
    wait_for_percentage(&node, "100.0\n");
    assert_eq!(ask(&node, "set_default_active_thread_percentage 25"), "25.0\n");
    assert_eq!(ask(&node, "get_default_active_thread_percentage"), "25.0\n");

    node.succeed(&["systemctl", "kill", "--signal=SIGKILL", UNIT]);
    node.wait_until("a restart", PATIENCE, || {
        (node.property(UNIT, "NRestarts") == "1").then_some(())
    });
    wait_for_percentage(&node, "100.0\n");

    assert_eq!(
        ask(&node, "start_server -uid 0"),
        "",
        "it says nothing, whatever happens"
    );
    node.wait_until("the end of a server without a driver", PATIENCE, || {
        node.journal(UNIT).contains("exited with status 1").then_some(())
    });
    assert_eq!(ask(&node, "get_server_list"), "");
}

fn ask(node: &Node, order: &str) -> String {
    let pipe = format!("echo {order} | CUDA_MPS_PIPE_DIRECTORY=/run/mps nvidia-cuda-mps-control");
    node.run(&["sh", "-c", &pipe]).stdout
}

fn wait_for_percentage(node: &Node, wanted: &str) {
    node.wait_until(wanted, PATIENCE, || {
        (ask(node, "get_default_active_thread_percentage") == wanted).then_some(())
    });
}
