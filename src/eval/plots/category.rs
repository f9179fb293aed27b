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
/// Categories shown at most.
const SHOWN: usize = 40;

struct Change<'a> {
    category: &'a str,
    n: usize,
    before: usize,
    after: usize,
}

impl Change<'_> {
    fn label(&self) -> String {
        format!("{} to {} of {}", self.before, self.after, self.n)
    }

    fn points(&self) -> f64 {
        100.0 * (self.after as f64 - self.before as f64) / self.n.max(1) as f64
    }
}

/// A bar per category whose count of right answers changed, the greatest gain on top; none
/// if there is no such category.
pub fn plot(name: String, base: &CandidateReport, other: &CandidateReport) -> Option<Plot> {
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
    if changes.is_empty() {
        return None;
    }
    let (changed, total) = (changes.len(), base.per_category.len());
    changes.sort_by(|a, b| b.points().abs().total_cmp(&a.points().abs()));
    changes.truncate(SHOWN);
    changes.sort_by(|a, b| b.points().total_cmp(&a.points()).then(a.category.cmp(b.category)));

    let names: Vec<_> = changes.iter().map(|c| fit(c.category, LABEL, NAMES)).collect();
    let widest = names.iter().map(|name| text_width(name, LABEL)).fold(40.0, f64::max);
    let left = 24.0 + widest + 16.0;
    let bottom = TOP + ROW * changes.len() as f64 + 8.0;

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
    let room = |gain: bool| {
        let beside = changes.iter().filter(|c| (c.after > c.before) == gain);
        beside.map(|c| text_width(&c.label(), TICK) + 12.0).fold(0.0, f64::max)
    };
    let (start, end) = (left + room(false), RIGHT - room(true));
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
        let (colour, label_x, anchor) = if change.after > change.before {
            (SERIES[1], tip + 8.0, Anchor::Start)
        } else {
            (SERIES[2], tip - 8.0, Anchor::End)
        };
        svg.rect((zero.min(tip), y - BAR / 2.0), ((tip - zero).abs(), BAR), colour, 2.0);
        svg.text_over_grid((label_x, y + 4.0), anchor, TICK, &change.label());
    }
    svg.line((zero, TOP), (zero, bottom), BASELINE, 1.0);
    let svg = svg.finish(&title);
    Some(Plot { name, title, svg })
}
