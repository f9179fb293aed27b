//! The loss on a test set: after a training, or of an adapter that is there.

use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use engram::data::batch::BatchSet;
use engram::data::source::test_batches;
use engram::generate::{Engine, Likelihood};
use engram::train::TrainMode;
use serde_json::{Value, json};

use super::follow::metrics_of;
use super::metrics::Metrics;
use super::{Options, say, start};
use crate::adapter;
use crate::dataset::{DataSpec, Set};
use crate::runs::record::{Origin, Record, Test};
use crate::runs::{self, Run};
use crate::terminal::Terminal;

/// MLX-LM's number of batches.
const BATCHES: i64 = 500;

/// Options of what is measured at the end.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Testing")]
pub struct TestOptions {
    /// After the training, measure the loss on the test set
    #[arg(long)]
    pub test: bool,

    /// Batches of the test set; -1 is all [default: 500]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_batches)]
    pub test_batches: Option<i64>,

    /// What to test on [default: the test set of --data]
    #[arg(long, value_name = "DATA", num_args = 1.., value_delimiter = ',')]
    pub test_data: Vec<DataSpec>,

    /// Whether to train; --train false --test measures the adapter that is there [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub train: Option<bool>,
}

fn parse_batches(text: &str) -> Result<i64, String> {
    let number = text.parse().map_err(|error: std::num::ParseIntError| error.to_string())?;
    match number {
        -1 | 1.. => Ok(number),
        _ => Err("1 or more, or -1 for all".to_owned()),
    }
}

impl TestOptions {
    /// The options by their keys in a config file.
    pub fn settings(&self) -> [(&'static str, Option<Value>); 4] {
        let data: Vec<String> = self.test_data.iter().map(DataSpec::to_string).collect();
        [
            ("test", self.test.then(|| json!(true))),
            ("test_batches", self.test_batches.map(|n| json!(n))),
            ("test_data", (!data.is_empty()).then(|| json!(data))),
            ("train", self.train.map(|train| json!(train))),
        ]
    }

    /// Most batches; none is all of them.
    pub fn limit(&self) -> Option<usize> {
        usize::try_from(self.test_batches.unwrap_or(BATCHES)).ok()
    }

    /// Whether what is asked for goes together.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.test || self.test_data.is_empty(),
            "--test-data is what --test measures; add --test"
        );
        ensure!(
            self.test || self.train != Some(false),
            "--train false leaves nothing to do; add --test"
        );
        Ok(())
    }
}

/// MLX-LM's line of a test.
pub fn line(loss: f32) -> String {
    format!("Test loss {loss:.3}, Test ppl {:.3}.", f64::from(loss).exp())
}

/// The line of the metrics, after `iteration`.
pub fn entry(loss: f32, iteration: usize, began: Instant) -> Value {
    json!({
        "iteration": iteration,
        "test_loss": loss,
        "test_ppl": f64::from(loss).exp(),
        "seconds": began.elapsed().as_secs_f64(),
    })
}

/// What `run.json` says of a test.
pub fn record(loss: f32, options: &Options, wanted: Set, terminal: Terminal) -> Result<Test> {
    let places = options.data.test_set(&options.test.test_data, wanted, terminal)?;
    let files = places.iter().map(|place| place.fetch(terminal)).collect::<Result<Vec<_>>>()?;
    let names = match options.test.test_data.as_slice() {
        [] => options.data.names(),
        specs => specs.iter().map(DataSpec::to_string).collect::<Vec<_>>().join(", "),
    };
    let perplexity = Some(f64::from(loss).exp()).filter(|perplexity| perplexity.is_finite());
    let (data, batches) = (Origin::of(names, &files)?, options.test.limit());
    Ok(Test { loss: loss.into(), perplexity, batches, data })
}

/// Measures the adapter in the folder, without a training.
pub fn measure(engine: &Engine, options: &Options, terminal: Terminal) -> Result<()> {
    let config = options.settings.config()?;
    config.check()?;
    ensure!(
        !options.resume && options.init_adapter.is_none(),
        "--resume and --init-adapter begin a training; --train false measures --adapter-path"
    );
    ensure!(
        config.train_mode == TrainMode::Sft,
        "the loss of dpo is measured after its training; leave out --train false, or --train-mode"
    );
    let path = &options.adapter_path;
    let adapter = engine
        .load_adapter(&path.display().to_string(), &adapter::read_for(path, engine.config())?)?;
    let set = start::test(engine, options, &config, Set::Test, terminal)?;
    let (longest, limit) = (set.longest(), engine.config().max_position_embeddings);
    ensure!(
        longest <= limit,
        "an example of the test set has {longest} tokens, the model's context is {limit}; set \
         --max-seq-length to {limit} or less"
    );
    let began = Instant::now();
    let mut likelihood = Likelihood::new(engine.model(), Some(&adapter), longest)?;
    let loss = pollster::block_on(mean(&mut likelihood, &set, options, terminal))?;
    say(line(loss))?;
    // An adapter's file, or one from elsewhere, has no run to write it to.
    let run = if path.is_dir() { Record::read(path)? } else { None };
    let Some(mut run) = run else { return Ok(()) };
    let iteration = run.sessions.last().map_or(0, |session| session.to_iteration);
    Metrics::append(&metrics_of(options))?.write(&entry(loss, iteration, began))?;
    run.test = Some(record(loss, options, Set::Test, terminal)?);
    run.write(path)?;
    runs::html::write(&Run::read(path)?)
}

/// The mean loss of the set's tokens.
async fn mean(
    likelihood: &mut Likelihood,
    set: &BatchSet,
    options: &Options,
    terminal: Terminal,
) -> Result<f32> {
    let batches = test_batches(set, options.test.limit());
    let mut steps = terminal.steps(batches.len());
    let (mut sum, mut count) = (0.0, 0);
    for (done, mut batch) in (1..).zip(batches) {
        batch.set_total(1);
        sum += likelihood.batch(&batch).await?;
        count += batch.trained;
        steps.set(done, "testing");
    }
    let loss = (sum / count.max(1) as f64) as f32;
    ensure!(loss.is_finite(), "the test loss is not finite; the adapter or the model is damaged");
    Ok(loss)
}
