//! A curve in text.

use console::style;

/// A line in braille dots, two to a character across and four down, with marks over it, in
/// `width` by `height` characters, axes included. `end` is the last value across. None if there is
/// nothing to draw, or no room.
pub fn plot(
    line: &[(f64, f64)],
    marks: &[(f64, f64)],
    end: f64,
    width: usize,
    height: usize,
) -> Option<String> {
    let finite = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
        points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
    };
    let (line, marks) = (finite(line), finite(marks));
    let values = || line.iter().chain(&marks).map(|(_, y)| *y);
    let (low, high) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
    let labels = [high, low].map(|value| format!("{value:.3}"));
    let margin = labels.iter().map(String::len).max()? + 2;
    let (columns, rows) = (width.checked_sub(margin)?, height.checked_sub(2)?);
    if columns < 16 || rows < 3 {
        return None;
    }
    let at = |(x, y): (f64, f64), across: usize, down: usize| {
        let share = |value: f64| if value.is_finite() { value.clamp(0.0, 1.0) } else { 0.5 };
        let column = share(x / end.max(1.0)) * (across - 1) as f64;
        let row = share((high - y) / (high - low)) * (down - 1) as f64;
        (column.round() as usize, row.round() as usize)
    };
    let mut cells = vec![vec![0_u8; columns]; rows];
    let mut dot = |(x, y): (usize, usize)| {
        // Unicode numbers the upper three rows by columns, the lowest one last.
        const BITS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
        cells[y / 4][x / 2] |= BITS[y % 4][x % 2];
    };
    let dots: Vec<_> = line.iter().map(|&point| at(point, columns * 2, rows * 4)).collect();
    dots.iter().copied().for_each(&mut dot);
    for pair in dots.windows(2) {
        let [(x0, y0), (x1, y1)] = [pair[0], pair[1]];
        let steps = x0.abs_diff(x1).max(y0.abs_diff(y1));
        let between = |from: usize, to: usize, i: usize| {
            let (from, to) = (from as f64, to as f64);
            (from + (to - from) * i as f64 / steps as f64).round() as usize
        };
        (1..steps).for_each(|i| dot((between(x0, x1, i), between(y0, y1, i))));
    }
    let marked: Vec<_> = marks.iter().map(|&point| at(point, columns, rows)).collect();

    let mut out = String::new();
    for (row, cells) in cells.iter().enumerate() {
        let label = match row {
            0 => labels[0].as_str(),
            row if row + 1 == rows => labels[1].as_str(),
            _ => "",
        };
        out += &format!("{label:>0$} ┤", margin - 2);
        for (column, cell) in cells.iter().enumerate() {
            let braille = char::from_u32(0x2800 + u32::from(*cell)).unwrap_or(' ');
            match (marked.contains(&(column, row)), *cell) {
                (true, _) => out += &style('o').yellow().bold().for_stderr().to_string(),
                (_, 0) => out.push(' '),
                _ => out.push(braille),
            }
        }
        out.truncate(out.trim_end_matches(' ').len());
        out.push('\n');
    }
    out += &format!("{:>1$}{2}\n", "└", margin, "─".repeat(columns));
    let end = format!("{end:.0}");
    out += &format!("{:>1$}0{end:>2$}", "", margin, columns.saturating_sub(1));
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_line_falls() {
        let line: Vec<(f64, f64)> =
            (0..=20).map(|i| (f64::from(i), 3.0 - f64::from(i) * 0.1)).collect();
        let shown = plot(&line, &[(20.0, 2.0)], 20.0, 31, 7).unwrap();
        let shown = console::strip_ansi_codes(&shown).into_owned();
        assert_eq!(
            shown,
            "3.000 ┤⠑⠒⠤⣀\n      ┤    ⠉⠑⠢⢄⣀\n      ┤         ⠉⠒⠢⠤⢄⣀        o\n\
             \x20     ┤               ⠉⠒⠤⢄⡀\n1.000 ┤                   ⠈⠑⠒⠤⣀\n\
             \x20     └────────────────────────\n       0                     20"
        );
    }

    #[test]
    fn any_values_keep_to_the_room() {
        let wild = [f64::NAN, f64::INFINITY, 1e300, -1e300, 0.0, 5e-324];
        let points: Vec<(f64, f64)> = wild.iter().flat_map(|&x| wild.map(|y| (x, y))).collect();
        for (width, height) in [(40, 5), (100, 14), (320, 8), (20, 5), (0, 0), (39, 4)] {
            let Some(shown) = plot(&points, &points, 0.0, width, height) else { continue };
            let shown = console::strip_ansi_codes(&shown).into_owned();
            assert!(shown.lines().all(|line| line.chars().count() <= width), "{width}: {shown}");
            assert_eq!(shown.lines().count(), height);
        }
        let flat = [(1.0, 2.0), (2.0, 2.0)];
        assert!(plot(&flat, &[], 2.0, 60, 8).is_some());
        assert!(plot(&[], &[], 2.0, 60, 8).is_none());
        assert!(plot(&flat, &[], 2.0, 20, 8).is_none());
    }
}
