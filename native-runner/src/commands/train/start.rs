//! What a run begins with: settings, data, and an adapter or a checkpoint.

use std::collections::BTreeSet;
use std::path::Path;
#[cfg(feature = "burn")]
use std::rc::Rc;

use anyhow::{Context as _, Result, ensure};
#[cfg(feature = "burn")]
use engram::burn::{AdapterKind, BurnModel, fresh_by, same_shape};
use engram::data::batch::BatchSet;
use engram::data::file::RecordFile;
use engram::generate::{Engine, GpuModel};
use engram::model::{AdapterTensors, AnyAdapter, Lora, ModelConfig, Target};
#[cfg(feature = "burn")]
use engram::train::BurnLearner;
use engram::train::{
    AdapterType, Checkpoint, GpuLearner, Learner, TrainConfig, TrainData, Trainer,
};

use super::{Format, Options};
use crate::adapter;
use crate::dataset::{self, Data, Set};
use crate::terminal::Terminal;

/// The file a run goes on from.
pub const CHECKPOINT: &str = "checkpoint.safetensors";

/// A run that is not on a device yet.
pub struct Start {
    /// Its settings.
    pub config: TrainConfig,
    data: TrainData,
    /// The adapter of `--init-adapter`, and what errors call it.
    initial: Option<(String, AnyAdapter)>,
    /// Of `--resume`.
    checkpoint: Option<Checkpoint>,
}

impl Start {
    /// Reads what the options name.
    pub fn new(engine: &Engine, options: &Options, terminal: Terminal) -> Result<Self> {
        let (mut config, mut checkpoint) = if options.resume {
            let path = options.adapter_path.join(CHECKPOINT);
            let name = path.display().to_string();
            let bytes =
                std::fs::read(&path).with_context(|| format!("{name}: nothing to resume"))?;
            let mut checkpoint = Checkpoint::from_bytes(&name, &bytes)?;
            checkpoint.config = options.settings.resumed(&checkpoint.config)?;
            (checkpoint.config.clone(), Some(checkpoint))
        } else {
            (options.settings.config()?, None)
        };
        config.check()?;
        ensure!(
            config.adapter_type != AdapterType::Bottleneck || options.format != Some(Format::Mlx),
            "MLX-LM has no files of a bottleneck adapter; leave out --format mlx"
        );
        ensure!(
            !config.has_patterns() || options.format != Some(Format::Mlx),
            "MLX-LM's files have one rank and one scale; leave out --format mlx, or the patterns"
        );
        let initial = match &options.init_adapter {
            Some(folder) => {
                let adapter = adapter::read_for(folder, engine.config())?;
                if let AnyAdapter::Lora(tensors) = &adapter {
                    tensors.check(&folder.display().to_string(), engine.config())?;
                    take_shape(&mut config, tensors, engine.config(), folder)?;
                }
                Some((folder.display().to_string(), adapter))
            }
            None => None,
        };
        config.check_model(engine.config())?;
        let (train, valid) = data(engine, options, &config, terminal)?;
        if let Some(epochs) = options.settings.epochs {
            config.iters = TrainConfig::iters_of(epochs, train.batches())?;
            terminal.note(format_args!("epochs: {epochs}, of {} iterations each", train.batches()));
        }
        if let Some(checkpoint) = &mut checkpoint {
            let (iters, done) = (config.iters, checkpoint.iteration);
            ensure!(iters >= done, "--iters is {iters}, the run has done {done} already");
            checkpoint.config.iters = iters;
        }
        let mut data = TrainData::new(train, valid, engine.config())?;
        if options.test.test {
            let test = test(engine, options, &config, Set::Train, terminal)?;
            data = data.testing(test, engine.config())?;
        }
        Ok(Self { config, data, initial, checkpoint })
    }

    /// The run by our kernels.
    pub fn on_gpu(self, gpu: &GpuModel) -> Result<Trainer<GpuLearner>> {
        let GpuModel { context, llama } = gpu;
        let tensors = match &self.initial {
            Some((name, adapter)) => adapter.lora(name)?.clone(),
            None => self.config.initial_adapter(&llama.config)?,
        };
        let room = self.data.room();
        let learner = GpuLearner::new(context, llama, &tensors, room, &self.config)?;
        self.with(learner)
    }

