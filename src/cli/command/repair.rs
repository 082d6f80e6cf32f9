//! `holdfast repair`: rebuilds what can be rebuilt.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::{Args, Subcommand};

/// Arguments of `repair`.
#[derive(Debug, Clone, Args)]
pub struct RepairArgs {
    #[command(subcommand)]
    #[allow(missing_docs, reason = "a doc comment here would replace the subcommand's help")]
    pub what: RepairWhat,
}

/// What to repair.
#[derive(Debug, Clone, Subcommand)]
pub enum RepairWhat {
    /// Build the local index anew, and missing index segments from the packs
    Index(RepairIndexArgs),
}

/// Arguments of `repair index`.
#[derive(Debug, Clone, Args)]
pub struct RepairIndexArgs {
    /// Read every pack, not only those that no index segment describes
    #[arg(long)]
    pub read_all: bool,
    /// Say what would be done, and do nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}
