//! `engram train --config run.yaml`: a run's settings in a file, in MLX-LM's keys.
//!
//! A file becomes arguments, which the command line's go before; so a value is read, checked and
//! given its default in one place, whichever way it came.

mod keys;
mod resolved;
mod yaml;

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, CommandFactory as _, FromArgMatches as _, Parser as _};

use self::keys::{Keys, Setting};
use crate::cli::{Cli, Command};

pub use self::resolved::{resolved, to_yaml};
pub use self::yaml::{Node, Value};

/// Settings, and what errors call them: a file, or a part of one.
#[derive(Debug, Clone)]
pub struct Layer {
    pub name: String,
    /// A map of keys and values.
    pub node: Node,
}

impl Layer {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(|| name.clone())?;
        Ok(Self { node: yaml::parse(&name, &text)?, name })
    }
}

/// The command line, with what its `--config` says where it says nothing. Ends the program on bad
/// usage, and where help is asked for.
pub fn parse(arguments: Vec<OsString>) -> Result<Cli> {
    let matches = Cli::command().get_matches_from(&arguments);
    let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match &mut cli.command {
        Command::Train(options) => match &options.config {
            Some(path) => with_layers(&arguments, &[Layer::read(path)?]),
            None => Ok(cli),
        },
        Command::Sweep(options) => {
            options.given = matches.subcommand_matches("sweep").map_or(Vec::new(), given_globals);
            Ok(cli)
        }
        _ => Ok(cli),
    }
}

/// The options of every command that were given, as arguments of another.
fn given_globals(matches: &ArgMatches) -> Vec<OsString> {
    let mut arguments = Vec::new();
    for option in Cli::command().get_arguments().filter(|option| option.is_global_set()) {
        let (id, flag) = (option.get_id().as_str(), option.get_long().unwrap_or_default());
        if matches.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        match option.get_action() {
            ArgAction::Count => {
                let count = usize::from(matches.get_count(id));
                arguments.extend(vec![OsString::from(format!("--{flag}")); count]);
            }
            ArgAction::SetTrue => arguments.push(format!("--{flag}").into()),
            _ => {
                for value in matches.get_raw(id).into_iter().flatten() {
                    let mut argument = OsString::from(format!("--{flag}="));
                    argument.push(value);
                    arguments.push(argument);
                }
            }
        }
    }
    arguments
}

/// The command line of `engram train` that `arguments` are, with what `layers` say where it says
/// nothing, a later one before an earlier.
pub fn with_layers(arguments: &[OsString], layers: &[Layer]) -> Result<Cli> {
    let name = layers.last().map_or("", |layer| &layer.name);
    let matches = Cli::command().try_get_matches_from(arguments)?;
    let given = matches.subcommand_matches("train").context("no command `train`")?;
    let mut root = Cli::command();
    root.build();
    let train = root.find_subcommand("train").context("no command `train`")?;
    let is_given = |option: &str| given.value_source(option) == Some(ValueSource::CommandLine);
    let typed = given.get_raw("optimizer").and_then(|mut raw| raw.next());
    let optimizer = typed.map(|typed| typed.to_string_lossy().into_owned());
    let of_layer = |layer: &Layer| layer.node.get("optimizer")?.scalar();
    let optimizer = optimizer.or_else(|| layers.iter().rev().find_map(of_layer));
    let optimizer = optimizer.unwrap_or_else(|| "adam".to_owned());

    let mut settings: Vec<Setting> = Vec::new();
    for layer in layers {
        let more = Keys::new(train).settings(&layer.name, &layer.node, &optimizer)?;
        more.iter().try_for_each(check_alone)?;
        settings.retain(|earlier| !more.iter().any(|later| later.replaces(&earlier.option)));
        settings.extend(more);
    }
    // What the checkpoint came from is in it.
    let resumes = given.get_flag("resume");
    settings.retain(|setting| {
        let is_replaced = is_given(&setting.option) || setting.rivals().any(is_given);
        !is_replaced && (setting.option != "init_adapter" || !resumes)
    });
    let with = |left_out: Option<usize>| {
        let taken = settings.iter().enumerate().filter(|(i, _)| Some(*i) != left_out);
        let more = taken.flat_map(|(_, setting)| setting.arguments.iter().map(OsString::from));
        Cli::try_parse_from(arguments.iter().cloned().chain(more))
    };
    let usable = |cli: &Cli| -> Result<()> {
        match &cli.command {
            Command::Train(options) if !options.resume => {
                options.test.check()?;
                Ok(options.settings.config()?.check()?)
            }
            _ => Ok(()),
        }
    };
    let whole = with(None).map_err(|error| anyhow!("{name}: {}", one_line(&error)))?;
    if let Err(problem) = usable(&whole) {
        // The line is that of the value without which there is no such problem.
        let culprit = (0..settings.len())
            .rfind(|&i| with(Some(i)).is_ok_and(|without| usable(&without).is_ok()))
            .map(|i| &settings[i]);
        return Err(match culprit {
            Some(Setting { place, key, .. }) => anyhow!("{place}: `{key}`: {problem}"),
            None => anyhow!("{name}: {problem}"),
        });
    }
    Ok(whole)
}

