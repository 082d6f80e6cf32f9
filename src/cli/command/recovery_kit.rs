//! `holdfast recovery-kit`: what is needed to restore after losing everything else.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::path::PathBuf;

use clap::Args;

/// Arguments of `recovery-kit`.
#[derive(Debug, Clone, Args)]
pub struct RecoveryKitArgs {
    /// Write it to a new file that only you can read, not to standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}
