//! `holdfast drill`: proves that a database comes back, and keeps the record.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::drill_checks::{Checked, say};
use crate::cli::drill_record::{records, save};
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::{postgres, redis, usage};
use crate::cli::isolated::Isolated;
use crate::cli::live_server::{LocalServerArgs, variables};
use crate::cli::postgres_recovery::PointArgs;
use crate::cli::reading::{FoundSnapshot, Reading};
use crate::cli::redis_drill::RedisDrill;
use crate::cli::redis_found::is_of_redis;
use crate::cli::selector::Selector;
use crate::cli::signals::signals;
use crate::cli::source_config::PostgresMethod;
use crate::cli::table::{Align, Table};
use crate::cli::wal_archive::facts_of;
use crate::format::drill::{Check, DrillRecord, Outcome};
use crate::format::postgres::facts::PostgresFacts;
use crate::units::format_duration;

const AFTER_HELP: &str = "\
PostgreSQL: the server of a drill runs on the backup itself, as pg start does, or in a new cluster that a dump is
restored into. It listens on a socket in a folder of its own, archives nothing, and is gone at the
end. Checked are: recovery reaches the point, pg_amcheck finds nothing, every row can be read, the
rows of a dump are those that were saved, and what --assert demands.

Redis: the dump is restored into a folder of its own, and a server started on it that listens on a
socket there; it needs memory for all data. Checked are: the server loads it without an error, has as
many keys in each database as the dump, has the digest that was saved with it (backup
--redis-digest), and what --assert demands: a command whose answer must be there and neither 0 nor
empty, or COMMAND = VALUE, with one of = != < <= > >= as a word of its own.

Exit code 4: the drill has failed.

Examples:
  holdfast drill source:shop
  holdfast drill source:shop --to-time 2026-11-23T01:30:00Z --database shop \\
    --assert 'SELECT count(*) > 1000 FROM orders' --newest 'SELECT max(created) FROM orders'
  holdfast drill source:cache --assert 'DBSIZE > 1000' --assert 'GET motd = \"hello all\"'
  holdfast drill report shop";

/// Arguments of `drill`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct DrillArgs {
    #[allow(missing_docs, reason = "a doc comment here would replace the help")]
    #[command(subcommand)]
    pub command: Option<DrillCommand>,
    /// Snapshot of a PostgreSQL or Redis source, or source:NAME
    #[arg(value_name = "SNAPSHOT", required = true)]
    pub snapshot: Option<String>,
    /// Which kind of backup of the source [default: a base backup where there is one]
    #[arg(long, value_enum)]
    pub method: Option<PostgresMethod>,
    /// Database that --assert and --newest ask [default: the dump's, or postgres; 0 for Redis]
    #[arg(long, value_name = "NAME")]
    pub database: Option<String>,
    /// A query that must say true, or a command of Redis (repeatable)
    #[arg(long, value_name = "SQL|COMMAND")]
    pub assert: Vec<String>,
    /// A query for the time of the newest row, or a command of Redis that gives seconds or
    /// milliseconds since 1970, or RFC 3339: its age is the recovery point
    #[arg(long, value_name = "SQL|COMMAND")]
    pub newest: Option<String>,
    /// Leave out pg_amcheck and the reading of every row, or the digest of Redis
    #[arg(long)]
    pub quick: bool,
    /// Do not keep the record in the repository
    #[arg(long)]
    pub no_record: bool,
    /// Program of a Redis or Valkey server [default: what PATH and the system have for the dump]
    #[arg(long, value_name = "PROGRAM")]
    pub redis_server: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub server: LocalServerArgs,
    #[command(flatten, next_help_heading = "Point in time")]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub point: PointArgs,
}

/// What else there is.
#[derive(Debug, Clone, Subcommand)]
pub enum DrillCommand {
    /// Show the drills that were made
    Report(ReportArgs),
}

/// Arguments of `drill report`.
#[derive(Debug, Clone, Args)]
pub struct ReportArgs {
    /// Name of the source [default: all]
    #[arg(value_name = "NAME")]
    pub source: Option<String>,
}

/// Drills, or reports.
pub fn run(args: &DrillArgs, context: &Context) -> Result<Exit, CommandError> {
    match &args.command {
        Some(DrillCommand::Report(args)) => report(args, context),
        None => drill(args, context),
    }
}

