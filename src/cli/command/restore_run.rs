//! What `holdfast restore` and `holdfast cat` do.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use crate::cli::command::backup_run::report_requests;
use crate::cli::command::cat::CatArgs;
use crate::cli::command::restore::{Overwrite as OverwriteChoice, RestoreArgs};
use crate::cli::command::restore_dump;
use crate::cli::command::restore_into;
use crate::cli::command::restore_journal;
use crate::cli::command::restore_postgres;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::{self, postgres, repository, source, usage};
use crate::cli::reading::Reading;
use crate::cli::redis_archive::facts_of as redis_facts_of;
use crate::cli::selector::Which;
use crate::cli::wal_archive::facts_of;
use crate::format::postgres::facts::PostgresFacts;
use crate::format::redis::server_facts::RedisFacts;
use crate::format::snapshot::Snapshot;
use crate::maintenance::forget::label_snapshots;
use crate::progress::Progress;
use crate::repo::history::SnapshotRecord;
use crate::restore::cat::cat;
use crate::restore::error::RestoreError;
use crate::restore::execute::{Overwrite, RestoreOptions, RestoreReport, restore};
use crate::restore::filter::Filters;
use crate::restore::tar::write_tar;
use crate::restore::target::Target;
use crate::restore::target_options::Options;
use crate::restore::verify::verify;
use crate::store::requests::RequestCounts;
use crate::units::format_duration;

/// Restores into a folder, or writes a tar archive.
pub fn run(args: &RestoreArgs, context: &Context) -> Result<Exit, CommandError> {
    if let Some(connection) = &args.into.into {
        return restore_into::run(args, connection, context);
    }
    let selector = context.selector(&args.snapshot)?;
    let (reading, copies) = if args.from_any {
        Reading::open_any(context).map(|(reading, copies)| (reading, Some(copies)))?
    } else {
        (Reading::open(context)?, None)
    };
    let (record, snapshot) = reading.select(context, &selector)?;
    let id = record.name.id.to_string();
    if selector.path.is_none() && args.tar.is_none() && is_base(&snapshot)? {
        let only = selector.names_one().then_some(&*id);
        return restore_postgres::run(&reading, &snapshot.source, only, args, context);
    }
    let is_redis = matches!(redis_facts_of(&snapshot)?, Some(RedisFacts::Redis(_)));
    if selector.path.is_none() && args.tar.is_none() && is_redis && args.postgres.point.is_given() {
        return restore_journal::run(&reading, &snapshot.source, args, context);
    }
    if args.postgres.point.is_given() {
        let what = format!("snapshot {} has no log that leads to other moments", &id[..8]);
        return Err(CommandError::new(&postgres::NO_BACKUP, what));
    }
    let path = selector.path.clone().unwrap_or_default().into_bytes();
    let filters = filters(args)?;
    let progress = Arc::new(Progress::default());
    let started = Instant::now();
    let watch = context.watch(&progress);
    let result = match (&args.tar, &args.target) {
        (Some(tar), _) => to_tar(&reading, &snapshot, &path, &filters, tar, context, &progress),
        (None, Some(target)) if restore_dump::is_file(&snapshot, &path, target) => {
            restore_dump::to_file(&reading, &snapshot, target, args, &progress)
        }
        (None, Some(target)) => {
            to_folder(&reading, &snapshot, &path, filters, target, args, &progress)
        }
        (None, None) => unreachable!("the parser asks for one of the two"),
    };
    watch.finish();
    let (report, verified) = result?;
    let served = copies.map(|copies| copies.served()).unwrap_or_default();
    for (name, answers) in served.iter().filter(|(_, answers)| *answers > 0) {
        context.output.status(&format!("served by {name}: {answers} reads"));
    }
    if selector.which == Which::Latest && !context.output.options().quiet {
        name_other_sources(&reading, &snapshot.source, context);
    }
    let requests = reading.repository.store.requests();
    if args.tar.as_deref() != Some(Path::new("-")) {
        report_requests(requests, &context.output);
    }
    report_result(args, context, &id, &report, verified, (started, requests))
}

fn is_base(snapshot: &Snapshot) -> Result<bool, CommandError> {
    Ok(matches!(facts_of(snapshot)?, Some(PostgresFacts::Base(_))))
}

/// `latest` is of one source: whoever has lost everything must hear of the others.
fn name_other_sources(reading: &Reading, restored: &str, context: &Context) {
    let identities = reading.unlocked.read_identities();
    let is_live = SnapshotRecord::is_live;
    let labelled = label_snapshots(&reading.repository, &reading.history, &identities, is_live);
    let sources: BTreeSet<String> =
        labelled.into_iter().filter_map(|one| one.label).map(|label| label.source).collect();
    for source in sources.iter().filter(|source| *source != restored) {
        context
            .output
            .status(&format!("restored: source {restored}; there is also source:{source}"));
    }
}

fn filters(args: &RestoreArgs) -> Result<Filters, CommandError> {
    Filters::new(&args.include, &args.exclude).map_err(|error| {
        CommandError::new(&source::PATTERN, error.to_string()).because(&error.source)
    })
}

