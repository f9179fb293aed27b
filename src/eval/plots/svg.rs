//! The few shapes of SVG that the plots use.

use std::fmt::Write;

/// Colours that colour-blind readers can tell apart on white (Okabe and Ito, 2008), led by a grey
/// for the baseline.
pub const SERIES: [&str; 7] =
    ["#7a828c", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
/// Text that is read first.
pub const INK: &str = "#1f2328";
/// Text that is read next.
pub const MUTED: &str = "#59636e";
/// Grid lines.
pub const GRID: &str = "#e4e7eb";
/// The line that values start from.
pub const BASELINE: &str = "#8b949e";

/// Where a text stands relative to its point.
#[derive(Debug, Clone, Copy)]
pub enum Anchor {
    /// The point is its left end.
    Start,
    /// The point is its middle.
    Middle,
    /// The point is its right end.
    End,
}

/// How a text looks.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Height of the font, pixels.
    pub size: f64,
    /// Whether it is set semi-bold.
    pub bold: bool,
    /// Colour.
    pub colour: &'static str,
}

/// A plot's title.
pub const TITLE: Style = Style { size: 18.0, bold: true, colour: INK };
/// The line below the title, and the names of the axes.
pub const NOTE: Style = Style { size: 13.0, bold: false, colour: MUTED };
/// Ticks.
pub const TICK: Style = Style { size: 12.0, bold: false, colour: MUTED };
/// Names and values in the plot.
pub const LABEL: Style = Style { size: 13.0, bold: false, colour: INK };

/// A drawing as it grows. Coordinates are pixels from the upper left corner.
pub struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    /// An empty white drawing.
    pub fn new(width: f64, height: f64) -> Self {
        Svg { width, height, body: String::new() }
    }

    /// A straight line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
        let _ = writeln!(
            self.body,
            r#"<line x1="{}" y1="{}" x2="{}" y2="{}" stroke="{colour}" stroke-width="{width}"/>"#,
            number(from.0),
            number(from.1),
            number(to.0),
            number(to.1),
        );
    }

    /// A filled rectangle; `radius` rounds its corners.
    pub fn rect(&mut self, corner: (f64, f64), size: (f64, f64), colour: &str, radius: f64) {
        let _ = writeln!(
            self.body,
            r#"<rect x="{}" y="{}" width="{}" height="{}" rx="{radius}" fill="{colour}"/>"#,
            number(corner.0),
            number(corner.1),
            number(size.0.max(0.0)),
            number(size.1.max(0.0)),
        );
    }

    /// A filled circle with a white rim.
    pub fn dot(&mut self, centre: (f64, f64), radius: f64, colour: &str) {
        let _ = writeln!(
            self.body,
            r##"<circle cx="{}" cy="{}" r="{radius}" fill="{colour}" stroke="#fff" stroke-width="1.5"/>"##,
            number(centre.0),
            number(centre.1),
        );
    }

    /// Straight lines from point to point.
    pub fn polyline(&mut self, points: &[(f64, f64)], colour: &str, width: f64) {
        let points: Vec<String> =
            points.iter().map(|(x, y)| format!("{},{}", number(*x), number(*y))).collect();
        let _ = writeln!(
            self.body,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round" stroke-linecap="round"/>"#,
            points.join(" "),
        );
    }

    /// A text on the base line through `at`.
    pub fn text(&mut self, at: (f64, f64), anchor: Anchor, style: Style, text: &str) {
        self.write_text(at, anchor, style, text, "");
    }

    /// A text with a white rim, which keeps grid lines off its letters.
    pub fn text_over_grid(&mut self, at: (f64, f64), anchor: Anchor, style: Style, text: &str) {
        let rim =
            r##" stroke="#fff" stroke-width="5" stroke-linejoin="round" paint-order="stroke""##;
        self.write_text(at, anchor, style, text, rim);
    }

    /// A text that reads upwards, its middle at `at`.
    pub fn text_upwards(&mut self, at: (f64, f64), style: Style, text: &str) {
        let turn = format!(r#" transform="rotate(-90 {} {})""#, number(at.0), number(at.1));
        self.write_text(at, Anchor::Middle, style, text, &turn);
    }

    fn write_text(
        &mut self,
        at: (f64, f64),
        anchor: Anchor,
        style: Style,
        text: &str,
        attributes: &str,
    ) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let weight = if style.bold { r#" font-weight="600""# } else { "" };
        let _ = writeln!(
            self.body,
            r#"<text x="{}" y="{}" text-anchor="{anchor}" font-size="{}" fill="{}"{weight}{attributes}>{}</text>"#,
            number(at.0),
            number(at.1),
            style.size,
            style.colour,
            escape(text),
        );
    }

    /// The whole document; `title` is what a screen reader says.
    pub fn finish(self, title: &str) -> String {
        let (width, height, title) = (number(self.width), number(self.height), escape(title));
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="Inter, 'Helvetica Neue', Arial, sans-serif" role="img">
<title>{title}</title>
<rect width="{width}" height="{height}" fill="#fff"/>
{}</svg>
"##,
            self.body
        )
    }
}

