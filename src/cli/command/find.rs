//! `holdfast find`: finds files by name in the snapshots.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::Args;

use crate::cli::args::FilterArgs;

/// Arguments of `find`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  holdfast find '*.key'\n  holdfast find /etc/hosts --all")]
pub struct FindArgs {
    /// Names, patterns (* ? [a-z]), or whole paths that begin with /
    #[arg(value_name = "PATTERN", required = true)]
    pub patterns: Vec<String>,
    /// Do not tell upper case from lower case
    #[arg(long)]
    pub ignore_case: bool,
    /// Look in this snapshot only (repeatable) [default: the newest of each source]
    #[arg(long, value_name = "SNAPSHOT")]
    pub snapshot: Vec<String>,
    /// Look in all snapshots
    #[arg(long, conflicts_with = "snapshot")]
    pub all: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub filter: FilterArgs,
}
