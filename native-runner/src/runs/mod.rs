//! What a training run leaves in its folder, and what can be read from it.

pub mod curve;
pub mod record;

/// The settings, as `--config` takes them.
pub const CONFIG: &str = "config.yaml";
/// What it was made from and how it went.
pub const RECORD: &str = "run.json";
/// The losses.
pub const METRICS: &str = "metrics.jsonl";
