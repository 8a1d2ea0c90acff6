//! The package in the build of an image, where no systemd runs, and at the first boot of what was built.

use e2e::{Edition, Node};

use super::installer::{Installer, complaints, with_packages};
use crate::unit::{self, UNIT};

/// The node's own disk as somebody sees it who builds an image of it: in a chroot, with the kernel's file systems but
/// without a systemd, whose `/run` is not there.
const CHROOT: &str = "\
mount --bind / /mnt
mount -t proc proc /mnt/proc
mount --bind /opt/packages /mnt/opt/packages
exec chroot /mnt \"$@\"
";

#[test]
fn an_image_build_starts_nothing_and_what_boots_from_it_has_the_agent_running() {
    for installer in Installer::BOTH {
        let name = format!("image-{}", installer.extension());
        let mut node = Node::boot(&with_packages(unit::bare(&name)));
        assert_eq!(
            complaints(&node, &in_image(&installer.install(Edition::Old))),
            [""; 0]
        );
        assert_eq!(installer.version(&node).as_deref(), Some(Edition::Old.version()));
        assert_eq!(
            node.run(&["pgrep", "--exact", "gpushare"]).code,
            1,
            "nothing was started"
        );
        assert!(!node.path("/run/gpushare").exists());
        node.succeed(&["systemctl", "is-enabled", UNIT]);

        node.reboot();
        assert_eq!(node.state().as_deref(), Some("running"), "{}", node.journal(UNIT));
        assert_eq!(node.property(UNIT, "ActiveState"), "active");

        let out = installer.remove().map(str::to_owned);
        assert_eq!(complaints(&node, &in_image(&out)), [""; 0], "out of an image");
        assert_ne!(node.run(&["systemctl", "is-enabled", UNIT]).code, 0);
    }
}

#[test]
fn who_builds_an_image_on_a_machine_that_runs_can_have_nothing_started() {
    let node = Node::boot(&with_packages(unit::bare("builder")));
    let quietly = ["env", "GPUSHARE_START=no"].map(str::to_owned).into_iter();
    let words: Vec<String> = quietly.chain(Installer::Rpm.install(Edition::Old)).collect();
    assert_eq!(complaints(&node, &words), [""; 0]);
    assert_eq!(node.property(UNIT, "ActiveState"), "inactive");
    assert_eq!(node.property(UNIT, "UnitFileState"), "enabled");
    // As a system does that is new to itself, where unknown units are disabled.
    node.succeed(&["systemctl", "disable", UNIT]);
    fs_err::write(
        node.path("/usr/lib/systemd/system-preset/99-default.preset"),
        "disable *\n",
    )
    .unwrap();
    node.succeed(&["systemctl", "preset-all"]);
    assert_eq!(node.property(UNIT, "UnitFileState"), "enabled");
}

fn in_image(command: &[String]) -> Vec<String> {
    let words = ["unshare", "--mount", "sh", "-euc", CHROOT, "chroot"].map(str::to_owned);
    words.iter().chain(command).cloned().collect()
}