fn drill(args: &DrillArgs, context: &Context) -> Result<Exit, CommandError> {
    let begun = Instant::now();
    let text = args.snapshot.as_deref().unwrap_or_default();
    let selector = context.selector(text)?;
    let reading = Reading::open(context)?;
    signals().arm();
    let started_at = jiff::Timestamp::now();
    let (_, newest) = reading.select(context, &selector)?;
    if is_of_redis(&newest) {
        let drill = RedisDrill { args, context, begun, started_at };
        let (record, ended) = drill.run(&reading, &selector)?;
        return end(args, context, record, &ended);
    }
    let ((source, snapshot_id), found) = select(args, context, &reading, &selector)?;
    let facts = facts_of(&found)?;
    let mut record = DrillRecord::new(&source, started_at.to_string());
    record.snapshot.clone_from(&snapshot_id);
    record.point = args.point.shown();
    let setup = Isolated {
        context,
        local: &args.server,
        point: &args.point,
        variables: variables(context),
        user: args.server.user()?,
        begun,
    };
    let mut database = args.database.clone().unwrap_or_else(|| "postgres".to_owned());
    let mut look = |checked: &Checked<'_>, rows: Option<Check>, record: &mut DrillRecord| {
        record.checks.extend(rows);
        look_at(args, &database, checked, record, started_at);
    };
    let only = selector.names_one().then_some(&*snapshot_id);
    let ended = match facts {
        Some(PostgresFacts::Base(facts)) => {
            record.method = String::from("base");
            record.postgres = facts.cluster.major();
            let base = (only, facts.cluster.major());
            setup.base(reading, &source, base, &mut record, &mut look)
        }
        Some(PostgresFacts::Dump(facts)) => {
            if args.point.is_given() {
                let what = "a dump has no other point in time than its own";
                return Err(CommandError::new(&usage::ARGUMENT, what));
            }
            record.method = String::from("dump");
            record.postgres = facts.cluster.major();
            if args.database.is_none() {
                database = if facts.database == "postgres" {
                    "postgres_restored".to_owned()
                } else {
                    facts.database.clone()
                };
            }
            let mut look =
                |checked: &Checked<'_>, rows: Option<Check>, record: &mut DrillRecord| {
                    record.checks.extend(rows);
                    look_at(args, &database, checked, record, started_at);
                };
            let dump = (&found, selector.path.as_deref());
            setup.dump(&reading, dump, &mut record, &mut look)
        }
        _ => {
            let what = format!("{text} is no backup of PostgreSQL or Redis");
            return Err(CommandError::new(&postgres::NO_BACKUP, what));
        }
    };
    end(args, context, record, &ended)
}

/// Seconds as people read them; a dash where they are not known.
fn seconds(value: Option<f64>) -> String {
    let duration = value.and_then(|value| Duration::try_from_secs_f64(value).ok());
    duration.map_or_else(|| "-".to_owned(), format_duration)
}

type Selected = ((String, String), crate::format::snapshot::Snapshot);

/// The snapshot that is meant: of a source with both kinds, a base backup.
fn select(
    args: &DrillArgs,
    context: &Context,
    reading: &Reading,
    selector: &Selector,
) -> Result<Selected, CommandError> {
    let (record, snapshot) = reading.select(context, selector)?;
    let found = ((snapshot.source.clone(), record.name.id.to_string()), snapshot);
    if selector.names_one() {
        return Ok(found);
    }
    let source = found.1.source.clone();
    let is_kind = |(_, snapshot): &FoundSnapshot<'_>, wanted: PostgresMethod| {
        let facts = facts_of(snapshot).ok().flatten();
        match wanted {
            PostgresMethod::Base => matches!(facts, Some(PostgresFacts::Base(_))),
            PostgresMethod::Dump => matches!(facts, Some(PostgresFacts::Dump(_))),
        }
    };
    let all = reading.all(context);
    let newest = |wanted: PostgresMethod| {
        let mut of_source = all.iter().rev().filter(|(_, snapshot)| snapshot.source == source);
        of_source.find(|found| is_kind(found, wanted)).cloned()
    };
    let chosen = match args.method {
        Some(wanted) => newest(wanted),
        None => newest(PostgresMethod::Base).or_else(|| newest(PostgresMethod::Dump)),
    };
    let (record, snapshot) = chosen.ok_or_else(|| {
        let what = format!("{source} has no such backup of PostgreSQL");
        CommandError::new(&postgres::NO_BACKUP, what)
    })?;
    Ok(((source, record.name.id.to_string()), snapshot))
}

