//! The cluster and the node group, from what the node's bootstrap wrote for its kubelet.
//!
//! | what | file | written by |
//! |---|---|---|
//! | cluster | `/var/lib/kubelet/kubeconfig`: the cluster that the `exec` credential plugin asks a token for | `nodeadm` (every AL2023 EKS AMI), `bootstrap.sh` (AL2) |
//! | cluster | `/var/lib/kubelet/bootstrap-kubeconfig`: the same, where the kubelet makes its own kubeconfig | both, for a local cluster on an Outpost; there it is the cluster's id |
//! | node group | `/etc/eks/kubelet/environment`: label `eks.amazonaws.com/nodegroup` in the `--node-labels` of `NODEADM_KUBELET_ARGS` | `nodeadm`, from the user data of a managed node group |
//! | node group | `/etc/systemd/system/kubelet.service.d/30-kubelet-extra-args.conf`: the same in `KUBELET_EXTRA_ARGS` | `bootstrap.sh` (AL2) |
//!
//! `/etc/kubernetes/kubelet/config.json` and its drop-ins name neither: labels are no field of the kubelet's
//! configuration. At the first boot the files appear only when the bootstrap has run, which may be after this
//! agent has started, and nothing says that they are written whole: a file that is missing, cannot be read or does
//! not say is not an answer yet. Nor is the template of a kubeconfig that AL2's AMI comes with.
//!
//! Text is searched, not parsed: a kubeconfig is YAML in one style or another, or JSON. The calls block.

use std::path::{Path, PathBuf};

use super::facts::Fact;
use super::file;

/// The label that EKS puts on the nodes of a managed node group.
const NODEGROUP_LABEL: &str = "eks.amazonaws.com/nodegroup";
const KUBECONFIGS: [&str; 2] = [
    "var/lib/kubelet/kubeconfig",
    "var/lib/kubelet/bootstrap-kubeconfig",
];
const ARGUMENTS: [&str; 2] = [
    "etc/eks/kubelet/environment",
    "etc/systemd/system/kubelet.service.d/30-kubelet-extra-args.conf",
];
/// Names the cluster to `aws-iam-authenticator token` (the first two) and to `aws eks get-token`.
const CLUSTER_OPTIONS: [&str; 3] = ["-i", "--cluster-id", "--cluster-name"];
/// AL2's AMI comes with a kubeconfig in which `bootstrap.sh` replaces these, one after the other.
const PLACEHOLDERS: [&str; 2] = ["CLUSTER_NAME", "MASTER_ENDPOINT"];
/// Characters of an EKS cluster's name.
const LONGEST_CLUSTER: usize = 100;
/// Characters of a label's value in Kubernetes.
const LONGEST_LABEL: usize = 63;

/// The EKS cluster that the node below `root` belongs to.
#[must_use]
pub fn cluster(root: &Path) -> Fact {
    look(KUBECONFIGS.map(|path| root.join(path)), is_template, cluster_in)
}

/// The EKS managed node group that the node below `root` belongs to.
#[must_use]
pub fn nodegroup(root: &Path) -> Fact {
    look(ARGUMENTS.map(|path| root.join(path)), |_| false, nodegroup_in)
}

/// The first file that has it. An empty file is one that is being written, and an untouched one is not there yet.
fn look(paths: [PathBuf; 2], is_untouched: fn(&str) -> bool, find: fn(&str) -> Option<String>) -> Fact {
    let mut fact = Fact::NoFile;
    for path in paths {
        match file::read(&path) {
            Ok(Some(text)) if !text.trim().is_empty() && !is_untouched(&text) => match find(&text) {
                Some(value) => return Fact::Known(value),
                None => fact = Fact::NotInFile,
            },
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "a file of the kubelet cannot be read");
                fact = Fact::Unreadable;
            }
        }
    }
    fact
}

/// Whole words only: a cluster may be called `MY_CLUSTER_NAME`.
fn is_template(kubeconfig: &str) -> bool {
    let mut values = words(kubeconfig).filter_map(|word| word.rsplit('=').next());
    values.any(|value| PLACEHOLDERS.contains(&value))
}

fn cluster_in(kubeconfig: &str) -> Option<String> {
    let mut words = words(kubeconfig);
    while let Some(word) = words.next() {
        let (option, joined) = match word.split_once('=') {
            Some((option, value)) => (option, Some(value)),
            None => (word, None),
        };
        if CLUSTER_OPTIONS.contains(&option) {
            let value = joined.or_else(|| words.next())?;
            return is_cluster(value).then(|| value.to_owned());
        }
    }
    None
}

/// The last one counts, as it does for the kubelet: what a user adds stands behind what the bootstrap says.
fn nodegroup_in(arguments: &str) -> Option<String> {
    let labels = words(arguments).filter_map(|word| {
        // The first label of a list is joined to the option, as in --node-labels=a=b.
        let label = word.strip_prefix("--node-labels=").unwrap_or(word);
        label.strip_prefix(NODEGROUP_LABEL)?.strip_prefix('=')
    });
    labels.filter(|value| is_label(value)).last().map(str::to_owned)
}

/// Words without the quotes, brackets, commas and list markers of YAML, JSON, shell and systemd. Lines that are
/// comments have none.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(|line| {
            line.split(|mark: char| mark.is_whitespace() || matches!(mark, ',' | '"' | '\'' | '[' | ']'))
        })
        .map(|word| word.strip_prefix("KUBELET_EXTRA_ARGS=").unwrap_or(word))
        .map(|word| word.strip_prefix("NODEADM_KUBELET_ARGS=").unwrap_or(word))
        .filter(|word| !word.is_empty() && *word != "-")
}

