//! `holdfast pg status`: what can be restored of a PostgreSQL source, and to which moments.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::Args;
use serde_json::json;

use crate::backup::postgres_base::Access;
use crate::backup::postgres_wal::wal_source;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::postgres;
use crate::cli::maintaining::short;
use crate::cli::postgres::{Client, KnownSources, named_server};
use crate::cli::postgres_bases::{Base, bases_of};
use crate::cli::reading::Reading;
use crate::cli::table::{Align, Table};
use crate::cli::wal_archive::WalArchive;
use crate::format::postgres::coverage::{Coverage, Gap, Reach};
use crate::source::postgres::connection::Purpose;
use crate::source::postgres::error::PostgresError;

const AFTER_HELP: &str = "\
Examples:
  holdfast pg status shop
  holdfast pg status shop --offline --json

Exit code 4: the saved log has a gap, so some moments cannot be reached.";

/// Arguments of `pg status`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct StatusArgs {
    /// Name of the source
    #[arg(value_name = "NAME")]
    pub source: String,
    /// Do not ask the server how far it is
    #[arg(long)]
    pub offline: bool,
}

/// Where the server is.
struct ServerState {
    position: String,
    behind_bytes: Option<u64>,
    slots: Vec<(String, String, Option<u64>)>,
}

/// Shows it.
pub fn run(args: &StatusArgs, context: &Context) -> Result<Exit, CommandError> {
    let reading = Reading::open(context)?;
    let bases = bases_of(&reading, context, &args.source, None)?;
    let system = bases.first().map(|base| &*base.facts.cluster.system);
    let archive = WalArchive::read(&reading, context, &wal_source(&args.source), system)?;
    let coverage = archive.coverage();
    let known = KnownSources::read_at(&reading.repository.state)?;
    let newest = archive.facts().map(|facts| facts.newest.clone()).max();
    let server = match named_server(&args.source, Client::Own, context, &known) {
        Ok(server) if !args.offline => Some(ask(&server.access, &coverage)),
        _ => None,
    };
    if bases.is_empty() && archive.facts().next().is_none() {
        let what = format!("nothing of the source {} is kept", args.source);
        return Err(CommandError::new(&postgres::NO_BACKUP, what));
    }
    let gaps = coverage.gaps();
    print(context, &bases, &coverage, newest.as_deref(), &gaps);
    let server = server.map(|server| match server {
        Ok(server) => {
            print_server(context, &server);
            json!({
                "position": server.position, "behind_bytes": server.behind_bytes,
                "slots": server.slots.iter().map(|(name, state, kept)| {
                    json!({ "name": name, "wal_status": state, "kept_bytes": kept })
                }).collect::<Vec<_>>(),
            })
        }
        Err(error) => {
            context.output.warning(&format!("the server was not asked: {error}"));
            json!({ "error": error.to_string() })
        }
    });
    let exit = if gaps.is_empty() { Exit::Done } else { Exit::Findings };
    let of_base = |base: &Base<'_>| {
        let reach = coverage.reach(&base.facts, None);
        json!({
            "snapshot": base.found.0.name.id.to_string(), "timeline": base.facts.timeline,
            "start": base.facts.start, "stop": base.facts.stop,
            "stop_time": base.facts.stop_time, "bad_pages": base.facts.bad_pages_count,
            "reaches": reach.as_ref().map(|reach| reach.end),
            "reaches_timeline": reach.as_ref().map(|reach| reach.timeline),
        })
    };
    context.output.summary(
        exit,
        &json!({
            "source": args.source,
            "bases": bases.iter().map(of_base).collect::<Vec<_>>(),
            "ranges": coverage.ranges().collect::<Vec<_>>(),
            "gaps": gaps.iter().map(|gap| {
                json!({ "timeline": gap.timeline, "start": gap.start, "end": gap.end })
            }).collect::<Vec<_>>(),
            "newest": newest, "server": server,
        }),
    );
    Ok(exit)
}

fn print(
    context: &Context,
    bases: &[Base<'_>],
    coverage: &Coverage,
    newest: Option<&str>,
    gaps: &[Gap],
) {
    let output = &context.output;
    let columns = [
        ("BASE", Align::Left),
        ("COMPLETE AT", Align::Left),
        ("TIMELINE", Align::Right),
        ("FROM", Align::Left),
        ("REACHES", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for base in bases {
        let reach = coverage.reach(&base.facts, None);
        let reaches = reach.map_or_else(String::new, |Reach { timeline, end, .. }| {
            if timeline == base.facts.timeline {
                end.to_string()
            } else {
                format!("{end} on timeline {timeline}")
            }
        });
        table.row([
            short(&base.found.0.name.id),
            base.facts.stop_time.clone(),
            base.facts.timeline.to_string(),
            base.facts.stop.to_string(),
            reaches,
        ]);
    }
    output.table(&table);
    for range in coverage.ranges() {
        let (timeline, start, end) = (range.timeline, range.start, range.end);
        output.line(&format!("log of timeline {timeline}: {start} to {end}"));
    }
    for gap in gaps {
        let (timeline, start, end) = (gap.timeline, gap.start, gap.end);
        let id = postgres::GAP.id;
        output.warning(&format!("timeline {timeline} lacks {start} to {end} ({id})"));
    }
    if let (Some(first), Some(newest)) = (bases.first(), newest) {
        let from = &first.facts.stop_time;
        output.line(&format!("any moment from {from} to {newest} can be reached"));
    }
}

fn print_server(context: &Context, server: &ServerState) {
    let output = &context.output;
    let behind = server
        .behind_bytes
        .map_or_else(String::new, |bytes| format!("; {} of it not saved yet", output.size(bytes)));
    output.line(&format!("the server is at {}{behind}", server.position));
    for (name, state, kept) in &server.slots {
        let kept = kept.map_or_else(String::new, |bytes| format!(", keeps {}", output.size(bytes)));
        output.line(&format!("slot {name}: {state}{kept}"));
    }
}

/// Asks the server how far it is.
fn ask(access: &Access, coverage: &Coverage) -> Result<ServerState, PostgresError> {
    let mut sql = access.connect(Purpose::Sql)?;
    let position = sql.value(
        "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() \
         THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END",
    )?;
    let last = coverage.ranges().last().map(|range| range.end);
    let behind_bytes = last.and_then(|last| {
        let now: crate::format::postgres::lsn::Lsn = position.parse().ok()?;
        Some(now.0.saturating_sub(last.0))
    });
    let rows = sql.query(
        "SELECT slot_name, wal_status, CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE \
         pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)::bigint END \
         FROM pg_catalog.pg_replication_slots WHERE slot_name LIKE 'holdfast%'",
    )?;
    let slot = |row: Vec<Option<String>>| {
        let mut values = row.into_iter();
        let name = values.next()??;
        let state = values.next().flatten().unwrap_or_default();
        Some((name, state, values.next().flatten().and_then(|bytes| bytes.parse().ok())))
    };
    Ok(ServerState { position, behind_bytes, slots: rows.into_iter().filter_map(slot).collect() })
}
