//! What is wrong with MPS.

use super::{Problem, problem};
use crate::mps::MpsState;
use crate::status::Snapshot;

pub(super) fn find(snapshot: &Snapshot, problems: &mut Vec<Problem>) {
    if !snapshot.mps.enabled {
        return;
    }
    for gpu in &snapshot.mps.gpus {
        if let Some(trouble) = gpu.state.trouble() {
            problems.push(problem(
                format!(
                    "GPU {}: MPS is {}: {}",
                    gpu.number,
                    gpu.state.as_str(),
                    trouble.why
                ),
                addressed(&trouble.mend, &gpu.number),
            ));
        }
    }
}

/// For the line in `systemctl status`; empty where MPS is off.
pub(super) fn summary(snapshot: &Snapshot) -> String {
    let mps = &snapshot.mps;
    if !mps.enabled || mps.gpus.is_empty() {
        return String::new();
    }
    let ready = mps.gpus.iter().filter(|gpu| gpu.state == MpsState::Ready).count();
    format!(", MPS {ready}/{} ready", mps.gpus.len())
}

/// The commands of a mend with the number of the GPU that they are to be typed for.
fn addressed(mend: &str, number: &str) -> String {
    mend.replace("mps restart GPU", &format!("mps restart {number}"))
}
