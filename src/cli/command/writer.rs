//! `holdfast writer`: the hosts that may write to the repository.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Arguments of `writer`.
#[derive(Debug, Clone, Args)]
pub struct WriterArgs {
    #[command(subcommand)]
    #[allow(missing_docs, reason = "a doc comment here would replace the subcommand's help")]
    pub what: WriterWhat,
}

/// What to do with the writers.
#[derive(Debug, Clone, Subcommand)]
pub enum WriterWhat {
    /// Let another host write: makes a bundle to install there
    Add(WriterAddArgs),
    /// Take a host's right to write
    Revoke(WriterRevokeArgs),
    /// List the writers
    List,
    /// Install a bundle on this host
    Install(WriterInstallArgs),
}

/// Arguments of `writer add`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  holdfast writer add web1 --output web1.bundle")]
pub struct WriterAddArgs {
    /// Name of the host
    #[arg(value_name = "NAME")]
    pub name: String,
    /// File for the bundle, which is secret; it is made readable by you only
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Share the deduplication of this writer (a compromised host can then harm the other's data)
    #[arg(long, value_name = "WRITER")]
    pub share_domain: Option<String>,
}

/// Arguments of `writer revoke`.
#[derive(Debug, Clone, Args)]
pub struct WriterRevokeArgs {
    /// The writer, by name or id
    #[arg(value_name = "WRITER")]
    pub writer: String,
    /// Do not trust its commits after this one [default: its newest]
    #[arg(long, value_name = "SEQ")]
    pub after: Option<u64>,
}

/// Arguments of `writer install`.
#[derive(Debug, Clone, Args)]
pub struct WriterInstallArgs {
    /// The bundle; - is standard input
    #[arg(value_name = "FILE")]
    pub bundle: PathBuf,
}
