//! What `holdfast restore --into` does: a dump into a new database of a running server of
//! PostgreSQL; one of Redis is given to `restore_redis`.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::json;

#[cfg(feature = "mount")]
use crate::backup::postgres_base::Access;
#[cfg(feature = "mount")]
use crate::cli::base_into::BaseInto;
use crate::cli::command::restore::RestoreArgs;
use crate::cli::command::restore_redis;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain;
use crate::cli::fetched_dump::{FetchedDump, dump_of, not_restored};
#[cfg(feature = "mount")]
use crate::cli::live_server::variables;
use crate::cli::postgres::{access_of, failed};
use crate::cli::reading::Reading;
use crate::cli::redis::RedisPasswordArgs;
#[cfg(feature = "mount")]
use crate::cli::signals::signals;
#[cfg(feature = "mount")]
use crate::cli::wal_archive::facts_of;
#[cfg(feature = "mount")]
use crate::format::postgres::facts::PostgresFacts;
use crate::source::postgres::dump_restore::{NewDatabase, Ownership, RestoreTarget};
use crate::source::postgres::dump_tools::DumpTools;
use crate::source::postgres::private_folder::PrivateFolder;
use crate::units::format_duration;

/// Jobs of `pg_restore`, where nothing else is said.
const JOBS_DEFAULT: u32 = 4;

/// Arguments of a restore into a server.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Into a server of PostgreSQL or Redis")]
pub struct IntoArgs {
    /// Restore a dump into a new database of this name, made at the end: postgres://USER@HOST/NAME;
    /// or into an empty server: redis://USER@HOST:PORT, rediss://, unix:///SOCKET
    #[arg(long, value_name = "CONNECTION", conflicts_with_all = ["target", "tar", "include", "exclude", "delete", "verify", "dry_run"])]
    pub into: Option<String>,
    /// Rows of this table only, as SCHEMA.NAME, with the definitions of all (repeatable)
    #[arg(long, value_name = "TABLE", requires = "into")]
    pub table: Vec<String>,
    /// Jobs of pg_restore [default: 4]
    #[arg(long, value_name = "N", requires = "into", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub jobs: Option<u32>,
    /// Database to take out of a base backup [default: the only one]
    #[arg(long, value_name = "NAME", requires = "into")]
    pub from_database: Option<String>,
    /// Leave out owners and privileges: their roles need not be there
    #[arg(long, requires = "into")]
    pub no_owner: bool,
    /// Folder with pg_restore [default: what PATH and the system have for the dump]
    #[arg(long, value_name = "DIR", requires = "into")]
    pub pg_bin: Option<PathBuf>,
    /// Where the dump is put meanwhile; takes its whole size [default: the temporary folder]
    #[arg(long, value_name = "DIR", requires = "into")]
    pub workspace: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub redis_password: RedisPasswordArgs,
}

impl IntoArgs {
    /// Whether something is given that is for PostgreSQL only.
    #[must_use]
    pub fn is_for_postgres(&self) -> bool {
        !self.table.is_empty()
            || self.jobs.is_some()
            || self.from_database.is_some()
            || self.no_owner
            || self.pg_bin.is_some()
    }
}

/// Restores a dump into the database that `connection` names.
pub fn run(args: &RestoreArgs, connection: &str, context: &Context) -> Result<Exit, CommandError> {
    if restore_redis::is_address(connection) {
        return restore_redis::run(args, connection, context);
    }
    let started = Instant::now();
    let selector = context.selector(&args.snapshot)?;
    let reading =
        if args.from_any { Reading::open_any(context)?.0 } else { Reading::open(context)? };
    let (record, snapshot) = reading.select(context, &selector)?;
    let access = access_of(connection, context)?;
    #[cfg(feature = "mount")]
    if let Some(PostgresFacts::Base(facts)) = facts_of(&snapshot)? {
        let only = selector.names_one().then(|| record.name.id.to_string());
        let source = snapshot.source.clone();
        let base = (only, facts.cluster.major());
        return from_base(args, access, context, reading, (&source, base), started);
    }
    if args.postgres.point.is_given() {
        let what = "a dump has no other point in time than its own";
        return Err(CommandError::new(&explain::usage::ARGUMENT, what));
    }
    let (root, facts) = dump_of(&snapshot, selector.path.as_deref())?;
    let secret: Vec<_> = context.loaded.config.secret_variables().collect();
    let variables = context.environment.of_child(&secret);
    let into = &args.into;
    let major = facts.cluster.major();
    let tools = DumpTools::find(into.pg_bin.as_deref(), &variables, facts.tool);
    let tools = tools.map_err(|error| failed(&error))?;
    let name = access.address.database.clone();
    let target = RestoreTarget { address: access.address, password: access.password, variables };
    let mut database = NewDatabase::prepare(target, major).map_err(|error| failed(&error))?;
    let workspace = into.workspace.clone().unwrap_or_else(std::env::temp_dir);
    let folder = PrivateFolder::create(&workspace);
    let folder =
        folder.map_err(|error| CommandError::classify(&error, &explain::restore::TARGET))?;
    let dump = FetchedDump { reading: &reading, snapshot: &snapshot, root, folder: folder.path() };
    let (toc, list) = dump.fetch(&into.table, context)?;
    database.create(&toc).map_err(|error| failed(&error))?;
    let jobs = into.jobs.unwrap_or(JOBS_DEFAULT);
    let ownership = if into.no_owner { Ownership::Ours } else { Ownership::AsSaved };
    let said = database.restore(&tools, &dump.place(), list.as_deref(), jobs, ownership);
    for line in said.map_err(|error| not_restored(&error))? {
        context.output.warning(&line);
    }
    database.rename().map_err(|error| failed(&error))?;
    let id = record.name.id.to_string();
    let (output, took) = (&context.output, started.elapsed());
    output.note(&format!(
        "Restored database {} of snapshot {} into {name} in {}",
        facts.database,
        &id[..8],
        format_duration(took),
    ));
    let seconds = took.as_secs_f64();
    output.summary(
        Exit::Done,
        &json!({ "snapshot": id, "database": name, "tables": into.table, "seconds": seconds }),
    );
    Ok(Exit::Done)
}

/// The same from a base backup: a server is started on it, and dumped from.
#[cfg(feature = "mount")]
fn from_base(
    args: &RestoreArgs,
    access: Access,
    context: &Context,
    reading: Reading,
    (source, (only, major)): (&str, (Option<String>, u32)),
    started: Instant,
) -> Result<Exit, CommandError> {
    let name = access.address.database.clone();
    let target = RestoreTarget {
        address: access.address,
        password: access.password,
        variables: variables(context),
    };
    let jobs = args.into.jobs.unwrap_or(JOBS_DEFAULT);
    let into = BaseInto { args, target, jobs };
    signals().arm();
    let from = into.run(context, reading, source, (only.as_deref(), major))?;
    let took = started.elapsed();
    let what = format!("Restored database {from} of {source} into {name}");
    context.output.note(&format!("{what} in {}", format_duration(took)));
    let seconds = took.as_secs_f64();
    context.output.summary(
        Exit::Done,
        &json!({ "database": name, "tables": args.into.table, "seconds": seconds }),
    );
    Ok(Exit::Done)
}
