//! `holdfast restore`: writes a snapshot, or a part of it, back.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::command::restore_into::IntoArgs;
use crate::cli::postgres_recovery::PointArgs;

const AFTER_HELP: &str = "\
Examples:
  holdfast restore latest --target /srv/restored
  holdfast restore source:etc:/etc/ssh --target /tmp/ssh
  holdfast restore @2026-03-01 --target / --include /etc/nginx --dry-run
  holdfast restore latest:/home --tar - | ssh other tar -x
  holdfast restore source:shop --into postgres://admin@db/shop_restored
  holdfast restore source:cache --into redis://admin@new-cache:6379

The path after the colon is put into the target itself: no folders are added above it. What is in
the target and not in the snapshot stays, unless --delete is given.";

/// Arguments of `restore`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
#[allow(clippy::struct_excessive_bools, reason = "each is an independent switch of the command")]
pub struct RestoreArgs {
    /// Snapshot, and the part of it that is wanted
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub snapshot: String,
    /// Folder to restore into; made if absent
    #[arg(short, long, value_name = "DIR", required_unless_present_any = ["tar", "into"])]
    pub target: Option<PathBuf>,
    /// Write a tar file instead; - is standard output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target", "delete", "verify", "overwrite"])]
    pub tar: Option<PathBuf>,
    /// Only what matches (repeatable)
    #[arg(long, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// Not what matches (repeatable)
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Try the replicas too, where the repository cannot be opened or is damaged
    #[arg(long)]
    pub from_any: bool,
    /// Say what would be done, and do nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Remove what the snapshot does not have, below the restored folders
    #[arg(long)]
    pub delete: bool,
    /// Read everything back from the target and compare
    #[arg(long)]
    pub verify: bool,
    /// What to do with files that are there already
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub overwrite: Overwrite,
    /// Restore set-user-id and set-group-id bits and file capabilities
    #[arg(long)]
    pub special_bits: bool,
    /// Restore devices
    #[arg(long)]
    pub devices: bool,
    /// Take the numbers of owners and groups, not their names
    #[arg(long)]
    pub numeric_ids: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub postgres: PostgresRestoreArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub into: IntoArgs,
}

/// Where the recovery of a PostgreSQL server is to end.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "PostgreSQL: a base backup and its log")]
pub struct PostgresRestoreArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub point: PointArgs,
    /// Put the tablespace that lay at OLD into the folder NEW (repeatable)
    #[arg(long, value_name = "OLD=NEW")]
    pub tablespace_mapping: Vec<String>,
    /// Go on archiving and subscribing as the original did; else both are off
    #[arg(long)]
    pub keep_archiving: bool,
}

/// What a restore does with files that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Overwrite {
    /// Write all anew
    Always,
    /// Write those that differ in size, time or content
    #[default]
    IfChanged,
    /// Leave them alone
    Never,
}
