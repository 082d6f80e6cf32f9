//! `holdfast stats`: how much space is used, and by what.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::{Args, ValueEnum};

use crate::cli::args::FilterArgs;

/// Arguments of `stats`.
#[derive(Debug, Clone, Args)]
pub struct StatsArgs {
    /// Only these snapshots
    #[arg(value_name = "SNAPSHOT")]
    pub snapshots: Vec<String>,
    /// One line for each of these
    #[arg(long, value_name = "WHAT")]
    pub by: Option<StatsBy>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub filter: FilterArgs,
}

/// What the lines of `stats` stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatsBy {
    /// Sources
    Source,
    /// Snapshots
    Snapshot,
    /// Writers
    Writer,
}
