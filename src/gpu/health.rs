//! Fault classes: what an XID says about the GPU it names.
//!
//! The classes follow the immediate action of NVIDIA's XID catalogue for Ampere and later. An XID that only an
//! application caused never makes a GPU unhealthy; an unknown one is reported but never condemns a GPU.
//! The driver's own verdict (NVML field 230, the recovery action) wins over this table where there is one.

use serde::{Deserialize, Serialize};

/// What an XID says about the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum XidClass {
    /// An application did something wrong; the GPU is well.
    Application,
    /// Follows another XID, or is for the record.
    Information,
    /// The GPU works, but somebody should look.
    Warning,
    /// The GPU must be reset.
    NeedsReset,
    /// The hardware is broken or gone: the node must be replaced.
    Broken,
}

impl XidClass {
    /// Whether the GPU cannot be used until it is reset or replaced.
    #[must_use]
    pub fn is_fatal(self) -> bool {
        matches!(self, Self::NeedsReset | Self::Broken)
    }
}

/// The class of an XID.
#[must_use]
pub fn classify(xid: u32) -> XidClass {
    match xid {
        13
        | 31
        | 32
        | 39..=41
        | 43
        | 68..=72
        | 75..=77
        | 80
        | 82..=86
        | 88
        | 89
        | 94
        | 96..=105
        | 126..=135
        | 139 => XidClass::Application,
        37 | 38 | 44 | 45 | 66 | 67 | 154 => XidClass::Information,
        46 | 48 | 62 | 64 | 95 | 109 | 110 | 119 | 120 | 136 | 140 | 143 | 155 | 156 | 158 => {
            XidClass::NeedsReset
        }
        54 | 74 | 79 | 142 | 151 => XidClass::Broken,
        // 63 (a row was remapped), 92, 93, 121, 137, 144-150 (NVLink 5), 157, 160, 161, and whatever is newer.
        _ => XidClass::Warning,
    }
}

/// NVML field 230 in words; `None` when no action is needed.
#[must_use]
pub fn recovery_action(value: u32) -> Option<&'static str> {
    match value {
        0 => None,
        1 => Some("reset the GPU"),
        2 => Some("reboot the node"),
        3 => Some("drain peer-to-peer traffic"),
        4 => Some("drain the GPU, then reset it"),
        _ => Some("an action that this version does not know"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn application_faults_never_condemn_a_gpu() {
        for xid in [13, 31, 43, 45, 68, 94] {
            assert!(!classify(xid).is_fatal(), "XID {xid}");
        }
    }

    #[test]
    fn hardware_faults_do() {
        for xid in [46, 48, 62, 64, 74, 79, 95, 109, 119, 120, 140, 142, 143, 151] {
            assert!(classify(xid).is_fatal(), "XID {xid}");
        }
    }

    #[test]
    fn what_is_not_known_warns() {
        for xid in [0, 63, 121, 149, 171, 9_999] {
            assert_eq!(classify(xid), XidClass::Warning, "XID {xid}");
        }
    }
}
