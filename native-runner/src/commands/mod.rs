//! One file per command: its options and what it does with them.

pub mod fetch;

use crate::cli::{Cli, Command};

/// Carries out the command.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let Cli { global, command } = cli;
    match command {
        Command::Fetch(options) => fetch::run(&global, &options),
    }
}