fn look_at(
    args: &DrillArgs,
    database: &str,
    checked: &Checked<'_>,
    record: &mut DrillRecord,
    begun: jiff::Timestamp,
) {
    if let Some(moment) = checked.last_transaction() {
        record.newest = Some(moment.to_string());
    }
    if let Some(query) = &args.newest {
        match checked.newest_row(database, query) {
            Ok(moment) => record.newest = Some(moment.to_string()),
            Err(check) => record.checks.push(check),
        }
    }
    let newest = record.newest.as_ref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    record.data_age_seconds =
        newest.map(|newest| begun.duration_since(newest).as_secs_f64().max(0.0));
    if !args.quick {
        record.checks.push(checked.structure());
        record.checks.push(checked.all_rows());
    }
    record.checks.extend(args.assert.iter().map(|query| checked.assertion(database, query)));
}

/// Says how it went, keeps the record.
fn end(
    args: &DrillArgs,
    context: &Context,
    mut record: DrillRecord,
    ended: &Result<(), CommandError>,
) -> Result<Exit, CommandError> {
    if let Some(exit) = signals().came() {
        // Nothing was proven and nothing was refuted.
        context.output.warning("the drill was told to stop: nothing was proven, nothing is kept");
        return Ok(exit);
    }
    if let Err(error) = ended {
        let causes = error.causes().iter().map(|cause| format!("; {cause}"));
        record.failure = Some(format!("{}{}", error.what(), causes.collect::<String>()));
    }
    let is_failed = |check: &Check| check.outcome == Outcome::Failed;
    record.passed = ended.is_ok() && !record.checks.iter().any(is_failed);
    let output = &context.output;
    output.note(&format!(
        "{} of {}: writable after {}, data {} old",
        record.method,
        record.source,
        seconds(record.ready_seconds),
        seconds(record.data_age_seconds),
    ));
    let phases = record.phases.iter();
    let phases = phases.map(|phase| format!("{} {}", phase.name, seconds(Some(phase.seconds))));
    output.note(&format!("  {}", phases.collect::<Vec<_>>().join(", ")));
    for check in &record.checks {
        say(context, check);
    }
    let kept = if args.no_record { Ok(None) } else { save(context, &record).map(Some) };
    let exit = if record.passed { Exit::Done } else { Exit::Findings };
    if record.passed {
        output.note("The drill has passed");
    } else {
        let failed = record.checks.iter().filter(|check| is_failed(check)).count();
        let why = record.failure.clone().unwrap_or_else(|| format!("{failed} checks failed"));
        let kind =
            if record.server.is_empty() { &postgres::DRILL_FAILED } else { &redis::DRILL_FAILED };
        output.warning(&format!("the drill has failed: {why} ({})", kind.id));
    }
    match &kept {
        Ok(id) => output.summary(exit, &json!({ "drill": record, "kept": id })),
        Err(_) => output.item(&json!({ "drill": record })),
    }
    kept.map(|_| exit)
}

fn report(args: &ReportArgs, context: &Context) -> Result<Exit, CommandError> {
    let reading = Reading::open(context)?;
    let kept = records(&reading, context, args.source.as_deref())?;
    let mut table = Table::new(&[
        ("Begun", Align::Left),
        ("Source", Align::Left),
        ("Snapshot", Align::Left),
        ("Kind", Align::Left),
        ("Point", Align::Left),
        ("Writable", Align::Right),
        ("Data age", Align::Right),
        ("Result", Align::Left),
    ]);
    for (id, record) in &kept {
        context.output.item(&json!({ "id": id, "drill": record }));
        let snapshot = record.snapshot.get(..8).unwrap_or_default();
        table.row([
            crate::cli::time::format_local(record.begun.parse().unwrap_or_default(), &context.now),
            record.source.clone(),
            snapshot.to_owned(),
            record.method.clone(),
            record.point.clone(),
            seconds(record.ready_seconds),
            seconds(record.data_age_seconds),
            if record.passed { "passed".to_owned() } else { "FAILED".to_owned() },
        ]);
    }
    if table.is_empty() {
        context.output.note("No drill was made yet: holdfast drill source:NAME");
    }
    for line in table.lines() {
        context.output.line(&line);
    }
    let failed = kept.iter().filter(|(_, record)| !record.passed).count();
    let counts = json!({ "drills": kept.len(), "failed": failed });
    context.output.summary(Exit::Done, &counts);
    Ok(Exit::Done)
}
