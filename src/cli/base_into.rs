//! A database, or some tables, out of a base backup and into a running server: a server is started
//! on the backup, and dumped from.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::cli::command::restore::RestoreArgs;
use crate::cli::context::Context;
use crate::cli::drill_checks::{CLIENT_OPTIONS, Checked};
use crate::cli::error::CommandError;
use crate::cli::explain::postgres;
use crate::cli::fetched_dump::not_restored;
use crate::cli::isolated::Isolated;
use crate::cli::live_server::{LocalServerArgs, variables};
use crate::cli::postgres::failed;
use crate::cli::reading::Reading;
use crate::format::drill::{Check, DrillRecord};
use crate::format::postgres::dump_toc::DumpToc;
use crate::source::command::CommandStream;
use crate::source::postgres::connection::Connection;
use crate::source::postgres::dump::{DumpError, read_whole};
use crate::source::postgres::dump_restore::{
    NewDatabase, Ownership, RestoreTarget, entries_for, write_list,
};
use crate::source::postgres::dump_tools::without_settings;
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::private_folder::PrivateFolder;

/// User that the server runs as, and superuser of the cluster.
const POSTGRES: &str = "postgres";

/// What is to be fetched, and where it goes.
pub struct BaseInto<'a> {
    /// The arguments.
    pub args: &'a RestoreArgs,
    /// The new database.
    pub target: RestoreTarget,
    /// Jobs of `pg_dump` and `pg_restore`.
    pub jobs: u32,
}

