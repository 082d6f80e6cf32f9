//! What `holdfast backup` does: gathers the sources, runs the backup, prints the summary.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::backup::dump_records::DumpError;
use crate::backup::error::BackupError;
use crate::backup::run::{BackupSummary, RootSource, SnapshotLabel, run as run_backup};
use crate::backup::stream::StreamRoot;
use crate::backup::tree_root::TreeRoot;
use crate::cli::command::backup::{BackupArgs, ExcludeArgs};
use crate::cli::command::backup_sources::{Sources, gather};
use crate::cli::command::init::init_with_generated_key;
use crate::cli::context::{Context, Location};
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::{redis, source, store, usage};
use crate::cli::known_addresses;
use crate::cli::open_repository::open;
use crate::cli::output::Output;
use crate::cli::postgres::remember_server;
use crate::cli::postgres_bases::base_root;
use crate::cli::postgres_dump::dump_roots;
use crate::cli::redis as cli_redis;
use crate::cli::source_config::PostgresMethod;
use crate::cli::time::fixed_span;
use crate::cli::{redis_cluster, redis_files};
use crate::clock::{Clock, SystemClock};
use crate::compress::Level;
use crate::format::node::UnixTime;
use crate::progress::Progress;
use crate::repo::history::History;
use crate::repo::locks::{LockReport, extend, needed_names};
use crate::repo::session::SessionOptions;
use crate::source::command::CommandStream;
use crate::source::error::SourceError;
use crate::source::files::exclude::{ExcludeOptions, ExcludePattern, ExcludeRules, LetterCase};
use crate::store::requests::RequestCounts;
use crate::units::{format_duration, parse_span};

const LEVEL_DEFAULT: i32 = 3;

/// The environment of commands.
type Variables = Vec<(std::ffi::OsString, std::ffi::OsString)>;

/// Saves what the arguments name.
pub fn run(args: &BackupArgs, context: &Context) -> Result<Exit, CommandError> {
    let sources = gather(args, context)?;
    let location = context.location()?;
    let lock_for = lock_span(args, &location)?;
    let rules = Arc::new(exclude_rules(&sources.exclude)?);
    let progress = Arc::new(Progress::default());
    let begun = jiff::Timestamp::now();
    let mut label = label(args, &sources, context)?;
    let mut missing = Vec::new();
    let secret: Vec<_> = context.loaded.config.secret_variables().collect();
    let variables = context.environment.of_child(&secret);
    let mut roots =
        open_roots(&sources, &label, &rules, args.force, begun, &variables, &mut missing)?;
    if args.dry_run {
        let server = sources.redis.as_ref().map(|(server, _)| format!("redis:{}", server.name));
        let names = roots.iter().map(|root| root.name()).chain(server);
        return dry_run(&names.collect::<Vec<_>>(), &missing, context);
    }
    if args.init {
        init_with_generated_key(context)?;
    }
    let repository = open(context)?;
    if let Some((server, method)) = &sources.server {
        remember_server(context, &repository, server, *method)?;
    }
    if let Some(server) = &sources.redis {
        roots.extend(cli_redis::prepare(context, &repository, server, &mut label)?);
    }
    let state = repository.state.clone();
    let place = Arc::clone(&repository.store);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options = SessionOptions { threads, level: level(context) };
    let started = Instant::now();
    let watch = context.watch(&progress);
    let clock = Arc::new(SystemClock);
    let result = run_backup(repository, clock, options, &label, roots, &progress);
    watch.finish();
    let mut summary = result.map_err(backup_error)?;
    if let Some((server, facts)) = &sources.redis {
        let keys = facts.lock().unwrap_or_else(PoisonError::into_inner).keys_count();
        cli_redis::remember(context, &state, server, Some(keys));
    }
    redis_files::report_left_out(context, &summary);
    let is_inconsistent = redis_cluster::report_changes(context, &summary);
    if summary.is_partial {
        let id = source::UNREADABLE.id;
        context.output.warning(&format!("some items could not be read and are missing ({id})"));
    }
    for path in &missing {
        let (path, id) = (path.display(), source::PATH_MISSING.id);
        context.output.warning(&format!("{path} does not exist and is missing ({id})"));
    }
    summary.is_partial |= !missing.is_empty();
    // The snapshot is saved from here on, whatever fails.
    known_addresses::remember_or_warn(context, &location.place, &*place);
    let locked = lock(context, lock_for, &summary);
    let exit = match &locked {
        Err(error) => error.exit(),
        Ok(_) if summary.is_partial || is_inconsistent => Exit::Partial,
        Ok(_) => Exit::Done,
    };
    let locks = locked.as_ref().ok().copied().flatten();
    report(&summary, &label, started.elapsed(), place.requests(), locks, exit, &context.output);
    locked.map(|_| exit)
}

