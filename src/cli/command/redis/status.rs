//! `holdfast redis status`: what can be restored of a Redis source, and to which moments.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::redis;
use crate::cli::maintaining::short;
use crate::cli::reading::Reading;
use crate::cli::redis::{KnownServers, RedisPasswordArgs, named_redis};
use crate::cli::redis_archive::{RedisArchive, shown_ms};
use crate::cli::table::{Align, Table};
use crate::format::redis::reach::{Coverage, Gap};
use crate::format::redis::server_facts::JournalRange;
use crate::source::redis::connection::Access;
use crate::source::redis::error::RedisError;
use crate::source::redis::server::ServerState;

const AFTER_HELP: &str = "\
Examples:
  holdfast redis status cache
  holdfast redis status cache --offline --json

Exit code 4: the journal has a gap, no dump leads to it, or the server is not followed any more.";

/// Arguments of `redis status`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct StatusArgs {
    /// Name of the source
    #[arg(value_name = "NAME")]
    pub source: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the help")]
    pub password: RedisPasswordArgs,
    /// Do not ask the server how far it is
    #[arg(long)]
    pub offline: bool,
}

/// Shows it.
pub fn run(args: &StatusArgs, context: &Context) -> Result<Exit, CommandError> {
    let reading = Reading::open(context)?;
    let archive = RedisArchive::read(&reading, context, &args.source)?;
    let coverage = archive.coverage();
    let moments = coverage.moments(&archive.starts());
    let gaps = gaps_of(&archive, &coverage);
    print(context, &archive, &moments, &gaps);
    let server = if args.offline {
        None
    } else {
        let known = KnownServers::read(&reading.repository.state)?;
        let server = named_redis(&args.source, &args.password, context, &known);
        server.ok().map(|server| ask(&server.access))
    };
    let newest = newest_of(&archive, &coverage);
    let server = server.map(|state| match state {
        Ok(state) => print_server(context, &state, newest.as_ref()),
        Err(error) => {
            context.output.warning(&format!("the server was not asked: {error}"));
            json!({ "error": error.to_string() })
        }
    });
    let leads_nowhere = newest.as_ref().is_some_and(|range| !archive.leads_to(&range.line));
    if leads_nowhere {
        let id = redis::GAP.id;
        context.output.warning(&format!("no dump is kept from which the journal leads on ({id})"));
    }
    let is_other = server.as_ref().is_some_and(|server| server["followed"] == false);
    let is_sound = gaps.is_empty() && !leads_nowhere && !is_other;
    let exit = if is_sound { Exit::Done } else { Exit::Findings };
    let interval =
        |(from, until): &(u64, u64)| json!({ "from": shown_ms(*from), "until": shown_ms(*until) });
    context.output.summary(
        exit,
        &json!({
            "source": args.source,
            "dumps": archive.dumps.iter().map(|dump| json!({
                "snapshot": dump.found.0.name.id.to_string(), "moment": dump.facts.moment,
                "keys": dump.facts.keys_count(), "offset": dump.facts.offset,
                "shrunken": dump.facts.shrunken, "inexact": dump.facts.inexact,
            })).collect::<Vec<_>>(),
            "moments": moments.iter().map(interval).collect::<Vec<_>>(),
            "gaps": gaps.iter().map(|gap| json!({
                "from": shown_ms(gap.from), "to": gap.to.map(shown_ms),
            })).collect::<Vec<_>>(),
            "durable": newest.as_ref().map(|range| range.end),
            "server": server,
        }),
    );
    Ok(exit)
}

/// The end of what leads on from the last dump; without a dump, of what there is.
fn newest_of(archive: &RedisArchive<'_>, coverage: &Coverage) -> Option<JournalRange> {
    let plan = coverage.plan(&archive.starts(), None).ok();
    let last = plan.and_then(|plan| plan.stretches.last().cloned());
    let range = last.and_then(|last| coverage.range_of(&last));
    range.or_else(|| coverage.ranges().last().copied()).cloned()
}

/// The gaps behind the oldest dump: what lies before it is reached from nowhere anyway.
fn gaps_of(archive: &RedisArchive<'_>, coverage: &Coverage) -> Vec<Gap> {
    let oldest = archive.dumps.first().map_or(0, |dump| dump.start.moment);
    coverage.gaps().into_iter().filter(|gap| gap.from >= oldest).collect()
}

fn print(context: &Context, archive: &RedisArchive<'_>, moments: &[(u64, u64)], gaps: &[Gap]) {
    let output = &context.output;
    let columns = [
        ("DUMP", Align::Left),
        ("OF", Align::Left),
        ("KEYS", Align::Right),
        ("AT", Align::Right),
        ("SERVER", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for dump in &archive.dumps {
        let facts = &dump.facts;
        table.row([
            short(&dump.found.0.name.id),
            if facts.inexact { format!("before {}", facts.moment) } else { facts.moment.clone() },
            facts.keys_count().to_string(),
            facts.offset.map_or_else(String::new, |offset| offset.to_string()),
            format!("{} {}", facts.server, facts.version),
        ]);
    }
    output.table(&table);
    for (from, until) in moments.iter().filter(|(from, until)| from < until) {
        let (from, until) = (shown_ms(*from), shown_ms(*until));
        output.line(&format!("any moment from {from} to {until} can be reached"));
    }
    for gap in gaps {
        let from = shown_ms(gap.from);
        let to = gap.to.map_or_else(|| "now".to_owned(), shown_ms);
        let id = redis::GAP.id;
        output.warning(&format!("the journal has a gap from {from} to {to} ({id})"));
    }
}

fn ask(access: &Access) -> Result<ServerState, RedisError> {
    ServerState::read(&mut access.connect()?)
}

fn print_server(
    context: &Context,
    state: &ServerState,
    newest: Option<&JournalRange>,
) -> serde_json::Value {
    let offset = state.offset();
    let is_same = newest.is_some_and(|range| state.replid() == Some(&range.replid));
    let behind = offset.zip(newest).filter(|_| is_same);
    let behind = behind.map(|(offset, range)| offset.saturating_sub(range.end));
    if let Some(offset) = offset {
        let behind = behind.map_or_else(String::new, |bytes| {
            format!("; {} of it not saved yet", context.output.size(bytes))
        });
        context.output.line(&format!("the server is at {offset}{behind}"));
    }
    if newest.is_some() && !is_same {
        let what = "the server's history is another one than that of the journal";
        context.output.warning(&format!("{what} ({})", redis::GAP.id));
    }
    let followed = newest.map(|_| is_same);
    json!({
        "offset": offset, "replid": state.replid(), "behind_bytes": behind, "followed": followed,
    })
}