/// Whether a key's value is one that its option takes.
fn check_alone(setting: &Setting) -> Result<()> {
    let arguments = ["engram", "train"].into_iter().chain(setting.arguments.iter().map(|a| &**a));
    let Setting { key, place, .. } = setting;
    match Cli::try_parse_from(arguments) {
        // What else it needs, or can't stand beside it, shows with all the others.
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::MissingRequiredArgument | ErrorKind::ArgumentConflict
            ) =>
        {
            bail!("{place}: `{key}`: {}", one_line(&error))
        }
        _ => Ok(()),
    }
}

/// A usage error without the usage.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let words = first.trim_start_matches("error: ").split_whitespace();
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use engram::train::TrainConfig;

    use super::*;

    fn all_settings() -> Vec<String> {
        let mut root = Cli::command();
        root.build();
        let train = root.find_subcommand("train").unwrap();
        Keys::new(train).options().map(|option| option.get_id().to_string()).collect()
    }

    fn cli(arguments: &[&str]) -> Cli {
        Cli::try_parse_from([&["engram", "train"], arguments].concat()).unwrap()
    }

    fn file(cli: &Cli) -> (serde_json::Map<String, serde_json::Value>, TrainConfig) {
        let Command::Train(options) = &cli.command else { panic!("train") };
        let config = options.settings.config().unwrap();
        (resolved(&cli.global, options, &config).unwrap(), config)
    }

    #[test]
    fn every_field_of_a_run_is_an_option() {
        let known = all_settings();
        let fields = serde_json::to_value(TrainConfig::default()).unwrap();
        for field in fields.as_object().unwrap().keys() {
            assert!(known.contains(field), "engram train has no option for {field}");
        }
    }

    #[test]
    fn every_option_is_in_the_file() {
        let fields = serde_json::to_value(TrainConfig::default()).unwrap();
        let given = cli(&[
            "--device=cpu",
            "--adapter=x",
            "--quantize=f16",
            "--init-adapter=a",
            "--format=peft",
            "--save-every=3",
            "--metrics=m",
            "--tensorboard",
            "--lr-schedule=cosine_decay",
            "--lr-schedule-arguments=1e-5,100",
            "--warmup=3",
            "--warmup-init=0",
            "--early-stopping-patience=2",
            "--eval-data=t",
            "--eval-every=2",
            "--eval-examples=3",
            "--test",
            "--test-batches=-1",
            "--test-data=t",
            "--train=false",
            "--valid-data=v",
            "--prompt-feature=p",
            "--completion-feature=c",
            "--chat-feature=h",
            "--text-feature=t",
        ]);
        let (mut file, _) = file(&given);
        // What can't stand beside the others, and a schedule, whose keys are its own.
        let schedule = ["--lr-schedule=step_decay", "--lr-schedule-arguments=1e-5,0.9,10"];
        let more = ["--val-split=0.1", "--epochs=2", "--warmup=1", "--warmup-init=1e-7"];
        file.extend(self::file(&cli(&[&schedule[..], &more].concat())).0);
        let rates = file["lr_schedule"].as_object().unwrap().clone();
        file.extend(rates.into_iter().map(|(key, value)| match key.as_str() {
            "arguments" => ("lr_schedule_arguments".to_owned(), value),
            _ => (key, value),
        }));
        for option in all_settings() {
            let of_schedule = option.trim_start_matches("lr_schedule_");
            let is_there = fields.get(&option).is_some()
                || file.contains_key(&option)
                || file["lr_schedule"].get(of_schedule).is_some();
            assert!(is_there, "config::resolved leaves out {option}");
        }
    }

    #[test]
    fn a_resolved_file_resolves_to_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.yaml");
        let config = format!("--config={}", path.display());
        for arguments in [
            &[][..],
            &["--adapter-type=bottleneck", "--optimizer=adamw", "--max-grad-norm=0.3"],
            &["--adapter-type=rslora", "--scale=0.1", "--learning-rate=1.17e-7", "--mask-prompt"],
            &["--semantics=mlx", "--num-layers=-1", "--keys=q_proj", "--seed=18446744073709551615"],
            &["--save-every=3", "--data=1e3", "--adapter-path=true", "--engine=wgpu"],
            &["--tensorboard"],
            &["--epochs=3", "--val-split=0.1"],
            &[
                "--rank-pattern=q_proj=4",
                r"--rank-pattern=layers\.2[0-9]{1,2}\..*(up|down)_proj=16",
                "--alpha-pattern=v_proj=0.1",
            ],
            &[
                "--lr-schedule=cosine_decay",
                "--warmup=3",
                "--learning-rate=1e-4",
                "--betas=0.8,0.9",
            ],
            &[
                "--optimizer=sgd",
                "--momentum=0.5",
                "--lr-schedule=step_decay",
                "--lr-schedule-arguments=0.1,0.9,10",
            ],
            &["--optimizer=muon"],
            &["--optimizer=adafactor"],
            &["--adapter-type=full"],
            &["--tensorboard=events", "--metrics=m"],
            &["--test", "--test-batches=-1", "--train=false"],
        ] {
            let (file, trained) = file(&cli(arguments));
            std::fs::write(&path, to_yaml(&file).unwrap()).unwrap();
            let again = parse(["engram", "train", &config].map(OsString::from).into()).unwrap();
            let (file_again, trained_again) = self::file(&again);
            assert_eq!((file_again, trained_again), (file, trained), "{arguments:?}");
        }
    }

    #[test]
    fn options_go_before_the_file_and_the_file_before_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.yaml");
        std::fs::write(&path, "model: a.gguf\niters: 7\nbatch_size: 2\nengine: wgpu\n").unwrap();
        let path = path.to_str().unwrap();
        let arguments = ["engram", "--model", "b.gguf", "train", "-c", path, "--iters", "9"];
        let cli = parse(arguments.map(OsString::from).into()).unwrap();
        let (file, trained) = file(&cli);
        assert_eq!(
            (file["model"].as_str(), file["engine"].as_str()),
            (Some("b.gguf"), Some("wgpu"))
        );
        assert_eq!((trained.iters, trained.batch_size, trained.max_seq_length), (9, 2, 2048));
        // An option that stands for another goes before that, too.
        let arguments = ["engram", "train", "-c", path, "--epochs", "3"];
        let (file, _) = self::file(&parse(arguments.map(OsString::from).into()).unwrap());
        assert_eq!((&file["epochs"], file.get("iters")), (&3.into(), None));
    }

    #[test]
    fn a_value_that_can_not_be_is_found_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.yaml");
        let shown = path.to_str().unwrap();
        for (text, more, expected) in [
            ("batch_size: 4\niters: 0\n", "", ":2: `iters`: iters is 0; it is at least 1"),
            ("iters: a\n", "--iters=3", ":1: `iters`: invalid value 'a' for '--iters"),
            ("semantics: x\n", "", ":1: `semantics`: invalid value 'x' for '--semantics"),
            ("lora_parameters: {keys: [q]}\n", "", ":1: `lora_parameters.keys`: no linear layer"),
            (
                "fine_tune_type: bottleneck\nlora_parameters:\n  scale: 2\n",
                "",
                ":3: `lora_parameters.scale`: --scale is LoRA's",
            ),
            (
                "optimizer: adam\noptimizer_config:\n  adam: {weight_decay: 1}\n",
                "",
                ":3: `optimizer_config.adam.weight_decay`: adam has no weight decay",
            ),
            ("iters: 3\n", "--rank=0", ": rank is 0"),
            ("iters: 3\nepochs: 2\n", "", ": the argument '--iters <ITERS>' cannot be used with"),
        ] {
            std::fs::write(&path, text).unwrap();
            let mut arguments = vec!["engram", "train", "-c", shown];
            arguments.extend(Some(more).filter(|more| !more.is_empty()));
            let problem = parse(arguments.into_iter().map(OsString::from).collect()).unwrap_err();
            assert!(problem.to_string().starts_with(&format!("{shown}{expected}")), "{problem}");
        }
    }
}
