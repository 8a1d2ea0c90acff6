//! The GPUs that the daemon sees.

use serde::Deserialize;

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Device {
    pub(crate) uuid: String,
    #[serde(default = "Device::default_name")]
    pub(crate) name: String,
    /// `domain:bus:device`, each in hexadecimal digits.
    #[serde(default = "Device::default_pci")]
    pub(crate) pci: String,
}

impl Device {
    fn default_name() -> String {
        "Tesla T4".to_owned()
    }

    fn default_pci() -> String {
        "0000:00:1e".to_owned()
    }

    fn named(uuid: &str) -> Self {
        Self {
            uuid: uuid.to_owned(),
            name: Self::default_name(),
            pci: Self::default_pci(),
        }
    }

    /// Domain, bus and device; zero where the script gives no number.
    pub(crate) fn pci_numbers(&self) -> (u32, u32, u32) {
        let mut parts = self
            .pci
            .split([':', '.'])
            .map(|part| u32::from_str_radix(part, 16).unwrap_or(0));
        let mut next = || parts.next().unwrap_or(0);
        (next(), next(), next())
    }
}

/// The devices in the order of their ordinals: those of the node that `visible` (`CUDA_VISIBLE_DEVICES`) lets through.
///
/// As CUDA does it, the list ends at the first entry that names nothing. Where the script names no device, the node
/// has each UUID that is asked for.
pub(crate) fn visible(node: &[Device], visible: Option<&str>) -> Vec<Device> {
    let Some(list) = visible else {
        let one = [Device::named("GPU-00000000-0000-0000-0000-000000000000")];
        return if node.is_empty() {
            one.to_vec()
        } else {
            node.to_vec()
        };
    };
    list.split(',')
        .map_while(|entry| find(node, entry.trim()))
        .collect()
}

fn find(node: &[Device], entry: &str) -> Option<Device> {
    if let Ok(ordinal) = entry.parse::<usize>() {
        let default = || {
            (node.is_empty() && ordinal == 0)
                .then(|| Device::named("GPU-00000000-0000-0000-0000-000000000000"))
        };
        return node.get(ordinal).cloned().or_else(default);
    }
    if !entry.starts_with("GPU-") && !entry.starts_with("MIG-") {
        return None;
    }
    if node.is_empty() {
        return Some(Device::named(entry));
    }
    node.iter().find(|device| device.uuid.starts_with(entry)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uuids(devices: &[Device]) -> Vec<&str> {
        devices.iter().map(|device| device.uuid.as_str()).collect()
    }

    #[test]
    fn visible_devices_are_numbered_anew_and_end_at_the_first_wrong_entry() {
        let node = ["GPU-a", "GPU-b", "GPU-c"].map(Device::named);
        assert_eq!(uuids(&visible(&node, None)), ["GPU-a", "GPU-b", "GPU-c"]);
        assert_eq!(uuids(&visible(&node, Some("2,0"))), ["GPU-c", "GPU-a"]);
        assert_eq!(uuids(&visible(&node, Some("GPU-b,7,0"))), ["GPU-b"]);
        assert!(visible(&node, Some("")).is_empty());
        assert_eq!(uuids(&visible(&[], Some("GPU-x,MIG-y"))), ["GPU-x", "MIG-y"]);
    }
}
