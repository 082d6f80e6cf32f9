//! `holdfast diff`: what changed between two snapshots.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::ops::ControlFlow;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::entry::node_json;
use crate::cli::error::{CommandError, Exit};
use crate::cli::escape::escape;
use crate::cli::explain::{repository, restore, usage};
use crate::cli::maintaining::short;
use crate::cli::output::json_bytes;
use crate::cli::reading::{FoundSnapshot, Reading, ending};
use crate::cli::selector::Selector;
use crate::format::node::Node;
use crate::progress::Progress;
use crate::repo::snapshot_path::{find_path, normal_path};
use crate::repo::tree_reader::TreeReadError;
use crate::view::diff::{Change, DiffTotals, Difference, diff};

const AFTER_HELP: &str = "\
Example:
  holdfast diff latest~1 latest

A path limits it to what is there; it may stand with one of the two or with both.

Signs: + added, - removed, M content changed, U attributes changed, T another type.";

/// Arguments of `diff`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DiffArgs {
    /// The older one
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub from: String,
    /// The newer one
    #[arg(value_name = "SNAPSHOT[:PATH]", default_value = "latest")]
    pub to: String,
    /// Show changes of attributes too
    #[arg(long)]
    pub metadata: bool,
}

/// Compares two snapshots, or one path in both.
pub fn run(args: &DiffArgs, context: &Context) -> Result<Exit, CommandError> {
    let (from, to) = (context.selector(&args.from)?, context.selector(&args.to)?);
    let path = common_path(&from, &to)?;
    let reading = Reading::open(context)?;
    let (old, new) = (reading.select(context, &from)?, reading.select(context, &to)?);
    require_path(&reading, [&old, &new], &path)?;
    let [old_id, new_id] = [&old, &new].map(|(record, _)| record.name.id.to_string());
    let output = &context.output;
    output.note(&format!("comparing snapshot {} to {}:", short(&old_id), short(&new_id)));
    let mut visit = |difference: &Difference<'_>| {
        if args.metadata || difference.change != Change::Metadata {
            print(context, difference);
        }
        if output.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let progress = Progress::default();
    let totals = diff(&reading.access, &old.1, &new.1, &path, &mut visit, &progress);
    let totals = totals.map_err(|error| damaged(&error))?;
    let exit = ending(context, &progress, totals.lost_parts);
    print_totals(context, exit, &totals, [&old_id, &new_id]);
    Ok(exit)
}

fn damaged(error: &TreeReadError) -> CommandError {
    CommandError::classify(error, &restore::DAMAGED)
}

/// The path that both selectors mean; one without a path takes over the other's.
fn common_path(from: &Selector, to: &Selector) -> Result<Vec<u8>, CommandError> {
    let normal = |selector: &Selector| selector.path.as_ref().map(|p| normal_path(p.as_bytes()));
    match (normal(from), normal(to)) {
        (Some(from), Some(to)) if from != to => {
            let what = "the same path is compared in both snapshots; two different ones are not";
            Err(CommandError::new(&usage::SELECTOR, what)
                .hint("holdfast diff latest~1:/etc latest:/etc"))
        }
        (from, to) => Ok(from.or(to).unwrap_or_default()),
    }
}

/// A path that neither has is a typing error, not two snapshots without a difference.
fn require_path(
    reading: &Reading,
    snapshots: [&FoundSnapshot<'_>; 2],
    path: &[u8],
) -> Result<(), CommandError> {
    for (_, snapshot) in snapshots {
        let found = find_path(&reading.access, snapshot, path).map_err(|error| damaged(&error))?;
        if path.is_empty() || !found.is_empty() {
            return Ok(());
        }
    }
    let what = format!("neither snapshot has anything at {}", escape(path));
    Err(CommandError::new(&repository::PATH_MISSING, what))
}

const fn sign(change: Change) -> (&'static str, &'static str) {
    match change {
        Change::Added => ("+", "added"),
        Change::Removed => ("-", "removed"),
        Change::Content => ("M", "content"),
        Change::Metadata => ("U", "metadata"),
        Change::Kind => ("T", "kind"),
    }
}

fn print(context: &Context, difference: &Difference<'_>) {
    let (sign, change) = sign(difference.change);
    let is_dir = difference.new.or(difference.old).is_some_and(Node::is_dir);
    let slash = if is_dir && difference.path != b"/" { "/" } else { "" };
    context.output.line(&format!("{sign:<4} {}{slash}", escape(difference.path)));
    let (key, path) = json_bytes("path", difference.path);
    let node = |node: Option<&Node>| node.map(|node| Value::Object(node_json(node)));
    context.output.item(&json!({
        key: path, "change": change,
        "old": node(difference.old), "new": node(difference.new),
    }));
}

fn print_totals(context: &Context, exit: Exit, totals: &DiffTotals, ids: [&str; 2]) {
    let output = &context.output;
    output.line(&format!(
        "Entries: {} added, {} removed, {} changed, {} with other attributes only",
        totals.added, totals.removed, totals.modified, totals.metadata
    ));
    output.line(&format!(
        "Content: {} added, {} removed",
        output.size(totals.added_bytes),
        output.size(totals.removed_bytes)
    ));
    output.summary(
        exit,
        &json!({
            "from": ids[0], "to": ids[1],
            "added": totals.added, "removed": totals.removed, "changed": totals.modified,
            "metadata": totals.metadata, "added_bytes": totals.added_bytes,
            "removed_bytes": totals.removed_bytes, "lost_parts": totals.lost_parts,
        }),
    );
}
