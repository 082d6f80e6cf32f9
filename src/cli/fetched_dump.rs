//! A dump on its way from a snapshot into a server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::explain::{self, postgres, source};
use crate::cli::postgres::failed;
use crate::cli::reading::Reading;
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
use crate::source::postgres::dump_restore::{entries_for, write_list};
use crate::source::postgres::error::PostgresError;

/// The last lines of a program that failed.
const LINES_SHOWN: usize = 20;

/// The dump that is meant: the one at the path, or the only one.
pub fn dump_of<'a>(
    snapshot: &'a Snapshot,
    path: Option<&str>,
) -> Result<(&'a Root, DumpFacts), CommandError> {
    let wanted = path.map(|path| path.trim_matches('/').as_bytes().to_vec());
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
pub struct FetchedDump<'a> {
    /// Where from.
    pub reading: &'a Reading,
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// The dump in it.
    pub root: &'a Root,
    /// The folder.
    pub folder: &'a Path,
}

impl FetchedDump<'_> {
    /// Where the dump lies.
    #[must_use]
    pub fn place(&self) -> PathBuf {
        self.folder.join("dump")
    }

    /// Fetches the dump, or what is needed of it for the rows of some tables: then a list of what is
    /// to be restored comes with it.
    pub fn fetch(
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

/// The error for people, with the last lines of `pg_restore`.
#[must_use]
pub fn not_restored(error: &DumpError) -> CommandError {
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
