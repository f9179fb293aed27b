//! What was measured.

use serde::{Serialize, Serializer};

use crate::generate::{Engine, Model};

/// A figure, measured more than once.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What it is of.
    pub name: String,
    /// Of the values.
    pub unit: &'static str,
    /// One a run.
    pub values: Vec<f64>,
}

impl Figure {
    /// A figure that needs one run: something counted.
    pub fn counted(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { name: name.into(), unit, values: vec![value] }
    }

    /// The middle one, or the mean of the two; 0 without any.
    pub fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.get(middle) {
            Some(above) if sorted.len() % 2 == 1 => *above,
            Some(above) => (sorted[middle - 1] + above) / 2.0,
            None => 0.0,
        }
    }
}

impl Serialize for Figure {
    /// `{ name, unit, median, runs }`
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Row<'a> {
            name: &'a str,
            unit: &'a str,
            median: f64,
            runs: &'a [f64],
        }
        let Self { name, unit, values } = self;
        Row { name, unit, median: self.median(), runs: values }.serialize(serializer)
    }
}

/// What a device was asked for so far. Only our engine counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Bind groups made.
    pub bind_groups: u64,
    /// Buffers made.
    pub buffers: u64,
    /// Submits, those of reading back included.
    pub submits: u64,
}

impl Counts {
    /// Until now, if `engine` counts.
    pub fn of(engine: &Engine) -> Option<Self> {
        match engine.model() {
            Model::Gpu(gpu) => Some(Self {
                bind_groups: gpu.context.bind_groups(),
                buffers: gpu.context.memory().allocations(),
                submits: gpu.context.submits(),
            }),
            #[cfg(feature = "burn")]
            Model::Burn(_) => None,
        }
    }

    /// How many of each a unit of work took, of which `count` were done since `before`.
    pub(super) fn figures(self, before: Self, count: usize, per: &str) -> [Figure; 3] {
        let each = |now: u64, before: u64| (now - before) as f64 / count as f64;
        let figure = |name: &str, value| Figure::counted(format!("{name} per {per}"), "", value);
        [
            figure("bind groups", each(self.bind_groups, before.bind_groups)),
            figure("buffers", each(self.buffers, before.buffers)),
            figure("submits", each(self.submits, before.submits)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn the_median_counts() {
        let figure = |values: &[f64]| Figure { name: "f".into(), unit: "s", values: values.into() };
        assert_eq!(figure(&[5.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(figure(&[5.0, 1.0, 2.0, 4.0]).median(), 3.0);
        assert_eq!(figure(&[]).median(), 0.0);
        let json = serde_json::to_value(figure(&[5.0, 1.0])).unwrap();
        let expected =
            serde_json::json!({"name": "f", "unit": "s", "median": 3.0, "runs": [5.0, 1.0]});
        assert_eq!(json, expected);
    }
}
