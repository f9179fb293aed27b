//! What changed from one candidate to another, category by category.

use super::Plot;
use super::axis::Axis;
use super::svg::{Anchor, BASELINE, GRID, LABEL, NOTE, SERIES, Svg, TICK, TITLE, fit, text_width};
use crate::eval::report::CandidateReport;

const WIDTH: f64 = 760.0;
const RIGHT: f64 = 730.0;
const TOP: f64 = 84.0;
const ROW: f64 = 28.0;
const BAR: f64 = 16.0;
/// The widest name shown whole.
const NAMES: f64 = 230.0;
/// Room for a bar's label.
const LABELS: f64 = 64.0;
/// Categories shown at most.
const SHOWN: usize = 40;

struct Change<'a> {
    category: &'a str,
    n: usize,
    before: usize,
    after: usize,
}

impl Change<'_> {
    fn points(&self) -> f64 {
        100.0 * (self.after as f64 - self.before as f64) / self.n.max(1) as f64
    }
}

/// A bar per category whose count of right answers changed, the greatest gain on top.
pub fn plot(name: String, base: &CandidateReport, other: &CandidateReport) -> Plot {
    let pairs = base.per_category.iter().zip(&other.per_category);
    let mut changes: Vec<Change<'_>> = pairs
        .map(|(before, after)| Change {
            category: &before.category,
            n: before.score.n,
            before: before.score.correct,
            after: after.score.correct,
        })
        .filter(|change| change.before != change.after)
        .collect();
    let (changed, total) = (changes.len(), base.per_category.len());
    changes.sort_by(|a, b| b.points().abs().total_cmp(&a.points().abs()));
    changes.truncate(SHOWN);
    changes.sort_by(|a, b| b.points().total_cmp(&a.points()).then(a.category.cmp(b.category)));

    let names: Vec<_> = changes.iter().map(|c| fit(c.category, LABEL, NAMES)).collect();
    let widest = names.iter().map(|name| text_width(name, LABEL)).fold(40.0, f64::max);
    let left = 24.0 + widest + 16.0;
    let bottom = TOP + ROW * changes.len().max(2) as f64 + 8.0;

    let title = format!("Change by category, {} to {}", base.name, other.name);
    let mut svg = Svg::new(WIDTH, bottom + 62.0);
    svg.text((24.0, 32.0), Anchor::Start, TITLE, &fit(&title, TITLE, WIDTH - 48.0));
    let mut note = format!("{changed} of {total} categories changed; labels: right answers");
    if changed > SHOWN {
        note += &format!("; the {SHOWN} greatest changes are shown");
    }
    svg.text((24.0, 57.0), Anchor::Start, NOTE, &note);

    let ends = changes.iter().map(Change::points).chain([0.0]);
    // The labels stand beyond the bars, on either side.
    let gains = changes.iter().any(|c| c.after > c.before);
    let losses = changes.iter().any(|c| c.after < c.before);
    let start = left + if losses { LABELS } else { 0.0 };
    let end = RIGHT - if gains { LABELS } else { 0.0 };
    let across = Axis::over(ends, true, start, end);
    for (x, text) in across.ticks() {
        svg.line((x, TOP), (x, bottom), GRID, 1.0);
        svg.text((x, bottom + 20.0), Anchor::Middle, TICK, &text);
    }
    let axis = "change in accuracy (percentage points)";
    svg.text(((start + end) / 2.0, bottom + 46.0), Anchor::Middle, NOTE, axis);

    let zero = across.at(0.0);
    for (i, (change, name)) in changes.iter().zip(&names).enumerate() {
        let y = TOP + 4.0 + ROW * (i as f64 + 0.5);
        let tip = across.at(change.points());
        svg.text((left - 16.0, y + 4.5), Anchor::End, LABEL, name);
        let label = format!("{} to {} of {}", change.before, change.after, change.n);
        let (colour, label_x, anchor) = if change.after > change.before {
            (SERIES[1], tip + 8.0, Anchor::Start)
        } else {
            (SERIES[2], tip - 8.0, Anchor::End)
        };
        svg.rect((zero.min(tip), y - BAR / 2.0), ((tip - zero).abs(), BAR), colour, 2.0);
        svg.text((label_x, y + 4.0), anchor, TICK, &label);
    }
    svg.line((zero, TOP), (zero, bottom), BASELINE, 1.0);
    if changes.is_empty() {
        let middle = ((start + end) / 2.0, (TOP + bottom) / 2.0);
        svg.text(middle, Anchor::Middle, LABEL, "No category changed.");
    }
    let svg = svg.finish(&title);
    Plot { name, title, svg }
}
