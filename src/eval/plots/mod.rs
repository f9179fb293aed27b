//! The report's plots, as SVG and, with the feature `png`, as PNG.
//!
//! Drawn by our own few lines of SVG: `plotters` measures text on a canvas of the browser in wasm,
//! so that its plots would differ between the targets. `resvg` turns the same SVG into a PNG with
//! the font in `data/fonts`, so that no system font is needed.

mod accuracy;
mod axis;
mod category;
mod loss;
#[cfg(feature = "png")]
mod png;
mod svg;

pub use loss::{compare as compare_losses, plot as loss};

use super::report::Report;

/// One plot of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plot {
    /// File name without its ending.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// A whole SVG document.
    pub svg: String,
}

/// Every plot that `report` has data for: `loss` (with a training section), `accuracy`, and
/// `category_change` (`category_change_2`, …) for each candidate after the first that did
/// better or worse than it in some category.
pub fn plots(report: &Report) -> Vec<Plot> {
    let mut plots = Vec::new();
    if let Some(training) = &report.training {
        plots.extend(loss::plot(training));
    }
    plots.push(accuracy::plot(report));
    for (i, other) in report.candidates.iter().enumerate().skip(1) {
        let name = match i {
            1 => "category_change".into(),
            i => format!("category_change_{i}"),
        };
        plots.extend(category::plot(name, &report.candidates[0], other));
    }
    plots
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::fixtures::{experiment, small};
    use crate::eval::report::CandidateReport;
    use crate::eval::report::LossPoint;
    use crate::testing::test;

    fn names(report: &Report) -> Vec<String> {
        plots(report).into_iter().map(|plot| plot.name).collect()
    }

    #[test]
    fn a_report_gets_the_plots_it_has_data_for() {
        let mut report = experiment();
        assert_eq!(names(&report), ["loss", "accuracy", "category_change"]);
        let third = CandidateReport { name: "third".into(), ..report.candidates[1].clone() };
        report.candidates.push(third);
        report.training = None;
        assert_eq!(names(&report), ["accuracy", "category_change", "category_change_2"]);
        report.candidates[1] = report.candidates[0].clone();
        assert_eq!(names(&report), ["accuracy", "category_change_2"]);
        report.candidates.truncate(1);
        assert_eq!(names(&report), ["accuracy"]);
    }

    #[test]
    fn plots_say_what_the_report_says() {
        let all: Vec<String> = plots(&experiment()).into_iter().map(|plot| plot.svg).collect();
        assert!(all[0].contains("training (last 1.755)"), "{}", all[0]);
        assert!(all[0].contains("validation (last 1.815)"));
        assert!(all[1].contains("12 of 104 (11.5 %)") && all[1].contains("McNemar p = 0.55"));
        assert!(all[2].contains("0 to 2 of 3") && all[2].contains(" of 40 categories changed"));
    }

    #[test]
    fn a_bar_is_as_long_as_its_value() {
        // base is right once and tuned twice in 4: the second bar is twice the first.
        let svg = &plots(&small())[1].svg;
        let bars = svg.lines().filter(|line| line.contains(r#"rx="2""#));
        let widths: Vec<f64> = bars
            .map(|line| line.split("width=\"").nth(1).unwrap().split('"').next().unwrap())
            .map(|width| width.parse().unwrap())
            .collect();
        assert_eq!(widths.len(), 2);
        assert!((widths[1] - 2.0 * widths[0]).abs() < 0.2, "{widths:?}");
    }

    #[test]
    fn hostile_names_stay_text() {
        let mut report = small();
        for candidate in &mut report.candidates {
            candidate.name = "<script>&\0\u{ffff}\u{1f600}".repeat(50);
            candidate.per_category[0].category = "\"]]><g>".into();
        }
        for plot in plots(&report) {
            assert!(!plot.svg.contains("<script") && !plot.svg.contains("<g>"), "{}", plot.svg);
            assert!(!plot.svg.contains(['\0', '\u{ffff}']));
            #[cfg(feature = "png")]
            plot.png(1.0).unwrap();
        }
    }

    #[test]
    fn losses_that_are_no_numbers_are_left_out() {
        let mut report = small();
        let training = report.training.as_mut().unwrap();
        training.curve.push(LossPoint { iteration: 9, train: Some(f64::NAN), validation: None });
        assert!(!plots(&report)[0].svg.contains("NaN"));
        report.training.as_mut().unwrap().curve.clear();
        assert_eq!(plots(&report)[0].name, "accuracy");
    }

    #[cfg(feature = "png")]
    #[test]
    fn a_png_has_the_size_and_the_letters() {
        let plot = &plots(&small())[1];
        let png = plot.png(2.0).unwrap();
        assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
        let side = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
        assert!(plot.svg.contains(&format!(
            "width=\"{}\" height=\"{}\"",
            side(16) / 2,
            side(20) / 2
        )));
        // Without the bundled font every text would vanish, and the files be alike.
        let textless = plot.svg.lines().filter(|line| !line.starts_with("<text"));
        let bare = Plot { svg: textless.collect(), ..plot.clone() };
        assert!(png.len() > bare.png(2.0).unwrap().len() * 3 / 2);
        assert!(plot.png(0.0).is_err() && plot.png(1e9).is_err() && plot.png(f32::NAN).is_err());
    }
}