fn to_folder(
    reading: &Reading,
    snapshot: &Snapshot,
    path: &[u8],
    filters: Filters,
    target: &Path,
    args: &RestoreArgs,
    progress: &Progress,
) -> Result<(RestoreReport, Option<u64>), CommandError> {
    let options = Options {
        create: !args.dry_run,
        overwrite: args.overwrite != OverwriteChoice::Never,
        devices: args.devices,
        special_bits: args.special_bits,
        numeric_ids: args.numeric_ids,
        ..Options::default()
    };
    let opened = match Target::open(target, options) {
        Err(_) if args.dry_run && !target.exists() => {
            let empty = std::env::temp_dir();
            Target::open(&empty, Options { create: false, ..Options::default() })
        }
        other => other,
    };
    let opened =
        opened.map_err(|error| CommandError::classify(&error, &explain::restore::TARGET))?;
    let how = RestoreOptions {
        overwrite: match args.overwrite {
            OverwriteChoice::Always => Overwrite::Always,
            OverwriteChoice::IfChanged => Overwrite::IfChanged,
            OverwriteChoice::Never => Overwrite::Never,
        },
        delete: args.delete,
        dry_run: args.dry_run,
        filters,
        threads: 0,
    };
    let report =
        restore(&reading.access, snapshot, path, &opened, &how, progress).map_err(failed)?;
    if !args.verify || args.dry_run {
        return Ok((report, None));
    }
    let verified = verify(&reading.access, snapshot, path, &opened, &how.filters, 0, progress);
    Ok((report, Some(verified.map_err(failed)?.bad)))
}

fn to_tar(
    reading: &Reading,
    snapshot: &Snapshot,
    path: &[u8],
    filters: &Filters,
    tar: &Path,
    context: &Context,
    progress: &Progress,
) -> Result<(RestoreReport, Option<u64>), CommandError> {
    let access = &reading.access;
    let report = if tar == Path::new("-") {
        let mut out = context.output.stream();
        write_tar(access, snapshot, path, filters, &mut out, 0, progress).map_err(failed)?
    } else {
        let unwritable = |error: std::io::Error| {
            let what = format!("cannot write {}", tar.display());
            CommandError::new(&explain::restore::TARGET, what).because(&error)
        };
        let mut file = std::io::BufWriter::new(File::create(tar).map_err(unwritable)?);
        let report =
            write_tar(access, snapshot, path, filters, &mut file, 0, progress).map_err(failed)?;
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(unwritable)?;
        report
    };
    Ok((report, None))
}

/// The error of a restore, by the kind of what failed.
#[allow(clippy::needless_pass_by_value, reason = "it is given to `map_err`")]
#[must_use]
pub fn failed(error: RestoreError) -> CommandError {
    match &error {
        RestoreError::NotFound { .. } => {
            CommandError::new(&repository::PATH_MISSING, error.to_string())
        }
        RestoreError::Output(_) => CommandError::classify(&error, &usage::OUTPUT),
        _ => CommandError::classify(&error, &explain::restore::DAMAGED),
    }
}

#[allow(clippy::unnecessary_wraps, reason = "it is the way for the command to end")]
fn report_result(
    args: &RestoreArgs,
    context: &Context,
    id: &str,
    report: &RestoreReport,
    mismatches: Option<u64>,
    (started, requests): (Instant, Option<RequestCounts>),
) -> Result<Exit, CommandError> {
    let bad = mismatches.unwrap_or(0);
    let exit = match (bad, report.damaged, report.errors) {
        (0, 0, 0) => Exit::Done,
        (0, 0, _) => Exit::Partial,
        _ => Exit::Findings,
    };
    let output = &context.output;
    if args.tar.as_deref() != Some(Path::new("-")) {
        let verb = if args.dry_run { "Would restore" } else { "Restored" };
        output.note(&format!(
            "{verb} {} files ({}), {} folders, {} other entries from snapshot {} in {}",
            report.files,
            output.size(report.bytes),
            report.directories,
            report.others,
            &id[..8],
            format_duration(started.elapsed()),
        ));
        if report.unchanged + report.removed > 0 {
            output.note(&format!(
                "{} files were there already, {} entries removed",
                report.unchanged, report.removed
            ));
        }
        if let Some(bad) = mismatches {
            output.note(&format!("Verified: {bad} files differ"));
        }
    }
    let troubles = [
        (report.errors, "entries could not be restored as they were", &explain::restore::PARTIAL),
        (report.damaged, "files have lost content", &explain::restore::DAMAGED),
        (bad, "files are not what was written", &explain::restore::DIFFERS),
    ];
    for (count, what, kind) in troubles.iter().filter(|(count, ..)| *count > 0) {
        output.warning(&format!("{count} {what}: they are named above ({})", kind.id));
    }
    output.summary(
        exit,
        &json!({
            "snapshot": id, "files": report.files, "unchanged": report.unchanged,
            "directories": report.directories, "others": report.others, "bytes": report.bytes,
            "removed": report.removed, "damaged": report.damaged, "errors": report.errors,
            "healed_chunks": report.healed_chunks, "mismatches": mismatches,
            "dry_run": args.dry_run, "seconds": started.elapsed().as_secs_f64(),
            "requests": requests,
        }),
    );
    Ok(exit)
}

/// Writes one file or stream to standard output.
pub fn run_cat(args: &CatArgs, context: &Context) -> Result<Exit, CommandError> {
    let selector = context.selector(&args.file)?;
    let Some(path) = &selector.path else {
        return Err(CommandError::new(&usage::SELECTOR, "cat needs a path after the snapshot")
            .hint("holdfast cat latest:shop.sql"));
    };
    let reading = Reading::open(context)?;
    let (_, snapshot) = reading.select(context, &selector)?;
    let progress = Progress::default();
    let mut out = context.output.stream();
    cat(&reading.access, &snapshot, path.as_bytes(), &mut out, 0, &progress).map_err(failed)?;
    Ok(Exit::Done)
}
