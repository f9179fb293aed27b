//! The candidates' accuracy side by side.

use super::Plot;
use super::axis::Axis;
use super::svg::{
    Anchor, BASELINE, GRID, INK, LABEL, NOTE, SERIES, Svg, TICK, TITLE, fit, text_width,
};
use crate::eval::markdown::{p_value, percent};
use crate::eval::report::Report;

const WIDTH: f64 = 760.0;
const TOP: f64 = 84.0;
const ROW: f64 = 52.0;
const BAR: f64 = 26.0;
/// The widest name shown whole.
const NAMES: f64 = 200.0;

/// A bar per candidate, with its Wilson interval.
pub fn plot(report: &Report) -> Plot {
    let candidates = &report.candidates;
    let names: Vec<_> = candidates.iter().map(|c| fit(&c.name, LABEL, NAMES)).collect();
    let widest = names.iter().map(|name| text_width(name, LABEL)).fold(40.0, f64::max);
    let left = 24.0 + widest + 12.0;
    let labels: Vec<String> = candidates
        .iter()
        .map(|candidate| &candidate.overall)
        .map(|s| format!("{} of {} ({})", s.correct, s.n, percent(s.accuracy)))
        .collect();
    let longest = labels.iter().map(|label| text_width(label, LABEL)).fold(0.0, f64::max);
    let right = WIDTH - 24.0 - longest - 12.0;
    let bottom = TOP + ROW * candidates.len() as f64;

    let title = "Accuracy by candidate";
    let mut svg = Svg::new(WIDTH, bottom + 62.0);
    svg.text((24.0, 32.0), Anchor::Start, TITLE, title);
    let mut note = format!(
        "{} examples of {}; whiskers: 95 % Wilson interval",
        report.dataset.examples, report.dataset.name
    );
    if let [comparison] = &report.comparisons[..] {
        let meaning = if comparison.significant { "significant" } else { "not significant" };
        note += &format!("; McNemar {} ({meaning})", p_value(comparison.p_value));
    }
    svg.text((24.0, 57.0), Anchor::Start, NOTE, &fit(&note, NOTE, WIDTH - 48.0));

    let highs = candidates.iter().map(|c| 100.0 * c.overall.wilson.high);
    let across = Axis::over(highs.chain([0.0]), false, left, right);
    for (x, text) in across.ticks() {
        svg.line((x, TOP), (x, bottom), GRID, 1.0);
        svg.text((x, bottom + 20.0), Anchor::Middle, TICK, &text);
    }
    let middle = (left + right) / 2.0;
    svg.text((middle, bottom + 46.0), Anchor::Middle, NOTE, "accuracy (% of examples)");

    for (i, (candidate, name)) in candidates.iter().zip(&names).enumerate() {
        let score = &candidate.overall;
        let y = TOP + ROW * (i as f64 + 0.5);
        let [low, value, high] =
            [score.wilson.low, score.accuracy, score.wilson.high].map(|s| across.at(100.0 * s));
        let colour = SERIES[i % SERIES.len()];
        svg.text((left - 12.0, y + 4.5), Anchor::End, LABEL, name);
        svg.rect((left, y - BAR / 2.0), (value - left, BAR), colour, 2.0);
        svg.line((low, y), (high, y), INK, 1.5);
        for end in [low, high] {
            svg.line((end, y - 5.0), (end, y + 5.0), INK, 1.5);
        }
        svg.text_over_grid((high + 12.0, y + 4.5), Anchor::Start, LABEL, &labels[i]);
    }
    svg.line((left, TOP), (left, bottom), BASELINE, 1.0);
    Plot { name: "accuracy".into(), title: title.into(), svg: svg.finish(title) }
}
