//! Keys of a config file: MLX-LM's where it has one, else the name of the option.
//!
//! An option of `engram train` is a key of the file by being there. What is written here is where
//! the two differ.

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Arg, ArgAction, Command};
use engram::formats::adapter::Layout;
use serde_json::{Map, Value as Json};

use super::yaml::{Node, Value};

/// Options whose key is another than their name. `*` stands for the chosen optimizer.
const NESTED: [(&str, &str); 19] = [
    ("fine_tune_type", "adapter_type"),
    ("lora_parameters.rank", "rank"),
    ("lora_parameters.scale", "scale"),
    ("lora_parameters.keys", "keys"),
    ("lora_parameters.dropout", "dropout"),
    ("lora_parameters.rank_pattern", "rank_pattern"),
    ("lora_parameters.alpha_pattern", "alpha_pattern"),
    ("optimizer_config.*.weight_decay", "weight_decay"),
    ("optimizer_config.*.bias_correction", "bias_correction"),
    ("optimizer_config.*.betas", "betas"),
    ("optimizer_config.*.eps", "eps"),
    ("optimizer_config.*.momentum", "momentum"),
    ("optimizer_config.*.nesterov", "nesterov"),
    ("optimizer_config.*.relative_step", "relative_step"),
    ("optimizer_config.*.scale_parameter", "scale_parameter"),
    ("lr_schedule.name", "lr_schedule"),
    ("lr_schedule.arguments", "lr_schedule_arguments"),
    ("lr_schedule.warmup", "warmup"),
    ("lr_schedule.warmup_init", "warmup_init"),
];

/// Keys whose value is a map, from patterns to numbers, and not a group of keys.
const MAPS: [&str; 2] = ["lora_parameters.rank_pattern", "lora_parameters.alpha_pattern"];

/// MLX-LM's keys for which there is no option, and the value, as [`plain`] writes it, that says
/// what is done here anyway. An option of the name goes before.
const FIXED: [(&str, &str); 5] = [
    ("config", "null"),
    ("hf_dataset", "null"),
    ("report_to", "null"),
    ("project_name", "null"),
    ("wandb", "null"),
];

/// MLX-LM's name of an adapter to start from: its file, where the option takes the folder.
const ADAPTER_FILE: &str = "resume_adapter_file";

/// MLX-LM's optimizers, which have sections in `optimizer_config`.
const OPTIMIZERS: [&str; 5] = ["adam", "adamw", "muon", "sgd", "adafactor"];

/// Options that say what to do now, and are no setting of a run.
const NOT_SETTINGS: [&str; 7] =
    ["config", "print_config", "resume", "verbose", "quiet", "help", "version"];

/// A key of a file as an argument of `engram train`.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// As the file has it, `lora_parameters.rank`.
    pub key: String,
    /// Where its value is, `run.yaml:3`.
    pub place: String,
    /// The option's identifier, `rank`.
    pub option: String,
    /// `--rank=8`; several for an option that is given several times, none for a flag that is off.
    pub arguments: Vec<String>,
}

/// Options that say the same in two ways.
const RIVALS: [[&str; 2]; 2] = [["iters", "epochs"], ["valid_data", "val_split"]];

impl Setting {
    /// The options that can't stand beside this one.
    pub fn rivals(&self) -> impl Iterator<Item = &'static str> + '_ {
        let of_one = RIVALS.iter().filter(|pair| pair.contains(&self.option.as_str()));
        of_one.flatten().copied().filter(|name| *name != self.option)
    }

    /// Whether it leaves nothing of what an earlier one says of `option`.
    pub fn replaces(&self, option: &str) -> bool {
        self.option == option || self.rivals().any(|rival| rival == option)
    }
}

/// The keys that `engram train` has.
pub struct Keys<'a> {
    train: &'a Command,
}

impl<'a> Keys<'a> {
    /// `train` is the subcommand, built.
    pub fn new(train: &'a Command) -> Self {
        Self { train }
    }

    /// What a file called `name` sets, for a run with `optimizer`.
    pub fn settings(&self, name: &str, file: &Node, optimizer: &str) -> Result<Vec<Setting>> {
        let mut settings: Vec<Setting> = Vec::new();
        for (key, node) in leaves(name, file)? {
            let Some(setting) = self.setting(name, &key, node, optimizer)? else { continue };
            if let Some(twin) = settings.iter().find(|other| other.option == setting.option) {
                let Setting { key, place, .. } = &setting;
                bail!("{place}: `{key}` says again what `{}` says; leave one out", twin.key);
            }
            settings.push(setting);
        }
        Ok(settings)
    }

