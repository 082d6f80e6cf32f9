//! `holdfast redis`: the journal of a Redis or Valkey server, and what can be reached with it.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

pub mod connecting;
mod ended;
pub mod status;
pub mod stream;

use clap::{Args, Subcommand};

use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};

/// Arguments of `redis`.
#[derive(Debug, Clone, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct RedisArgs {
    #[allow(missing_docs, reason = "a doc comment here would replace the help")]
    #[command(subcommand)]
    pub command: RedisCommand,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum RedisCommand {
    /// Follow the server as a replica, and save its commands until told to stop
    Stream(stream::StreamArgs),
    /// Show what can be restored, to which moments, and what is missing
    Status(status::StatusArgs),
}

/// Runs one of them.
pub fn run(args: &RedisArgs, context: &Context) -> Result<Exit, CommandError> {
    match &args.command {
        RedisCommand::Stream(args) => stream::run(args, context),
        RedisCommand::Status(args) => status::run(args, context),
    }
}
