//! `holdfast replica`: copies of the repository in other places.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::{replica, usage};
use crate::cli::known_addresses;
use crate::cli::open_repository::open_without_options;
use crate::cli::place::{Place, open_store};
use crate::cli::replicas::{self, Known};
use crate::cli::table::{Align, Table};
use crate::repo::open::Repository;
use crate::store::local::LocalStore;
use crate::store::{Store, StoreError};

/// Arguments of `replica`.
#[derive(Debug, Clone, Args)]
pub struct ReplicaArgs {
    #[command(subcommand)]
    #[allow(missing_docs, reason = "a doc comment here would replace the subcommand's help")]
    pub what: ReplicaWhat,
}

/// What to do with the replicas.
#[derive(Debug, Clone, Subcommand)]
pub enum ReplicaWhat {
    /// Remember a place to copy to; options for S3 are taken as its own
    Add(ReplicaAddArgs),
    /// List the replicas that this host copies to
    List,
    /// Forget a replica; what is there stays
    Remove(ReplicaRemoveArgs),
}

/// Arguments of `replica add`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  holdfast replica add west s3://acme-west/main --region us-west-2"
)]
pub struct ReplicaAddArgs {
    /// What to call it
    #[arg(value_name = "NAME")]
    pub name: String,
    /// An empty place, or an earlier copy: a path, or s3://BUCKET/PREFIX
    #[arg(value_name = "PLACE")]
    pub place: String,
}

/// Arguments of `replica remove`.
#[derive(Debug, Clone, Args)]
pub struct ReplicaRemoveArgs {
    /// The replica
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// Does what is asked with the replicas.
pub fn run(args: &ReplicaArgs, context: &Context) -> Result<Exit, CommandError> {
    match &args.what {
        ReplicaWhat::Add(args) => add(args, context),
        ReplicaWhat::List => list(context),
        ReplicaWhat::Remove(args) => remove(args, context),
    }
}

fn add(args: &ReplicaAddArgs, context: &Context) -> Result<Exit, CommandError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if args.name.is_empty() || !args.name.chars().all(plain) {
        let what = format!("{:?} cannot be the name of a replica", args.name);
        return Err(CommandError::new(&usage::ARGUMENT, what).hint("letters, digits, - _ ."));
    }
    let repository = open_without_options(context)?;
    let mut place = context.other_place(&args.place)?;
    let store = vacant_or_copy(context, &repository, &mut place)?;
    if store.location() == repository.store.location() {
        let what = format!("{} is the repository itself", store.location());
        return Err(CommandError::new(&replica::SAME, what));
    }
    let url = place.to_string();
    let mut known = replicas::read(repository.state.path())?;
    let before = known.get(&args.name).map(|known| known.url.clone());
    if before.as_ref().is_some_and(|before| *before != url) {
        let what = format!("there is a replica {:?} at another place already", args.name);
        return Err(CommandError::new(&usage::ARGUMENT, what)
            .hint(format!("holdfast replica remove {}", args.name)));
    }
    let copied = known.get(&args.name).and_then(|known| known.copied.clone());
    known.insert(args.name.clone(), Known { url: url.clone(), copied });
    replicas::write(repository.state.path(), &known)?;
    known_addresses::remember(&context.state_dir()?, &place, &*store)?;
    let output = &context.output;
    output.line(&format!("replica {:?} is at {url}", args.name));
    output.note(&format!("Copy to it: holdfast copy --to {}", args.name));
    output.summary(Exit::Done, &json!({ "name": args.name, "url": url }));
    Ok(Exit::Done)
}

/// Opens the place, making the folder where it is one, and looks that it is empty or a copy.
fn vacant_or_copy(
    context: &Context,
    repository: &Repository,
    place: &mut Place,
) -> Result<std::sync::Arc<dyn Store>, CommandError> {
    if let Place::Folder(path) = place {
        if !path.exists() {
            LocalStore::create(&*path, 0)?;
        }
        *path = std::fs::canonicalize(&*path).map_err(|source| StoreError::Io {
            action: "open",
            path: path.clone(),
            source,
        })?;
    }
    let store = open_store(place, &context.global.s3)?;
    let format = match store.get("FORMAT", 4096) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(StoreError::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let own = format!("holdfast 1 {}", repository.id);
    match format {
        Some(text) if text.trim_end() != own => {
            let what = format!("{place} holds another repository");
            Err(CommandError::new(&replica::OTHER, what))
        }
        _ => Ok(store),
    }
}

fn list(context: &Context) -> Result<Exit, CommandError> {
    let folder = replicas::folder(context)?;
    let mut table =
        Table::new(&[("NAME", Align::Left), ("COPIED", Align::Left), ("PLACE", Align::Left)]);
    let known = replicas::read(&folder)?;
    for (name, one) in &known {
        let copied = one.copied.clone().unwrap_or_else(|| "never".to_owned());
        table.row([name.as_str(), &copied, &one.url]);
        context.output.item(&json!({ "name": name, "url": one.url, "copied": one.copied }));
    }
    context.output.table(&table);
    context.output.summary(Exit::Done, &json!({ "replicas": known.len() }));
    Ok(Exit::Done)
}

fn remove(args: &ReplicaRemoveArgs, context: &Context) -> Result<Exit, CommandError> {
    let folder = replicas::folder(context)?;
    let mut known = replicas::read(&folder)?;
    let Some(gone) = known.remove(&args.name) else {
        let what = format!("no replica is called {:?}", args.name);
        return Err(CommandError::new(&replica::UNKNOWN, what).hint("holdfast replica list"));
    };
    replicas::write(&folder, &known)?;
    context
        .output
        .line(&format!("replica {:?} is forgotten; {} stays as it is", args.name, gone.url));
    context.output.summary(Exit::Done, &json!({ "name": args.name, "url": gone.url }));
    Ok(Exit::Done)
}
