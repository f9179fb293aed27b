//! The options that say what is trained on.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use engram::data::file::RecordFile;
use engram::data::record::{Features, Record};
use engram::data::split::hold_out;
use engram::data::stats::{self, Repeats};
use serde_json::{Value, json};

use super::{DataSpec, Place, Set, read, resolve};
use crate::terminal::Terminal;

/// What is trained on.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Data")]
pub struct DataOptions {
    /// Files (.jsonl, .json, .csv, .parquet), patterns such as 'd/*.csv', a folder with train, valid
    /// and test, or a data set of the hub: hf:ORG/NAME[@REVISION][:PART], PART being SPLIT, CONFIG,
    /// CONFIG/SPLIT or a pattern of files, and after it a slice as datasets has them, such as
    /// train[:100] or train[10%:20%]; may be several, with commas or blanks between
    #[arg(long, value_name = "DATA", default_value = "data", num_args = 1.., value_delimiter = ',')]
    pub data: Vec<DataSpec>,

    /// What to validate on [default: the valid set of --data]
    #[arg(long, value_name = "DATA", num_args = 1.., value_delimiter = ',')]
    pub valid_data: Vec<DataSpec>,

    /// Validate on this share of the training records, chosen by --seed, and don't train on them
    #[arg(long, value_name = "SHARE", conflicts_with = "valid_data")]
    pub val_split: Option<f64>,

    #[command(flatten)]
    pub features: FeatureOptions,
}

/// What the columns are called, by MLX-LM's options.
#[derive(Debug, Clone, Default, Args)]
pub struct FeatureOptions {
    /// Column of the user's text, beside that of --completion-feature [default: prompt]
    #[arg(long, value_name = "COLUMN")]
    pub prompt_feature: Option<String>,

    /// Column of the assistant's text [default: completion]
    #[arg(long, value_name = "COLUMN")]
    pub completion_feature: Option<String>,

    /// Column of the messages of a chat [default: messages]
    #[arg(long, value_name = "COLUMN")]
    pub chat_feature: Option<String>,

    /// Column of texts that are trained on as they are [default: text]
    #[arg(long, value_name = "COLUMN")]
    pub text_feature: Option<String>,
}

impl FeatureOptions {
    /// The names, MLX-LM's where none is given.
    pub fn features(&self) -> Features {
        let default = Features::default();
        let or = |given: &Option<String>, default| given.clone().unwrap_or(default);
        Features {
            prompt_feature: or(&self.prompt_feature, default.prompt_feature),
            completion_feature: or(&self.completion_feature, default.completion_feature),
            chat_feature: or(&self.chat_feature, default.chat_feature),
            text_feature: or(&self.text_feature, default.text_feature),
        }
    }
}

/// The records of a run.
#[derive(Debug)]
pub struct Data {
    /// At least one file with a record.
    pub train: Vec<RecordFile>,
    /// Nothing where the run is not validated.
    pub valid: Vec<RecordFile>,
}

impl DataOptions {
    /// The data in a folder.
    pub fn folder(folder: &Path) -> Self {
        Self { data: vec![DataSpec::Path(folder.to_owned())], ..Self::default() }
    }

    /// The files that are trained and validated on, on this machine.
    pub fn files(&self, terminal: Terminal) -> Result<Vec<PathBuf>> {
        let found = resolve(&self.data, Set::Train, terminal)?;
        let valid = match self.valid_data.is_empty() {
            true => found.of(Set::Valid).to_vec(),
            false => resolve(&self.valid_data, Set::Valid, terminal)?.of(Set::Valid).to_vec(),
        };
        let places = found.of(Set::Train).iter().chain(&valid);
        places.map(|place| place.fetch(terminal)).collect()
    }

    /// The files of the test set: those of `specs`, or of the data itself, where files of no set are
    /// `wanted`.
    pub fn test_set(
        &self,
        specs: &[DataSpec],
        wanted: Set,
        terminal: Terminal,
    ) -> Result<Vec<Place>> {
        let found = match specs {
            [] => resolve(&self.data, wanted, terminal)?,
            specs => resolve(specs, Set::Test, terminal)?,
        };
        let places = found.of(Set::Test).to_vec();
        let named = specs.first().map_or_else(|| self.names(), DataSpec::to_string);
        ensure!(!places.is_empty(), "{named}: no test set in it; name one by --test-data");
        Ok(places)
    }

    /// What was said of them, as people would say it again.
    pub fn names(&self) -> String {
        self.data.iter().map(DataSpec::to_string).collect::<Vec<_>>().join(", ")
    }

