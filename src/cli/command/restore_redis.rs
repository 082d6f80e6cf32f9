//! `holdfast restore --into redis://…`: a dump straight into an empty server of Redis or Valkey.
//!
//! The dump is read twice: once to know that all of it is sound and can be loaded, and only then to
//! load it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cli::command::restore::RestoreArgs;
use crate::cli::command::restore_journal::{moment_of, say_what_comes};
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::{redis, usage};
use crate::cli::reading::Reading;
use crate::cli::redis::{access_of, failed};
use crate::cli::redis_append_only::facts_of as append_only_facts;
use crate::cli::redis_archive::{RedisArchive, shown_ms};
use crate::cli::redis_found::{FeedError, FoundDump, Take, find};
use crate::cli::redis_moment::{MomentDump, Way};
use crate::cli::signals::signals;
use crate::format::redis::load_plan::{LoadPlan, LoadPlanner};
use crate::progress::Progress;
use crate::restore::error::with_causes;
use crate::source::redis::connection::Access;
use crate::source::redis::error::RedisError;
use crate::source::redis::loader::{Loaded, Loader, now_ms};
use crate::source::redis::server_fitness::require_empty;
use crate::units::format_duration;

/// The name by which secrets of the target are looked for: no source's password goes to a server
/// that is another one.
const TARGET_NAME: &str = "into";

/// Whether that is the address of a Redis server.
#[must_use]
pub fn is_address(connection: &str) -> bool {
    let schemes = ["redis://", "rediss://", "unix://", "redis+unix://"];
    schemes.iter().any(|scheme| connection.starts_with(scheme))
}

/// Loads a dump into the server at `connection`.
pub fn run(args: &RestoreArgs, connection: &str, context: &Context) -> Result<Exit, CommandError> {
    let started = Instant::now();
    if args.into.is_for_postgres() {
        let what = "--table, --jobs, --from-database, --no-owner and --pg-bin are for PostgreSQL";
        return Err(CommandError::new(&usage::ARGUMENT, what));
    }
    let access = access_of(connection, TARGET_NAME, &args.into.redis_password, context)?;
    let selector = context.selector(&args.snapshot)?;
    let reading =
        if args.from_any { Reading::open_any(context)?.0 } else { Reading::open(context)? };
    let (newest, snapshot) = reading.select(context, &selector)?;
    let (mut found, mut at) = (None, None);
    let mut id = newest.name.id.to_string();
    let is_append_only = append_only_facts(&snapshot).is_some();
    if !is_append_only {
        let dump = find(&reading, context, &selector)?;
        id.clone_from(&dump.id);
        found = Some(dump);
    }
    if args.postgres.point.is_given() {
        if is_append_only {
            let what = "an append-only file has no other point in time than its end";
            return Err(CommandError::new(&usage::ARGUMENT, what));
        }
        let moment = moment_of(&args.postgres.point, context)?;
        let archive = RedisArchive::read(&reading, context, &snapshot.source)?;
        let plan = archive.plan(moment)?;
        id = archive.dumps[plan.dump].found.0.name.id.to_string();
        say_what_comes(context, &archive.dumps[plan.dump], &plan);
        at = Some((archive, plan));
    }
    // Asked before the dump is read, which may take long, and once more after.
    let asked = access.connect().and_then(|mut server| require_empty(&mut server));
    asked.map_err(|error| failed(&error))?;
    let way =
        at.as_ref().map_or(Way::Files(&snapshot), |(archive, plan)| Way::Journal(archive, plan));
    let dump = match &found {
        Some(found) if at.is_none() => DumpBytes::Stored(found, &reading),
        _ => {
            signals().arm();
            let workspace = args.into.workspace.clone().unwrap_or_else(std::env::temp_dir);
            DumpBytes::Moment(MomentDump::make(context, &reading, way, &workspace)?)
        }
    };
    let plan = plan_of(&dump, context)?;
    let loaded = load(&dump, context, (&access, plan));
    if let (Err(error), Some(exit)) = (&loaded, signals().came()) {
        context.output.warning(error.what());
        return Ok(exit);
    }
    let loaded = loaded?;
    let moment = at.as_ref().map(|(_, plan)| shown_ms(plan.moment));
    report(context, &loaded, (&id, moment), (&access, started.elapsed()));
    Ok(Exit::Done)
}

/// Says what was loaded.
fn report(
    context: &Context,
    loaded: &Loaded,
    (id, moment): (&str, Option<String>),
    (access, took): (&Access, Duration),
) {
    let keys: u64 = loaded.keys.values().sum();
    let output = &context.output;
    output.note(&format!(
        "Loaded {keys} keys of {} databases and {} libraries of functions of snapshot {} into {} \
         in {}",
        loaded.keys.len(),
        loaded.functions,
        &id[..8],
        access.address.host,
        format_duration(took),
    ));
    if let Some(moment) = &moment {
        output.note(&format!("with the commands after it, as they were at {moment}"));
    }
    if loaded.expired > 0 {
        output.note(&format!("{} keys had expired since and were left out", loaded.expired));
    }
    output.summary(
        Exit::Done,
        &json!({
            "snapshot": id, "keys": loaded.keys, "expired": loaded.expired,
            "functions": loaded.functions, "moment": moment, "seconds": took.as_secs_f64(),
        }),
    );
}

/// Where the bytes come from.
enum DumpBytes<'a> {
    Stored(&'a FoundDump, &'a Reading),
    Moment(MomentDump),
}

impl DumpBytes<'_> {
    fn feed(&self, progress: &Progress, take: &mut Take<'_>) -> Result<(), FeedError> {
        match self {
            Self::Stored(found, reading) => found.feed(reading, progress, take),
            Self::Moment(dump) => dump.feed(take),
        }
    }
}

fn plan_of(dump: &DumpBytes<'_>, context: &Context) -> Result<LoadPlan, CommandError> {
    let mut planner = LoadPlanner::new(now_ms());
    let progress = Arc::new(Progress::default());
    let watch = context.watch(&progress);
    let fed = dump.feed(&progress, &mut |bytes| {
        planner.take(bytes);
        Ok(())
    });
    watch.finish();
    fed?;
    Ok(planner.finish())
}

fn load(
    dump: &DumpBytes<'_>,
    context: &Context,
    (access, plan): (&Access, LoadPlan),
) -> Result<Loaded, CommandError> {
    let mut loader = Loader::prepare(access, plan).map_err(|error| failed(&error))?;
    let progress = Arc::new(Progress::default());
    // It looks for signals until its end: what is in the server then must be said.
    let watch = context.watch(&progress);
    let fed = dump.feed(&progress, &mut |bytes| {
        if signals().came().is_some() {
            return Err(loader.failed(RedisError::Cancelled));
        }
        loader.take(bytes)
    });
    let loaded = fed.and_then(|()| loader.finish_dump().map_err(FeedError::Taken));
    watch.finish();
    match loaded {
        Ok(loaded) => Ok(loaded),
        Err(FeedError::Read(error)) => {
            let state = loader.failed(RedisError::Cancelled).to_string();
            Err(CommandError::new(&redis::NOT_LOADED, state).because_text(&with_causes(&error)))
        }
        Err(error) => Err(error.into()),
    }
}
