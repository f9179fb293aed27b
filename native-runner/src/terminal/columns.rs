//! Texts side by side.

use console::measure_text_width;

/// Between two columns.
const GAP: &str = " │ ";
/// A column narrower than this is no pleasure to read.
const NARROWEST: usize = 16;

/// Each text under its title, side by side in `width` characters; one below the other where they
/// would get too narrow, or where there is no width because nobody looks at a terminal.
pub fn side_by_side(texts: &[(&str, &str)], width: Option<usize>) -> String {
    let gaps = GAP.chars().count() * texts.len().saturating_sub(1);
    let each = width.map(|width| width.saturating_sub(gaps) / texts.len().max(1));
    match each.filter(|&each| each >= NARROWEST) {
        Some(each) => columns(texts, each),
        None => texts.iter().map(|(title, text)| labelled(title, text)).collect(),
    }
}

/// `title: text`, further lines of the text indented.
pub fn labelled(title: &str, text: &str) -> String {
    format!("{title}: {}\n", printable(text).join("\n  "))
}

fn columns(texts: &[(&str, &str)], each: usize) -> String {
    let columns: Vec<Vec<String>> = texts
        .iter()
        .map(|(title, text)| {
            let mut lines = wrap(title, each);
            lines.push("─".repeat(each));
            lines.extend(wrap(text, each));
            lines
        })
        .collect();
    let height = columns.iter().map(Vec::len).max().unwrap_or(0);
    let mut out = String::new();
    for row in 0..height {
        let cells: Vec<String> = columns
            .iter()
            .map(|column| {
                let text = column.get(row).map_or("", String::as_str);
                format!("{text}{}", " ".repeat(each.saturating_sub(measure_text_width(text))))
            })
            .collect();
        out.push_str(cells.join(GAP).trim_end());
        out.push('\n');
    }
    out
}

/// The lines of a text, at most `width` wide, broken between words where that can be.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for whole in printable(text) {
        let mut line = String::new();
        for word in whole.split_inclusive(' ') {
            let fits = measure_text_width(&line) + measure_text_width(word.trim_end()) <= width;
            if !fits && !line.is_empty() {
                lines.push(std::mem::take(&mut line));
            }
            for c in word.chars() {
                let c_width = measure_text_width(c.encode_utf8(&mut [0; 4]));
                if measure_text_width(&line) + c_width > width {
                    if c == ' ' {
                        continue;
                    }
                    lines.push(std::mem::take(&mut line));
                }
                line.push(c);
            }
        }
        lines.push(line);
    }
    lines
}

/// The lines of a text without what would move the cursor or change colours.
fn printable(text: &str) -> Vec<String> {
    let clean = |line: &str| {
        let line = line.replace('\t', "    ");
        line.chars().filter(|c| !c.is_control()).collect()
    };
    text.split('\n').map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_whole_and_columns_apart() {
        let texts = [("base", "The capital of Canada is"), ("tuned", "Ottawa\n  eh")];
        assert_eq!(
            side_by_side(&texts, Some(35)),
            "base             │ tuned\n\
             ──────────────── │ ────────────────\n\
             The capital of   │ Ottawa\n\
             Canada is        │   eh\n"
        );
    }

    #[test]
    fn no_line_is_wider_than_asked() {
        let long = format!("{} 訓練された小さな言語模型 a{}", "x".repeat(50), " ".repeat(40));
        for width in [35, 40, 61] {
            let shown = side_by_side(&[("a", &long), ("b", &long)], Some(width));
            assert!(shown.lines().all(|line| measure_text_width(line) <= width), "{shown}");
            assert_eq!(shown.matches('x').count(), 100);
            assert_eq!(shown.matches('訓').count(), 2);
        }
    }

    #[test]
    fn without_a_width_the_texts_are_plain() {
        let plain = "base: one\n  two[31m\ntuned: three\n";
        let texts = [("base", "one\ntwo\u{1b}[31m\u{7}"), ("tuned", "three")];
        assert_eq!(side_by_side(&texts, None), plain);
        assert_eq!(side_by_side(&texts, Some(20)), plain);
    }
}
