//! `report.html`: a run in one page that needs nothing else.

use anyhow::Result;
use engram::eval::plots;
use engram::eval::report::Training;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, context};

use super::Run;
use crate::adapter;

/// The page's name.
pub const FILE: &str = "report.html";

/// Writes the page into the run's folder.
pub fn write(run: &Run) -> Result<()> {
    adapter::write_folder(&run.folder, &[(FILE, page(run)?.as_bytes())])
}

fn page(run: &Run) -> Result<String> {
    let mut environment = Environment::new();
    // The name's ending has the values escaped.
    environment.add_template(FILE, include_str!("report.html"))?;
    let training = Training {
        config: serde_json::Value::Null,
        trainable_parameters: None,
        curve: run.curve.clone(),
        cost: run.cost,
    };
    let losses: Vec<_> = [
        ("training", run.losses(|point| point.train)),
        ("validation", run.losses(|point| point.validation)),
    ]
    .into_iter()
    .filter_map(|(name, losses)| Some((name, losses?.map(|loss| format!("{loss:.4}")))))
    .collect();
    let page = environment.get_template(FILE)?.render(context! {
        name => run.folder.display().to_string(),
        record => Value::from(Serde(&run.record)),
        losses,
        test => run.test_loss().map(|loss| format!("test loss {loss:.4}")),
        seconds => run.seconds().map(|seconds| format!("{seconds:.1}")),
        tokens_per_second =>
            run.cost.and_then(|cost| cost.tokens_per_second).map(|rate| format!("{rate:.0}")),
        plot => plots::loss(&training).map(|plot| plot.svg),
        settings => run.settings(),
    })?;
    Ok(page)
}
