//! `holdfast key`: the passphrases and recipients that open the repository.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Arguments of `key`.
#[derive(Debug, Clone, Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    #[allow(missing_docs, reason = "a doc comment here would replace the subcommand's help")]
    pub what: KeyWhat,
}

/// What to do with the keys.
#[derive(Debug, Clone, Subcommand)]
pub enum KeyWhat {
    /// List the key files
    List,
    /// Let another passphrase or recipient open the repository
    Add(KeyAddArgs),
    /// Remove a key file; whoever had it may still know what it held
    Remove(KeyRemoveArgs),
}

/// Arguments of `key add`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  holdfast key add --recipient age1…")]
pub struct KeyAddArgs {
    /// Recipient to add (repeatable: all in one key file); without one a new passphrase is asked for
    #[arg(long, value_name = "RECIPIENT")]
    pub recipient: Vec<String>,
    /// Read the new passphrase from a file that only you can read
    #[arg(long, value_name = "FILE", conflicts_with = "recipient")]
    pub new_password_file: Option<PathBuf>,
}

/// Arguments of `key remove`.
#[derive(Debug, Clone, Args)]
pub struct KeyRemoveArgs {
    /// The key file, by the digits that `key list` shows
    #[arg(value_name = "ID")]
    pub id: String,
    /// Remove it without asking
    #[arg(short, long)]
    pub yes: bool,
}