    fn setting(
        &self,
        name: &str,
        key: &str,
        node: &Node,
        optimizer: &str,
    ) -> Result<Option<Setting>> {
        let at = format!("{name}:{}", node.line);
        let empty = matches!(&node.value, Value::Null) || node.value == Value::Map(Vec::new());
        let generic = generic(key);
        if let Some(option) = self.option(&generic) {
            if let Some(of) = optimizer_of(key).filter(|of| *of != optimizer && !empty) {
                bail!("{at}: `{key}` is of {of}, and the optimizer is {optimizer}; leave it out");
            }
            return match empty {
                true => Ok(None),
                false => self.set(&at, key, node, option).map(Some),
            };
        }
        let is_within = |fixed: &str| {
            generic.strip_prefix(fixed).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if let Some((fixed, taken)) = FIXED.iter().find(|(fixed, _)| is_within(fixed)) {
            let value = if *fixed == generic { plain(&node.value) } else { "a map".to_owned() };
            ensure!(
                empty || value == *taken,
                "{at}: `{key}`: {fixed} is {value}, and this version has {taken}; leave it out"
            );
            return Ok(None);
        }
        let is_group = empty && self.known().iter().any(|k| k.starts_with(&format!("{generic}.")));
        if is_group {
            return Ok(None);
        }
        bail!("{at}: no key `{key}`{}", self.nearest(key))
    }

    /// The value of a key, as arguments.
    fn set(&self, at: &str, key: &str, node: &Node, option: &Arg) -> Result<Setting> {
        let flag = option.get_long().unwrap_or_default();
        let is_switch = matches!(option.get_action(), ArgAction::SetTrue);
        let arguments = match &node.value {
            Value::Bool(on) if is_switch => on.then(|| format!("--{flag}")).into_iter().collect(),
            // An option whose value may be left out is a switch too, unless that is `false`.
            Value::Bool(on)
                if option.get_possible_values().is_empty()
                    && option.get_num_args().is_some_and(|count| count.min_values() == 0) =>
            {
                on.then(|| format!("--{flag}")).into_iter().collect()
            }
            _ if is_switch => bail!("{at}: `{key}` is true or false"),
            Value::List(items) if !MAPS.contains(&key) => {
                let texts: Option<Vec<String>> =
                    items.iter().map(|item| item.value.scalar()).collect();
                let Some(texts) = texts.filter(|texts| !texts.is_empty()) else {
                    bail!("{at}: `{key}` is a list of something else than values");
                };
                match (option.get_value_delimiter(), option.get_action()) {
                    (Some(by), _) => vec![format!("--{flag}={}", texts.join(&by.to_string()))],
                    (None, ArgAction::Append) => {
                        texts.iter().map(|text| format!("--{flag}={text}")).collect()
                    }
                    _ => bail!("{at}: `{key}` is one value, not a list"),
                }
            }
            Value::Map(entries) => {
                let rule = |(pattern, node): &(String, Node)| {
                    Some(format!("--{flag}={pattern}={}", node.value.scalar()?))
                };
                let rules: Option<Vec<String>> = entries.iter().map(rule).collect();
                rules.with_context(|| {
                    format!("{at}: `{key}` is a map of something else than patterns to numbers")
                })?
            }
            _ if MAPS.contains(&key) => {
                bail!("{at}: `{key}` is a map of patterns to numbers, as {{q_proj: 16}}")
            }
            value => {
                let mut text = value.scalar().unwrap_or_default();
                if key == ADAPTER_FILE {
                    text = folder_of(&text).with_context(|| {
                        format!("{at}: `{key}` names no adapters.safetensors or adapter_model.safetensors")
                    })?;
                }
                vec![format!("--{flag}={text}")]
            }
        };
        let option = option.get_id().to_string();
        Ok(Setting { key: key.to_owned(), place: at.to_owned(), option, arguments })
    }

    /// The option that a key sets.
    fn option(&self, generic: &str) -> Option<&'a Arg> {
        let name = match NESTED.iter().find(|(key, _)| *key == generic) {
            Some((_, option)) => *option,
            None if generic == ADAPTER_FILE => "init_adapter",
            None if NESTED.iter().any(|(_, option)| *option == generic) => return None,
            None => generic,
        };
        self.options().find(|option| option.get_id() == name)
    }

