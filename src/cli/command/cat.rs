//! `holdfast cat`: writes one file or stream of a snapshot to standard output.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::Args;

/// Arguments of `cat`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  holdfast cat source:shopdb:shop.sql | psql shop")]
pub struct CatArgs {
    /// Snapshot, and the file or stream in it
    #[arg(value_name = "SNAPSHOT:PATH")]
    pub file: String,
}
