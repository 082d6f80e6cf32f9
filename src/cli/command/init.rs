//! `holdfast init`: creates a repository.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::Args;

const AFTER_HELP: &str = "\
Examples:
  holdfast init -r /srv/repo                               asks for a passphrase, twice
  holdfast init -r /srv/repo --password-file ~/.holdfast-pass
  holdfast init -r /srv/repo --recipient age1… --recipient 'ssh-ed25519 AAAA…'

This host keeps the keys to write and to prune, so that backups run unattended. To read back, it
takes the passphrase or the identity of a recipient. Print the recovery kit and keep it elsewhere.";

/// Arguments of `init`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct InitArgs {
    /// Who can open the repository: an age recipient, an SSH public key, or a plugin's recipient
    /// (repeatable); instead of a passphrase
    #[arg(long, value_name = "RECIPIENT")]
    pub recipient: Vec<String>,
    /// Read recipients from a file, one a line (repeatable)
    #[arg(long, value_name = "FILE")]
    pub recipients_file: Vec<std::path::PathBuf>,
    /// Name of this host as a writer [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub writer: Option<String>,
    /// Do not keep the maintainer's keys on this host: forget and prune need the passphrase then
    #[arg(long)]
    pub no_maintainer: bool,
}
