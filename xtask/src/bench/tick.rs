//! The cost of one tick, which only the agent's own benchmark can take apart.

use anyhow::ensure;

use crate::workspace::{Workspace, stdout_of};

/// The lines `name=value …` that `benches/tick.rs` prints.
pub(super) fn run(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    println!("the cost of one tick");
    let output = stdout_of(&mut workspace.cargo(["bench", "--locked", "-p", "gpushare", "--bench", "tick"]))?;
    let lines = figures(&output);
    ensure!(
        !lines.is_empty(),
        "`cargo bench --bench tick` printed no line such as `tick_us_median=…`:\n{output}"
    );
    Ok(lines)
}

fn figures(output: &str) -> Vec<String> {
    let is_figure = |word: &str| {
        word.split_once('=')
            .is_some_and(|(name, value)| !value.is_empty() && name.chars().all(is_name))
    };
    let lines = output.lines().map(str::trim);
    lines
        .filter(|line| line.split_whitespace().next().is_some_and(is_figure))
        .map(str::to_owned)
        .collect()
}

fn is_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_figures_are_quoted() {
        let output = "running\n tick_us_median=12.5  allocations=3\nnote: a = b\nx=\nwindow_us=7\n";
        assert_eq!(
            figures(output),
            ["tick_us_median=12.5  allocations=3", "window_us=7"]
        );
    }
}
