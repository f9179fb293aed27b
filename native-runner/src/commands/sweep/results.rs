//! What the runs of a sweep came to: `sweep.json`.

use std::path::Path;

use anyhow::{Result, ensure};
use engram::eval::Shard;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::grid::{Combination, text};
use crate::adapter;
use crate::runs::Run;
use crate::runs::record::Status;
use crate::table::table;

/// The results of a sweep, or of a shard of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// What varies, by the keys of a config file.
    pub sweep: Vec<String>,
    /// How many runs the whole sweep has.
    pub total: usize,
    /// In the order of their index.
    pub runs: Vec<Row>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub index: usize,
    /// Its folder in the sweep's.
    pub name: String,
    pub values: Map<String, Value>,
    pub status: String,
    pub iterations: usize,
    /// The last training loss, and the lowest and the last validation loss, nats a token.
    pub train_loss: Option<f64>,
    pub best_val_loss: Option<f64>,
    pub val_loss: Option<f64>,
    pub seconds: Option<f64>,
}

impl Row {
    /// What a run came to.
    pub fn of(combination: &Combination, run: &Run) -> Self {
        let last = run.record.as_ref().and_then(|record| record.sessions.last());
        let [train, valid] =
            [run.losses(|point| point.train), run.losses(|point| point.validation)];
        let values = combination.values.iter();
        Self {
            index: combination.index,
            name: combination.name.clone(),
            values: values.map(|(key, node)| (key.clone(), text(&node.value).into())).collect(),
            status: last.map_or(Status::Running, |last| last.status).name().to_owned(),
            iterations: last.map_or(0, |last| run.iterations(last)),
            train_loss: train.map(|[.., last]| last),
            best_val_loss: valid.map(|[_, best, _]| best),
            val_loss: valid.map(|[.., last]| last),
            seconds: run.seconds(),
        }
    }

    /// By which runs are ranked: the lowest validation loss, without one the training loss.
    fn rank(&self) -> f64 {
        self.best_val_loss.or(self.train_loss).unwrap_or(f64::INFINITY)
    }
}

impl Results {
    /// The file's name: a shard's does not replace another's.
    pub fn file(shard: Option<Shard>) -> String {
        match shard {
            Some(Shard { index, of }) => format!("sweep-{index}-of-{of}.json"),
            None => "sweep.json".to_owned(),
        }
    }

    /// Writes the file into `folder`.
    pub fn write(&self, folder: &Path, name: &str) -> Result<()> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        adapter::write_folder(folder, &[(name, &json)])
    }

    /// The runs, the best first.
    pub fn table(&self) -> String {
        let ends = ["status", "iterations", "training", "validation", "best", "seconds"];
        let keys = self.sweep.iter().map(String::as_str);
        let head: Vec<&str> = ["run"].into_iter().chain(keys).chain(ends).collect();
        let mut runs: Vec<&Row> = self.runs.iter().collect();
        runs.sort_by(|a, b| a.rank().total_cmp(&b.rank()).then(a.index.cmp(&b.index)));
        let number = |value: Option<f64>, decimals: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
        };
        let row =
            |run: &&Row| {
                let mut row = vec![run.name.clone()];
                row.extend(self.sweep.iter().map(|key| {
                    run.values.get(key).and_then(Value::as_str).unwrap_or("-").to_owned()
                }));
                row.extend([
                    run.status.clone(),
                    run.iterations.to_string(),
                    number(run.train_loss, 4),
                    number(run.val_loss, 4),
                    number(run.best_val_loss, 4),
                    number(run.seconds, 1),
                ]);
                row
            };
        table(&head, &runs.iter().map(row).collect::<Vec<_>>())
    }

    /// Joins the results of shards, each with the name that errors call it.
    pub fn merge(parts: Vec<(String, Results)>) -> Result<Self> {
        let mut parts = parts.into_iter();
        let Some((first, mut all)) = parts.next() else { anyhow::bail!("nothing to merge") };
        for (name, part) in parts {
            ensure!(
                (&part.sweep, part.total) == (&all.sweep, all.total),
                "{name}: of another sweep than {first}"
            );
            for run in part.runs {
                match all.runs.iter().find(|known| known.index == run.index) {
                    None => all.runs.push(run),
                    Some(known) => ensure!(
                        *known == run,
                        "{name}: run {} differs from that of another file",
                        run.name
                    ),
                }
            }
        }
        all.runs.sort_by_key(|run| run.index);
        Ok(all)
    }
}
