//! The file of a sweep: settings that all its runs share, and those that vary.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::config::{Layer, Node, Value};

/// More combinations than anybody means.
const MOST: usize = 10_000;
/// Characters of a run's name, which is a folder's.
const LONGEST: usize = 120;

/// A sweep.
pub struct Grid {
    /// What the runs share.
    pub base: Vec<Layer>,
    /// Settings that vary, each with its values.
    parameters: Vec<(String, Vec<Node>)>,
    name: String,
}

/// One run of a sweep.
#[derive(Debug, Clone)]
pub struct Combination {
    /// From 0, the last parameter turning fastest.
    pub index: usize,
    /// `learning_rate=1e-5,rank=4`.
    pub name: String,
    /// By the keys of a config file.
    pub values: Vec<(String, Node)>,
}

impl Grid {
    /// Reads a sweep's file: `parameters`, and what they are put over: `config`, the path of a
    /// config file, and `base`, settings in place.
    pub fn read(path: &Path) -> Result<Self> {
        let Layer { name, node } = Layer::read(path)?;
        let Value::Map(entries) = node.value else { bail!("{name}: not a map of keys and values") };
        let (mut file, mut own, mut parameters) = (None, None, None);
        for (key, node) in entries {
            let at = format!("{name}:{}", node.line);
            match key.as_str() {
                "config" => {
                    let path = node.value.scalar();
                    let path = path.with_context(|| format!("{at}: `config` is a file's path"))?;
                    file = Some(Layer::read(&PathBuf::from(path))?);
                }
                "base" => own = Some(Layer { name: name.clone(), node }),
                "parameters" => parameters = Some(varying(&name, &node)?),
                "method" => ensure!(
                    node.value.scalar().as_deref() == Some("grid"),
                    "{at}: `method`: there is grid alone"
                ),
                other => {
                    bail!("{at}: no key `{other}`; there are config, base, parameters and method")
                }
            }
        }
        let parameters =
            parameters.with_context(|| format!("{name}: no `parameters`; list what varies"))?;
        Ok(Self { base: [file, own].into_iter().flatten().collect(), parameters, name })
    }

    /// Every combination of the parameters' values.
    pub fn combinations(&self) -> Result<Vec<Combination>> {
        let counts = self.parameters.iter().map(|(_, values)| values.len());
        let total = counts.fold(1, usize::saturating_mul);
        ensure!(total <= MOST, "{}: {total} combinations; {MOST} are the most", self.name);
        let keys: Vec<&str> = self.parameters.iter().map(|(key, _)| key.as_str()).collect();
        let mut names = BTreeSet::new();
        Ok((0..total)
            .map(|index| {
                let mut rest = index;
                let mut values = Vec::new();
                for (key, choices) in self.parameters.iter().rev() {
                    values.push((key.clone(), choices[rest % choices.len()].clone()));
                    rest /= choices.len();
                }
                values.reverse();
                let mut name = name_of(&keys, &values);
                // Values that are written alike still have folders of their own.
                for again in 2.. {
                    if names.insert(name.clone()) {
                        break;
                    }
                    name = format!("{}-{again}", name_of(&keys, &values));
                }
                Combination { index, name, values }
            })
            .collect())
    }

    /// The settings of a run.
    pub fn layers(&self, combination: &Combination) -> Vec<Layer> {
        let line = combination.values.first().map_or(1, |(_, node)| node.line);
        let node = Node { line, value: Value::Map(combination.values.clone()) };
        self.base.iter().cloned().chain([Layer { name: self.name.clone(), node }]).collect()
    }
}

/// The values of each parameter: a list, or a map with `values` or `value`, as W&B's sweeps have.
fn varying(name: &str, node: &Node) -> Result<Vec<(String, Vec<Node>)>> {
    let Value::Map(entries) = &node.value else {
        bail!("{name}:{}: `parameters` is not a map of settings and their values", node.line);
    };
    let values = |(key, node): &(String, Node)| {
        let at = format!("{name}:{}: `{key}`", node.line);
        let values = match &node.value {
            Value::List(items) => items.clone(),
            Value::Map(inner) => match inner.as_slice() {
                [(word, Node { value: Value::List(items), .. })] if word == "values" => {
                    items.clone()
                }
                [(word, value)] if word == "value" => vec![value.clone()],
                _ => bail!("{at}: a grid takes a list, or `values` with a list"),
            },
            Value::Null => Vec::new(),
            _ => vec![node.clone()],
        };
        ensure!(!values.is_empty(), "{at} has no values");
        Ok((key.clone(), values))
    };
    ensure!(!entries.is_empty(), "{name}:{}: `parameters` is empty", node.line);
    entries.iter().map(values).collect()
}

