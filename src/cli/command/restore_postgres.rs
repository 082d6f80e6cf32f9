//! What `holdfast restore` does with a base backup of PostgreSQL: a data directory that is ready to
//! start, with all of the log that leads to the point that was asked for.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use crate::backup::postgres_wal::wal_source;
use crate::cli::command::restore::RestoreArgs;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::{postgres, restore as explain_restore, usage};
use crate::cli::postgres_bases::{Base, bases_of};
use crate::cli::postgres_recovery::{
    control_bytes, directory_error, plan, recovery_of, root_path, say_what_comes, segment_names,
    settled_point, warn_of_libraries, warn_of_places,
};
use crate::cli::reading::Reading;
use crate::cli::wal_archive::WalArchive;
use crate::format::postgres::facts::BaseFacts;
use crate::progress::Progress;
use crate::restore::execute::{Overwrite, RestoreOptions, RestoreReport, restore};
use crate::restore::filter::Filters;
use crate::restore::postgres::directory::{DataDirectory, DirectoryError};
use crate::restore::postgres::plan::RecoveryPlan;
use crate::restore::postgres::settings::Recovery;
use crate::restore::target::Target;
use crate::restore::target_options::Options;
use crate::units::format_duration;

/// Where tablespaces go: from, to.
type Mapping = HashMap<String, PathBuf>;

/// Restores a data directory. `only` is the base to begin with, where one was named.
pub fn run(
    reading: &Reading,
    source: &str,
    only: Option<&str>,
    args: &RestoreArgs,
    context: &Context,
) -> Result<Exit, CommandError> {
    let started = Instant::now();
    let target = args.target.as_deref().ok_or_else(|| {
        CommandError::new(&usage::ARGUMENT, "a data directory needs --target DIR")
    })?;
    let mut bases = bases_of(reading, context, source, only)?;
    if let Some(only) = only {
        bases.retain(|base| base.found.0.name.id.to_string() == only);
    }
    let system = bases.first().map(|base| &*base.facts.cluster.system);
    let archive = WalArchive::read(reading, context, &wal_source(source), system)?;
    let plan = plan(&bases, &archive, &args.postgres.point, reading, context, source)?;
    let base = &bases[plan.base];
    let mapping = mapping(args, &base.facts)?;
    let directory = DataDirectory::new(target);
    check_target(&directory, &base.facts)?;
    say_what_comes(context, base, &plan);
    if args.dry_run {
        context.output.summary(Exit::Done, &json!({ "dry_run": true }));
        return Ok(Exit::Done);
    }
    directory.set_control_aside().map_err(|error| directory_error(&error))?;
    let report = restore_files(reading, base, target, &mapping, context)?;
    if report.errors > 0 || report.damaged > 0 {
        let what = format!("{} files are damaged, {} failed", report.damaged, report.errors);
        return Err(CommandError::new(&explain_restore::DAMAGED, what));
    }
    directory.take_owner(target).map_err(|error| directory_error(&error))?;
    for place in base.facts.tablespaces.iter().map(|one| &mapping[&one.path]) {
        directory.take_owner(place).map_err(|error| directory_error(&error))?;
    }
    let segments = write_log(&archive, &directory, base, &plan)?;
    let point = settled_point(&directory, base.facts.cluster.segments(), &plan)?;
    let recovery = recovery_of(&base.facts, &plan, point, &archive, &args.postgres.point);
    let is_configured = finish(&directory, base, recovery.as_ref(), &mapping, args)?;
    let control = control_bytes(reading, base)?;
    directory.write_control(control).map_err(|error| directory_error(&error))?;
    if is_configured {
        let what = "the configuration was not in the data directory: a small one was made";
        context.output.warning(what);
    }
    warn_of_libraries(context, &base.facts);
    warn_of_places(context, &directory);
    let output = &context.output;
    output.note(&format!(
        "Restored {} files ({}) and {segments} segments of the log in {}",
        report.files + report.unchanged,
        output.size(report.bytes),
        format_duration(started.elapsed()),
    ));
    output.note(&format!(
        "Ready: start PostgreSQL {} on {}",
        base.facts.cluster.major(),
        target.display()
    ));
    output.summary(
        Exit::Done,
        &json!({
            "snapshot": base.found.0.name.id.to_string(), "target": target.display().to_string(),
            "files": report.files, "unchanged": report.unchanged, "bytes": report.bytes,
            "segments": segments, "timeline": plan.reach.timeline, "end": plan.reach.end,
            "seconds": started.elapsed().as_secs_f64(),
        }),
    );
    Ok(Exit::Done)
}

fn mapping(args: &RestoreArgs, facts: &BaseFacts) -> Result<Mapping, CommandError> {
    let mut mapping = Mapping::new();
    for text in &args.postgres.tablespace_mapping {
        let (old, new) = text.split_once('=').ok_or_else(|| {
            CommandError::new(&usage::ARGUMENT, format!("{text:?} is no OLD=NEW"))
        })?;
        let new = std::path::absolute(new).unwrap_or_else(|_| PathBuf::from(new));
        mapping.insert(old.to_owned(), new);
    }
    for tablespace in &facts.tablespaces {
        let Some(new) = mapping.get(&tablespace.path) else {
            let what = format!("the tablespace at {} has no place", tablespace.path);
            return Err(CommandError::new(&postgres::TABLESPACES, what)
                .hint(format!("--tablespace-mapping {}=NEW", tablespace.path)));
        };
        let is_free = std::fs::read_dir(new).map_or(true, |mut entries| entries.next().is_none());
        if !is_free {
            let what = format!("{} is not empty", new.display());
            return Err(CommandError::new(&postgres::TABLESPACES, what));
        }
    }
    Ok(mapping)
}