/// How long what the snapshot needs is to be locked, where that is asked for.
fn lock_span(args: &BackupArgs, location: &Location) -> Result<Option<Duration>, CommandError> {
    let configured = location.table.as_ref().and_then(|table| table.lock_for.as_deref());
    let configured = configured.map(parse_span).transpose();
    let configured = configured
        .map_err(|error| CommandError::new(&usage::CONFIG, "lock-for is wrong").because(&error))?;
    args.lock_for.or(configured).map(fixed_span).transpose()
}

/// Locks what the snapshot needs, where that is asked for.
fn lock(
    context: &Context,
    span: Option<Duration>,
    summary: &BackupSummary,
) -> Result<Option<LockReport>, CommandError> {
    let (Some(span), Some(committed)) = (span, summary.committed) else { return Ok(None) };
    let locked = || {
        let repository = open(context)?;
        let history = History::read(&repository)?;
        let writer = committed.snapshot.writer;
        let names = needed_names(&repository, &history, writer, &summary.packs)?;
        Ok(extend(&repository, &names, SystemClock.now(), span)?)
    };
    locked().map(Some).map_err(|error: CommandError| {
        let id = committed.snapshot.id.to_string();
        let what = format!("snapshot {} is saved, but not locked: {}", &id[..8], error.what());
        let failed = CommandError::new(&store::LOCKS, what);
        error.causes().iter().fold(failed, |failed, cause| failed.because_text(cause))
    })
}

fn exclude_rules(args: &ExcludeArgs) -> Result<ExcludeRules, CommandError> {
    let wrong = |error: SourceError| CommandError::classify(&error, &source::PATTERN);
    let mut patterns = Vec::new();
    for (texts, case) in [(&args.exclude, LetterCase::Exact), (&args.iexclude, LetterCase::Ignored)]
    {
        for text in texts {
            let pattern = ExcludePattern::from_argument(text.as_ref(), case).map_err(wrong)?;
            patterns.push(pattern);
        }
    }
    for file in &args.exclude_file {
        patterns.extend(ExcludePattern::read_file(file, LetterCase::Exact).map_err(wrong)?);
    }
    let bytes = |names: &[String]| names.iter().map(|name| name.clone().into_bytes()).collect();
    ExcludeRules::new(ExcludeOptions {
        patterns,
        ignore_file_names: bytes(&args.ignore_file),
        caches: args.exclude_caches,
        if_present: bytes(&args.exclude_if_present),
        one_file_system: args.one_file_system,
        larger_than: args.exclude_larger_than,
    })
    .map_err(wrong)
}

fn label(
    args: &BackupArgs,
    sources: &Sources,
    context: &Context,
) -> Result<SnapshotLabel, CommandError> {
    let time = match &args.label.time {
        Some(text) => context.moment(text)?,
        None => context.now.timestamp(),
    };
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let user = uzers::get_user_by_uid(rustix::process::getuid().as_raw());
    let user = user.map(|user| user.name().to_string_lossy().into_owned());
    Ok(SnapshotLabel {
        source: sources.name.clone().unwrap_or_else(|| default_source(sources)),
        host: args.label.host.clone().unwrap_or_else(host),
        user: user.unwrap_or_default(),
        time,
        tags: sources.tags.clone(),
    })
}

