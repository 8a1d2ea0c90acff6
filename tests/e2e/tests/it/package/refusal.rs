//! What the package managers refuse, and what they must not.

use e2e::{Edition, Node, PATIENCE, Spec};

use super::installer::{Installer, complaints, run, with_packages};
use crate::unit::UNIT;

#[test]
fn another_architecture_and_missing_libraries_are_refused_and_nvidia_is_not_asked_for() {
    let node = Node::boot(&with_packages(Spec::new("refusal")));
    for installer in Installer::BOTH {
        let refused = run(&node, &installer.install(Edition::Foreign));
        assert_ne!(refused.code, 0, "{refused:?}");
        assert!(refused.stderr.contains("architecture"), "{refused:?}");
        assert_eq!(installer.version(&node), None);
        assert!(!node.path("/usr/bin/gpushare").exists());

        let wants = run(&node, &installer.requires(Edition::Old));
        assert_eq!(wants.code, 0, "{wants:?}");
        assert!(wants.stdout.contains("systemd"), "{wants:?}");
        assert!(!wants.stdout.to_lowercase().contains("nvidia"), "{wants:?}");
    }
    // This node has no rpm that brings them: what dnf says where the C library is too old.
    let mut strictly = Installer::Rpm.install(Edition::Old);
    strictly.retain(|word| word != "--nodeps");
    let refused = run(&node, &strictly);
    assert_ne!(refused.code, 0);
    for missing in ["glibc >= 2.34", "libc.so.6(GLIBC_2.34)(64bit)", "systemd"] {
        assert!(refused.stderr.contains(missing), "{refused:?}");
    }
    assert!(!node.path("/usr/bin/gpushare").exists());
}

#[test]
fn a_node_without_a_driver_gets_an_agent_that_waits_for_one() {
    let node = Node::boot(&with_packages(Spec::new("driverless")));
    assert_eq!(complaints(&node, &Installer::Dpkg.install(Edition::Old)), [""; 0]);
    assert_eq!(node.property(UNIT, "ActiveState"), "active");
    node.wait_until("the missing driver in the status line", PATIENCE, || {
        let line = node.property(UNIT, "StatusText");
        line.contains("libnvidia-ml").then_some(())
    });
    assert_eq!(complaints(&node, &Installer::Dpkg.remove()), [""; 0]);
}
