//! `holdfast completions`: prints a completion script.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::args::Cli;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};

const AFTER_HELP: &str = "\
Examples:
  holdfast completions bash > ~/.local/share/bash-completion/completions/holdfast
  holdfast completions zsh  > ~/.zfunc/_holdfast
  holdfast completions fish > ~/.config/fish/completions/holdfast.fish";

/// Arguments of `completions`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Prints the script; it is the result itself, so `--json` does not change it.
pub fn run(args: &CompletionsArgs, context: &Context) -> Result<Exit, CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "holdfast", &mut script);
    context.output.bytes(&script);
    Ok(Exit::Done)
}
