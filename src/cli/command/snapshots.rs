//! `holdfast snapshots`: lists the snapshots.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::Args;

use crate::cli::args::FilterArgs;

const AFTER_HELP: &str = "\
Snapshots are named by
  latest, latest~2           the newest, the second before it
  source:NAME, source:NAME~1 the newest of a source
  1a2b3c4d                   the first 4 or more digits of the id
  @2026-03-01T12:00Z, @2026-03-01, yesterday
                             the newest at or before that time
and a part of one by adding a path: latest:/etc/ssh";

/// Arguments of `snapshots`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct SnapshotsArgs {
    /// Only these
    #[arg(value_name = "SNAPSHOT")]
    pub snapshots: Vec<String>,
    /// Only the newest N of each source
    #[arg(long, value_name = "N")]
    pub latest: Option<usize>,
    /// Show the forgotten ones too, as long as they can be brought back
    #[arg(long)]
    pub forgotten: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub filter: FilterArgs,
}
