//! Plain tables for the terminal.

use console::measure_text_width;

/// `rows` under `head`, columns aligned, the first to the left and numbers to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let lines = || std::iter::once(&head).chain(rows);
    let width = |column: usize| {
        lines().filter_map(|row| row.get(column)).map(|c| measure_text_width(c)).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    for row in lines() {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let space = " ".repeat(width - measure_text_width(cell));
            match column {
                0 => line.extend([cell, &*space]),
                _ => line.extend(["  ", &*space, cell]),
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_what_is_seen() {
        let rows =
            [vec!["base".to_owned(), "9 of 104".into()], vec!["訓練".into(), "12 of 104".into()]];
        assert_eq!(
            table(&["", "right"], &rows),
            "          right\nbase   9 of 104\n訓練  12 of 104\n"
        );
    }
}