impl BaseInto<'_> {
    /// Fetches it; the name of the database that it came from.
    ///
    /// # Errors
    /// The backup does not come up, or one of the servers fails; then there is no new database.
    pub fn run(
        &self,
        context: &Context,
        reading: Reading,
        source: &str,
        base: (Option<&str>, u32),
    ) -> Result<String, CommandError> {
        let into = &self.args.into;
        // Before anything takes long: whether there is room for the name.
        let mut database =
            NewDatabase::prepare(self.target.clone(), base.1).map_err(|error| failed(&error))?;
        let local = LocalServerArgs {
            pg_bin: into.pg_bin.clone(),
            user: Some(POSTGRES.to_owned()),
            set: Vec::new(),
            role: POSTGRES.to_owned(),
            workspace: into.workspace.clone(),
        };
        let isolated = Isolated {
            context,
            local: &local,
            point: &self.args.postgres.point,
            variables: variables(context),
            user: local.user()?,
            begun: Instant::now(),
        };
        let folder = PrivateFolder::create(&local.workspace());
        let folder = folder.map_err(|error| CommandError::classify(&error, &postgres::LAYER))?;
        let mut record = DrillRecord::new(source, String::new());
        let mut name = Ok(String::new());
        let mut look = |checked: &Checked<'_>, _: Option<Check>, _: &mut DrillRecord| {
            name = self.database(checked).and_then(|name| {
                self.fetch(context, checked, &name, folder.path(), &mut database)?;
                Ok(name)
            });
        };
        isolated.base(reading, source, base, &mut record, &mut look)?;
        let name = name?;
        database.rename().map_err(|error| failed(&error))?;
        Ok(name)
    }

    /// The database that is meant: the one that was named, or the only one.
    fn database(&self, checked: &Checked<'_>) -> Result<String, CommandError> {
        let all = checked.databases().map_err(|error| failed(&error))?;
        let wrong = |what: String| CommandError::new(&postgres::NOT_A_DUMP, what);
        if let Some(name) = &self.args.into.from_database {
            let is_there = all.contains(name);
            let none = || wrong(format!("there is no database {name}, only {}", all.join(", ")));
            return is_there.then(|| name.clone()).ok_or_else(none);
        }
        let own: Vec<&String> = all.iter().filter(|name| *name != POSTGRES).collect();
        match own[..] {
            [only] => Ok(only.clone()),
            [] => Ok(POSTGRES.to_owned()),
            _ => Err(wrong(format!("which database is meant: {}?", all.join(", ")))
                .hint("--from-database NAME")),
        }
    }

    fn fetch(
        &self,
        context: &Context,
        checked: &Checked<'_>,
        name: &str,
        folder: &Path,
        database: &mut NewDatabase,
    ) -> Result<(), CommandError> {
        let tables = &self.args.into.table;
        let place = folder.join("dump");
        let sql = checked.server.connect(checked.role, name);
        let mut sql = sql.map_err(|error| failed(&error))?;
        let mut argv: Vec<OsString> = vec![
            checked.tools.program("pg_dump"),
            "--format=directory".into(),
            "--compress=0".into(),
            "--no-password".into(),
            format!("--jobs={}", self.jobs).into(),
            "--file".into(),
            place.clone().into_os_string(),
        ];
        if !tables.is_empty() {
            let others = other_tables(&mut sql, tables).map_err(|error| failed(&error))?;
            let without = |table: &String| format!("--exclude-table-data={table}").into();
            argv.extend(others.iter().map(without));
        }
        let mut environment = without_settings(checked.variables);
        let mut set = |name: &str, value: OsString| environment.push((name.into(), value));
        set("PGHOST", checked.socket.as_os_str().to_owned());
        set("PGPORT", "5432".into());
        set("PGUSER", checked.role.into());
        set("PGDATABASE", name.into());
        set("PGOPTIONS", CLIENT_OPTIONS.into());
        let dumped = CommandStream::start(&argv, environment, None).and_then(read_whole);
        dumped.map_err(|error| not_restored(&DumpError::Source(error)))?;
        let (toc, list) = self.contents(&place, folder)?;
        database.create(&toc).map_err(|error| failed(&error))?;
        let ownership = if self.args.into.no_owner { Ownership::Ours } else { Ownership::AsSaved };
        let said = database.restore(checked.tools, &place, list.as_deref(), self.jobs, ownership);
        for line in said.map_err(|error| not_restored(&error))? {
            context.output.warning(&line);
        }
        Ok(())
    }

    fn contents(
        &self,
        place: &Path,
        folder: &Path,
    ) -> Result<(DumpToc, Option<PathBuf>), CommandError> {
        let wrong = |what: String| CommandError::new(&postgres::NOT_A_DUMP, what);
        let bytes =
            std::fs::read(place.join("toc.dat")).map_err(|error| wrong(error.to_string()))?;
        let toc = DumpToc::decode(&bytes).map_err(|error| wrong(error.to_string()))?;
        let tables = &self.args.into.table;
        if tables.is_empty() {
            return Ok((toc, None));
        }
        let entries = entries_for(&toc, tables)
            .map_err(|error| CommandError::classify(&error, &postgres::NOT_A_DUMP))?;
        let list = folder.join("list");
        write_list(&list, &entries).map_err(|error| failed(&error))?;
        Ok((toc, Some(list)))
    }
}

/// All tables but those, each as a pattern that only it matches.
fn other_tables(sql: &mut Connection, tables: &[String]) -> Result<Vec<String>, PostgresError> {
    let rows = sql.query(
        "SELECT n.nspname, c.relname \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
         AND n.nspname NOT LIKE 'pg\\_toast%'",
    )?;
    let is_wanted = |schema: &str, name: &str| {
        tables.iter().any(|table| match table.split_once('.') {
            Some((of, table)) if of == schema && table == name => true,
            _ => table == name && schema == "public",
        })
    };
    let other = |row: Vec<Option<String>>| {
        let [schema, name] = <[_; 2]>::try_from(row).ok()?;
        let (schema, name) = (schema?, name?);
        // Quoted, no letter of a pattern has a meaning.
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        (!is_wanted(&schema, &name)).then(|| format!("{}.{}", quoted(&schema), quoted(&name)))
    };
    Ok(rows.into_iter().filter_map(other).collect())
}