/// The label of a snapshot that a service makes.
#[must_use]
pub fn label_now(source: &str) -> SnapshotLabel {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let user = uzers::get_user_by_uid(rustix::process::getuid().as_raw());
    let user = user.map(|user| user.name().to_string_lossy().into_owned()).unwrap_or_default();
    // Not that of the command's start: a stream runs for months.
    let time = jiff::Timestamp::now();
    SnapshotLabel { source: source.to_owned(), host, user, time, tags: Vec::new() }
}

/// The paths and names of what is saved, which no host name or temporary folder changes.
fn default_source(sources: &Sources) -> String {
    let paths = sources.paths.iter().map(|path| {
        std::path::absolute(path).unwrap_or_else(|_| path.clone()).to_string_lossy().into_owned()
    });
    let streams = sources.stdin.iter().cloned();
    let commands = sources.commands.iter().map(|(name, _)| name.clone());
    paths.chain(streams).chain(commands).collect::<Vec<_>>().join(",")
}

fn open_roots(
    sources: &Sources,
    label: &SnapshotLabel,
    rules: &Arc<ExcludeRules>,
    is_forced: bool,
    begun: jiff::Timestamp,
    variables: &Variables,
    missing: &mut Vec<PathBuf>,
) -> Result<Vec<Box<dyn RootSource>>, CommandError> {
    let begun = UnixTime(begun.as_second(), begun.subsec_nanosecond().unsigned_abs());
    let mut roots: Vec<Box<dyn RootSource>> = Vec::new();
    for path in &sources.paths {
        match TreeRoot::open(path, Arc::clone(rules), is_forced, begun) {
            Ok(root) => roots.push(Box::new(root)),
            Err(SourceError::Vanished { .. }) => missing.push(path.clone()),
            Err(error) => {
                return Err(CommandError::classify(&error, &source::NOTHING));
            }
        }
    }
    if let Some(name) = &sources.stdin {
        roots.push(redis_files::stdin_root(name, sources.order, sources.is_plain)?);
    }
    if let Some((name, file)) = &sources.redis_rdb {
        roots.push(redis_files::file_root(name, file, sources.order)?);
    }
    if let Some((name, folder)) = &sources.redis_aof {
        roots.extend(redis_files::aof_roots(name, folder)?);
    }
    for (name, argv) in &sources.commands {
        let (argv, variables) = (argv.clone(), variables.clone());
        let open = move || {
            let stderr = |line: &[u8]| tracing::info!("{}", String::from_utf8_lossy(line));
            let stream = CommandStream::start(&argv, variables, Some(Box::new(stderr)))?;
            Ok(Box::new(stream) as _)
        };
        roots.push(Box::new(StreamRoot::new(name.clone(), Box::new(open))));
    }
    if let Some((server, method)) = &sources.server {
        match method {
            PostgresMethod::Base => roots.push(base_root(server, label, is_forced)),
            PostgresMethod::Dump => roots.extend(dump_roots(server, &sources.dump, variables)),
        }
    }
    // A server of Redis may be several, which it says itself later.
    if roots.is_empty() && sources.redis.is_none() {
        let names: Vec<_> = missing.iter().map(|path| path.display().to_string()).collect();
        let what = format!("there is nothing to save: {} does not exist", names.join(", "));
        return Err(CommandError::new(&source::NOTHING, what));
    }
    Ok(roots)
}

#[allow(clippy::unnecessary_wraps, reason = "it is one way for the command to end")]
fn dry_run(roots: &[String], missing: &[PathBuf], context: &Context) -> Result<Exit, CommandError> {
    for root in roots {
        context.output.line(&format!("would save {root}"));
        context.output.item(&json!({ "root": root }));
    }
    for path in missing {
        context.output.warning(&format!("{} does not exist", path.display()));
    }
    let exit = if missing.is_empty() { Exit::Done } else { Exit::Partial };
    context.output.summary(exit, &json!({ "roots": roots.len(), "dry_run": true }));
    Ok(exit)
}

/// The level of zstd that the configuration says.
#[must_use]
pub fn level(context: &Context) -> Level {
    Level(context.loaded.config.global.compression.map_or(LEVEL_DEFAULT, |zstd| zstd.level))
}

