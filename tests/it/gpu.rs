//! What the GPUs do, and what becomes of it in the windows and in the status.

use crate::harness::{Node, datums};

const ONE_GPU: &str = r#"
[[gpu]]
uuid = "GPU-a"
name = "NVIDIA A10G"
pci = "00000000:00:1B.0"
memory_mib = 24000
reserved_mib = 4000
used_mib = 5000
utilization = 40
"#;

#[test]
fn a_gpu_is_published_under_its_number_with_every_ring_sample() {
    let node = Node::new(ONE_GPU);
    let agent = node.start();
    // The second window is the first whole one.
    let windows = agent.wait_batches("two whole windows of utilisation", |batches| {
        let windows = datums(batches, "gpu_utilization");
        (windows.len() >= 3).then_some(windows)
    });
    assert_eq!(windows[1].label, "GPUNumber=0");
    assert_eq!(windows[1].values, [(40.0, 6.0)], "six ring samples a second");
    let memory = datums(&agent.batches(), "gpu_memory_utilization");
    assert_eq!(
        memory[1].values,
        [(25.0, 10.0)],
        "used / (total - reserved), ten readings a second"
    );
}
