//! The root file system below every node: Debian 12 with systemd 252, the version of Amazon Linux 2023.
//!
//! `mmdebstrap` makes it in 46 s where `debootstrap` takes 102 s (two cores, the same packages).

use std::path::Path;
use std::process::Command;

use crate::Error;
use crate::cache::{need, succeed};

/// `rpm` for the tests that install the package as Amazon Linux does; `openssh-server` and `sudo` for the rehearsal of the
/// image, which logs in as packer does.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,procps,rpm,openssh-server,sudo";
const SUITE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Everything that decides what is in it; the folder and the mirror follow.
pub(crate) fn recipe() -> Vec<String> {
    let words = [
        "--mode=root",
        "--variant=minbase",
        &format!("--include={PACKAGES}"),
        &format!("--keyring={KEYRING}"),
        "--aptopt=APT::Install-Recommends \"0\"",
        // The folder is thrown away when this is interrupted: nothing in it has to reach the disk in order.
        "--dpkgopt=force-unsafe-io",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        // Only tests that log in start it, and each node has its own keys.
        "--customize-hook=rm -f \"$1\"/etc/ssh/ssh_host_* && systemctl --quiet --root=\"$1\" disable ssh.service",
        // What is this machine's, and the identity that each node finds for itself at its first boot.
        "--customize-hook=rm -f \"$1/etc/resolv.conf\" \"$1/etc/hostname\" && : >\"$1/etc/machine-id\"",
        SUITE,
    ];
    words.map(str::to_owned).to_vec()
}

pub(crate) fn make(folder: &Path) -> Result<(), Error> {
    need("mmdebstrap", "mmdebstrap")?;
    need("unshare", "util-linux")?;
    crate::apt::keyring()?;
    // In namespaces of its own: an interrupted run leaves neither mounts nor processes.
    let unshare = [
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--",
        "mmdebstrap",
    ];
    let mut command = Command::new("unshare");
    command.args(unshare).args(recipe()).arg(folder).arg(MIRROR);
    succeed("make the root file system of nodes", &mut command).map(drop)
}
