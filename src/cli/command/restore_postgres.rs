//! What `holdfast restore` does with a base backup of PostgreSQL: a data directory that is ready to
//! start, with all of the log that leads to the point that was asked for.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use crate::backup::postgres_wal::wal_source;
use crate::cli::command::restore::{RestoreArgs, RestoreWord};
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::{postgres, restore as explain_restore, usage};
use crate::cli::maintaining::short;
use crate::cli::postgres_bases::{Base, bases_of};
use crate::cli::reading::Reading;
use crate::cli::wal_archive::WalArchive;
use crate::format::postgres::facts::{BaseFacts, WalFacts};
use crate::format::postgres::segment::{Segment, SegmentBytes};
use crate::format::postgres::wal_records::TransactionEnds;
use crate::progress::Progress;
use crate::restore::cat::cat;
use crate::restore::execute::{Overwrite, RestoreOptions, RestoreReport, restore};
use crate::restore::filter::Filters;
use crate::restore::postgres::directory::{DataDirectory, DirectoryError};
use crate::restore::postgres::plan::{PlanError, Point, RecoveryPlan, plan_recovery};
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
    let plan = plan(&bases, &archive, args, context, source)?;
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
    let point = settled_point(&directory, base, &plan)?;
    let recovery = recovery_of(&plan, point, &archive, args);
    let is_configured = finish(&directory, base, recovery.as_ref(), &mapping, args)?;
    write_control(reading, base, &directory)?;
    if is_configured {
        let what = "the configuration was not in the data directory: a small one was made";
        context.output.warning(what);
    }
    warn_of_libraries(context, &base.facts);
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

