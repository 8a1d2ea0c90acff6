//! What the package managers refuse.

use e2e::{Edition, Node, Spec};

use super::installer::{Installer, run, with_packages};

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
