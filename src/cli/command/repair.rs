//! `holdfast repair`: rebuilds what can be rebuilt.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::command::copy::print_finding;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::{check as explain_check, replica};
use crate::cli::healing::{fetch, fetch_texts, open_copies};
use crate::cli::maintaining::{Keyring, as_reserve, failed, reserve};
use crate::cli::open_repository::open_at;
use crate::cli::place::open_store;
use crate::clock::SystemClock;
use crate::maintenance::check::{CheckKeys, CheckOptions, check};
use crate::maintenance::finding::Finding;
use crate::maintenance::repair::{RepairKeys, drop_local_index, repair_segments, unindexed_packs};
use crate::maintenance::tombs::Maintainer;
use crate::progress::Progress;
use crate::repo::history::History;
use crate::repo::open::Repository;
use crate::repo::state::StateDir;
use crate::units::Part;

/// Arguments of `repair`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
pub struct RepairArgs {
    /// Fetch what is damaged or missing from this replica (repeatable: asked in this order)
    #[arg(long, value_name = "REPLICA", required = true)]
    pub from: Vec<String>,
    /// Read the stored data too, to find what is damaged
    #[arg(long)]
    pub read_data: bool,
    #[command(subcommand)]
    #[allow(missing_docs, reason = "a doc comment here would replace the subcommand's help")]
    pub what: Option<RepairWhat>,
}

const AFTER_HELP: &str = "\
Examples:
  holdfast repair --from west                 fetch what is missing or cut off
  holdfast repair --from west --read-data     read everything first, and fetch what is damaged
  holdfast repair index                       describe packs anew that no index describes

No key is needed to fetch. Damaged bytes are kept below aside/ in the repository.";

/// Rounds of checking and fetching: a commit that came back names objects that were not looked for.
const ROUNDS_MAX: usize = 8;

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
        Some(RepairWhat::Index(args)) => repair_index(args, context),
        None => repair_from(args, context),
    }
}

fn repair_from(args: &RepairArgs, context: &Context) -> Result<Exit, CommandError> {
    let location = context.location()?;
    let states = context.state_dir()?;
    let store = open_store(&location.place, &location.s3)?;
    let pinned = StateDir::known_at(&states, &store.location())?;
    let copies = open_copies(context, pinned, &args.from)?;
    let mut healed = fetch_texts(context, &*store, pinned, &copies)?.len();
    let id = copies[0].repository.id;
    let repository = open_at(context, &location.place, &location.s3, Some(id))?;
    // What only reading the data shows, and no copy helps with: later rounds do not look at it.
    let mut damaged: Vec<Finding> = Vec::new();
    let mut read_data = args.read_data.then_some(Part::WHOLE);
    let mut rounds = 0;
    let mut left = loop {
        let is_reading = read_data.is_some();
        let findings = find_damage(context, &repository, read_data.take())?;
        rounds += 1;
        if findings.is_empty() || rounds > ROUNDS_MAX {
            break findings;
        }
        let history = History::read(&repository)?;
        let report = fetch(context, &repository, &history, findings, &copies)?;
        healed += report.healed.len();
        damaged.retain(|one| report.healed.iter().all(|healed| healed.object != one.object));
        if is_reading {
            damaged.clone_from(&report.left);
        }
        if report.healed.is_empty() {
            break report.left;
        }
    };
    damaged.retain(|one| left.iter().all(|known| known.object != one.object));
    left.append(&mut damaged);
    for finding in &left {
        print_finding(context, finding);
    }
    let output = &context.output;
    output.note(&format!("{healed} objects were fetched, {} cannot be healed", left.len()));
    let exit = if left.is_empty() { Exit::Done } else { Exit::Findings };
    output.summary(exit, &json!({ "healed": healed, "left": left.len() }));
    if exit == Exit::Done {
        return Ok(exit);
    }
    let what = format!("{} objects are whole in no copy that was asked", left.len());
    Err(CommandError::new(&replica::NOT_HEALED, what))
}

fn find_damage(
    context: &Context,
    repository: &Repository,
    read_data: Option<Part>,
) -> Result<Vec<Finding>, CommandError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let options = CheckOptions { read_data, threads };
    let progress = Arc::new(Progress::default());
    let watch = context.watch(&progress);
    let report = check(repository, &SystemClock, CheckKeys::default(), options, &progress);
    watch.finish();
    Ok(report.map_err(failed)?.findings)
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
    Err(CommandError::new(&explain_check::DAMAGE, what).hint("holdfast check --read-data"))
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