    /// The options by their keys in a config file.
    pub fn settings(&self) -> [(&'static str, Option<Value>); 7] {
        let list = |specs: &[DataSpec]| match specs {
            [] => None,
            [one] => Some(json!(one.to_string())),
            several => Some(several.iter().map(|spec| json!(spec.to_string())).collect()),
        };
        let name = |name: &Option<String>| name.as_ref().map(|name| json!(name));
        [
            ("data", list(&self.data)),
            ("valid_data", list(&self.valid_data)),
            ("val_split", self.val_split.map(|share| json!(share))),
            ("prompt_feature", name(&self.features.prompt_feature)),
            ("completion_feature", name(&self.features.completion_feature)),
            ("chat_feature", name(&self.features.chat_feature)),
            ("text_feature", name(&self.features.text_feature)),
        ]
    }

    /// Reads what is trained on and, if `validated`, what is validated on, and says what repeats.
    pub fn read(&self, validated: bool, seed: u64, terminal: Terminal) -> Result<Data> {
        let features = self.features.features();
        let files = resolve(&self.data, Set::Train, terminal)?;
        ensure!(!files.of(Set::Train).is_empty(), "{}: no train set in it", self.names());
        let of_valid = match self.valid_data.as_slice() {
            [] => files.of(Set::Valid).to_vec(),
            specs => {
                let of_valid = resolve(specs, Set::Valid, terminal)?.of(Set::Valid).to_vec();
                ensure!(!of_valid.is_empty(), "{}: no valid set in it", specs[0]);
                of_valid
            }
        };
        let mut train = read(files.of(Set::Train), &features, terminal)?;
        let mut valid = Vec::new();
        if let Some(share) = self.val_split {
            ensure!(
                of_valid.is_empty(),
                "--val-split is for data without a valid set; {} has one",
                self.names()
            );
            let count = train.iter().map(|file| file.records.len()).sum();
            let marks = hold_out(count, share, seed)?;
            (train, valid) = part(train, &marks);
            let held = marks.iter().filter(|&&held| held).count();
            terminal.note(format_args!(
                "validation: {held} of {count} training records, chosen by seed {seed}"
            ));
        } else if validated {
            valid = read(&of_valid, &features, terminal)?;
        }
        // A test set is none of a training's business but for what it has in common.
        let test = files.of(Set::Test).iter().filter(|place| place.is_here());
        let test =
            test.filter_map(|place| place.read(&features, terminal).ok()).collect::<Vec<_>>();
        note_repeats(&train, &[(Set::Valid, &valid), (Set::Test, &test)], terminal);
        if !validated {
            valid.clear();
        } else if valid.is_empty() {
            terminal
                .note("no valid set, no --valid-data, no --val-split: the run is not validated");
        }
        Ok(Data { train, valid })
    }
}

/// Divides the records of all files by their marks.
fn part(files: Vec<RecordFile>, marks: &[bool]) -> (Vec<RecordFile>, Vec<RecordFile>) {
    let mut at = 0;
    let parts = files.into_iter().map(|file| {
        let begin = at;
        at += file.records.len();
        file.part(&marks[begin..at])
    });
    let (mut kept, mut held): (Vec<_>, Vec<_>) = parts.unzip();
    kept.retain(|file| !file.records.is_empty());
    held.retain(|file| !file.records.is_empty());
    (kept, held)
}

/// All records of some files.
pub fn records(files: &[RecordFile]) -> Vec<&Record> {
    files.iter().flat_map(|file| &file.records).collect()
}

/// Says how many records repeat, and how many prompts of other sets are trained on.
fn note_repeats(train: &[RecordFile], others: &[(Set, &Vec<RecordFile>)], terminal: Terminal) {
    let train = records(train);
    let repeats = stats::duplicates(&train);
    if repeats != Repeats::default() {
        terminal.note(format_args!(
            "duplicates: of {} training records, {}",
            train.len(),
            shown(repeats, "repeated")
        ));
    }
    for (set, files) in others {
        let held_out = records(files);
        let leaks = stats::leaks(&held_out, &train);
        if leaks != Repeats::default() {
            terminal.note(format_args!(
                "leaks: of {} {} prompts, {}",
                held_out.len(),
                set.name(),
                shown(leaks, "in the training set")
            ));
        }
    }
}

/// Both counts of `repeats`, in words.
pub fn shown(repeats: Repeats, are: &str) -> String {
    let Repeats { exact, normalized } = repeats;
    format!("{exact} {are} word for word, {normalized} more but for case and white space")
}
