//! The ceiling on the number of crates in the agent.
//!
//! The agent runs as root on every node of a cluster: each crate in it is code that somebody has to trust, and to
//! rebuild for on a security advisory. The count is of `cargo tree` without build and test dependencies, on Linux.

use std::collections::BTreeSet;

use anyhow::ensure;

use crate::workspace::{Workspace, stdout_of};

/// 221 crates stand in the tree, 127 of them for the AWS SDK, 10 for D-Bus; the rest is room for the small changes that
/// updates bring. A step that needs more raises it in its own commit and says for what.
const MAX_CRATES: usize = 232;

pub(super) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let args = [
        "tree", "--locked", "-p", "gpushare", "-e", "normal", "--prefix", "none",
    ];
    let target = ["--target", "x86_64-unknown-linux-gnu"];
    let tree = stdout_of(&mut workspace.cargo(args.into_iter().chain(target)))?;
    let count = crates(&tree).len();
    println!("{count} crates; the ceiling is {MAX_CRATES}");
    ensure!(
        count <= MAX_CRATES,
        "the agent is made of {count} crates, the ceiling is {MAX_CRATES}: turn off default features, drop a \
         dependency, or raise MAX_CRATES in xtask/src/test/ceiling.rs with the reason (`cargo tree -p gpushare -e \
         normal` shows who brings what)"
    );
    Ok(())
}

/// Name and version of each line; marks such as `(*)` and `(proc-macro)` are not part of it.
fn crates(tree: &str) -> BTreeSet<(&str, &str)> {
    tree.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_crate_counts_once_and_two_versions_count_twice() {
        let tree =
            "gpushare v0.1.0 (/x)\nsyn v2.0.1\nserde v1.0.9\nserde v1.0.9 (*)\nsyn v3.0.0 (proc-macro)\n\n";
        assert_eq!(crates(tree).len(), 4);
    }
}
