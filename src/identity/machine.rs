//! Whether this machine is an EC2 instance, and which, from its firmware's tables (DMI).
//!
//! Answers before the network is up and cannot be reached from outside. On Nitro the board's asset tag is the
//! instance id; older Xen instances only name Amazon. The call blocks.

use std::path::Path;

use super::document::is_instance_id;
use super::facts::Machine;
use super::file;

/// Below the root directory; `/sys/class/dmi/id` is readable by everyone but for serial numbers and the UUID.
const TABLES: &str = "sys/class/dmi/id";
/// On Xen, `ec2` and the rest of a UUID.
const HYPERVISOR: &str = "sys/hypervisor/uuid";

/// Reads the tables below `root`, which is `/` but in tests and containers.
#[must_use]
pub fn read(root: &Path) -> Machine {
    let table = |name: &str| text(&root.join(TABLES).join(name));
    if let Some(tag) = table("board_asset_tag")
        && is_instance_id(&tag)
    {
        return Machine::Instance(tag);
    }
    let vendors: Vec<String> = ["sys_vendor", "bios_vendor", "bios_version", "board_vendor"]
        .into_iter()
        .filter_map(table)
        .collect();
    let by_amazon = vendors
        .iter()
        .any(|vendor| vendor.to_ascii_lowercase().contains("amazon"));
    let hypervisor = text(&root.join(HYPERVISOR)).unwrap_or_default();
    if by_amazon || hypervisor.to_ascii_lowercase().starts_with("ec2") {
        Machine::Ec2
    } else if vendors.is_empty() {
        Machine::Unknown
    } else {
        Machine::Elsewhere
    }
}

/// A table that cannot be read says nothing.
fn text(path: &Path) -> Option<String> {
    let text = file::read(path).ok().flatten()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(tables: &[(&str, &str)]) -> Machine {
        let root = tempfile::tempdir().unwrap();
        for (name, value) in tables {
            let path = root.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, format!("{value}\n")).unwrap();
        }
        read(root.path())
    }

    #[test]
    fn nitro_names_the_instance() {
        let tables = [
            ("sys/class/dmi/id/board_asset_tag", "i-0af01c0123456789a"),
            ("sys/class/dmi/id/sys_vendor", "Amazon EC2"),
        ];
        assert_eq!(machine(&tables), Machine::Instance("i-0af01c0123456789a".into()));
    }

    #[test]
    fn xen_names_amazon() {
        let tables = [
            ("sys/class/dmi/id/sys_vendor", "Xen"),
            ("sys/class/dmi/id/bios_version", "4.11.amazon"),
        ];
        assert_eq!(machine(&tables), Machine::Ec2);
        assert_eq!(
            machine(&[("sys/hypervisor/uuid", "ec2e1916-9099-7caf-fd21-012345abcdef")]),
            Machine::Ec2
        );
    }

    #[test]
    fn a_laptop_is_elsewhere_and_no_tables_say_nothing() {
        let tables = [
            ("sys/class/dmi/id/sys_vendor", "LENOVO"),
            ("sys/class/dmi/id/board_asset_tag", "Not Available"),
        ];
        assert_eq!(machine(&tables), Machine::Elsewhere);
        assert_eq!(machine(&[]), Machine::Unknown);
        assert_eq!(machine(&[("sys/class/dmi/id/sys_vendor", "")]), Machine::Unknown);
    }
}
