//! A report as a folder of files.

use anyhow::Result;
use engram::eval::Report;
use engram::eval::markdown::markdown;
use engram::eval::plots::plots;

use crate::staged::Staged;

/// Pixels of a PNG for each of the SVG's.
const PNG_SCALE: f32 = 2.0;

/// Writes the report and moves it to its place; `report.json` comes last.
pub fn write(report: &Report, mut to: Staged) -> Result<()> {
    let plots = plots(report);
    for plot in &plots {
        to.write(format!("{}.svg", plot.name), &plot.svg)?;
        to.write(format!("{}.png", plot.name), plot.png(PNG_SCALE)?)?;
    }
    to.write("report.md", markdown(report, &plots))?;
    to.write("report.json", report.to_json()?)?;
    to.publish()
}
