//! `holdfast prune`: gives back the space that no snapshot needs.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::Args;

use crate::units::Allowance;

const AFTER_HELP: &str = "\
Prune first announces what it will remove, and removes it in a later run, after the grace time of
the repository (72 hours unless its roster says another): running backups are never disturbed.
--dry-run says what would be freed now and what later.";

/// Arguments of `prune`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PruneArgs {
    /// How much unused data may stay: a share, a size, or unlimited (never repack)
    #[arg(long, value_name = "5%|1GiB|unlimited", default_value = "5%")]
    pub max_unused: Allowance,
    /// Say what would be done, and do nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}
