//! `holdfast stats`: how much space is used, and by what.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cli::args::FilterArgs;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::{restore, usage};
use crate::cli::maintaining::short;
use crate::cli::reading::{FoundSnapshot, Reading, ending};
use crate::cli::table::{Align, Table};
use crate::progress::Progress;
use crate::view::sizes::{Sizes, sizes};

const AFTER_HELP: &str = "\
To restore: what all of the snapshots would take on a disk. Different: the same, each piece of data
counted once. Stored: what those pieces take in the repository, compressed and encrypted. With --by
data that several lines share is counted in each.";

/// Arguments of `stats`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct StatsArgs {
    /// Only these snapshots
    #[arg(value_name = "SNAPSHOT")]
    pub snapshots: Vec<String>,
    /// One line for each of these
    #[arg(long, value_name = "WHAT")]
    pub by: Option<StatsBy>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub filter: FilterArgs,
}

/// What the lines of `stats` stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatsBy {
    /// Sources
    Source,
    /// Snapshots
    Snapshot,
    /// Writers
    Writer,
}

/// Snapshots that are measured together.
struct Group<'a> {
    name: String,
    snapshots: Vec<&'a FoundSnapshot<'a>>,
}

/// Measures the snapshots.
pub fn run(args: &StatsArgs, context: &Context) -> Result<Exit, CommandError> {
    let reading = Reading::open(context)?;
    let mut snapshots = reading.select_all(context, &args.snapshots)?;
    snapshots.retain(|(_, one)| args.filter.matches(&one.source, &one.host, &one.tags));
    let groups = groups(args.by, &snapshots);
    let progress = Arc::new(Progress::default());
    let watch = context.watch(&progress);
    let mut measured = Vec::new();
    for group in &groups {
        let snapshots = group.snapshots.iter().map(|(_, snapshot)| snapshot);
        measured.push(sizes(&reading.access, snapshots, &progress));
    }
    watch.finish();
    if progress.is_cancelled() {
        return Err(CommandError::new(&usage::INTERRUPTED, "interrupted"));
    }
    let measured: Vec<Sizes> = measured
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|error| CommandError::classify(&error, &restore::DAMAGED))?;
    let lost_parts = measured.iter().map(|sizes| sizes.lost_parts).sum();
    let exit = ending(context, &progress, lost_parts);
    if args.by.is_some() {
        print_table(context, &groups, &measured);
    } else {
        print_total(context, snapshots.len(), &measured[0]);
    }
    let total = args.by.is_none().then(|| sizes_json(&measured[0]));
    context.output.summary(
        exit,
        &json!({ "snapshots": snapshots.len(), "total": total, "lost_parts": lost_parts }),
    );
    Ok(exit)
}

/// The groups in the order of their names; snapshots in the order of their times.
fn groups<'a>(by: Option<StatsBy>, snapshots: &'a [FoundSnapshot<'a>]) -> Vec<Group<'a>> {
    let Some(by) = by else {
        return vec![Group { name: String::new(), snapshots: snapshots.iter().collect() }];
    };
    let mut groups: BTreeMap<(usize, String), Vec<&FoundSnapshot<'_>>> = BTreeMap::new();
    for (number, found) in snapshots.iter().enumerate() {
        let (record, snapshot) = found;
        let key = match by {
            StatsBy::Source => (0, snapshot.source.clone()),
            StatsBy::Writer => (0, record.name.writer.to_string()),
            StatsBy::Snapshot => (number, record.name.id.to_string()),
        };
        groups.entry(key).or_default().push(found);
    }
    groups.into_iter().map(|((_, name), snapshots)| Group { name, snapshots }).collect()
}

fn print_total(context: &Context, snapshots: usize, sizes: &Sizes) {
    let output = &context.output;
    output.line(&format!("Snapshots:   {snapshots}"));
    output.line(&format!(
        "Entries:     {} files, {} folders, {} others",
        sizes.files, sizes.directories, sizes.others
    ));
    output.line(&format!("To restore:  {}", output.size(sizes.restore_bytes)));
    output.line(&format!(
        "Different:   {} in {} chunks",
        output.size(sizes.unique_bytes),
        sizes.unique_chunks
    ));
    output.line(&format!("Stored:      {}", output.size(sizes.stored_bytes)));
}

fn print_table(context: &Context, groups: &[Group<'_>], measured: &[Sizes]) {
    let output = &context.output;
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("SNAPSHOTS", Align::Right),
        ("FILES", Align::Right),
        ("TO RESTORE", Align::Right),
        ("DIFFERENT", Align::Right),
        ("STORED", Align::Right),
    ]);
    for (group, sizes) in groups.iter().zip(measured) {
        let is_id =
            group.snapshots.iter().any(|(record, _)| record.name.id.to_string() == group.name);
        table.row([
            if is_id { short(&group.name) } else { group.name.clone() },
            group.snapshots.len().to_string(),
            sizes.files.to_string(),
            output.size(sizes.restore_bytes),
            output.size(sizes.unique_bytes),
            output.size(sizes.stored_bytes),
        ]);
        output.item(&json!({
            "name": group.name, "snapshots": group.snapshots.len(), "sizes": sizes_json(sizes),
        }));
    }
    if !table.is_empty() {
        output.table(&table);
    }
}

fn sizes_json(sizes: &Sizes) -> Value {
    json!({
        "files": sizes.files, "directories": sizes.directories, "others": sizes.others,
        "restore_bytes": sizes.restore_bytes, "unique_bytes": sizes.unique_bytes,
        "unique_chunks": sizes.unique_chunks, "stored_bytes": sizes.stored_bytes,
    })
}
