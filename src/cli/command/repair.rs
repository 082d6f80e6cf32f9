//! `holdfast repair`: rebuilds what can be rebuilt.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::check;
use crate::cli::maintaining::{Keyring, as_reserve, failed, reserve};
use crate::clock::SystemClock;
use crate::maintenance::repair::{RepairKeys, drop_local_index, repair_segments, unindexed_packs};
use crate::maintenance::tombs::Maintainer;
use crate::progress::Progress;
use crate::repo::history::History;

/// Arguments of `repair`.
#[derive(Debug, Clone, Args)]
pub struct RepairArgs {
    #[command(subcommand)]
    #[allow(missing_docs, reason = "a doc comment here would replace the subcommand's help")]
    pub what: RepairWhat,
}

/// What to repair.
#[derive(Debug, Clone, Subcommand)]
pub enum RepairWhat {
    /// Build the local index anew, and missing index segments from the packs
    Index(RepairIndexArgs),
}

/// Arguments of `repair index`.
#[derive(Debug, Clone, Args)]
pub struct RepairIndexArgs {
    /// Read every pack, not only those that no index segment describes
    #[arg(long)]
    pub read_all: bool,
    /// Say what would be done, and do nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Repairs.
pub fn run(args: &RepairArgs, context: &Context) -> Result<Exit, CommandError> {
    match &args.what {
        RepairWhat::Index(args) => repair_index(args, context),
    }
}

fn repair_index(args: &RepairIndexArgs, context: &Context) -> Result<Exit, CommandError> {
    let (mut keyring, keys) = Keyring::open_for_maintainer(context)?;
    keyring.require_unlocked(context)?;
    let repository = &keyring.repository;
    let domains = keyring.domains();
    let repair = RepairKeys { read: keyring.read_identities().into(), domains: &domains };
    if args.dry_run {
        return dry_run(args, context, &keyring, &repair);
    }
    let dropped = drop_local_index(repository).map_err(failed)?;
    let reserve = reserve(context)?;
    let clock = &SystemClock;
    let maintainer = Maintainer { repository, keys: &keys, clock, reserve: as_reserve(&reserve) };
    let progress = Arc::new(Progress::default());
    let watch = context.watch(&progress);
    let report = repair_segments(&maintainer, &repair, args.read_all, &progress);
    watch.finish();
    let report = report.map_err(failed)?;
    keyring.access(&History::read(repository)?)?;
    for finding in &report.findings {
        context.output.warning(&format!("{}: {}", finding.object, finding.what));
    }
    let (all, done) = (report.unindexed, report.indexed);
    context
        .output
        .line(&format!("{dropped} local indexes built anew; {done} of {all} packs described"));
    let exit = if report.findings.is_empty() { Exit::Done } else { Exit::Findings };
    context.output.summary(
        exit,
        &json!({
            "local_indexes": dropped, "packs": all, "packs_described": done,
            "unreadable": report.findings.len(),
        }),
    );
    if exit == Exit::Done {
        return Ok(exit);
    }
    let what = format!("{} packs cannot be read", report.findings.len());
    Err(CommandError::new(&check::DAMAGE, what).hint("holdfast check --read-data"))
}

fn dry_run(
    args: &RepairIndexArgs,
    context: &Context,
    keyring: &Keyring,
    keys: &RepairKeys<'_>,
) -> Result<Exit, CommandError> {
    let repository = &keyring.repository;
    let history = History::read(repository)?;
    let mut stored = BTreeSet::new();
    repository.store.list("data/", &mut |entry| {
        stored.insert(entry.name);
    })?;
    let packs = unindexed_packs(repository, &history, keys, &stored, args.read_all).len();
    context.output.line(&format!("{packs} packs would be read and described"));
    context.output.summary(Exit::Done, &json!({ "dry_run": true, "packs": packs }));
    Ok(Exit::Done)
}
