//! A node that looks like an instance of EKS's accelerated image for Amazon Linux 2023, to one who logs in.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::{ImageTools, Node, Ran, Spec, built};
use fs_err as fs;

use super::template;
use crate::unit;

/// Who packer logs in as.
pub(super) const USER: &str = "ec2-user";
/// What an instance finds in place of a GPU, for every unit that asks for one.
const SCENARIO: &str = "testkit/scenarios/g4dn.xlarge.toml";
/// The longest a build may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// As much of dnf as an image build takes, which the rpm of the node does. It has no rpm of what ours depends on.
const DNF: &str = "\
#!/bin/sh
case \"$*\" in
'install --assumeyes --disablerepo=* '*) exec rpm --install --nodeps \"$4\" ;;
'clean all --quiet') ;;
*) echo \"not expected: dnf $*\" >&2 && exit 1 ;;
esac
";

/// In place of the session manager's agent: it writes until it is stopped, and then as well.
const SSM_AGENT: &str = "\
[Service]
ExecStart=/bin/sh -c 'mkdir -p /var/lib/amazon/ssm/i-0builder /var/log/amazon/ssm; exec sleep infinity'
ExecStop=/bin/sh -c 'date | tee /var/lib/amazon/ssm/i-0builder/session /var/log/amazon/ssm/errors.log'
[Install]
WantedBy=multi-user.target
";

/// The node with its sshd, and a folder for packer's files.
pub(super) struct Builder {
    pub(super) node: Node,
    folder: tempfile::TempDir,
    tools: ImageTools,
}

/// Amazon Linux 2023 with EKS's program, but without a driver: the standard image.
pub(super) fn standard(name: &str) -> Spec {
    Spec::new(name)
        .with_file("/etc/hosts", format!("127.0.0.1 localhost {name}\n"), 0o644)
        .with_file(
            "/etc/os-release",
            "NAME=\"Amazon Linux\"\nVERSION=\"2023\"\nID=\"amzn\"\nVERSION_ID=\"2023\"\n",
            0o644,
        )
        .with_file("/usr/bin/dnf", DNF, 0o755)
        .with_file("/usr/bin/nodeadm", "#!/bin/sh\n", 0o755)
        .with_file("/etc/eks/image-family", "al2023\n", 0o644)
}

/// The same with the driver's files, and what plays a GPU once the units run.
pub(super) fn accelerated(name: &str) -> Spec {
    let mps = built("fake-mps");
    let library = fake_nvml::library_path();
    let mut spec = standard(name)
        .with_file("/etc/systemd/system/amazon-ssm-agent.service", SSM_AGENT, 0o644)
        // A container has no use for a seed; an instance saves one when it is switched off.
        .with_file(
            "/etc/systemd/system/systemd-random-seed.service.d/everywhere.conf",
            "[Unit]\nConditionVirtualization=\n",
            0o644,
        )
        .with_bind(&mps, "/usr/bin/nvidia-cuda-mps-control")
        .with_bind(&mps, "/usr/bin/nvidia-cuda-mps-server")
        // Where Amazon Linux has it, and where Debian looks for it.
        .with_bind(&library, "/usr/lib64/libnvidia-ml.so.1")
        .with_bind(&library, "/usr/lib/libnvidia-ml.so.1")
        .with_copy(
            unit::repository().join(SCENARIO),
            "/etc/fakes/scenario.toml",
            0o644,
        );
    for unit in ["gpushare.service", "gpushare-mps@.service"] {
        spec = spec.with_file(
            &format!("/etc/systemd/system/{unit}.d/gpus.conf"),
            unit::DROP_IN,
            0o644,
        );
    }
    spec
}

impl Builder {
    /// Boots it and lets packer's user in.
    pub(super) fn boot(spec: &Spec) -> Self {
        let builder = Self {
            node: Node::boot(spec),
            folder: tempfile::tempdir().unwrap(),
            tools: ImageTools::of_this_run(),
        };
        builder.let_in();
        builder
    }

    fn let_in(&self) {
        let script = format!(
            "useradd --create-home --shell /bin/bash {USER}
             echo '{USER} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{USER}
             ssh-keygen -A
             ssh-keygen -q -t ed25519 -N '' -f /run/key
             install -D -m 0600 -o {USER} -g {USER} /run/key.pub ~{USER}/.ssh/authorized_keys
             systemctl start ssh"
        );
        self.node.succeed(&["bash", "-ec", &script]);
        fs::copy(self.node.path("/run/key"), self.key()).unwrap();
        fs::remove_file(self.node.path("/run/key")).unwrap();
    }

    /// The private key of packer's user.
    pub(super) fn key(&self) -> PathBuf {
        self.folder().join("key")
    }

    /// For packer's files. Packer works in it.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A program of the tools, beside the node.
    pub(super) fn tool(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.folder())
            .env("HOME", self.folder())
            .env("TMPDIR", self.folder())
            // It would ask its maker whether it is the newest.
            .env("CHECKPOINT_DISABLE", "1");
        command
    }

    /// Python, with what plays EC2.
    pub(super) fn python(&self) -> Command {
        self.tool(&self.tools.python())
    }

    /// `packer build` of a template, to its end.
    #[track_caller]
    pub(super) fn packer_build(&self, template: &Path, variables: &[(&str, &str)]) -> Ran {
        let mut command = self.tool(&self.tools.packer());
        command.args(["build", "-color=false"]);
        for (name, value) in variables {
            command.arg("-var").arg(format!("{name}={value}"));
        }
        let ran = self.node.beside(command.arg(template)).wait(PATIENCE);
        ran.unwrap_or_else(|| self.node.fail("packer does not end"))
    }

    /// A rehearsal on this node.
    #[track_caller]
    pub(super) fn rehearse(&self, package: &Path, variables: &[(&str, &str)]) -> Ran {
        let template = template::copy(self.folder());
        let (package, key) = (package.display().to_string(), self.key().display().to_string());
        let mut all = vec![
            ("package", package.as_str()),
            ("rehearsal_host", "127.0.0.1"),
            ("rehearsal_user", USER),
            ("rehearsal_key", &key),
        ];
        all.extend_from_slice(variables);
        self.packer_build(&template, &all)
    }
}