fn plan(
    bases: &[Base<'_>],
    archive: &WalArchive<'_>,
    args: &RestoreArgs,
    context: &Context,
    source: &str,
) -> Result<RecoveryPlan, CommandError> {
    let point = point(args, context)?;
    let facts: Vec<BaseFacts> = bases.iter().map(|base| base.facts.clone()).collect();
    let log: Vec<&WalFacts> = archive.facts().collect();
    let timeline = args.postgres.timeline.map(crate::format::postgres::lsn::Timeline);
    plan_recovery(&facts, &log, &archive.coverage(), point, timeline).map_err(|error| {
        let explanation = match error {
            PlanError::NoBase => &postgres::NO_BACKUP,
            _ => &postgres::UNREACHABLE_POINT,
        };
        let refused = CommandError::new(explanation, error.to_string());
        let refused = match error {
            // On a server at which nothing happens the log ends before now.
            PlanError::TooLate { .. } => {
                refused.hint("without a point all of the log is recovered")
            }
            _ => refused,
        };
        refused.hint(format!("holdfast pg status {source}"))
    })
}

/// The point that the arguments name.
fn point(args: &RestoreArgs, context: &Context) -> Result<Point, CommandError> {
    if let Some(text) = &args.postgres.to_time {
        return Ok(Point::Time(context.moment(text)?));
    }
    if let Some(lsn) = args.postgres.to_lsn {
        return Ok(Point::Lsn(lsn));
    }
    if let Some(number) = args.postgres.to_xid {
        return Ok(Point::Transaction(number));
    }
    if let Some(name) = &args.postgres.to_name {
        return Ok(Point::Name(name.clone()));
    }
    Ok(match args.postgres.to.unwrap_or_default() {
        RestoreWord::Latest => Point::Latest,
        RestoreWord::Immediate => Point::Immediate,
    })
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

fn say_what_comes(context: &Context, base: &Base<'_>, plan: &RecoveryPlan) {
    let BaseFacts { timeline, stop, stop_time, .. } = &base.facts;
    let until = match &plan.point {
        Point::Latest => format!("{} on timeline {}", plan.reach.end, plan.reach.timeline),
        Point::Immediate => "its own end".to_owned(),
        Point::Time(time) => time.to_string(),
        Point::Lsn(lsn) => lsn.to_string(),
        Point::Transaction(number) => format!("transaction {number}"),
        Point::Name(name) => format!("the restore point {name}"),
    };
    context.output.note(&format!(
        "From base backup {} ({stop_time}, {stop} on timeline {timeline}) to {until}",
        short(&base.found.0.name.id),
    ));
    if base.facts.bad_pages_count > 0 {
        let count = base.facts.bad_pages_count;
        context.output.warning(&format!("{count} pages were damaged on the server already"));
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

/// Path of the data directory in the snapshot.
fn root_path(base: &Base<'_>) -> String {
    let root = base.found.1.roots.iter().find(|root| root.facts.is_some());
    let path = root.map(|root| String::from_utf8_lossy(&root.path).into_owned());
    format!("/{}", path.unwrap_or_default())
}

fn write_control(
    reading: &Reading,
    base: &Base<'_>,
    directory: &DataDirectory<'_>,
) -> Result<(), CommandError> {
    let path = format!("{}/global/pg_control", root_path(base));
    let mut control = Vec::new();
    let progress = Progress::default();
    cat(&reading.access, &base.found.1, path.as_bytes(), &mut control, 1, &progress)
        .map_err(|error| CommandError::classify(&error, &explain_restore::DAMAGED))?;
    directory.write_control(control).map_err(|error| directory_error(&error))
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

fn segment_names(plan: &RecoveryPlan, size: SegmentBytes) -> Vec<String> {
    let mut names = Vec::new();
    for range in &plan.reach.ranges {
        let mut at = size.start(range.start);
        while at < range.end {
            let segment = Segment::of(range.timeline, at, size);
            names.push(segment.name(size));
            at = segment.end(size);
        }
    }
    names
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

fn directory_error(error: &DirectoryError) -> CommandError {
    CommandError::classify(error, &postgres::RESTORED)
}

/// A server that is told a moment after which no transaction ended refuses to start. The end of
/// the log is that moment then.
fn settled_point(
    directory: &DataDirectory<'_>,
    base: &Base<'_>,
    plan: &RecoveryPlan,
) -> Result<Point, CommandError> {
    let Point::Time(time) = &plan.point else { return Ok(plan.point.clone()) };
    let names = segment_names(plan, base.facts.cluster.segments());
    let read = |name: &String| {
        let path = directory.path().join("pg_wal").join(name);
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => {
                Err(directory_error(&DirectoryError::Io { action: "read", path, source }))
            }
            Ok(bytes) => Ok(bytes),
        }
    };
    let mut next = Vec::new();
    for name in names.iter().rev() {
        let segment = read(name)?;
        let mut newest = None;
        let mut visit = |end: i64| newest = newest.max(Some(end));
        let mut ends = TransactionEnds::default();
        ends.take(&segment, false, &mut visit);
        ends.take(&next, true, &mut visit);
        match newest {
            Some(newest) if newest > time.as_microsecond() => return Ok(plan.point.clone()),
            Some(_) => break,
            None => next = segment,
        }
    }
    Ok(Point::Latest)
}

/// How the server is to recover; nothing where the base stands for itself.
fn recovery_of(
    plan: &RecoveryPlan,
    point: Point,
    archive: &WalArchive<'_>,
    args: &RestoreArgs,
) -> Option<Recovery> {
    let has_log = archive.facts().next().is_some() && !plan.reach.ranges.is_empty();
    if !has_log && matches!(point, Point::Latest | Point::Immediate) {
        return None;
    }
    let action = args.postgres.then.unwrap_or_default().name();
    Some(Recovery { point, timeline: plan.reach.timeline, restore_command: None, action })
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

/// Indexes of text are ordered by libraries of the system: others may order otherwise.
fn warn_of_libraries(context: &Context, facts: &BaseFacts) {
    let mut command = std::process::Command::new("getconf");
    context.environment.scrub(&mut command);
    let Ok(answer) = command.arg("GNU_LIBC_VERSION").output() else { return };
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    let Some(here) = answer.split_whitespace().last() else { return };
    for (_, there) in facts.collations.iter().filter(|(provider, _)| provider == "libc") {
        if there != here {
            context.output.warning(&format!(
                "the server had glibc {there}, this host has {here}: text may be ordered \
                 otherwise; REINDEX DATABASE before the data is relied on"
            ));
        }
    }
}
