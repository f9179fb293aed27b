//! What a training run left in the adapter's folder, for the report.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result};
use engram::eval::report::{LossPoint, Training, TrainingCost};
use serde_json::Value;

use super::METRICS;
use crate::adapter;

/// The training of the adapter in `folder`, as its metrics and its settings tell; none if it has
/// no metrics, as one that was trained elsewhere.
pub fn read(folder: &Path) -> Result<Option<Training>> {
    let path = folder.join(METRICS);
    let name = path.display().to_string();
    let lines = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| name.clone())?,
    };
    let (curve, cost) = parse(&name, &lines)?;
    let path = folder.join("adapter_config.json");
    let shown = || path.display().to_string();
    let config = std::fs::read(&path).with_context(shown)?;
    let config = serde_json::from_slice(&config).with_context(shown)?;
    let parameters = adapter::read_folder(folder, None)?.count() as u64;
    Ok(Some(Training { config, trainable_parameters: Some(parameters), curve, cost }))
}

/// One point an iteration, in their order, and what all reports together took.
pub fn parse(name: &str, lines: &str) -> Result<(Vec<LossPoint>, Option<TrainingCost>)> {
    let mut points: BTreeMap<usize, LossPoint> = BTreeMap::new();
    let (mut seconds, mut tokens, mut peak, mut reported) = (0.0, 0.0, None, 0);
    for (number, line) in (1..).zip(lines.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let value: Value = serde_json::from_str(line)
            .map_err(|error| engram::Error::data(name, number, format!("not JSON: {error}")))?;
        let Some(iteration) = value["iteration"].as_u64() else { continue };
        let iteration = iteration as usize;
        let (train, validation) = (value["train_loss"].as_f64(), value["val_loss"].as_f64());
        if train.is_some() || validation.is_some() {
            let none = LossPoint { iteration, train: None, validation: None };
            let point = points.entry(iteration).or_insert(none);
            point.train = train.or(point.train);
            point.validation = validation.or(point.validation);
        }
        if let Some(rate) = value["iterations_per_second"].as_f64().filter(|&rate| rate > 0.0) {
            let took = iteration.saturating_sub(reported) as f64 / rate;
            seconds += took;
            tokens += value["tokens_per_second"].as_f64().unwrap_or(0.0) * took;
            peak = peak.max(value["peak_memory_bytes"].as_u64());
            reported = iteration;
        }
    }
    let cost = (seconds > 0.0).then(|| TrainingCost {
        seconds,
        tokens_per_second: (tokens > 0.0).then(|| tokens / seconds),
        peak_memory_bytes: peak,
    });
    Ok((points.into_values().collect(), cost))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_of_an_iteration_come_together_and_times_add_up() {
        let lines = r#"{"iteration": 1, "val_loss": 5.25, "seconds": 3}
{"iteration": 10, "train_loss": 4.5, "iterations_per_second": 5, "tokens_per_second": 100, "peak_memory_bytes": 7}

{"iteration": 20, "train_loss": 4.0, "iterations_per_second": 2.5, "tokens_per_second": 40, "peak_memory_bytes": 9}
{"iteration": 20, "val_loss": 3.5}
{"iteration": 21}
"#;
        let (curve, cost) = parse("metrics.jsonl", lines).unwrap();
        let point = |iteration, train, validation| LossPoint { iteration, train, validation };
        assert_eq!(
            curve,
            [
                point(1, None, Some(5.25)),
                point(10, Some(4.5), None),
                point(20, Some(4.0), Some(3.5))
            ]
        );
        let cost = cost.unwrap();
        assert_eq!((cost.seconds, cost.peak_memory_bytes), (6.0, Some(9)));
        assert_eq!(cost.tokens_per_second, Some(60.0));
        let error = parse("metrics.jsonl", "{}\n{").unwrap_err().to_string();
        assert!(error.starts_with("metrics.jsonl:2: not JSON"), "{error}");
    }
}
