//! `holdfast diff`: what changed between two snapshots.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::Args;

const AFTER_HELP: &str = "\
Example:
  holdfast diff latest~1 latest

Signs: + added, - removed, M content changed, U attributes changed, T another type.";

/// Arguments of `diff`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DiffArgs {
    /// The older one
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub from: String,
    /// The newer one
    #[arg(value_name = "SNAPSHOT[:PATH]", default_value = "latest")]
    pub to: String,
    /// Show changes of attributes too
    #[arg(long)]
    pub metadata: bool,
}
