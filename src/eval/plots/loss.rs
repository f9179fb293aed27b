//! The loss during training.

use super::Plot;
use super::axis::Axis;
use super::svg::{Anchor, BASELINE, GRID, LABEL, NOTE, SERIES, Svg, TICK, TITLE, text_width};
use crate::eval::report::{LossPoint, Training};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 740.0;
const TOP: f64 = 80.0;
const BOTTOM: f64 = 356.0;
/// Points of a curve that still get a dot each; one of more gets a thinner line instead.
const DOTS: usize = 60;

/// The curve; none if it has no point.
pub fn plot(training: &Training) -> Option<Plot> {
    let series = |value: fn(&LossPoint) -> Option<f64>| -> Vec<(f64, f64)> {
        let points = training.curve.iter().filter_map(|p| Some((p.iteration as f64, value(p)?)));
        points.filter(|(_, loss)| loss.is_finite()).collect()
    };
    let curves: Vec<_> = [
        ("training", SERIES[1], series(|point| point.train)),
        ("validation", SERIES[2], series(|point| point.validation)),
    ]
    .into_iter()
    .filter(|(_, _, points)| !points.is_empty())
    .collect();
    let all = || curves.iter().flat_map(|(_, _, points)| points);
    all().next()?;

    let title = "Loss during training";
    let mut svg = Svg::new(WIDTH, HEIGHT);
    svg.text((LEFT, 32.0), Anchor::Start, TITLE, title);
    let mut x = LEFT;
    for (name, colour, points) in &curves {
        let (_, last) = points[points.len() - 1];
        let key = format!("{name} (last {last:.3})");
        svg.line((x, 53.0), (x + 20.0, 53.0), colour, 3.0);
        svg.text((x + 27.0, 57.5), Anchor::Start, LABEL, &key);
        x += 27.0 + text_width(&key, LABEL) + 24.0;
    }

    let across = Axis::over(all().map(|p| p.0).chain([0.0]), true, LEFT, RIGHT);
    let up = Axis::over(all().map(|p| p.1), false, BOTTOM, TOP);
    for (y, text) in up.ticks() {
        svg.line((LEFT, y), (RIGHT, y), GRID, 1.0);
        svg.text((LEFT - 10.0, y + 4.0), Anchor::End, TICK, &text);
    }
    svg.line((LEFT, BOTTOM), (RIGHT, BOTTOM), BASELINE, 1.0);
    for (x, text) in across.ticks() {
        svg.line((x, BOTTOM), (x, BOTTOM + 5.0), BASELINE, 1.0);
        svg.text((x, BOTTOM + 20.0), Anchor::Middle, TICK, &text);
    }
    svg.text(((LEFT + RIGHT) / 2.0, BOTTOM + 46.0), Anchor::Middle, NOTE, "iteration");
    svg.text_upwards((24.0, (TOP + BOTTOM) / 2.0), NOTE, "loss (nats per token)");

    for (_, colour, points) in &curves {
        let points: Vec<_> = points.iter().map(|(x, y)| (across.at(*x), up.at(*y))).collect();
        let few = points.len() <= DOTS;
        svg.polyline(&points, colour, if few { 2.5 } else { 1.5 });
        if few {
            for &point in &points {
                svg.dot(point, 4.5, colour);
            }
        }
    }
    Some(Plot { name: "loss".into(), title: title.into(), svg: svg.finish(title) })
}
