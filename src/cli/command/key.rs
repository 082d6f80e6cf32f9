//! `holdfast key`: the passphrases and recipients that open the repository.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::path::PathBuf;

use clap::{Args, Subcommand};
use secrecy::SecretString;
use serde_json::json;

use crate::cli::command::init::parse_recipients;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::usage;
use crate::cli::open_repository::{open, unlock, unlock_unasked};
use crate::cli::secrets::{ask_new_passphrase, new_passphrase_of_file};
use crate::cli::table::{Align, Table};
use crate::cli::terminal::ask_line;
use crate::crypto::recipient::Recipient;
use crate::repo::key_files::{key_id, operator_files};
use crate::repo::open::Repository;
use crate::repo::roles;
use crate::repo::unlock::Unlocked;

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
    /// Replace the passphrase that was given by a new one
    Passwd(KeyPasswdArgs),
}

/// Arguments of `key passwd`.
#[derive(Debug, Clone, Args)]
pub struct KeyPasswdArgs {
    /// Read the new passphrase from a file that only you can read
    #[arg(long, value_name = "FILE")]
    pub new_password_file: Option<PathBuf>,
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
    /// Begin a new epoch, so that what is written from now on does not open with the removed key;
    /// then name everyone who remains
    #[arg(long)]
    pub rotate: bool,
    /// With --rotate: a recipient that remains (repeatable: all in one key file)
    #[arg(long, value_name = "RECIPIENT", requires = "rotate")]
    pub recipient: Vec<String>,
    /// With --rotate: a passphrase that remains, in a file that only you can read (repeatable)
    #[arg(long, value_name = "FILE", requires = "rotate")]
    pub new_password_file: Vec<PathBuf>,
}

/// Does what is asked with the keys.
pub fn run(args: &KeyArgs, context: &Context) -> Result<Exit, CommandError> {
    match &args.what {
        KeyWhat::List => list(context),
        KeyWhat::Add(args) => add(args, context),
        KeyWhat::Remove(args) if args.rotate => rotate(args, context),
        KeyWhat::Remove(args) => remove(args, context),
        KeyWhat::Passwd(args) => passwd(args, context),
    }
}

fn list(context: &Context) -> Result<Exit, CommandError> {
    let repository = open(context)?;
    let unlocked = unlock_unasked(context, &context.location()?, &repository)?;
    let mut table =
        Table::new(&[("ID", Align::Left), ("OPENS WITH", Align::Left), ("", Align::Left)]);
    for file in operator_files(&*repository.store)? {
        let kinds: Vec<String> = file.recipients().iter().map(ToString::to_string).collect();
        let opened = unlocked.as_ref().is_some_and(|keys| keys.opened.contains(&file.name));
        let mark = if opened { "opened by the key given" } else { "" };
        table.row([file.id(), &kinds.join(", "), mark]);
        let item = json!({ "id": file.id(), "recipients": kinds, "opened": opened });
        context.output.item(&item);
    }
    context.output.table(&table);
    context.output.summary(Exit::Done, &json!({}));
    Ok(Exit::Done)
}

fn add(args: &KeyAddArgs, context: &Context) -> Result<Exit, CommandError> {
    let repository = open(context)?;
    let unlocked = unlock(context, &repository)?;
    let recipients = if args.recipient.is_empty() {
        vec![Recipient::passphrase(new_passphrase(args.new_password_file.as_ref())?)]
    } else {
        parse_recipients(&args.recipient, context)?
    };
    let name = roles::add_key(&repository, &unlocked, &recipients)?;
    context.output.line(&format!("key file {} opens the repository too", key_id(&name)));
    context.output.summary(Exit::Done, &json!({ "id": key_id(&name) }));
    Ok(Exit::Done)
}

fn new_passphrase(file: Option<&PathBuf>) -> Result<SecretString, CommandError> {
    file.map_or_else(ask_new_passphrase, |path| new_passphrase_of_file(path))
}