/// A coordinate to a tenth of a pixel, without a needless `.0` and without `-0`.
fn number(value: f64) -> String {
    let tenths = (value * 10.0).round() + 0.0;
    format!("{}", tenths / 10.0)
}

/// Text of others within XML: markup escaped, characters that XML forbids left out.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\n' | '\t' => out.push(' '),
            c if c.is_control() || ('\u{fffe}'..='\u{ffff}').contains(&c) => {}
            c => out.push(c),
        }
    }
    out
}

/// About how wide a text is, pixels: the advances of Inter to a twentieth of an em, and a full em
/// for what is neither Latin, Greek nor Cyrillic.
pub fn text_width(text: &str, style: Style) -> f64 {
    let ems: f64 = text
        .chars()
        .map(|c| match c {
            'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | ' ' => 0.28,
            'f' | 't' | 'r' | '(' | ')' | '[' | ']' | '/' | '\\' => 0.38,
            'm' | 'w' | 'M' | 'W' | '%' | '@' => 0.92,
            '-' | '_' | '"' | '*' | '1' => 0.47,
            'A'..='Z' => 0.69,
            '\0'..='\u{52f}' => 0.6,
            _ => 1.0,
        })
        .sum();
    ems * style.size * if style.bold { 1.04 } else { 1.0 }
}

/// `text`, or its beginning and end around an ellipsis, about `width` pixels wide: names of
/// adapters often differ only in their ends.
pub fn fit(text: &str, style: Style, width: f64) -> String {
    if text_width(text, style) <= width {
        return text.to_owned();
    }
    let half = (width - style.size) / 2.0;
    let part = |chars: &mut dyn Iterator<Item = char>| -> Vec<char> {
        let mut left = half;
        let fits = |c: &char| {
            left -= text_width(c.encode_utf8(&mut [0; 4]), style);
            left >= 0.0
        };
        chars.take_while(fits).collect()
    };
    let mut shown = String::from_iter(part(&mut text.chars()));
    shown.push('…');
    shown.extend(part(&mut text.chars().rev()).into_iter().rev());
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn long_names_keep_both_ends() {
        let name = "SmolLM2-135M-Instruct + adapters/2026-11-20-run-seven";
        let shown = fit(name, LABEL, 200.0);
        assert!(shown.starts_with("SmolLM2-") && shown.ends_with("run-seven"), "{shown}");
        assert!(text_width(&shown, LABEL) <= 200.0);
        assert_eq!(fit("base", LABEL, 200.0), "base");
        assert_eq!(fit("éé", LABEL, 1.0), "…");
    }

    #[test]
    fn coordinates_are_short() {
        let numbers = [1.0, 0.25, -0.04, 1.0 / 3.0, 1e6].map(number);
        assert_eq!(numbers, ["1", "0.3", "0", "0.3", "1000000"]);
    }
}