/// Only an empty folder, or an older state of the same cluster that no server works on.
fn check_target(directory: &DataDirectory<'_>, facts: &BaseFacts) -> Result<(), CommandError> {
    let refuse = |what: String| Err(CommandError::new(&explain_restore::TARGET, what));
    let path = directory.path().display();
    if directory.has_postmaster() {
        return refuse(format!(
            "{path} has a postmaster.pid: a server works on it, or has crashed"
        ));
    }
    let is_empty =
        std::fs::read_dir(directory.path()).map_or(true, |mut entries| entries.next().is_none());
    match directory.system() {
        Some(system) if system.to_string() != facts.cluster.system => {
            refuse(format!("{path} is the data directory of another cluster, {system}"))
        }
        None if !is_empty => refuse(format!("{path} is neither empty nor a data directory")),
        _ => Ok(()),
    }
}

fn restore_files(
    reading: &Reading,
    base: &Base<'_>,
    target: &Path,
    mapping: &Mapping,
    context: &Context,
) -> Result<RestoreReport, CommandError> {
    let snapshot = &base.found.1;
    let root = root_path(base);
    let outside = |oid: u32| format!("{root}/pg_tblspc/{oid}");
    let mut excluded: Vec<String> =
        base.facts.tablespaces.iter().map(|tablespace| outside(tablespace.oid)).collect();
    excluded.push(format!("{root}/global/pg_control"));
    excluded.push(format!("{root}/global/pg_control.before"));
    let mut report = restore_below(reading, snapshot, &root, target, &excluded, context)?;
    for tablespace in &base.facts.tablespaces {
        let place = &mapping[&tablespace.path];
        let path = outside(tablespace.oid);
        let more = restore_below(reading, snapshot, &path, place, &[], context)?;
        report.files += more.files;
        report.unchanged += more.unchanged;
        report.bytes += more.bytes;
        report.errors += more.errors;
        report.damaged += more.damaged;
    }
    Ok(report)
}

fn restore_below(
    reading: &Reading,
    snapshot: &crate::format::snapshot::Snapshot,
    path: &str,
    target: &Path,
    excluded: &[String],
    context: &Context,
) -> Result<RestoreReport, CommandError> {
    let options = Options { create: true, overwrite: true, ..Options::default() };
    let opened = Target::open(target, options)
        .map_err(|error| CommandError::classify(&error, &explain_restore::TARGET))?;
    let filters = Filters::new(&[], excluded).map_err(|error| {
        CommandError::new(&usage::INTERNAL, error.to_string()).because(&error.source)
    })?;
    let how = RestoreOptions {
        overwrite: Overwrite::IfChanged,
        // What an older state of the cluster has left must not come to life again.
        delete: true,
        dry_run: false,
        filters,
        threads: 0,
    };
    let progress = Arc::new(Progress::default());
    let watch = context.watch(&progress);
    let report = restore(&reading.access, snapshot, path.as_bytes(), &opened, &how, &progress);
    watch.finish();
    report.map_err(|error| CommandError::classify(&error, &explain_restore::DAMAGED))
}

/// Puts the log that the plan needs into `pg_wal`; gives the number of segments.
fn write_log(
    archive: &WalArchive<'_>,
    directory: &DataDirectory<'_>,
    base: &Base<'_>,
    plan: &RecoveryPlan,
) -> Result<usize, CommandError> {
    let size = base.facts.cluster.segments();
    let mut written = 0;
    for name in segment_names(plan, size) {
        if let Some(found) = archive.find(&name)? {
            directory.write_with(&format!("pg_wal/{name}"), |file| {
                archive.copy(&found, file).map_err(LogError::Command)
            })?;
            written += 1;
        }
    }
    for (timeline, text) in archive.facts().flat_map(|facts| &facts.histories) {
        if *timeline <= plan.reach.timeline {
            let name = format!("pg_wal/{:08X}.history", timeline.0);
            directory.write_with(&name, |file| {
                file.write_all(text.as_bytes()).map_err(|source| {
                    let path = directory.path().join(&name);
                    LogError::Directory(DirectoryError::Io { action: "write", path, source })
                })
            })?;
        }
    }
    Ok(written)
}

enum LogError {
    Command(CommandError),
    Directory(DirectoryError),
}

impl From<DirectoryError> for LogError {
    fn from(error: DirectoryError) -> Self {
        Self::Directory(error)
    }
}

impl From<LogError> for CommandError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Command(error) => error,
            LogError::Directory(error) => directory_error(&error),
        }
    }
}

/// The last steps; whether a configuration had to be made.
fn finish(
    directory: &DataDirectory<'_>,
    base: &Base<'_>,
    recovery: Option<&Recovery>,
    mapping: &Mapping,
    args: &RestoreArgs,
) -> Result<bool, CommandError> {
    let steps = || {
        for tablespace in &base.facts.tablespaces {
            directory.link_tablespace(tablespace.oid, &mapping[&tablespace.path])?;
        }
        directory.remove_tablespace_map()?;
        directory.set_recovery(recovery, args.postgres.keep_archiving)?;
        let is_configured = directory.add_configuration(&base.facts.settings)?;
        Ok(is_configured)
    };
    steps().map_err(|error: DirectoryError| directory_error(&error))
}
