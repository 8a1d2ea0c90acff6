//! Plain text made safe for Markdown.

/// Escapes what Markdown would take for mark-up in prose; code spans stay as they are.
pub(super) fn prose(text: &str) -> String {
    let spans = text.split('`').count();
    let mut escaped = String::with_capacity(text.len());
    for (index, span) in text.split('`').enumerate() {
        if index > 0 {
            escaped.push('`');
        }
        // An odd backtick out opens no code span, so what follows the last one is prose in any case.
        if index % 2 == 1 && index + 1 < spans {
            escaped.push_str(span);
            continue;
        }
        for letter in span.chars() {
            if matches!(letter, '<' | '*' | '|') {
                escaped.push('\\');
            }
            escaped.push(letter);
        }
    }
    escaped
}

/// Prose for a cell of a table: on one line, and no `|` even in code, where it would end the cell all the same.
pub(super) fn cell(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut spans = line.split('`').enumerate().map(|(index, span)| {
        if index % 2 == 1 {
            span.replace('|', "\\|")
        } else {
            span.to_owned()
        }
    });
    let first = spans.next().unwrap_or_default();
    prose(&spans.fold(first, |joined, span| joined + "`" + &span))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_escaped_and_code_is_not() {
        assert_eq!(prose("fuse.* and <uuid>"), "fuse.\\* and \\<uuid>");
        assert_eq!(prose("`fuse.*` and *x*"), "`fuse.*` and \\*x\\*");
        assert_eq!(prose("odd ` <x>"), "odd ` \\<x>");
    }

    #[test]
    fn a_cell_is_one_line_and_keeps_its_bars() {
        assert_eq!(cell("used | total\n  of `a | b`"), "used \\| total of `a \\| b`");
    }
}
