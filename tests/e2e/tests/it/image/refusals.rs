//! What the scripts refuse, each with what is wrong and the mend. They run as packer runs them, on one node.

use e2e::{Node, Ran};
use fs_err as fs;

use super::builder::{Builder, accelerated, standard};
use super::{package, template};
use crate::unit;

const UPLOAD: &str = "/tmp/gpushare-image";

/// Runs one of the scripts on what is uploaded.
fn script(node: &Node, name: &str, package: &str) -> Ran {
    let text = fs::read_to_string(template::original().join("scripts").join(name)).unwrap();
    fs::write(node.path("/run/script.sh"), text).unwrap();
    node.run(&[
        "env",
        &format!("UPLOAD={UPLOAD}"),
        &format!("PACKAGE={package}"),
        &format!("VERSION={}", package::VERSION),
        "bash",
        "/run/script.sh",
    ])
}

#[track_caller]
fn refused(ran: &Ran, what: &str, mend: &str) {
    assert_eq!(ran.code, 1, "{ran:#?}");
    let (_, said) = ran.stderr.rsplit_once("gpushare image: ").unwrap();
    let (last, first) = (said.trim_end().lines().last().unwrap(), said);
    assert!(first.contains(what), "{ran:#?}");
    assert!(last.starts_with("  ") && last.contains(mend), "{ran:#?}");
}

/// Uploads what packer uploads, with this package under its own name.
fn upload(builder: &Builder, package: &std::path::Path) -> String {
    let node = &builder.node;
    node.succeed(&["mkdir", "-p", "-m", "0700", UPLOAD]);
    let name = package.file_name().unwrap().to_str().unwrap().to_owned();
    fs::copy(package, node.path(format!("{UPLOAD}/{name}"))).unwrap();
    for file in ["50-gpushare.yaml", "config.toml"] {
        let from = template::original().join("files").join(file);
        fs::copy(from, node.path(format!("{UPLOAD}/{file}"))).unwrap();
    }
    name
}

#[test]
fn an_image_that_is_not_the_accelerated_one_of_eks_is_refused() {
    let builder = Builder::boot(&standard("standard"));
    let node = &builder.node;
    let name = package::deb_name();
    let provision = || script(node, "provision.sh", &name);
    refused(
        &provision(),
        "this image has no NVIDIA driver: nvidia-cuda-mps-control nvidia-cuda-mps-server libnvidia-ml.so is missing",
        "This is the standard EKS image: take the accelerated one",
    );
    // As newer images have it: a tree per driver, of which one is chosen at boot.
    let tree = "cd /opt && install -D /dev/null nvidia/lts/usr/bin/nvidia-cuda-mps-control && install -D /dev/null \
                nvidia/lts/usr/bin/nvidia-cuda-mps-server && install -D /dev/null nvidia/lts/usr/lib64/libnvidia-ml.so.580.159.03";
    node.succeed(&["bash", "-ec", tree]);
    refused(
        &provision(),
        &format!("the package {UPLOAD}/{name} is not there"),
        "`cargo xtask dist`",
    );
    node.succeed(&["touch", "/dev/nvidiactl"]);
    refused(
        &provision(),
        "this builder has a GPU, and its driver has been chosen",
        "leave instance_type out",
    );
    fs::remove_file(node.path("/usr/bin/nodeadm")).unwrap();
    refused(
        &provision(),
        "this is no EKS image: /etc/eks or the program nodeadm is missing",
        "base-image.pkr.hcl finds it",
    );
    let other = "ID=amzn\nVERSION_ID=\"2\"\n";
    fs::write(node.path("/usr/lib/os-release"), other).unwrap();
    refused(
        &provision(),
        "this is amzn 2, and not Amazon Linux 2023",
        "Build on the EKS image",
    );
    let ran = node.run(&[
        "setpriv",
        "--reuid=65534",
        "--clear-groups",
        "--",
        "env",
        "UPLOAD=/tmp",
        "PACKAGE=x.deb",
        "bash",
        "/run/script.sh",
    ]);
    refused(&ran, "provision.sh runs as user 65534", "sudo without a password");
}

