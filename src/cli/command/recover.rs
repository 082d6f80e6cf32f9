//! `holdfast recover`: brings a forgotten snapshot back.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::repository;
use crate::cli::maintaining::{Keyring, as_reserve, candidates, failed, reserve, short};
use crate::cli::selector::SelectorError;
use crate::clock::SystemClock;
use crate::maintenance::forget::label_snapshots;
use crate::maintenance::recover::{check_whole, recall};
use crate::maintenance::tombs::Maintainer;
use crate::repo::history::History;

/// Arguments of `recover`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "`holdfast snapshots --forgotten` shows what can be brought back.")]
pub struct RecoverArgs {
    /// The forgotten snapshots, by id
    #[arg(value_name = "SNAPSHOT", required = true)]
    pub snapshots: Vec<String>,
    /// Say what would be done, and do nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Brings the snapshots back, or says why one cannot be.
pub fn run(args: &RecoverArgs, context: &Context) -> Result<Exit, CommandError> {
    let (keyring, keys) = Keyring::open_for_maintainer(context)?;
    let repository = &keyring.repository;
    let mut history = History::read(repository)?;
    history.require_sound()?;
    let reserve = reserve(context)?;
    let clock = &SystemClock;
    let maintainer = Maintainer { repository, keys: &keys, clock, reserve: as_reserve(&reserve) };
    let identities = [keys.identity.to_identity()];
    let forgotten =
        label_snapshots(repository, &history, &identities, |record| record.forgotten.is_some());
    let ids: Vec<String> = forgotten.iter().map(|one| one.record.name.id.to_string()).collect();
    let candidates = candidates(&forgotten, &ids);
    let mut chosen = Vec::new();
    for text in &args.snapshots {
        let selector = context.selector(text)?;
        let index = selector.resolve(&candidates).map_err(|error| match error {
            SelectorError::NotFound { name, candidates } => {
                let what = format!("no forgotten snapshot is {name}; {candidates} are forgotten");
                CommandError::new(&repository::SNAPSHOT_MISSING, what)
                    .hint("holdfast snapshots --forgotten")
            }
            other => other.into(),
        })?;
        chosen.push(&forgotten[index].record);
    }
    for record in &chosen {
        check_whole(repository, &history, &identities, record).map_err(failed)?;
    }
    for record in &chosen {
        if !args.dry_run {
            recall(&maintainer, &history, &identities, record).map_err(failed)?;
        }
        let id = record.name.id;
        let done = if args.dry_run { "can be brought back" } else { "is listed again" };
        context.output.line(&format!("snapshot {} {done}", short(&id)));
        context.output.item(&json!({ "id": id.to_string(), "recovered": !args.dry_run }));
    }
    context.output.summary(Exit::Done, &json!({ "snapshots": chosen.len() }));
    Ok(Exit::Done)
}
