//! What `holdfast restore --into` does: a dump into a new database of a running server.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use crate::cli::command::restore::RestoreArgs;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::{self, postgres, source};
use crate::cli::postgres::{access_of, failed};
use crate::cli::reading::Reading;
use crate::cli::selector::Selector;
use crate::format::postgres::dump_toc::DumpToc;
use crate::format::postgres::facts::{DumpFacts, PostgresFacts};
use crate::format::snapshot::{Root, Snapshot};
use crate::progress::Progress;
use crate::restore::execute::{Overwrite, RestoreOptions, restore};
use crate::restore::filter::Filters;
use crate::restore::target::Target;
use crate::restore::target_options::Options;
use crate::source::error::SourceError;
use crate::source::postgres::dump::DumpError;
use crate::source::postgres::dump_restore::{
    NewDatabase, Ownership, RestoreTarget, entries_for, write_list,
};
use crate::source::postgres::dump_tools::DumpTools;
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::private_folder::PrivateFolder;
use crate::units::format_duration;

/// Jobs of `pg_restore`, where nothing else is said.
const JOBS_DEFAULT: u32 = 4;
/// The last lines of a program that failed.
const LINES_SHOWN: usize = 20;

/// Arguments of a restore into a server.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Into a PostgreSQL server")]
pub struct IntoArgs {
    /// Restore a dump into a new database of this name, made at the end: postgres://USER@HOST/NAME
    #[arg(long, value_name = "CONNECTION", conflicts_with_all = ["target", "tar", "include", "exclude", "delete", "verify", "dry_run"])]
    pub into: Option<String>,
    /// Rows of this table only, as SCHEMA.NAME, with the definitions of all (repeatable)
    #[arg(long, value_name = "TABLE", requires = "into")]
    pub table: Vec<String>,
    /// Jobs of pg_restore [default: 4]
    #[arg(long, value_name = "N", requires = "into", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub jobs: Option<u32>,
    /// Leave out owners and privileges: their roles need not be there
    #[arg(long, requires = "into")]
    pub no_owner: bool,
    /// Folder with pg_restore [default: what PATH and the system have for the dump]
    #[arg(long, value_name = "DIR", requires = "into")]
    pub pg_bin: Option<PathBuf>,
    /// Where the dump is put meanwhile; takes its whole size [default: the temporary folder]
    #[arg(long, value_name = "DIR", requires = "into")]
    pub workspace: Option<PathBuf>,
}

/// Restores a dump into the database that `connection` names.
pub fn run(args: &RestoreArgs, connection: &str, context: &Context) -> Result<Exit, CommandError> {
    let started = Instant::now();
    let selector = context.selector(&args.snapshot)?;
    let reading =
        if args.from_any { Reading::open_any(context)?.0 } else { Reading::open(context)? };
    let (record, snapshot) = reading.select(context, &selector)?;
    let (root, facts) = dump_of(&snapshot, &selector)?;
    let access = access_of(connection, context)?;
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
    let dump = Fetched { reading: &reading, snapshot: &snapshot, root, folder: folder.path() };
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

/// The dump that is meant: the one at the path, or the only one.
fn dump_of<'a>(
    snapshot: &'a Snapshot,
    selector: &Selector,
) -> Result<(&'a Root, DumpFacts), CommandError> {
    let wanted = selector.path.as_deref().map(|path| path.trim_matches('/').as_bytes().to_vec());
    let is_wanted = |root: &&Root| wanted.as_ref().is_none_or(|path| *path == *root.path);
    for root in snapshot.roots.iter().filter(is_wanted) {
        let facts = root.facts.as_ref().map(PostgresFacts::decode);
        match facts.transpose() {
            Ok(Some(Some(PostgresFacts::Dump(facts)))) => return Ok((root, facts)),
            Ok(_) => {}
            Err(error) => return Err(CommandError::classify(&error, &postgres::NOT_A_DUMP)),
        }
    }
    Err(CommandError::new(&postgres::NOT_A_DUMP, "the snapshot has no dump of a database there"))
}

/// A dump on its way through a folder of ours.
struct Fetched<'a> {
    reading: &'a Reading,
    snapshot: &'a Snapshot,
    root: &'a Root,
    folder: &'a Path,
}

impl Fetched<'_> {
    fn place(&self) -> PathBuf {
        self.folder.join("dump")
    }

    /// Fetches the dump, or what is needed of it for the rows of some tables: then a list of what is
    /// to be restored comes with it.
    fn fetch(
        &self,
        tables: &[String],
        context: &Context,
    ) -> Result<(DumpToc, Option<PathBuf>), CommandError> {
        if tables.is_empty() {
            self.files(&[], context)?;
            return Ok((self.toc()?, None));
        }
        self.files(&["toc.dat".to_owned()], context)?;
        let toc = self.toc()?;
        let entries = entries_for(&toc, tables)
            .map_err(|error| CommandError::classify(&error, &postgres::NOT_A_DUMP))?;
        let files = entries.iter().map(|entry| entry.file.clone());
        self.files(&files.filter(|file| !file.is_empty()).collect::<Vec<_>>(), context)?;
        let list = self.folder.join("list");
        write_list(&list, &entries).map_err(|error| failed(&error))?;
        Ok((toc, Some(list)))
    }

    fn files(&self, names: &[String], context: &Context) -> Result<(), CommandError> {
        let filters = Filters::new(names, &[]);
        let filters = filters.map_err(|error| CommandError::classify(&error, &source::PATTERN))?;
        let place = self.place();
        let opened = Target::open(&place, Options { create: true, ..Options::default() });
        let opened =
            opened.map_err(|error| CommandError::classify(&error, &explain::restore::TARGET))?;
        let how = RestoreOptions {
            overwrite: Overwrite::Always,
            delete: false,
            dry_run: false,
            filters,
            threads: 0,
        };
        let progress = Arc::new(Progress::default());
        let watch = context.watch(&progress);
        let path = [b"/", &self.root.path[..]].concat();
        let access = &self.reading.access;
        let report = restore(access, self.snapshot, &path, &opened, &how, &progress);
        watch.finish();
        let report =
            report.map_err(|error| CommandError::classify(&error, &explain::restore::DAMAGED))?;
        if report.damaged > 0 {
            let what = format!("{} files of the dump have lost content", report.damaged);
            return Err(CommandError::new(&explain::restore::DAMAGED, what));
        }
        Ok(())
    }

    fn toc(&self) -> Result<DumpToc, CommandError> {
        let path = self.place().join("toc.dat");
        let bytes = std::fs::read(&path).map_err(|error| {
            let what = format!("cannot read {}", path.display());
            CommandError::new(&postgres::NOT_A_DUMP, what).because(&error)
        })?;
        DumpToc::decode(&bytes)
            .map_err(|error| CommandError::new(&postgres::NOT_A_DUMP, error.to_string()))
    }
}

fn not_restored(error: &DumpError) -> CommandError {
    match error {
        DumpError::Source(SourceError::CommandFailed { status, stderr_tail, .. }) => {
            let what = format!("pg_restore failed ({status}); the new database is dropped again");
            let lines: Vec<_> = stderr_tail.lines().rev().take(LINES_SHOWN).collect();
            let failed = CommandError::new(&postgres::NOT_RESTORED, what);
            lines.into_iter().rev().fold(failed, CommandError::because_text)
        }
        DumpError::Source(error) => CommandError::classify(error, &postgres::NOT_RESTORED),
        DumpError::Server(error) => failed_server(error),
    }
}

fn failed_server(error: &PostgresError) -> CommandError {
    CommandError::classify(error, &postgres::NOT_RESTORED)
}
