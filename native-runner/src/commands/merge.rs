//! `engram merge`: what shards gave, joined into what the whole would have given.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use engram::eval::{Report, shard};

use super::eval::{folder, summary};
use super::sweep::results::Results;
use crate::staged::Staged;

const REPORT: &str = "report.json";

/// Options of `engram merge`.
#[derive(Debug, Args)]
pub struct Options {
    /// Folders of engram eval --shard, or files of engram sweep --shard (sweep-1-of-2.json)
    #[arg(value_name = "PART", required = true)]
    parts: Vec<PathBuf>,

    /// Folder for the whole report, or for sweep.json
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

pub const EXAMPLES: &str = "\
Examples:
  engram eval --data data --shard 1/2 --out parts/1
  engram eval --data data --shard 2/2 --out parts/2
  engram merge parts/1 parts/2 --out report
  engram merge sweeps/first/sweep-*.json --out sweeps/first";

pub fn run(options: &Options) -> Result<()> {
    let is_report = |part: &PathBuf| {
        part.is_dir() || part.file_name().is_some_and(|name| name.to_string_lossy() == REPORT)
    };
    let reports = options.parts.iter().filter(|part| is_report(part)).count();
    ensure!(
        reports == 0 || reports == options.parts.len(),
        "parts of an evaluation and of a sweep can't be joined; give one kind"
    );
    let mut out = std::io::stdout().lock();
    if reports > 0 {
        let staged = Staged::new(&options.out)?;
        let parts = options.parts.iter().map(|part| report(part)).collect::<Result<Vec<_>>>()?;
        let whole = shard::merge(&parts)?;
        folder::write(&whole, staged)?;
        write!(out, "{}", summary(&whole))?;
        writeln!(out, "report: {}", options.out.join("report.md").display())?;
        return Ok(());
    }
    let parts = options.parts.iter().map(|part| results(part)).collect::<Result<Vec<_>>>()?;
    let all = Results::merge(parts)?;
    all.write(&options.out, &Results::file(None))?;
    write!(out, "{}", all.table())?;
    if all.runs.len() < all.total {
        bail!("{} of the sweep's {} runs are there", all.runs.len(), all.total);
    }
    Ok(())
}

fn report(part: &Path) -> Result<(String, Report)> {
    let path = if part.is_dir() { part.join(REPORT) } else { part.to_owned() };
    let name = path.display().to_string();
    let json = std::fs::read(&path).with_context(|| name.clone())?;
    let report = Report::from_json(&name, &json)?;
    Ok((name, report))
}

fn results(path: &Path) -> Result<(String, Results)> {
    let name = path.display().to_string();
    let json = std::fs::read(path).with_context(|| name.clone())?;
    let results = serde_json::from_slice(&json)
        .with_context(|| format!("{name}: not the results of a sweep"))?;
    Ok((name, results))
}
