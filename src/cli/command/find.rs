//! `holdfast find`: finds files by name in the snapshots.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::ops::ControlFlow;

use clap::Args;
use serde_json::json;

use crate::cli::args::FilterArgs;
use crate::cli::context::Context;
use crate::cli::entry::{entry_json, long_line};
use crate::cli::error::{CommandError, Exit};
use crate::cli::escape::escape;
use crate::cli::explain::{restore, source};
use crate::cli::reading::{FoundSnapshot, Reading, ending, heading};
use crate::format::node::Node;
use crate::progress::Progress;
use crate::restore::filter::Patterns;
use crate::source::files::exclude::LetterCase;
use crate::view::list::{Listing, find};

/// Arguments of `find`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  holdfast find '*.key'\n  holdfast find /etc/hosts --all")]
pub struct FindArgs {
    /// Names, patterns (* ? [a-z]), or whole paths that begin with /
    #[arg(value_name = "PATTERN", required = true)]
    pub patterns: Vec<String>,
    /// Show mode, owner, size and time
    #[arg(short, long)]
    pub long: bool,
    /// Do not tell upper case from lower case
    #[arg(long)]
    pub ignore_case: bool,
    /// Look in this snapshot only (repeatable) [default: the newest of each source]
    #[arg(long, value_name = "SNAPSHOT")]
    pub snapshot: Vec<String>,
    /// Look in all snapshots
    #[arg(long, conflicts_with = "snapshot")]
    pub all: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub filter: FilterArgs,
}

/// Finds entries by their names or paths.
pub fn run(args: &FindArgs, context: &Context) -> Result<Exit, CommandError> {
    let case = if args.ignore_case { LetterCase::Ignored } else { LetterCase::Exact };
    let patterns = Patterns::with_case(&args.patterns, case).map_err(|error| {
        CommandError::new(&source::PATTERN, error.to_string()).because(&error.source)
    })?;
    let reading = Reading::open(context)?;
    let snapshots = choose(args, context, &reading)?;
    let progress = Progress::default();
    let (mut entries, mut lost_parts, mut fitting) = (0, 0, 0_u64);
    for snapshot in &snapshots {
        let listing = find_in(args, context, &reading, &patterns, snapshot, &progress)?;
        entries += listing.entries;
        lost_parts += listing.lost_parts;
        fitting += u64::from(listing.entries > 0);
        if context.output.is_closed() {
            break;
        }
    }
    let exit = ending(context, &progress, lost_parts);
    let searched = snapshots.len();
    context.output.note(&format!("{entries} entries in {fitting} of {searched} snapshots"));
    context.output.summary(
        exit,
        &json!({
            "entries": entries, "snapshots": fitting, "snapshots_searched": searched,
            "lost_parts": lost_parts,
        }),
    );
    Ok(exit)
}

fn choose<'a>(
    args: &FindArgs,
    context: &Context,
    reading: &'a Reading,
) -> Result<Vec<FoundSnapshot<'a>>, CommandError> {
    let mut snapshots = reading.select_all(context, &args.snapshot)?;
    snapshots.retain(|(_, one)| args.filter.matches(&one.source, &one.host, &one.tags));
    if args.snapshot.is_empty() && !args.all {
        let mut seen = std::collections::HashSet::new();
        snapshots.reverse();
        snapshots.retain(|(_, one)| seen.insert((one.writer, one.source.clone())));
        snapshots.reverse();
    }
    Ok(snapshots)
}

fn find_in(
    args: &FindArgs,
    context: &Context,
    reading: &Reading,
    patterns: &Patterns,
    snapshot: &FoundSnapshot<'_>,
    progress: &Progress,
) -> Result<Listing, CommandError> {
    let id = snapshot.0.name.id.to_string();
    let output = &context.output;
    let mut is_first = true;
    let mut visit = |path: &[u8], node: &Node| {
        if std::mem::take(&mut is_first) {
            output.note(&format!("{}:", heading(context, snapshot)));
        }
        if output.options().json {
            output.item(&entry_json(&id, path, node));
        } else if args.long {
            output.line(&long_line(context, path, node));
        } else {
            output.line(&escape(path));
        }
        if output.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    find(&reading.access, &snapshot.1, patterns, &mut visit, progress)
        .map_err(|error| CommandError::classify(&error, &restore::DAMAGED))
}
