//! Columns that line up.

use std::fmt::Write;

/// A table that is as wide as its content.
pub(super) struct Table {
    indent: &'static str,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings; every line starts with `indent`.
    pub(super) fn new(indent: &'static str, headings: &[&str]) -> Self {
        Self {
            indent,
            rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()],
        }
    }

    /// Adds a row. A row may be shorter than the headings; its last cell then runs on.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Writes the table, a line per row, without trailing spaces.
    pub(super) fn write(&self, to: &mut String) {
        let widths = self.widths();
        for row in &self.rows {
            let mut line = self.indent.to_owned();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:width$}  ");
            }
            to.push_str(line.trim_end());
            to.push('\n');
        }
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            let last_of_short = |row: &&Vec<String>| row.len() == columns || column + 1 < row.len();
            let cells = self
                .rows
                .iter()
                .filter(last_of_short)
                .filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        (0..columns).map(width).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_a_short_row_runs_on() {
        let mut table = Table::new("  ", &["GPU", "HEALTH", "UTIL"]);
        table.row(["0".into(), "healthy".into(), "37 %".into()]);
        table.row(["10".into(), "lost (fallen off the bus)".into()]);
        let mut text = String::new();
        table.write(&mut text);
        assert_eq!(
            text,
            "  GPU  HEALTH   UTIL\n  0    healthy  37 %\n  10   lost (fallen off the bus)\n"
        );
    }
}