/// A folder's name of the values; of a key its last part, where that tells it apart.
fn name_of(keys: &[&str], values: &[(String, Node)]) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let parts = values.iter().map(|(key, node)| {
        let is_alone = keys.iter().filter(|other| last(other) == last(key)).count() == 1;
        let key = if is_alone { last(key) } else { key.clone() };
        format!("{key}={}", text(&node.value))
    });
    let joined = parts.collect::<Vec<_>>().join(",");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-+=,".contains(c);
    joined.chars().map(|c| if is_plain(c) { c } else { '-' }).take(LONGEST).collect()
}

/// A value in a few characters.
pub fn text(value: &Value) -> String {
    match value {
        Value::List(items) => {
            items.iter().map(|item| text(&item.value)).collect::<Vec<_>>().join("+")
        }
        Value::Map(_) => "map".to_owned(),
        Value::Null => "null".to_owned(),
        value => value.scalar().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(text: &str) -> Result<Grid> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.yaml");
        std::fs::write(&path, text).unwrap();
        let grid = Grid::read(&path)?;
        Ok(grid)
    }

    fn names(text: &str) -> Vec<String> {
        grid(text).unwrap().combinations().unwrap().into_iter().map(|c| c.name).collect()
    }

    #[test]
    fn every_combination_has_a_name() {
        assert_eq!(
            names(
                "method: grid\nparameters:\n  learning_rate: [1e-5, 1e-4]\n  \
                 lora_parameters.rank: {values: [4, 8]}\n  seed: {value: 3}\n"
            ),
            [
                "learning_rate=1e-5,rank=4,seed=3",
                "learning_rate=1e-5,rank=8,seed=3",
                "learning_rate=0.0001,rank=4,seed=3",
                "learning_rate=0.0001,rank=8,seed=3",
            ]
        );
        assert_eq!(
            names("parameters:\n  lora_parameters.keys: [[q_proj], [q_proj, v_proj]]\n"),
            ["keys=q_proj", "keys=q_proj+v_proj"]
        );
        // Written alike, or with the same last part.
        assert_eq!(names("parameters: {data: [a/b, a b]}"), ["data=a-b", "data=a-b-2"]);
        assert_eq!(names("parameters: {a.x: [1], b.x: 2}"), ["a.x=1,b.x=2"]);
        assert_eq!(names("parameters: {data: [../../etc]}"), ["data=..-..-etc"]);
        let long = format!("parameters: {{data: [{}]}}", "x".repeat(999));
        assert_eq!(names(&long)[0].len(), LONGEST);
    }

    #[test]
    fn what_is_no_grid_is_named_with_its_line() {
        let many = format!("parameters: {{a: &v [{}], b: *v, c: *v}}", "1, ".repeat(100));
        for (text, expected) in [
            ("parameters: {a: [1]}\nprogram: x\n", "s.yaml:2: no key `program`"),
            ("method: bayes\nparameters: {a: [1]}\n", "s.yaml:1: `method`: there is grid alone"),
            ("base: {}\n", "s.yaml: no `parameters`"),
            ("parameters: [a]\n", "s.yaml:1: `parameters` is not a map"),
            ("parameters: {}\n", "s.yaml:1: `parameters` is empty"),
            ("parameters:\n  a: []\n", "s.yaml:2: `a` has no values"),
            ("parameters:\n  a: {min: 0, max: 1}\n", "s.yaml:2: `a`: a grid takes a list"),
            ("config: no-such.yaml\nparameters: {a: 1}\n", "no-such.yaml"),
            (&many, "s.yaml: 1000000 combinations"),
        ] {
            let problem = grid(text).and_then(|grid| grid.combinations()).err().unwrap();
            assert!(format!("{problem:#}").contains(expected), "{problem:#}");
        }
    }
}
