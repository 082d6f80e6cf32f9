//! `holdfast check`: verifies the repository.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::Args;

use crate::units::Part;

const AFTER_HELP: &str = "\
Examples:
  holdfast check                          signatures, chains, names, references
  holdfast check --read-data              read everything, too
  holdfast check --read-data 1/30         the first thirtieth; another one every day

Without a passphrase or identity everything is checked that can be checked without one.
Exit code 4: the check ran to its end and found damage.";

/// Arguments of `check`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct CheckArgs {
    /// Read the stored data too, all of it or one part
    #[arg(long, value_name = "N/M", num_args = 0..=1, default_missing_value = "1/1")]
    pub read_data: Option<Part>,
    /// Sign and store an attestation of what was read
    #[arg(long, requires = "read_data")]
    pub attest: bool,
}