    /// The run by burn, with adapters of the type `A`.
    #[cfg(feature = "burn")]
    pub fn on_burn<A: AdapterKind>(self, model: &Rc<BurnModel>) -> Result<Trainer<BurnLearner<A>>>
    where
        A::Config: for<'a> From<&'a TrainConfig>,
    {
        let (config, kind) = (&self.config, A::Config::from(&self.config));
        let of = |(place, setting)| (place, A::Config::from(&config.of_layer(setting)));
        let places = config.settings(&model.llama.config)?.into_iter().map(of).collect();
        let mut adapter = fresh_by::<A>(model, &places, config.seed)?;
        if let Some((name, initial)) = &self.initial {
            let loaded = A::load(model, name, initial)?;
            ensure!(
                same_shape(&loaded, &adapter),
                "{name}: has other layers or another size than the settings; give the adapter's \
                 --num-layers, --keys and --rank"
            );
            adapter = loaded;
        }
        let learner = BurnLearner::new(model, adapter, kind, self.data.room(), config);
        self.with(learner)
    }

    fn with<L: Learner>(self, learner: L) -> Result<Trainer<L>> {
        Ok(match &self.checkpoint {
            Some(checkpoint) => Trainer::resume_with(learner, self.data, checkpoint)?,
            None => Trainer::with(learner, self.data, &self.config)?,
        })
    }
}

/// An initial adapter has a shape of its own, which becomes the run's.
fn take_shape(
    config: &mut TrainConfig,
    tensors: &AdapterTensors,
    model: &ModelConfig,
    folder: &Path,
) -> Result<()> {
    if !tensors.weights().is_empty() && config.modules_to_save.is_empty() {
        let module = |name: &String| name.rsplit_once('.').map(|(module, _)| module.to_owned());
        let modules: BTreeSet<String> = tensors.weights().keys().filter_map(module).collect();
        config.modules_to_save = modules.into_iter().collect();
    }
    if tensors.is_full() {
        config.adapter_type = AdapterType::Full;
        return Ok(());
    }
    let targets: BTreeSet<Target> = tensors.iter().map(|(_, target, _)| target).collect();
    let blocks = model.num_hidden_layers;
    let first = tensors.first_layer().unwrap_or(blocks);
    config.num_layers = (blocks - first) as i64;
    config.keys = targets.iter().map(|target| target.path().to_owned()).collect();
    for ((layer, target), setting) in config.settings(model)? {
        let (rank, scale) = (setting.0, config.of_layer(setting).update_scale());
        let same = |lora: &Lora<Vec<f32>>| lora.rank == rank && lora.scale == scale;
        ensure!(
            tensors.get(layer, target).is_some_and(same),
            "{}: layer {layer}'s {} has not rank {rank} and scale {scale}, as the settings have it; \
             give the adapter's --rank and --scale, and --rank-pattern and --alpha-pattern where \
             layers differ",
            folder.display(),
            target.path(),
        );
    }
    if tensors.iter().any(|(_, _, lora)| lora.magnitude.is_some()) {
        config.adapter_type = AdapterType::Dora;
    }
    Ok(())
}

/// The training set and, if there is one, the validation set.
fn data(
    engine: &Engine,
    options: &Options,
    config: &TrainConfig,
    terminal: Terminal,
) -> Result<(BatchSet, Option<BatchSet>)> {
    let Data { train, valid } =
        options.data.read(config.val_batches != 0, config.seed, terminal)?;
    let set = |files: &[RecordFile], of: Set| batches(engine, files, of, config, terminal);
    let train = set(&train, Set::Train)?;
    let valid = if valid.is_empty() { None } else { Some(set(&valid, Set::Valid)?) };
    Ok((train, valid))
}

/// The test set. Where `--data` names files of no set, they are `wanted`.
pub fn test(
    engine: &Engine,
    options: &Options,
    config: &TrainConfig,
    wanted: Set,
    terminal: Terminal,
) -> Result<BatchSet> {
    let places = options.data.test_set(&options.test.test_data, wanted, terminal)?;
    let files = dataset::read(&places, &options.data.features.features(), terminal)?;
    batches(engine, &files, Set::Test, config, terminal)
}

/// The batches of some files, with a word on what of them is not used.
fn batches(
    engine: &Engine,
    files: &[RecordFile],
    of: Set,
    config: &TrainConfig,
    terminal: Terminal,
) -> Result<BatchSet> {
    let name = of.name();
    let examples = dataset::tokenize(files, engine, config.loss_on(), terminal)?;
    let set = BatchSet::new(examples, config.batch_config()).with_context(|| match files {
        [one] => one.name.clone(),
        _ => format!("the {name} set"),
    })?;
    for (count, what) in [(set.truncated(), "cut to"), (set.left_out(), "left out, no loss in")] {
        if count > 0 {
            terminal.note(format_args!(
                "{name}: {count} examples {what} {} tokens",
                config.max_seq_length
            ));
        }
    }
    Ok(set)
}
