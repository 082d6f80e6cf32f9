//! `holdfast copy`: brings a replica up to date.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use jiff::{Span, Timestamp};
use serde_json::json;

use crate::cli::command::reencrypt;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::{replica, repository, usage};
use crate::cli::open_repository::open;
use crate::cli::place::Place;
use crate::cli::replicas;
use crate::cli::time::fixed_span;
use crate::clock::{Clock, SystemClock};
use crate::maintenance::finding::Finding;
use crate::progress::Progress;
use crate::replica::copy::{CopyOptions, CopyReport, copy};
use crate::replica::error::ReplicaError;
use crate::store::Store;
use crate::store::local::LocalStore;
use crate::store::memory::MemoryStore;
use crate::units::{format_duration, parse_span};

const AFTER_HELP: &str = "\
Examples:
  holdfast copy --to west                 what is missing there, and no key is needed
  holdfast copy --to west --delete-after 90d
  holdfast copy --reencrypt --to s3://partner/ours

Nothing is deleted in the replica unless --delete-after is given: then what a prune has deleted here
goes there so much later.";

/// Arguments of `copy`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct CopyArgs {
    /// The replica: a name (see `holdfast replica`), a path or an address
    #[arg(long, value_name = "REPLICA")]
    pub to: String,
    /// Delete there what was deleted here, so long after it was
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub delete_after: Option<Span>,
    /// Seal the snapshots to other recipients: the target is a repository of its own, which this
    /// host may write to; needs the passphrase or identity
    #[arg(long, conflicts_with = "delete_after")]
    pub reencrypt: bool,
    /// Say what would be done, and do nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Copies.
pub fn run(args: &CopyArgs, context: &Context) -> Result<Exit, CommandError> {
    if args.reencrypt {
        return reencrypt::run(&args.to, args.dry_run, context);
    }
    let repository = open(context)?;
    let named = replicas::find(context, repository.state.path(), &args.to)?;
    let store: Arc<dyn Store> = match &named.place {
        // Nothing is there, and nothing is made only to look.
        Place::Folder(path) if !path.exists() && args.dry_run => {
            Arc::new(MemoryStore::at(&path.display().to_string(), Arc::new(SystemClock)))
        }
        Place::Folder(path) if !path.exists() => {
            LocalStore::create(path, 0)?;
            named.store()?
        }
        _ => named.store()?,
    };
    let options = CopyOptions {
        dry_run: args.dry_run,
        delete_after: args.delete_after.map(fixed_span).transpose()?,
    };
    let progress = Arc::new(Progress::default());
    let started = Instant::now();
    let watch = context.watch(&progress);
    let report = copy(&repository, &*store, options, SystemClock.now(), &progress);
    watch.finish();
    let report = report.map_err(failed)?;
    if !args.dry_run
        && report.findings.is_empty()
        && let Err(error) = note_time(repository.state.path(), &named.name)
    {
        let what = format!("when it was copied is not remembered: {}", error.what());
        context.output.warning(&what);
    }
    print(context, args, &report, &named.name, started);
    let requests = (repository.store.requests(), store.requests());
    let exit = if report.findings.is_empty() { Exit::Done } else { Exit::Findings };
    context.output.summary(
        exit,
        &json!({
            "replica": named.name, "place": store.location(), "dry_run": args.dry_run,
            "objects": report.copied.objects, "bytes": report.copied.bytes,
            "present": report.present.objects, "commits": report.commits,
            "snapshots": report.snapshots, "young_tombstones": report.young_tombs,
            "deleted": report.deleted.objects, "deleted_bytes": report.deleted.bytes,
            "set_aside": report.set_aside, "extra_keys": report.extra_keys,
            "findings": report.findings.len(), "seconds": started.elapsed().as_secs_f64(),
            "requests_source": requests.0, "requests_replica": requests.1,
        }),
    );
    if exit == Exit::Done {
        return Ok(exit);
    }
    let what = format!("{} objects are damaged or missing", report.findings.len());
    Err(CommandError::new(&replica::DAMAGED, what))
}

fn note_time(folder: &Path, name: &str) -> Result<(), CommandError> {
    let mut known = replicas::read(folder)?;
    let Some(one) = known.get_mut(name) else { return Ok(()) };
    one.copied = Some(Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    replicas::write(folder, &known)
}

fn print(context: &Context, args: &CopyArgs, report: &CopyReport, name: &str, started: Instant) {
    let output = &context.output;
    for finding in &report.findings {
        print_finding(context, finding);
    }
    for name in &report.set_aside {
        output.warning(&format!(
            "{name} was written by the old primary alone: it is kept below aside/ there"
        ));
    }
    for name in &report.extra_keys {
        output.warning(&format!(
            "{name} was removed here and still opens the replica; delete it there"
        ));
    }
    let verb = if args.dry_run { "Would copy" } else { "Copied" };
    output.note(&format!(
        "{verb} {} objects ({}), {} commits with {} snapshots to {name} in {}; {} objects were there",
        report.copied.objects,
        output.size(report.copied.bytes),
        report.commits,
        report.snapshots,
        format_duration(started.elapsed()),
        report.present.objects,
    ));
    if report.young_tombs > 0 {
        output.note(&format!(
            "{} tombstones wait for the grace time: what was just forgotten is still listed there",
            report.young_tombs
        ));
    }
    if report.deleted.objects > 0 {
        let size = output.size(report.deleted.bytes);
        output.note(&format!("Deleted there: {} objects ({size})", report.deleted.objects));
    }
}

/// Prints one finding of a copy or a repair.
pub fn print_finding(context: &Context, finding: &Finding) {
    context.output.line(&format!("{}: {}", finding.object, finding.what));
    context.output.item(&json!({
        "object": finding.object, "problem": finding.problem, "what": finding.what,
        "advice": finding.problem.advice(),
    }));
}

/// The error of a command, by the kind of what failed.
#[must_use]
pub fn failed(error: ReplicaError) -> CommandError {
    let kind = match &error {
        ReplicaError::Repo(_) => {
            let ReplicaError::Repo(error) = error else { unreachable!("it was matched above") };
            return error.into();
        }
        ReplicaError::Store { .. } => &crate::cli::explain::store::IO,
        ReplicaError::OtherRepository { .. } | ReplicaError::Occupied { .. } => &replica::OTHER,
        ReplicaError::Ahead { .. } | ReplicaError::Diverged { .. } => &replica::AHEAD,
        ReplicaError::Promoted { .. } | ReplicaError::OtherGeneration { .. } => &replica::PROMOTED,
        ReplicaError::PrunedMeanwhile { .. } => &repository::BUSY,
        ReplicaError::NotReplica { .. } | ReplicaError::IsPrimary { .. } => &replica::NOT_REPLICA,
        ReplicaError::SamePlace { .. } => &replica::SAME,
        ReplicaError::Cancelled => &usage::INTERRUPTED,
    };
    CommandError::classify(&error, kind)
}
