//! Healing a repository from its copies: what `repair --from` and `check --repair-from` share.

use std::sync::Arc;

use serde_json::json;

use crate::cli::command::copy::failed;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::open_repository::open_at;
use crate::cli::replicas::{self, Named};
use crate::id::RepositoryId;
use crate::maintenance::finding::Finding;
use crate::progress::Progress;
use crate::replica::heal::texts::heal_texts;
use crate::replica::heal::{Copy, HealReport, Healed, heal};
use crate::repo::history::History;
use crate::repo::open::Repository;
use crate::repo::state::StateDir;
use crate::store::Store;

/// Opens the copies of these names and reads what their logs say. `pinned` is the repository that
/// they must be of, where it is known.
///
/// # Errors
/// A name that is not known, and what keeps a copy from being opened.
pub fn open_copies(
    context: &Context,
    pinned: Option<RepositoryId>,
    names: &[String],
) -> Result<Vec<Copy>, CommandError> {
    let states = context.state_dir()?;
    let folder = match pinned {
        Some(id) => StateDir::open(&states, id)?.path().to_owned(),
        None => states,
    };
    let mut copies = Vec::new();
    for name in names {
        let Named { name, place, s3 } = replicas::find(context, &folder, name)?;
        let repository = open_at(context, &place, &s3, pinned)?;
        let history = History::read(&repository)?;
        copies.push(Copy { name, repository, history });
    }
    Ok(copies)
}

/// Heals texts, so that the repository can be opened, and prints what was fetched.
///
/// # Errors
/// A failure of the store.
pub fn fetch_texts(
    context: &Context,
    store: &dyn Store,
    pinned: Option<RepositoryId>,
    copies: &[Copy],
) -> Result<Vec<Healed>, CommandError> {
    let healed = heal_texts(store, pinned, copies).map_err(failed)?;
    print(context, &healed);
    Ok(healed)
}

/// Heals what the findings name, and prints what was fetched.
///
/// # Errors
/// A failure of the store that is healed.
pub fn fetch(
    context: &Context,
    repository: &Repository,
    history: &History,
    findings: Vec<Finding>,
    copies: &[Copy],
) -> Result<HealReport, CommandError> {
    let progress = Arc::new(Progress::default());
    let watch = context.watch(&progress);
    let report = heal(repository, history, findings, copies, &progress);
    watch.finish();
    let report = report.map_err(failed)?;
    print(context, &report.healed);
    Ok(report)
}

fn print(context: &Context, healed: &[Healed]) {
    for one in healed {
        let aside = if one.kept_aside { "; the damaged bytes are kept below aside/" } else { "" };
        context.output.line(&format!("{}: fetched from {}{aside}", one.object, one.from));
        context.output.item(&json!({
            "object": one.object, "healed_from": one.from, "kept_aside": one.kept_aside,
        }));
    }
}
