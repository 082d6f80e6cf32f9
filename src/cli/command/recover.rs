//! `holdfast recover`: brings a forgotten snapshot back.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::Args;

/// Arguments of `recover`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "`holdfast snapshots --forgotten` shows what can be brought back.")]
pub struct RecoverArgs {
    /// The forgotten snapshots, by id
    #[arg(value_name = "SNAPSHOT", required = true)]
    pub snapshots: Vec<String>,
    /// Say what would be done, and do nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}
