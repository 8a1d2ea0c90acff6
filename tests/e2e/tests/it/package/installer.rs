//! dpkg and rpm.

use e2e::{Edition, Node, PACKAGES_VARIABLE, Packages, Ran, Spec};

/// Where nodes see the packages.
const FOLDER: &str = "/opt/packages";
/// What the agent reads.
pub(super) const CONFIG_FILE: &str = "/etc/gpushare/config.toml";

/// Who installs a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Installer {
    Dpkg,
    Rpm,
}

impl Installer {
    pub(super) const BOTH: [Self; 2] = [Self::Dpkg, Self::Rpm];

    /// Installs a package, or changes to it from another version, older ones included, as nobody who could be asked.
    pub(super) fn install(self, edition: Edition) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Dpkg => &["dpkg", "--force-confold", "--install"],
            Self::Rpm => &["rpm", "--upgrade", "--nodeps", "--oldpackage"],
        };
        let mut words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        words.push(format!("{FOLDER}/{}", edition.file(self.extension())));
        words
    }

    /// The package's fields that say what it wants.
    pub(super) fn requires(self, edition: Edition) -> Vec<String> {
        let file = format!("{FOLDER}/{}", edition.file(self.extension()));
        let words = match self {
            Self::Dpkg => ["dpkg-deb", "--field", &file, "Depends"].to_vec(),
            Self::Rpm => ["rpm", "--query", "--requires", "--package", &file].to_vec(),
        };
        words.into_iter().map(str::to_owned).collect()
    }

    /// Takes it away. The configuration stays.
    pub(super) fn remove(self) -> [&'static str; 3] {
        match self {
            Self::Dpkg => ["dpkg", "--remove", "gpushare"],
            Self::Rpm => ["rpm", "--erase", "gpushare"],
        }
    }

    /// The installed version; none where it is not installed, or only half.
    pub(super) fn version(self, node: &Node) -> Option<String> {
        let words: &[&str] = match self {
            Self::Dpkg => &[
                "dpkg-query",
                "--show",
                "--showformat=${db:Status-Abbrev}${Version}",
                "gpushare",
            ],
            Self::Rpm => &[
                "rpm",
                "--query",
                "--queryformat=ii %{VERSION}-%{RELEASE}",
                "gpushare",
            ],
        };
        let ran = node.run(words);
        let said = ran.stdout.strip_prefix("ii ")?;
        let version = said.strip_suffix("-1").expect("the first release of a version");
        (ran.code == 0).then(|| version.to_owned())
    }

    /// Where the configuration of a newer package lies beside one that was changed.
    pub(super) fn new_config(self) -> String {
        let ending = match self {
            Self::Dpkg => "dpkg-dist",
            Self::Rpm => "rpmnew",
        };
        format!("{CONFIG_FILE}.{ending}")
    }

    /// Where a removal leaves a configuration that was changed.
    pub(super) fn kept_config(self) -> String {
        match self {
            Self::Dpkg => CONFIG_FILE.to_owned(),
            Self::Rpm => format!("{CONFIG_FILE}.rpmsave"),
        }
    }

    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Dpkg => "deb",
            Self::Rpm => "rpm",
        }
    }
}

/// The node, with the packages in a folder.
pub(super) fn with_packages(spec: Spec) -> Spec {
    let packages = Packages::of_this_run();
    spec.with_bind(packages.folder(), FOLDER)
}

/// Runs a package manager, which has to succeed, and returns what the package's scripts complained of.
#[track_caller]
pub(super) fn complaints<S: AsRef<str>>(node: &Node, words: &[S]) -> Vec<String> {
    let ran = run(node, words);
    assert_eq!(ran.code, 0, "{ran:?}; {PACKAGES_VARIABLE} names the packages");
    let all = format!("{}\n{}", ran.stdout, ran.stderr);
    all.lines()
        .filter(|line| {
            line.starts_with("gpushare: ") || line.contains("systemctl") || line.contains("Failed")
        })
        .map(str::to_owned)
        .collect()
}

/// Runs a package manager.
#[track_caller]
pub(super) fn run<S: AsRef<str>>(node: &Node, words: &[S]) -> Ran {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    node.run(&words)
}
