//! `engram runs compare`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use engram::eval::plots::{Plot, compare_losses};
use serde_json::{Map, Value, json};

use super::{NONE, as_json, right};
use crate::adapter;
use crate::runs::Run;
use crate::table::table;

/// Settings that say where a run is, not how it is.
const PLACES: [&str; 1] = ["adapter_path"];
/// Pixels of a PNG for each of the SVG's.
const PNG_SCALE: f32 = 2.0;

/// Options of `engram runs compare`.
#[derive(Debug, Args)]
pub struct Options {
    /// Folders of runs, the adapter's
    #[arg(value_name = "RUN", required = true, num_args = 2..)]
    runs: Vec<PathBuf>,

    /// Draw their losses into one file, .svg or .png
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let runs = options.runs.iter().map(|folder| Run::read(folder)).collect::<Result<Vec<_>>>()?;
    let names: Vec<String> = runs.iter().map(|run| run.folder.display().to_string()).collect();
    if let Some(path) = &options.plot {
        let curves: Vec<_> =
            names.iter().map(String::as_str).zip(runs.iter().map(|run| &run.curve[..])).collect();
        let plot = compare_losses(&curves).context("the runs have no losses to plot")?;
        draw(&plot, path)?;
    }
    let differing = differing(&runs);
    let mut out = std::io::stdout().lock();
    if options.json {
        let differing: Map<String, Value> =
            differing.into_iter().map(|(key, values)| (key, json!(values))).collect();
        let all: Vec<Value> = runs.iter().map(as_json).collect();
        let all = json!({"differing": differing, "runs": all});
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(());
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut add = |what: &str, values: Vec<Option<String>>| {
        if values.iter().any(Option::is_some) {
            let values = values.into_iter().map(|value| value.unwrap_or_else(|| NONE.to_owned()));
            rows.push(std::iter::once(what.to_owned()).chain(values).collect());
        }
    };
    for (key, values) in differing {
        add(&key, values);
    }
    let of = |value: &dyn Fn(&Run) -> Option<String>| runs.iter().map(value).collect();
    for (i, which) in ["first", "best", "last"].into_iter().enumerate() {
        add(
            &format!("training loss, {which}"),
            of(&|run| run.losses(|p| p.train).map(|losses| format!("{:.4}", losses[i]))),
        );
    }
    for (i, which) in ["first", "best", "last"].into_iter().enumerate() {
        add(
            &format!("validation loss, {which}"),
            of(&|run| run.losses(|p| p.validation).map(|losses| format!("{:.4}", losses[i]))),
        );
    }
    add("test loss", of(&|run| run.test_loss().map(|loss| format!("{loss:.4}"))));
    add("right answers", of(&right));
    add("seconds", of(&|run| run.seconds().map(|seconds| format!("{seconds:.1}"))));
    add("tokens/s", of(&|run| Some(format!("{:.0}", run.cost?.tokens_per_second?))));
    let head: Vec<&str> = std::iter::once("").chain(names.iter().map(String::as_str)).collect();
    write!(out, "{}", table(&head, &rows))?;
    Ok(())
}

/// The settings in which runs differ, with each run's value.
fn differing(runs: &[Run]) -> Vec<(String, Vec<Option<String>>)> {
    let settings: Vec<Vec<(String, String)>> = runs.iter().map(settings).collect();
    let mut keys: Vec<&String> = Vec::new();
    for (key, _) in settings.iter().flatten() {
        if !keys.contains(&key) && !PLACES.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let values = |key: &String| {
        let value = |of_one: &Vec<(String, String)>| {
            of_one.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
        };
        (key.clone(), settings.iter().map(value).collect::<Vec<_>>())
    };
    let all = keys.into_iter().map(values);
    all.filter(|(_, values)| values.iter().any(|value| *value != values[0])).collect()
}

/// The settings of a run, those of its optimizer without that's name: they have the same ones.
fn settings(run: &Run) -> Vec<(String, String)> {
    let rename = |key: String| match key.strip_prefix("optimizer_config.") {
        Some(rest) => rest.split_once('.').map_or(rest, |(_, key)| key).to_owned(),
        None => key,
    };
    run.settings().into_iter().map(|(key, value)| (rename(key), value)).collect()
}

/// Writes a plot as what the file's name ends in.
fn draw(plot: &Plot, path: &Path) -> Result<()> {
    let content = match path.extension().and_then(|extension| extension.to_str()) {
        Some("svg") => plot.svg.clone().into_bytes(),
        Some("png") => plot.png(PNG_SCALE)?,
        _ => bail!("{}: a plot is an .svg or a .png file", path.display()),
    };
    let name = path.file_name().and_then(|name| name.to_str()).context("no file name")?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    adapter::write_folder(folder.unwrap_or(Path::new(".")), &[(name, &content)])
}