    /// Every option that is a setting.
    pub fn options(&self) -> impl Iterator<Item = &'a Arg> {
        let is_setting = |option: &&Arg| !NOT_SETTINGS.contains(&option.get_id().as_str());
        self.train.get_arguments().filter(is_setting)
    }

    /// Every key, the optimizer's as `*`.
    fn known(&self) -> Vec<String> {
        let own = self.options().map(|option| key_of(option.get_id().as_str()).to_owned());
        let fixed = FIXED.iter().map(|(key, _)| (*key).to_owned());
        own.chain(fixed).chain([ADAPTER_FILE.to_owned()]).collect()
    }

    /// What an unknown key may have been meant to be.
    fn nearest(&self, key: &str) -> String {
        let moved = NESTED.iter().find(|(_, option)| *option == key);
        if let Some((nested, _)) = moved {
            return format!("; it is written `{}`", nested.replace('*', "OPTIMIZER"));
        }
        let name = optimizer_of(key).filter(|of| OPTIMIZERS.contains(of)).unwrap_or("adam");
        let known = self.known().into_iter().map(|known| known.replace('*', name));
        // The last part alone, too: a key may stand in the wrong section.
        let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        let likeness = |known: &str| {
            let whole = strsim::normalized_damerau_levenshtein(key, known);
            whole.max(strsim::normalized_damerau_levenshtein(&last(key), &last(known)))
        };
        match known.max_by(|a, b| likeness(a).total_cmp(&likeness(b))) {
            Some(best) if likeness(&best) > 0.5 => format!("; the nearest is `{best}`"),
            _ => "; --print-config shows those that there are".to_owned(),
        }
    }
}

/// The key of an option, the optimizer's as `*`.
fn key_of(option: &str) -> &str {
    NESTED.iter().find(|(_, name)| *name == option).map_or(option, |(key, _)| key)
}

/// Puts an option's value where its key is.
pub fn insert(file: &mut Map<String, Json>, option: &str, optimizer: &str, value: Json) {
    let key = key_of(option).replace('*', optimizer);
    let mut map = file;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            map.insert(part.to_owned(), value);
            return;
        }
        let inner = map.entry(part).or_insert_with(|| Json::Object(Map::new()));
        let Json::Object(inner) = inner else { return };
        map = inner;
    }
}

/// The optimizer in whose section a key stands.
fn optimizer_of(key: &str) -> Option<&str> {
    key.strip_prefix("optimizer_config.")?.split('.').next()
}

/// A key with `*` for a known optimizer.
fn generic(key: &str) -> String {
    match optimizer_of(key).filter(|of| OPTIMIZERS.contains(of)) {
        Some(of) => key.replacen(of, "*", 1),
        None => key.to_owned(),
    }
}

/// Every value of a file by its key, with the maps that are empty.
fn leaves<'n>(name: &str, file: &'n Node) -> Result<Vec<(String, &'n Node)>> {
    fn walk<'n>(prefix: &str, node: &'n Node, into: &mut Vec<(String, &'n Node)>) {
        match &node.value {
            Value::Map(entries) if !entries.is_empty() && !MAPS.contains(&prefix) => {
                for (key, inner) in entries {
                    let dot = if prefix.is_empty() { "" } else { "." };
                    walk(&format!("{prefix}{dot}{key}"), inner, into);
                }
            }
            _ => into.push((prefix.to_owned(), node)),
        }
    }
    let mut found = Vec::new();
    let Value::Map(entries) = &file.value else {
        bail!("{name}:{}: not a map of keys and values", file.line);
    };
    entries.iter().for_each(|(key, node)| walk(key, node, &mut found));
    Ok(found)
}

/// The folder of an adapter's weights.
fn folder_of(file: &str) -> Option<String> {
    let file = std::path::Path::new(file);
    let is_read = [Layout::Mlx, Layout::Peft]
        .iter()
        .any(|layout| file.file_name().is_some_and(|name| name == layout.weights_file()));
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    is_read.then(|| folder.map_or_else(|| ".".to_owned(), |folder| folder.display().to_string()))
}

