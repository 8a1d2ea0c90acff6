//! `packer/`, less what the packer of the tests cannot read.

use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::unit;

/// Copied byte for byte.
const AS_IT_IS: [&str; 9] = [
    "ami.auto.pkrvars.json",
    "build.pkr.hcl",
    "files/50-gpushare.yaml",
    "files/config.toml",
    "scripts/cleanup.sh",
    "scripts/provision.sh",
    "scripts/validate.sh",
    "source-rehearsal.pkr.hcl",
    "variables.pkr.hcl",
];
const SOURCE: &str = "source-ami.pkr.hcl";
/// Ends each line of `source-ami.pkr.hcl` that only AWS, or a packer of today, understands; of a block the first line.
const AWS_ONLY: &str = "# AWS only";

/// The folder in the repository.
pub(super) fn original() -> PathBuf {
    unit::repository().join("packer")
}

/// A copy that packer 1.6.6 reads.
pub(super) fn copy(folder: &Path) -> PathBuf {
    let folder = folder.join("packer");
    for name in AS_IT_IS {
        let to = folder.join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(original().join(name), &to).unwrap();
    }
    folder
}

/// The same with the source of the image, and other lines in place of those for AWS alone.
pub(super) fn copy_with_ec2(folder: &Path, base_image: &str, in_place_of_aws: &str) -> PathBuf {
    let folder = copy(folder);
    let (kept, _) = split(&fs::read_to_string(original().join(SOURCE)).unwrap());
    let open = kept.trim_end().strip_suffix('}').unwrap();
    fs::write(folder.join(SOURCE), format!("{open}{in_place_of_aws}}}\n")).unwrap();
    let base = format!("locals {{\n  base_image = \"{base_image}\"\n}}\n");
    fs::write(folder.join("base-image.pkr.hcl"), base).unwrap();
    folder
}

/// The lines for every packer and place, and those for AWS alone.
pub(super) fn split(source: &str) -> (String, Vec<String>) {
    let (mut kept, mut aws) = (String::new(), Vec::new());
    let mut in_block = false;
    for line in source.lines() {
        let marked = line.trim_end().ends_with(AWS_ONLY);
        if marked || in_block {
            let code = line.split_once('#').map_or(line, |(code, _)| code);
            aws.push(code.split_whitespace().collect::<Vec<_>>().join(" "));
            in_block = (in_block && line != "  }") || code.trim_end().ends_with('{');
        } else {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    (kept, aws)
}
