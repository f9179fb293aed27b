//! Losses during training, of one run or of several.

use super::Plot;
use super::axis::Axis;
use super::svg::{Anchor, BASELINE, GRID, LABEL, NOTE, SERIES, Svg, TICK, TITLE, fit, text_width};
use crate::eval::report::{LossPoint, Training};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 740.0;
/// From the last line of the key to the plot's upper edge.
const GAP: f64 = 27.0;
const HEIGHT: f64 = 276.0;
/// Of a line of the key.
const ROW: f64 = 20.0;
/// Points of a curve that still get a dot each; one of more gets a thinner line instead.
const DOTS: usize = 60;

/// One line of the plot: at least one point, `(iteration, loss)`, all finite.
struct Curve {
    name: String,
    colour: &'static str,
    points: Vec<(f64, f64)>,
    has_dots: bool,
}

impl Curve {
    fn of(
        points: &[LossPoint],
        value: fn(&LossPoint) -> Option<f64>,
        name: &str,
        colour: &'static str,
    ) -> Option<Self> {
        let points = points.iter().filter_map(|p| Some((p.iteration as f64, value(p)?)));
        let points: Vec<_> = points.filter(|(_, loss)| loss.is_finite()).collect();
        let (_, last) = points.last()?;
        let has_dots = points.len() <= DOTS;
        Some(Curve { name: format!("{name} (last {last:.3})"), colour, points, has_dots })
    }

    fn width(&self) -> f64 {
        if self.has_dots { 2.5 } else { 1.5 }
    }
}

/// The curve; none if it has no point.
pub fn plot(training: &Training) -> Option<Plot> {
    let points = &training.curve;
    let curves = [
        Curve::of(points, |point| point.train, "training", SERIES[1]),
        Curve::of(points, |point| point.validation, "validation", SERIES[2]),
    ];
    draw("Loss during training", &curves.into_iter().flatten().collect::<Vec<_>>())
}

/// The losses of several runs, each with its name, in one plot: a colour for each run, training as
/// a thin line, validation with dots. None if there is no point.
pub fn compare(runs: &[(&str, &[LossPoint])]) -> Option<Plot> {
    let mut curves = Vec::new();
    for (i, (name, points)) in runs.iter().enumerate() {
        let colour = SERIES[1 + i % (SERIES.len() - 1)];
        let training = Curve::of(points, |p| p.train, &format!("{name}, training"), colour);
        curves.extend(training.map(|curve| Curve { has_dots: false, ..curve }));
        let validation =
            Curve::of(points, |p| p.validation, &format!("{name}, validation"), colour);
        curves.extend(validation);
    }
    draw("Losses of the runs", &curves)
}

fn draw(title: &str, curves: &[Curve]) -> Option<Plot> {
    let all = || curves.iter().flat_map(|curve| &curve.points);
    all().next()?;
    let keys: Vec<_> = curves.iter().map(|c| fit(&c.name, LABEL, RIGHT - LEFT - 27.0)).collect();
    // Where each name of the key stands.
    let (mut x, mut y) = (LEFT, 57.5);
    let mut places = Vec::with_capacity(keys.len());
    for key in &keys {
        let end = x + 27.0 + text_width(key, LABEL);
        if end > RIGHT && x > LEFT {
            (x, y) = (LEFT, y + ROW);
        }
        places.push((x, y));
        x += 27.0 + text_width(key, LABEL) + 24.0;
    }
    let top = y - 4.5 + GAP;
    let bottom = top + HEIGHT;

    let mut svg = Svg::new(WIDTH, bottom + 64.0);
    svg.text((LEFT, 32.0), Anchor::Start, TITLE, title);
    for ((curve, key), (x, y)) in curves.iter().zip(&keys).zip(places) {
        svg.line((x, y - 4.5), (x + 20.0, y - 4.5), curve.colour, curve.width() + 0.5);
        if curve.has_dots && curves.iter().any(|other| !other.has_dots) {
            svg.dot((x + 10.0, y - 4.5), 4.5, curve.colour);
        }
        svg.text((x + 27.0, y), Anchor::Start, LABEL, key);
    }

    let across = Axis::over(all().map(|p| p.0).chain([0.0]), true, LEFT, RIGHT);
    let up = Axis::over(all().map(|p| p.1), false, bottom, top);
    for (y, text) in up.ticks() {
        svg.line((LEFT, y), (RIGHT, y), GRID, 1.0);
        svg.text((LEFT - 10.0, y + 4.0), Anchor::End, TICK, &text);
    }
    svg.line((LEFT, bottom), (RIGHT, bottom), BASELINE, 1.0);
    for (x, text) in across.ticks() {
        svg.line((x, bottom), (x, bottom + 5.0), BASELINE, 1.0);
        svg.text((x, bottom + 20.0), Anchor::Middle, TICK, &text);
    }
    svg.text(((LEFT + RIGHT) / 2.0, bottom + 46.0), Anchor::Middle, NOTE, "iteration");
    svg.text_upwards((24.0, (top + bottom) / 2.0), NOTE, "loss (nats per token)");

    for curve in curves {
        let points: Vec<_> = curve.points.iter().map(|(x, y)| (across.at(*x), up.at(*y))).collect();
        svg.polyline(&points, curve.colour, curve.width());
        if curve.has_dots {
            for &point in &points {
                svg.dot(point, 4.5, curve.colour);
            }
        }
    }
    Some(Plot { name: "loss".into(), title: title.into(), svg: svg.finish(title) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn many_runs_are_all_named_and_inside() {
        let points: Vec<LossPoint> = (1..=100)
            .map(|i| LossPoint {
                iteration: i,
                train: Some(1.0 / i as f64),
                validation: i.is_multiple_of(50).then_some(0.5),
            })
            .collect();
        let names: Vec<String> = (0..9).map(|i| format!("runs/<{i}>/{}", "x".repeat(99))).collect();
        let runs: Vec<(&str, &[LossPoint])> =
            names.iter().map(|name| (name.as_str(), points.as_slice())).collect();
        let svg = compare(&runs).unwrap().svg;
        assert_eq!(svg.matches("<polyline").count(), 18);
        assert_eq!(svg.matches("validation (last 0.500)").count(), 9);
        assert!(svg.contains("runs/&lt;8&gt;/"));
        // The key's 18 rows move the plot down.
        assert!(svg.contains(&format!("height=\"{}\"", 420 + 17 * 20)), "{}", &svg[..300]);
        assert!(compare(&[("a", &[])]).is_none());
    }
}