fn is_cluster(text: &str) -> bool {
    text.len() <= LONGEST_CLUSTER
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn is_label(text: &str) -> bool {
    (1..=LONGEST_LABEL).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(path: &str, text: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
        root
    }

    fn known(value: &str) -> Fact {
        Fact::Known(value.into())
    }

    #[test]
    fn the_cluster_of_a_kubeconfig_in_every_style() {
        for text in [
            "users:\n- name: kubelet\n  user:\n    exec:\n      command: aws-iam-authenticator\n      args:\n        - token\n        - -i\n        - prod-1\n        - --region\n        - eu-west-1\n",
            "      args:\n        - \"token\"\n        - \"--cluster-id\"\n        - \"prod-1\"\n",
            "      command: aws\n      args: [eks, get-token, --cluster-name, 'prod-1']\n",
            "{\"args\": [\"eks\", \"get-token\", \"--cluster-name=prod-1\"]}",
            "# args: [token, -i, other]\n      args:\n      - token\n      - -i\n      - prod-1",
        ] {
            let root = node("var/lib/kubelet/kubeconfig", text);
            assert_eq!(cluster(root.path()), known("prod-1"), "{text}");
        }
    }

    #[test]
    fn an_outposts_bootstrap_file_is_found() {
        let root = node(
            "var/lib/kubelet/bootstrap-kubeconfig",
            "args:\n- token\n- -i\n- 0e1f-4a",
        );
        assert_eq!(cluster(root.path()), known("0e1f-4a"));
    }

    #[test]
    fn al2s_kubeconfig_is_not_there_until_its_bootstrap_has_filled_it_in() {
        let kubeconfig = |server: &str, cluster: &str| {
            format!(
                "clusters:\n- cluster:\n    server: {server}\n\
                 users:\n- user:\n    exec:\n      args:\n        - \"token\"\n        - \"-i\"\n        - \"{cluster}\"\n"
            )
        };
        let endpoint = "https://0.gr7.eu-west-1.eks.amazonaws.com";
        for (server, name, fact) in [
            ("MASTER_ENDPOINT", "CLUSTER_NAME", Fact::NoFile),
            (endpoint, "CLUSTER_NAME", Fact::NoFile),
            ("MASTER_ENDPOINT", "prod_1", Fact::NoFile),
            (endpoint, "prod_1", known("prod_1")),
            (endpoint, "MY_CLUSTER_NAME", known("MY_CLUSTER_NAME")),
        ] {
            let root = node("var/lib/kubelet/kubeconfig", &kubeconfig(server, name));
            assert_eq!(cluster(root.path()), fact, "{server} {name}");
        }
        let in_one_word = node(
            "var/lib/kubelet/kubeconfig",
            "args: [get-token, --cluster-name=CLUSTER_NAME]",
        );
        assert_eq!(cluster(in_one_word.path()), Fact::NoFile);
    }

    #[test]
    fn odd_kubeconfigs_say_nothing_and_break_nothing() {
        for text in [
            "users: []",
            "args: [token, -i",
            "args: [token, -i, '../../etc']",
            "\u{0}\u{1}",
            "-i",
        ] {
            let root = node("var/lib/kubelet/kubeconfig", text);
            assert_eq!(cluster(root.path()), Fact::NotInFile, "{text}");
        }
        let root = node("var/lib/kubelet/kubeconfig", " \n");
        assert_eq!(cluster(root.path()), Fact::NoFile, "being written");
        let root = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(root.path().join("var/lib/kubelet/kubeconfig")).unwrap();
        assert_eq!(cluster(root.path()), Fact::Unreadable, "a directory");
        assert_eq!(cluster(Path::new("/nowhere")), Fact::NoFile);
    }

    #[test]
    fn the_node_group_of_nodeadms_environment() {
        let label = "eks.amazonaws.com/nodegroup";
        for text in [
            format!(
                "NODEADM_KUBELET_ARGS=--node-ip=10.0.0.7 --node-labels=eks.amazonaws.com/nodegroup-image=ami-1,{label}=gpu.a,team=x"
            ),
            format!("NODEADM_KUBELET_ARGS=--node-labels={label}=gpu.a\nOTHER=1"),
            format!(
                "OTHER=1\nNODEADM_KUBELET_ARGS=\"--v=2 --node-labels={label}=old --node-labels={label}=gpu.a\""
            ),
        ] {
            let root = node("etc/eks/kubelet/environment", &text);
            assert_eq!(nodegroup(root.path()), known("gpu.a"), "{text}");
        }
    }

    #[test]
    fn the_node_group_of_al2s_drop_in() {
        let root = node(
            "etc/systemd/system/kubelet.service.d/30-kubelet-extra-args.conf",
            "[Service]\nEnvironment='KUBELET_EXTRA_ARGS=--node-labels=eks.amazonaws.com/nodegroup=gpu,a=b --max-pods=29'\n",
        );
        assert_eq!(nodegroup(root.path()), known("gpu"));
    }

    #[test]
    fn a_self_managed_node_has_no_node_group() {
        for text in [
            "NODEADM_KUBELET_ARGS=--node-labels=a=b",
            "NODEADM_KUBELET_ARGS=--node-labels=eks.amazonaws.com/nodegroup=",
            "NODEADM_KUBELET_ARGS=--node-labels=eks.amazonaws.com/nodegroup=<script>",
        ] {
            let root = node("etc/eks/kubelet/environment", text);
            assert_eq!(nodegroup(root.path()), Fact::NotInFile, "{text}");
        }
    }
}