#[test]
fn a_package_that_does_not_fit_is_refused_and_changes_nothing() {
    let builder = Builder::boot(&accelerated("packages"));
    let node = &builder.node;
    let provision = |name: &str| script(node, "provision.sh", name);
    let name = package::deb_name();
    refused(
        &provision(&name),
        &format!("the package {UPLOAD}/{name} is not there, or empty"),
        "target/dist/gpushare-VERSION-1.ARCHITECTURE.rpm",
    );
    for foreign in package::foreign(builder.folder()) {
        let foreign = upload(&builder, &foreign);
        refused(
            &provision(&foreign),
            &format!("and this machine is {}", std::env::consts::ARCH),
            "set -var architecture to that of the package",
        );
    }
    let other = upload(&builder, &package::other(builder.folder()));
    refused(
        &provision(&other),
        "is the package of shareware",
        "Give packer the package of gpushare",
    );
    for broken in ["broken.rpm", "broken.deb"] {
        fs::write(node.path(format!("{UPLOAD}/{broken}")), "not a package").unwrap();
        refused(
            &provision(broken),
            &format!("{broken} cannot be read as a package"),
            "whether the upload was cut short",
        );
    }
    let unwanted = upload(&builder, &package::rpm(builder.folder()));
    fs::write(
        node.path("/usr/bin/dnf"),
        "#!/bin/sh\necho nothing provides it >&2\nexit 1\n",
    )
    .unwrap();
    let ran = provision(&unwanted);
    refused(&ran, "does not install", "What dnf said stands above");
    assert!(ran.stderr.contains("nothing provides it"), "{ran:#?}");
    fs::remove_file(node.path("/usr/bin/dnf")).unwrap();
    refused(
        &provision(&unwanted),
        "dnf is missing, and gpushare-",
        "Amazon Linux 2023 has it",
    );
    fs::write(node.path(format!("{UPLOAD}/gpushare.zip")), "x").unwrap();
    refused(
        &provision("gpushare.zip"),
        "gpushare.zip is neither an rpm nor a deb",
        "`cargo xtask dist`",
    );
    assert!(!node.path("/usr/bin/gpushare").exists());
    assert!(!node.path("/etc/eks/nodeadm.d/50-gpushare.yaml").exists());
}

#[test]
fn an_image_that_is_not_what_it_should_be_is_not_valid() {
    let builder = Builder::boot(&accelerated("invalid"));
    let node = &builder.node;
    let name = upload(&builder, &package::deb(builder.folder()));
    for step in ["provision.sh", "cleanup.sh", "validate.sh"] {
        let ran = script(node, step, &name);
        assert_eq!(ran.code, 0, "{step}: {ran:#?}");
    }
    let config = fs::read_to_string(node.path("/etc/gpushare/config.toml")).unwrap();
    let shipped = fs::read_to_string(unit::repository().join("packaging/config.toml")).unwrap();
    assert_eq!(config, shipped, "a file of comments replaces nothing");

    let validate = || script(node, "validate.sh", &name);
    for (spoil, what, mend) in SPOILT {
        let mended = "cp -a /etc /usr/lib/systemd /run/saved/";
        node.succeed(&["bash", "-ec", &format!("mkdir /run/saved && {mended}")]);
        node.succeed(&["bash", "-ec", spoil]);
        refused(&validate(), what, mend);
        let undo =
            "systemctl stop gpushare.service; rm -rf /var/lib/gpushare /var/log/messages ~/.bash_history
                    cp -a /run/saved/etc /; cp -a /run/saved/systemd /usr/lib/; rm -rf /run/saved
                    systemctl daemon-reload; systemctl enable --quiet gpushare";
        node.succeed(&["bash", "-c", undo]);
    }
    let ran = node.run(&["env", "VERSION=9.9.9", "bash", "/run/script.sh"]);
    refused(
        &ran,
        &format!(
            "the package says that it is 9.9.9, and the program is gpushare {}",
            package::VERSION
        ),
        "do not rename it",
    );
    assert_eq!(validate().code, 0);
    node.succeed(&["systemctl", "stop", "forget-builder.service"]);
    refused(
        &validate(),
        "the session manager's files would be in the image",
        "cleanup.sh starts forget-builder.service",
    );
}

/// What is done to a valid image, what is said of it, and of the mend.
const SPOILT: [(&str, &str, &str); 9] = [
    (
        "rm /usr/lib/systemd/system/gpushare-mps@.service",
        "gpushare-mps@.service is missing",
        "The package is incomplete",
    ),
    (
        "systemctl disable --quiet gpushare",
        "gpushare.service is disabled, and would not start at boot",
        "build on an image that never had it",
    ),
    (
        "sed -i s,/usr/bin/gpushare,/usr/bin/goshare, /usr/lib/systemd/system/gpushare.service",
        "this systemd does not take the units",
        "do not fit together",
    ),
    (
        "echo 'intervall = 1' >/etc/gpushare/config.toml",
        "the configuration of the image is wrong",
        "Mend the file that -var config names",
    ),
    (
        "sed -i s/vgpu/gpu/ /etc/eks/nodeadm.d/50-gpushare.yaml",
        "lacks the line \"      - --node-labels=k8s.amazonaws.com/accelerator=vgpu\"",
        "as it is in packer/files",
    ),
    (
        "chmod 0600 /etc/eks/nodeadm.d/50-gpushare.yaml",
        "is not root's with mode 644",
        "provision.sh writes it",
    ),
    (
        "mkdir -p /var/lib/gpushare/spool && touch /var/log/messages ~/.bash_history",
        concat!(
            "/var/lib/gpushare /var/log/messages /",
            "root/.bash_history would be in the image"
        ),
        "cleanup.sh removes it",
    ),
    (
        "systemd-machine-id-setup --quiet || systemd-machine-id-setup",
        "/etc/machine-id names this machine",
        "cleanup.sh empties it",
    ),
    (
        "systemd-tmpfiles --create gpushare.conf; systemctl start gpushare.service",
        "gpushare.service runs",
        "Nothing of gpushare runs in an image",
    ),
];
