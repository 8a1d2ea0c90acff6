//! The tables that commands print.

use crate::device::Device;
use crate::version::Version;

/// One row of `ps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) pid: i32,
    pub(super) context: u32,
    pub(super) server: i32,
    pub(super) device: String,
    pub(super) namespace: String,
    pub(super) command: String,
}

/// The header and a line for each client. Widths are those of the real format strings; 595 has one column more.
pub(super) fn ps(version: Version, rows: &[Row]) -> Vec<String> {
    let device_width = rows.iter().map(|row| row.device.len() + 2).fold(15, usize::max);
    let line = |columns: [&str; 6], attributes: &str| {
        let [pid, id, server, device, namespace, command] = columns;
        let line =
            format!("{pid:<10}{id:<10}{server:<15}{device:<device_width$}{namespace:<15}{command:<15}");
        if version.has_partitions() {
            format!("{line}{attributes:<15}")
        } else {
            line
        }
    };
    let header = line(
        ["PID", "ID", "SERVER", "DEVICE", "NAMESPACE", "COMMAND"],
        "ATTRIBUTES",
    );
    let rows = rows.iter().map(|row| {
        let (pid, id, server) = (
            row.pid.to_string(),
            row.context.to_string(),
            row.server.to_string(),
        );
        line(
            [&pid, &id, &server, &row.device, &row.namespace, &row.command],
            "",
        )
    });
    std::iter::once(header).chain(rows).collect()
}

/// A UUID as `ps` shows it: as many of its groups as tell it from the other devices, and no fewer than three.
pub(super) fn short_uuid(uuid: &str, others: &[Device]) -> String {
    let groups: Vec<&str> = uuid.split('-').collect();
    let prefix = |count: usize| groups[..count].join("-");
    let unique = |short: &String| {
        let same = |device: &&Device| device.uuid.starts_with(short.as_str());
        others.iter().filter(same).count() <= 1
    };
    // The prefix of the kind (GPU, MIG) counts as a group.
    let counts = 4.min(groups.len())..groups.len();
    counts.map(prefix).find(unique).unwrap_or_else(|| uuid.to_owned())
}

/// The line of `get_device_client_list` above a device's clients.
pub(super) fn device_line(version: Version, ordinal: usize, device: &Device) -> String {
    let (domain, bus, number) = device.pci_numbers();
    let name = &device.name;
    if version.has_partitions() {
        format!("[{ordinal}] {domain:04x}:{bus:02x}.{number:02x}.00, {name}")
    } else {
        format!("[{ordinal}] {bus:02}:{number:02}.0, {name}")
    }
}

/// The rows of `device_query`; only their beginning is known of the real one.
pub(super) fn device_query(devices: &[Device], csv: bool) -> Vec<String> {
    let row = |(ordinal, device): (usize, &Device)| {
        let (domain, bus, number) = device.pci_numbers();
        let pci = format!("{domain:04X}:{bus:02X}:{number:02X}.0");
        let gap = if csv { "" } else { " " };
        format!("{ordinal},{gap}{pci},{gap}{},{gap}{}", device.uuid, device.name)
    };
    let header = (!csv).then(|| "Device Ordinal, PCI IDs, UUID, Name".to_owned());
    header
        .into_iter()
        .chain(devices.iter().enumerate().map(row))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(uuid: &str) -> Device {
        Device {
            uuid: uuid.to_owned(),
            name: "Tesla T4".to_owned(),
            pci: "0000:1a:1e".to_owned(),
        }
    }

    #[test]
    fn ps_has_the_columns_of_its_version() {
        let row = Row {
            pid: 9741,
            context: 0,
            server: 6472,
            device: "GPU-cb1213a3-d6a4-be7f".to_owned(),
            namespace: "4026531836".to_owned(),
            command: "./nbody".to_owned(),
        };
        let old = ps(550.try_into().unwrap(), std::slice::from_ref(&row));
        assert_eq!(
            old[1].split_whitespace().collect::<Vec<_>>(),
            [
                "9741",
                "0",
                "6472",
                "GPU-cb1213a3-d6a4-be7f",
                "4026531836",
                "./nbody"
            ]
        );
        assert!(
            old[0].starts_with("PID       ID        SERVER         DEVICE  "),
            "{}",
            old[0]
        );
        assert_eq!(old[0].find("NAMESPACE"), old[1].find("4026531836"));
        let new = ps(595.try_into().unwrap(), &[row]);
        assert!(
            new[0].trim_end().ends_with("COMMAND        ATTRIBUTES"),
            "{}",
            new[0]
        );
    }

    #[test]
    fn a_uuid_is_as_short_as_it_can_be() {
        let (a, b) = (
            "GPU-aaaaaaaa-1111-2222-3333-444444444444",
            "GPU-aaaaaaaa-1111-2222-4444-444444444444",
        );
        assert_eq!(short_uuid(a, &[device(a)]), "GPU-aaaaaaaa-1111-2222");
        assert_eq!(
            short_uuid(a, &[device(a), device(b)]),
            "GPU-aaaaaaaa-1111-2222-3333"
        );
        assert_eq!(short_uuid("MIG-x", &[]), "MIG-x");
    }

    #[test]
    fn a_device_has_its_address_in_the_form_of_its_version() {
        let device = device("GPU-a");
        assert_eq!(
            device_line(550.try_into().unwrap(), 0, &device),
            "[0] 26:30.0, Tesla T4"
        );
        assert_eq!(
            device_line(595.try_into().unwrap(), 0, &device),
            "[0] 0000:1a.1e.00, Tesla T4"
        );
    }
}
