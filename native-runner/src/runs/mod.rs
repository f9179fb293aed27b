//! What a training run leaves in its folder, and what can be read from it.

pub mod curve;
pub mod html;
pub mod record;
pub mod tensorboard;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use engram::eval::Report;
use engram::eval::report::{LossPoint, TrainingCost};
use serde_json::{Map, Value};

use self::record::{Record, Session, Status};

/// The settings, as `--config` takes them.
pub const CONFIG: &str = "config.yaml";
/// What it was made from and how it went.
pub const RECORD: &str = "run.json";
/// The losses.
pub const METRICS: &str = "metrics.jsonl";

/// Folders below those that are named in which runs are looked for.
const DEPTH: usize = 6;

/// A run, as its folder tells.
pub struct Run {
    pub folder: PathBuf,
    /// By the keys of a config file; empty for a run of an Engram that wrote none.
    pub config: Map<String, Value>,
    pub record: Option<Record>,
    /// By iteration.
    pub curve: Vec<LossPoint>,
    pub cost: Option<TrainingCost>,
    /// What the reports beside it say of its adapter.
    pub scores: Vec<Score>,
}

/// Right answers of an evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The report's folder.
    pub report: PathBuf,
    pub correct: usize,
    pub n: usize,
}

impl Run {
    /// Whether a folder is one of a run.
    fn is_in(folder: &Path) -> bool {
        [RECORD, METRICS].iter().any(|name| folder.join(name).is_file())
    }

    /// Reads a run's folder.
    pub fn read(folder: &Path) -> Result<Self> {
        if !Self::is_in(folder) {
            bail!("{}: no run in it; name a folder that engram train wrote", folder.display());
        }
        let text = |name: &str| -> Result<Option<String>> {
            match std::fs::read_to_string(folder.join(name)) {
                Ok(text) => Ok(Some(text)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error).context(folder.join(name).display().to_string()),
            }
        };
        let shown = |name: &str| folder.join(name).display().to_string();
        let config = match text(CONFIG)? {
            Some(text) => serde_saphyr::from_str(&text).with_context(|| shown(CONFIG))?,
            None => Map::new(),
        };
        let (curve, cost) = match text(METRICS)? {
            Some(lines) => curve::parse(&shown(METRICS), &lines)?,
            None => (Vec::new(), None),
        };
        let record = Record::read(folder)?;
        let scores = scores(folder)?;
        Ok(Self { folder: folder.to_owned(), config, record, curve, cost, scores })
    }

    /// Every setting by its key, `lora_parameters.rank`, and its value in one line.
    pub fn settings(&self) -> Vec<(String, String)> {
        fn walk(prefix: &str, map: &Map<String, Value>, into: &mut Vec<(String, String)>) {
            for (key, value) in map {
                let key = format!("{prefix}{key}");
                match value {
                    Value::Object(inner) => walk(&format!("{key}."), inner, into),
                    Value::String(text) => into.push((key, text.clone())),
                    Value::Array(items) => {
                        let items: Vec<String> = items.iter().map(plain).collect();
                        into.push((key, items.join(", ")));
                    }
                    value => into.push((key, plain(value))),
                }
            }
        }
        let mut settings = Vec::new();
        walk("", &self.config, &mut settings);
        settings
    }

    /// The value of a setting; none if it is not there.
    pub fn setting(&self, key: &str) -> Option<String> {
        self.settings().into_iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The first, lowest and last of the losses; none if there is none.
    pub fn losses(&self, of: fn(&LossPoint) -> Option<f64>) -> Option<[f64; 3]> {
        let losses = || self.curve.iter().filter_map(of);
        Some([losses().next()?, losses().reduce(f64::min)?, losses().next_back()?])
    }

    /// Iterations done, as its last session says, or its losses where that was killed.
    pub fn iterations(&self, last: &Session) -> usize {
        let reported = self.curve.iter().filter(|point| point.train.is_some());
        let reported = reported.map(|point| point.iteration).max().unwrap_or(0);
        if last.status == Status::Running { reported } else { last.to_iteration }
    }

    /// The loss on a test set, where one was measured.
    pub fn test_loss(&self) -> Option<f64> {
        Some(self.record.as_ref()?.test.as_ref()?.loss)
    }

    /// Seconds that the program ran on it.
    pub fn seconds(&self) -> Option<f64> {
        let record = self.record.as_ref()?;
        let seconds: Vec<f64> = record.sessions.iter().filter_map(|s| s.seconds).collect();
        (!seconds.is_empty()).then(|| seconds.iter().sum())
    }
}

/// Every run below `folders`, in the order of their names.
pub fn find(folders: &[PathBuf]) -> Result<Vec<PathBuf>> {
    fn walk(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
        if Run::is_in(folder) {
            found.push(folder.to_owned());
        }
        if depth == 0 {
            return Ok(());
        }
        let shown = || folder.display().to_string();
        let mut inner = Vec::new();
        for entry in std::fs::read_dir(folder).with_context(shown)? {
            let entry = entry.with_context(shown)?;
            // Links are not followed: they may lead in a circle.
            if entry.file_type().with_context(shown)?.is_dir() {
                inner.push(entry.path());
            }
        }
        inner.sort();
        inner.iter().try_for_each(|folder| walk(folder, depth - 1, found))
    }
    let mut found = Vec::new();
    folders.iter().try_for_each(|folder| walk(folder, DEPTH, &mut found))?;
    Ok(found)
}

/// What reports in the run's folder, and beside it, say of the adapter of the folder's name.
fn scores(folder: &Path) -> Result<Vec<Score>> {
    let absolute = std::path::absolute(folder).with_context(|| folder.display().to_string())?;
    let Some(name) = absolute.file_name().map(|name| name.to_string_lossy().into_owned()) else {
        return Ok(Vec::new());
    };
    let mut scores = Vec::new();
    let mut places = vec![folder.to_owned()];
    for around in [Some(folder), absolute.parent()].into_iter().flatten() {
        let Ok(entries) = std::fs::read_dir(around) else { continue };
        places.extend(entries.flatten().map(|entry| entry.path()).filter(|p| *p != absolute));
    }
    places.sort();
    places.dedup();
    for place in places {
        let path = place.join("report.json");
        let Ok(json) = std::fs::read(&path) else { continue };
        // What is no report of ours is not this command's to judge.
        let Ok(report) = Report::from_json(&path.display().to_string(), &json) else { continue };
        let own = report.candidates.iter().find(|candidate| candidate.name == name);
        scores.extend(own.map(|own| Score {
            report: place,
            correct: own.overall.correct,
            n: own.overall.n,
        }));
    }
    Ok(scores)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
