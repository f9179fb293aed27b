//! What a run writes of itself at its beginning: `config.yaml` and `run.json`.

use anyhow::Result;
use engram::generate::Engine;
use engram::train::TrainConfig;
use serde_json::json;

use super::Options;
use crate::cli::Global;
use crate::runs::record::{Origin, Record, Session};
use crate::runs::{CONFIG, RECORD};
use crate::terminal::Terminal;
use crate::{adapter, config, source};

/// What a run is about to be: `parameters` to train from `iteration` on.
pub fn begin(
    global: &Global,
    options: &Options,
    engine: &Engine,
    trained: &TrainConfig,
    parameters: usize,
    iteration: usize,
) -> Result<Record> {
    let folder = &options.adapter_path;
    let there = if options.resume { Record::read(folder)? } else { None };
    let mut record = match there {
        Some(record) => record,
        None => {
            let model = source::resolve(&global.model, Terminal::new(global))?.paths()?;
            let model = Origin::of(&global.model, &model)?;
            let adapter = options
                .init_adapter
                .as_ref()
                .map(|folder| Origin::of(folder.display(), &adapter::files(folder)?));
            let files = options.data.files(Terminal::new(global))?;
            let data = Origin::of(options.data.names(), &files)?;
            Record::new(model, adapter.transpose()?, data, trained.seed)
        }
    };
    record.trainable_parameters = parameters;
    if options.settings.epochs.is_some() || options.settings.iters.is_some() {
        record.epochs = options.settings.epochs;
    }
    // Of what the adapter was until now.
    record.test = None;
    record.sessions.push(Session::begin(engine, iteration));
    Ok(record)
}

/// Writes both files.
pub fn write(
    global: &Global,
    options: &Options,
    engine: &Engine,
    trained: &TrainConfig,
    record: &Record,
) -> Result<()> {
    let mut file = config::resolved(global, options, trained)?;
    file.insert("engine".to_owned(), json!(engine.model().place().engine));
    file.remove("epochs");
    file.insert("iters".to_owned(), json!(trained.iters));
    // Of this run alone: one that repeats it has its own.
    file.remove("metrics");
    if file.get("tensorboard").is_some_and(|folder| !folder.is_boolean()) {
        file.insert("tensorboard".to_owned(), json!(true));
    }
    let (yaml, json) = (config::to_yaml(&file)?, record.to_json()?);
    adapter::write_folder(&options.adapter_path, &[(CONFIG, yaml.as_bytes()), (RECORD, &json)])
}