/// A value in one line.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(|item| plain(&item.value)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(_) => "a map".to_owned(),
        value => value.scalar().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::super::yaml;
    use super::*;
    use crate::cli::Cli;

    fn settings(text: &str) -> Result<Vec<Setting>> {
        let mut root = Cli::command();
        root.build();
        let train = root.find_subcommand("train").unwrap();
        Keys::new(train).settings("run.yaml", &yaml::parse("run.yaml", text).unwrap(), "adam")
    }

    fn arguments(text: &str) -> Vec<String> {
        settings(text).unwrap().into_iter().flat_map(|setting| setting.arguments).collect()
    }

    #[test]
    fn keys_become_options() {
        assert_eq!(
            arguments(
                "model: a.gguf\niters: 1e3\nlearning_rate: 1e-5\nnum_layers: -1\n\
                 fine_tune_type: lora\nmask_prompt: true\ngrad_checkpoint: false\n\
                 lora_parameters:\n  keys: [self_attn.q_proj, v_proj]\n  rank: 4\n  dropout: 0.0\n\
                 optimizer_config: {adam: {bias_correction: true, betas: [0.9, 0.95]}, muon: {}}\n\
                 resume_adapter_file: a/adapters.safetensors\nlr_schedule: null\nsave_every:\n"
            ),
            [
                "--model=a.gguf",
                "--iters=1000",
                "--learning-rate=1e-5",
                "--num-layers=-1",
                "--adapter-type=lora",
                "--mask-prompt",
                "--keys=self_attn.q_proj,v_proj",
                "--rank=4",
                "--dropout=0",
                "--bias-correction=true",
                "--betas=0.9,0.95",
                "--init-adapter=a",
            ]
        );
        assert_eq!(
            arguments(
                "lr_schedule:\n  name: cosine_decay\n  warmup: 10\n  warmup_init: 1e-7\n  \
                 arguments: [1e-5, 100, 0]\n"
            ),
            [
                "--lr-schedule=cosine_decay",
                "--warmup=10",
                "--warmup-init=1e-7",
                "--lr-schedule-arguments=1e-5,100,0",
            ]
        );
        assert_eq!(
            arguments(
                "lora_parameters:\n  rank_pattern: {q_proj: 4, 'layers\\.2.*': 16}\n  alpha_pattern: {}\n"
            ),
            ["--rank-pattern=q_proj=4", "--rank-pattern=layers\\.2.*=16"]
        );
        assert_eq!(arguments("resume_adapter_file: adapters.safetensors"), ["--init-adapter=."]);
        assert_eq!(
            arguments("test: true\ntest_batches: -1\ntrain: false\ntest_data: [a, b]"),
            ["--test", "--test-batches=-1", "--train=false", "--test-data=a,b"]
        );
        assert_eq!(
            arguments("test: false\ntest_batches: 100\ntrain: true"),
            ["--test-batches=100", "--train=true"]
        );
    }

    #[test]
    fn what_is_not_honoured_is_named_with_its_line() {
        for (text, expected) in [
            ("learning_rte: 1", "1: no key `learning_rte`; the nearest is `learning_rate`"),
            (
                "lora_parameters: {rnk: 1}",
                "1: no key `lora_parameters.rnk`; the nearest is `lora_parameters.rank`",
            ),
            ("iters: 1\nrank: 4", "2: no key `rank`; it is written `lora_parameters.rank`"),
            ("iters: 1\nzzz: 4", "2: no key `zzz`; --print-config shows"),
            ("resume: true", "1: no key `resume`"),
            (
                "lr_schedule: cosine_decay",
                "1: no key `lr_schedule`; it is written `lr_schedule.name`",
            ),
            ("report_to: wandb", "1: `report_to`: report_to is wandb"),
            (
                "optimizer_config:\n  adamw: {weight_decay: 1}",
                "2: `optimizer_config.adamw.weight_decay` is of adamw, and the optimizer is adam",
            ),
            ("optimizer_config: {adm: {}}", "1: no key `optimizer_config.adm`"),
            ("mask_prompt: 1", "1: `mask_prompt` is true or false"),
            ("iters: [1, 2]", "1: `iters` is one value, not a list"),
            (
                "lora_parameters: {keys: []}",
                "1: `lora_parameters.keys` is a list of something else",
            ),
            (
                "lora_parameters: {keys: [[a]]}",
                "1: `lora_parameters.keys` is a list of something else",
            ),
            (
                "lora_parameters: {rank_pattern: 4}",
                "1: `lora_parameters.rank_pattern` is a map of patterns to numbers, as {q_proj: 16}",
            ),
            (
                "lora_parameters: {rank_pattern: {q_proj: [4]}}",
                "1: `lora_parameters.rank_pattern` is a map of something else than patterns",
            ),
            ("iters: {a: 1}", "1: no key `iters.a`; the nearest is `iters`"),
            (
                "resume_adapter_file: a/0000100_adapters.safetensors",
                "1: `resume_adapter_file` names no",
            ),
            (
                "init_adapter: b\nresume_adapter_file: a/adapters.safetensors",
                "2: `resume_adapter_file` says again what `init_adapter` says",
            ),
            ("- 1", "1: not a map"),
        ] {
            let problem = settings(text).unwrap_err().to_string();
            assert!(problem.starts_with(&format!("run.yaml:{expected}")), "{problem}");
        }
    }
}
