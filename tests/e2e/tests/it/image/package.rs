//! The packages that packer is given, under the names that `cargo xtask dist` gives them.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Edition, Packages};
use fs_err as fs;

/// The version of this workspace, which `gpushare --version` tells.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The rpm of this version, for this machine.
pub(super) fn rpm(folder: &Path) -> PathBuf {
    let name = format!("gpushare-{VERSION}-1.{}.rpm", std::env::consts::ARCH);
    copy(Edition::Current, "rpm", folder.join(name))
}

/// The deb of this version, for this machine.
pub(super) fn deb(folder: &Path) -> PathBuf {
    copy(Edition::Current, "deb", folder.join(deb_name()))
}

/// Its name.
pub(super) fn deb_name() -> String {
    format!("gpushare_{VERSION}-1_{}.deb", debian_architecture())
}

/// Those for a machine of another kind.
pub(super) fn foreign(folder: &Path) -> [PathBuf; 2] {
    ["rpm", "deb"].map(|format| copy(Edition::Foreign, format, folder.join(format!("foreign.{format}"))))
}

/// One of another program.
pub(super) fn other(folder: &Path) -> PathBuf {
    let tree = folder.join("shareware");
    let control = format!(
        "Package: shareware\nVersion: 1\nArchitecture: {}\nMaintainer: nobody\nDescription: something else\n",
        debian_architecture()
    );
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let package = folder.join("shareware.deb");
    let mut command = Command::new("dpkg-deb");
    let ran = command.arg("--build").arg(tree).arg(&package).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    package
}

fn copy(edition: Edition, format: &str, to: PathBuf) -> PathBuf {
    fs::copy(Packages::of_this_run().folder().join(edition.file(format)), &to).unwrap();
    to
}

fn debian_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}