/// The error of a backup, by the kind of what failed.
#[allow(clippy::needless_pass_by_value, reason = "it is given to `map_err`")]
#[must_use]
pub fn backup_error(error: BackupError) -> CommandError {
    if let BackupError::Dump { name, source: cause } = &error
        && let DumpError::Truncated { .. } | DumpError::WrongSum { .. } = cause
    {
        let what = format!("the dump for {name} is not whole; no snapshot was saved");
        return CommandError::new(&source::DUMP_DAMAGED, what).because(cause);
    }
    let BackupError::Source { name, source: cause } = &error else {
        return CommandError::classify(&error, &usage::INTERNAL);
    };
    match cause {
        SourceError::CommandFailed { program, status, stderr_tail } => {
            let what = format!("{program} for {name} failed ({status}); no snapshot was saved");
            let failed = CommandError::new(&source::COMMAND_FAILED, what);
            let lines = stderr_tail.lines().rev().take(20).collect::<Vec<_>>();
            lines.into_iter().rev().fold(failed, CommandError::because_text)
        }
        SourceError::Io { action: "start", .. } | SourceError::EmptyCommand => {
            let what = format!("the command for {name} cannot be started; no snapshot was saved");
            CommandError::new(&source::COMMAND_MISSING, what).because(cause)
        }
        SourceError::Redis(_) | SourceError::Aof(_) => {
            CommandError::classify(cause, &redis::SERVER)
                .because_text(&format!("no snapshot of {name} was saved"))
        }
        _ => {
            let what = format!("reading {name} failed; no snapshot was saved");
            CommandError::new(&source::STDIN, what).because(cause)
        }
    }
}

fn report(
    summary: &BackupSummary,
    label: &SnapshotLabel,
    elapsed: std::time::Duration,
    requests: Option<RequestCounts>,
    locked: Option<LockReport>,
    exit: Exit,
    output: &Output,
) {
    let s = &summary.statistics;
    let id = summary.committed.map(|committed| committed.snapshot.id.to_string());
    output.note(&format!(
        "Files:  {:>9} new, {:>9} changed, {:>9} unmodified",
        s.files_new, s.files_changed, s.files_unmodified
    ));
    output.note(&format!("Folders: {:>8}, other entries: {}", s.directories, s.others));
    output.note(&format!(
        "Added to the repository: {} ({} stored)",
        output.size(s.new_bytes),
        output.size(s.stored_bytes)
    ));
    output.note(&format!(
        "Processed {} in {}, read {}",
        output.size(s.content_bytes),
        format_duration(elapsed),
        output.size(s.read_bytes)
    ));
    if s.changed_while_read > 0 {
        let (count, id) = (s.changed_while_read, source::CHANGED.id);
        output.warning(&format!("{count} files changed while they were read ({id})"));
    }
    if let Some(id) = &id {
        let part = if summary.is_partial { ", with items missing" } else { "" };
        output.note(&format!("Snapshot {} of {} saved{part}", &id[..8], label.source));
    }
    if let Some(locked) = locked {
        output.note(&format!(
            "Locked: {} objects, {} of them extended now",
            locked.objects, locked.extended
        ));
    }
    report_requests(requests, output);
    output.summary(
        exit,
        &json!({
            "snapshot": id, "source": label.source, "host": label.host, "tags": label.tags,
            "time": label.time.to_string(), "seconds": elapsed.as_secs_f64(),
            "partial": summary.is_partial, "statistics": s, "requests": requests,
            "locked_objects": locked.map(|locked| locked.objects),
            "extended_locks": locked.map(|locked| locked.extended),
        }),
    );
}

/// What the store's owner will be billed for.
pub fn report_requests(requests: Option<RequestCounts>, output: &Output) {
    let Some(requests) = requests else { return };
    output.note(&format!(
        "Requests: {} ({} put, {} get, {} list, {} head), {} sent, {} received",
        requests.total(),
        requests.puts,
        requests.gets,
        requests.lists,
        requests.heads,
        output.size(requests.bytes_up),
        output.size(requests.bytes_down),
    ));
}
