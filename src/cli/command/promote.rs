//! `holdfast promote`: makes a replica the primary.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::Args;
use serde_json::json;

use crate::cli::command::copy::failed;
use crate::cli::context::{Context, Location};
use crate::cli::error::{CommandError, Exit};
use crate::cli::open_repository::{open_at, unlock};
use crate::cli::reading::commits_behind;
use crate::cli::replicas;
use crate::id::RepositoryId;
use crate::replica::promote::promote;
use crate::repo::history::History;
use crate::repo::state::StateDir;

const AFTER_HELP: &str = "\
Examples:
  holdfast promote s3://acme-west/main     the primary is lost; nothing but the replica is needed
  holdfast promote west                    by its name, while the primary can still be opened

Afterwards use the replica as the repository on every host (-r, or the configuration). What the lost
primary's writers commit there from now on counts nowhere.";

/// Arguments of `promote`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PromoteArgs {
    /// The replica: a path or an address, or its name
    #[arg(value_name = "REPLICA")]
    pub replica: String,
}

/// Promotes.
pub fn run(args: &PromoteArgs, context: &Context) -> Result<Exit, CommandError> {
    let location = if args.replica.contains('/') {
        context.location_named(&args.replica)?
    } else {
        let named = replicas::find(context, &replicas::folder(context)?, &args.replica)?;
        context.location_named(&named.place.to_string())?
    };
    let mut repository = open_at(context, &location.place, &location.s3, None)?;
    let unlocked = unlock(context, &repository)?;
    let done = promote(&mut repository, &unlocked).map_err(failed)?;
    // It has happened from here on, whatever fails.
    let output = &context.output;
    let place = repository.store.location();
    output.line(&format!("{place} is the primary now, of generation {}", done.generation));
    for (actor, seq) in &done.fences {
        output.note(&format!("  log {actor}: commits up to {seq} count"));
    }
    output.note(&format!("On every host: -r '{place}' from now on."));
    match follow(context, &location, repository.id) {
        Ok(0) => {}
        Ok(behind) => output.warning(&format!(
            "this host has seen {behind} commits that were not copied here: they do not count; a \
             copy onto the old primary keeps them below aside/ there"
        )),
        Err(error) => {
            output.warning(&format!("this host has not seen it yet: {}", error.what()));
            output.note("  do not use the old primary; any command with the new one cures it");
        }
    }
    let fences: Vec<_> =
        done.fences.iter().map(|(id, seq)| json!({ "log": id.to_string(), "last": seq })).collect();
    output.summary(
        Exit::Done,
        &json!({
            "place": place, "generation": done.generation, "fences": fences,
            "last_tombstone": done.fence_tomb,
        }),
    );
    Ok(Exit::Done)
}

/// Measures every place by the new generation from now on: the old primary is older. How many commits
/// this host has seen that do not count.
fn follow(
    context: &Context,
    location: &Location,
    repository: RepositoryId,
) -> Result<u64, CommandError> {
    let seen = StateDir::open(&context.state_dir()?, repository)?.witness()?;
    let promoted = open_at(context, &location.place, &location.s3, Some(repository))?;
    Ok(commits_behind(&History::read(&promoted)?, &seen.logs))
}
