//! What the spool costs, which only the agent's own benchmark can take apart: bytes, `fsync`s, processor time, memory.

use std::collections::BTreeMap;

use anyhow::Context;

use crate::workspace::{Workspace, stdout_of};

/// Series of the nodes that are measured: one of nine GPUs, and the default of `publish.max_series`.
const SERIES: [&str; 2] = ["64", "500"];

/// The figures of one node, by the names under which `benches/spool` prints them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Spool(BTreeMap<String, f64>);

pub(super) fn run(workspace: &Workspace) -> anyhow::Result<Vec<Spool>> {
    let mut found = Vec::new();
    for series in SERIES {
        println!("the cost of the spool at {series} series");
        let output = bench(workspace, &["--series", series])?;
        let spool = Spool::parse(&output);
        // Printed last: all of it is there.
        let whole = spool.has("empty_kib").then_some(spool);
        found.push(whole.with_context(|| format!("`cargo bench --bench spool` printed:\n{output}"))?);
    }
    Ok(found)
}

/// `cargo bench --bench spool` with these arguments.
pub(super) fn bench(workspace: &Workspace, arguments: &[&str]) -> anyhow::Result<String> {
    let command = ["bench", "--locked", "-p", "gpushare", "--bench", "spool", "--"];
    stdout_of(workspace.cargo(command).args(arguments))
}

impl Spool {
    /// Every `name=number` in a text.
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split_whitespace().filter_map(|word| word.split_once('='));
        let numbers = pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        Self(numbers.collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Not a number where the benchmark printed none: it shows as such.
    pub(super) fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_their_names() {
        let spool = Spool::parse("warning: x\nseries=64 samples=3840\nonline_syncs=2.50 a=b\n");
        assert_eq!((spool.get("series"), spool.get("online_syncs")), (64.0, 2.5));
        assert!(spool.get("a").is_nan() && !spool.has("a"));
    }
}
