//! One file per command: its options and what it does with them.

pub mod bench;
pub mod chat;
pub mod convert;
pub mod data;
pub mod demo;
pub mod devices;
pub mod doctor;
pub mod eval;
pub mod fetch;
pub mod fuse;
pub mod generate;
pub mod inspect;
pub mod logits;
pub mod merge;
pub mod pipeline;
pub mod runs;
pub mod sweep;
pub mod train;

use crate::cli::{Cli, Command};

/// Carries out the command.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let Cli { global, command } = cli;
    match command {
        Command::Bench(options) => bench::run(&global, &options),
        Command::Data(options) => data::run(&global, &options),
        Command::Devices(options) => devices::run(&options),
        Command::Chat(options) => chat::run(&global, &options),
        Command::Doctor(options) => doctor::run(&global, &options),
        Command::Generate(options) => generate::run(&global, &options),
        Command::Demo(options) => demo::run(&global, &options),
        Command::Eval(options) => eval::run(&global, &options),
        Command::Convert(options) => convert::run(&global, &options),
        Command::Fuse(options) => fuse::run(&global, &options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Logits(options) => logits::run(&global, &options),
        Command::Train(options) => train::run(&global, &options),
        Command::Sweep(options) => sweep::run(&global, &options),
        Command::Merge(options) => merge::run(&options),
        Command::Runs(options) => runs::run(&options),
        Command::Pipeline(options) => pipeline::run(&global, &options),
        Command::Fetch(options) => fetch::run(&global, &options),
    }
}