fn remove(args: &KeyRemoveArgs, context: &Context) -> Result<Exit, CommandError> {
    let repository = open(context)?;
    let name = roles::find_key(&repository, &args.id)?;
    context.output.note("Whoever kept a copy of this key file, or has opened it, can still read");
    context.output.note("what is and will be stored; --rotate ends that for what will be.");
    confirm(args.yes, &format!("Remove key file {}?", key_id(&name)))?;
    roles::remove_key(&repository, key_id(&name))?;
    removed(context, &name, None);
    Ok(Exit::Done)
}

fn rotate(args: &KeyRemoveArgs, context: &Context) -> Result<Exit, CommandError> {
    let mut repository = open(context)?;
    let name = roles::find_key(&repository, &args.id)?;
    let unlocked = unlock(context, &repository)?;
    let mut operators = Vec::new();
    if !args.recipient.is_empty() {
        operators.push(parse_recipients(&args.recipient, context)?);
    }
    for file in &args.new_password_file {
        operators.push(vec![Recipient::passphrase(new_passphrase_of_file(file)?)]);
    }
    if operators.is_empty() {
        operators.push(vec![Recipient::passphrase(ask_new_passphrase()?)]);
    }
    context.output.note(&format!(
        "All {} key files are removed. The repository then opens with the {} given here only.",
        operator_files(&*repository.store)?.len(),
        operators.len(),
    ));
    context.output.note("What was stored before stays readable to whoever has an old key file.");
    confirm(args.yes, "Begin a new epoch?")?;
    let epoch = roles::rotate(&mut repository, &unlocked, &operators)?;
    removed(context, &name, Some(epoch));
    Ok(Exit::Done)
}

fn removed(context: &Context, name: &str, epoch: Option<u32>) {
    context.output.line(&format!("key file {} is removed", key_id(name)));
    if let Some(epoch) = epoch {
        context.output.line(&format!("epoch {epoch} has begun"));
    }
    context.output.summary(Exit::Done, &json!({ "removed": key_id(name), "epoch": epoch }));
}

fn passwd(args: &KeyPasswdArgs, context: &Context) -> Result<Exit, CommandError> {
    let repository = open(context)?;
    let unlocked = unlock(context, &repository)?;
    let old = passphrase_file(&repository, &unlocked)?;
    let passphrase = new_passphrase(args.new_password_file.as_ref())?;
    // The new one is durable before the old one goes.
    let new = roles::add_key(&repository, &unlocked, &[Recipient::passphrase(passphrase)])?;
    roles::remove_key(&repository, key_id(&old))?;
    context.output.line("the passphrase is changed; the old one opens copies of the old key file");
    context.output.summary(Exit::Done, &json!({ "id": key_id(&new), "removed": key_id(&old) }));
    Ok(Exit::Done)
}

/// The one key file that the given passphrase has opened.
fn passphrase_file(repository: &Repository, unlocked: &Unlocked) -> Result<String, CommandError> {
    let files = operator_files(&*repository.store)?;
    let mut opened = files.iter().filter(|file| {
        unlocked.opened.contains(&file.name)
            && crate::crypto::unseal::is_sealed_to_passphrase(&file.sealed)
    });
    match (opened.next(), opened.next()) {
        (Some(file), None) => Ok(file.name.clone()),
        _ => Err(CommandError::new(&usage::ARGUMENT, "not one key file has this passphrase")
            .hint("give the old passphrase, no identity; else: key add, key remove")),
    }
}

/// Asks before something that cannot be undone.
///
/// # Errors
/// `HF-USE-012` without --yes where nobody can be asked, or where the answer is no.
pub fn confirm(yes: bool, question: &str) -> Result<(), CommandError> {
    let agreed = |answer: String| matches!(answer.trim(), "y" | "yes");
    if yes || ask_line(&format!("{question} [y/N] ")).is_some_and(agreed) {
        return Ok(());
    }
    Err(CommandError::new(&usage::CONFIRM, "this was not confirmed").hint("--yes"))
}
