//! Plain tables on a terminal.

/// Renders rows under a heading, columns aligned.
pub(crate) fn render(heading: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = heading.iter().map(ToString::to_string).collect();
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let rule = widths.iter().map(|width| "-".repeat(*width)).collect();
    let mut text = String::new();
    for row in [&head, &rule].into_iter().chain(rows) {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_aligned() {
        let text = super::render(&["a", "long"], &[vec!["value".into(), "1".into()]]);
        assert_eq!(text, "a      long\n-----  ----\nvalue  1\n");
    }
}
