//! `holdfast pg`: the write-ahead log of PostgreSQL, and what can be reached with it.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

#[cfg(feature = "mount")]
pub mod start;
pub mod status;
pub mod stream;
pub mod wal_fetch;
pub mod wal_push;

use clap::{Args, Subcommand};

use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};

const AFTER_HELP: &str = "\
In postgresql.conf:
  archive_mode = on
  archive_command = 'holdfast pg wal-push %p'
and on a server that recovers:
  restore_command = 'holdfast pg wal-fetch %f %p'";

/// Arguments of `pg`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP, subcommand_required = true, arg_required_else_help = true)]
pub struct PgArgs {
    #[allow(missing_docs, reason = "a doc comment here would replace the help")]
    #[command(subcommand)]
    pub command: PgCommand,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum PgCommand {
    /// Save a file of the log: what archive_command calls
    WalPush(wal_push::WalPushArgs),
    /// Fetch a file of the log: what restore_command calls
    WalFetch(wal_fetch::WalFetchArgs),
    /// Take the log from the server as it is written, until told to stop
    Stream(stream::StreamArgs),
    /// Run PostgreSQL on a backup at once, and copy its data meanwhile or never
    #[cfg(feature = "mount")]
    Start(Box<start::StartArgs>),
    /// Show what can be restored, to which moments, and what is missing
    Status(status::StatusArgs),
}

/// Runs one of them.
pub fn run(args: &PgArgs, context: &Context) -> Result<Exit, CommandError> {
    match &args.command {
        PgCommand::WalPush(args) => wal_push::run(args, context),
        PgCommand::WalFetch(args) => wal_fetch::run(args, context),
        PgCommand::Stream(args) => stream::run(args, context),
        #[cfg(feature = "mount")]
        PgCommand::Start(args) => start::run(args, context),
        PgCommand::Status(args) => status::run(args, context),
    }
}
