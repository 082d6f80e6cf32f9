//! `holdfast ls`: lists the files of a snapshot.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::Args;

/// Arguments of `ls`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  holdfast ls -l latest:/etc/ssh")]
pub struct LsArgs {
    /// Snapshot, and the folder in it
    #[arg(value_name = "SNAPSHOT[:PATH]", default_value = "latest")]
    pub snapshot: String,
    /// Show mode, owner, size and time
    #[arg(short, long)]
    pub long: bool,
    /// Go into the folders below
    #[arg(short = 'R', long)]
    pub recursive: bool,
}
