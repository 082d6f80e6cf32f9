//! A dump of one database in directory format, planned: `pg_dump` has decided what it is, and its
//! rows wait to be fetched under the same snapshot of the database.
//!
//! As long as the plan lives, its transactions do, with the locks of `pg_dump`: no table that it
//! names can be dropped or rewritten.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use secrecy::SecretString;

use crate::format::postgres::dump_toc::DumpToc;
use crate::format::postgres::lsn::Lsn;
use crate::source::command::CommandStream;
use crate::source::error::SourceError;
use crate::source::postgres::address::Address;
use crate::source::postgres::connection::{Connection, Purpose};
use crate::source::postgres::dump_proxy::{DumpProxy, PROXY_PORT, Served};
use crate::source::postgres::dump_tools::{DumpTools, Variables, output_of, without_settings};
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::private_folder::PrivateFolder;
use crate::source::postgres::server::{ServerFacts, pairs, server_time};
use crate::source::postgres::wire::Row;
use crate::source::stream::ByteStream as _;

/// Longest table of contents.
const TOC_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// What `pg_dump` writes behind the rows of a table, at most.
const TRAILER_BYTES_MAX: u64 = 1024;
/// Tables that are named in a message.
const TABLES_NAMED: usize = 5;
/// How often a dump is begun whose tables are replaced before they are locked.
const BEGINNINGS_MAX: usize = 3;

/// What is to be dumped, and with what.
#[derive(Clone)]
pub struct DumpSource {
    /// The database.
    pub address: Address,
    /// The password, where it is not in the password file.
    pub password: Option<SecretString>,
    /// Where the programs are; looked for where it is not given.
    pub tools: Option<PathBuf>,
    /// Where a small folder is made; its path must leave room for the name of a socket.
    pub workspace: PathBuf,
    /// The environment of the programs.
    pub variables: Variables,
}

/// Settings of a session, a role or a database that change the text of values.
const TEXT_SETTINGS: &str = "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN \
     ('TimeZone', 'DateStyle', 'IntervalStyle', 'bytea_output', 'extra_float_digits', \
     'lc_monetary') ORDER BY name";

/// Why there is no dump.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The server, or the way to it, or what it sent.
    #[error(transparent)]
    Server(#[from] PostgresError),
    /// A program, or the local disk.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// A table whose rows are to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTable {
    /// `COPY … TO stdout;`
    pub statement: Vec<u8>,
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// File that the rows belong into.
    pub file: String,
    /// What stands behind the rows in the file.
    pub trailer: Vec<u8>,
    /// Its number on the server.
    pub oid: u32,
    /// Size on the server's disk in bytes, about.
    pub size: u64,
}

/// A dump without its rows.
pub struct PlannedDump {
    /// The server.
    pub server: ServerFacts,
    /// Major version of `pg_dump`.
    pub tools_major: u32,
    /// When the snapshot of the database was taken, by the server's clock (RFC 3339).
    pub moment: String,
    /// Position in the log at that time.
    pub lsn: Lsn,
    /// `pg_dumpall --globals-only`.
    pub globals: Vec<u8>,
    /// Tables, the largest first.
    pub tables: Vec<PlannedTable>,
    /// Large objects; object N belongs into `blob_N.dat`.
    pub large_objects: Vec<u32>,
    /// Names of the files that are as `pg_dump` has written them.
    pub files: Vec<String>,
    /// Settings that the text of rows depends on, as they were for the connections of the dump.
    pub text_settings: Vec<(String, String)>,
    /// What is to be told.
    pub warnings: Vec<String>,
    settings: Vec<Vec<u8>>,
    coordinator: Connection,
    held: Vec<Connection>,
    source: DumpSource,
    folder: PrivateFolder,
}

impl DumpSource {
    fn open(&self, purpose: Purpose) -> Result<Connection, PostgresError> {
        Connection::open(&self.address, purpose, self.password.as_ref())
    }

    /// Runs a program whose connections go through a proxy.
    fn run_behind_proxy(
        &self,
        folder: &Path,
        argv: &[OsString],
        warnings: &mut Vec<String>,
    ) -> Result<(Vec<u8>, Served), DumpError> {
        let this = self.clone();
        let open = move |database: &str| {
            let address = this.address.with_database(database);
            Connection::open(&address, Purpose::Dump, this.password.as_ref())
        };
        let proxy = DumpProxy::start(folder, Box::new(open))?;
        let mut variables = without_settings(&self.variables);
        let (port, none) = (PROXY_PORT.to_string(), folder.join("none"));
        let settings = [
            ("PGHOST", folder.as_os_str()),
            ("PGPORT", port.as_ref()),
            ("PGUSER", self.address.user.as_ref()),
            ("PGDATABASE", self.address.database.as_ref()),
            ("PGPASSFILE", none.as_os_str()),
        ];
        variables.extend(settings.map(|(name, value)| (name.into(), value.to_owned())));
        let said = Arc::new(Mutex::new(Vec::new()));
        let collected = Arc::clone(&said);
        let collect = move |line: &[u8]| {
            let mut said = collected.lock().unwrap_or_else(PoisonError::into_inner);
            said.push(String::from_utf8_lossy(line).into_owned());
        };
        let ran =
            CommandStream::start(argv, variables, Some(Box::new(collect))).and_then(read_whole);
        let served = proxy.finish().ok_or_else(|| dump("a thread has ended unexpectedly"))?;
        if let Some(failure) = served.failure {
            return Err(failure.into());
        }
        let output = ran?;
        warnings.append(&mut said.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((output, served))
    }
}

impl PlannedDump {
    /// Has `pg_dump` decide what the dump is. `restrict_key` goes into the globals, where the
    /// program knows that; nobody who can write into the database may know it.
    ///
    /// # Errors
    /// A role that does not see every row, a server or a program that does not fit, what they say.
    pub fn plan(source: &DumpSource, restrict_key: &str) -> Result<Self, DumpError> {
        let mut replaced = String::new();
        for _ in 0..BEGINNINGS_MAX {
            let mut this = Self::begin(source.clone(), restrict_key)?;
            replaced = this.replaced()?;
            if replaced.is_empty() {
                this.order_by_size()?;
                return Ok(this);
            }
        }
        let what = "was replaced or emptied before it was locked, each time";
        Err(dump(&format!("{replaced} {what}")).into())
    }

    /// Tables that are others than those that the snapshot of the database sees. Emptied, rewritten
    /// or made anew between the snapshot and the lock, they have none of the rows that it has.
    fn replaced(&mut self) -> Result<String, PostgresError> {
        let rows = self.coordinator.query(&format!(
            "SELECT c.oid::pg_catalog.regclass FROM pg_catalog.pg_class c \
             WHERE c.oid = ANY ('{{{}}}'::pg_catalog.oid[]) AND c.relfilenode \
             IS DISTINCT FROM coalesce(pg_catalog.pg_relation_filenode(c.oid), 0)",
            self.numbers()
        ))?;
        Ok(named(rows))
    }

    fn numbers(&self) -> String {
        let numbers = self.tables.iter().map(|table| table.oid.to_string());
        numbers.collect::<Vec<_>>().join(",")
    }

    fn begin(source: DumpSource, restrict_key: &str) -> Result<Self, DumpError> {
        let mut sql = source.open(Purpose::Sql)?;
        let server = ServerFacts::read(&mut sql)?;
        let tools =
            DumpTools::find(source.tools.as_deref(), &source.variables, server.cluster.major())?;
        require_every_row(&mut sql)?;
        let folder = PrivateFolder::create(&source.workspace)?;
        let mut warnings = Vec::new();
        let globals = globals(&source, &tools, &mut sql, &folder, restrict_key, &mut warnings)?;
        sql.query(
            "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
             WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')",
        )?;
        sql.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        let snapshot = sql.value("SELECT pg_catalog.pg_export_snapshot()")?;
        let moment = server_time(&mut sql)?;
        let lsn = sql.value(
            "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN \
             pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END",
        )?;
        let lsn = lsn.parse().map_err(|_| sql.unexpected("reading a position"))?;
        let place = folder.path().join("dump");
        let argv = [
            tools.program("pg_dump"),
            "--format=directory".into(),
            "--compress=0".into(),
            "--no-password".into(),
            format!("--snapshot={snapshot}").into(),
            "--file".into(),
            place.clone().into_os_string(),
        ];
        let (_, served) = source.run_behind_proxy(folder.path(), &argv, &mut warnings)?;
        let mut this = Self {
            server,
            tools_major: tools.major,
            moment,
            lsn,
            globals,
            tables: Vec::new(),
            large_objects: served.large_objects,
            files: Vec::new(),
            warnings,
            settings: served.settings,
            text_settings: Vec::new(),
            coordinator: sql,
            held: served.connections,
            source,
            folder,
        };
        this.text_settings = pairs(this.connect()?.query(TEXT_SETTINGS)?);
        this.take_files(served.copies.into())?;
        Ok(this)
    }

    /// Folder with the files of [`PlannedDump::files`].
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.folder.path().join("dump")
    }

    /// One more connection that sees what `pg_dump` saw, as it saw it.
    pub fn connect(&self) -> Result<Connection, PostgresError> {
        let mut connection = self.source.open(Purpose::Dump)?;
        for statement in &self.settings {
            connection.query_bytes(statement)?;
        }
        Ok(connection)
    }

    /// Ends the transactions: everything was fetched.
    ///
    /// # Errors
    /// One of them had ended before, and with it what kept the tables as they were.
    pub fn finish(mut self) -> Result<(), PostgresError> {
        for connection in self.held.iter_mut().chain([&mut self.coordinator]) {
            connection.query("COMMIT")?;
        }
        Ok(())
    }

    /// Tells the files that `pg_dump` has written apart.
    fn take_files(&mut self, mut copies: VecDeque<Vec<u8>>) -> Result<(), DumpError> {
        let mut files = self.list()?;
        let toc = DumpToc::decode(&self.read("toc.dat", TOC_BYTES_MAX)?)
            .map_err(|error| dump(&error.to_string()))?;
        for entry in toc.entries.into_iter().filter(|entry| !entry.file.is_empty()) {
            if entry.kind == "BLOBS" {
                continue;
            }
            let name = &entry.name;
            if entry.kind != "TABLE DATA" {
                return Err(dump(&format!("{name} has data and is {}", entry.kind)).into());
            }
            let statement = copies.pop_front().unwrap_or_default();
            if !is_same_copy(&statement, &entry.copy_statement) {
                let text = String::from_utf8_lossy(&statement).into_owned();
                return Err(dump(&format!("the rows of {name} were asked for by {text:?}")).into());
            }
            let length = files.remove(&entry.file);
            length.ok_or_else(|| dump(&format!("there is no file {}", entry.file)))?;
            self.tables.push(PlannedTable {
                statement,
                trailer: self.read(&entry.file, TRAILER_BYTES_MAX)?,
                schema: entry.schema,
                name: entry.name,
                file: entry.file,
                oid: entry.oid,
                size: 0,
            });
        }
        if let Some(statement) = copies.front() {
            let text = String::from_utf8_lossy(statement);
            return Err(dump(&format!("no file belongs to {text:?}")).into());
        }
        let objects: BTreeSet<String> = self.large_objects.iter().map(|n| blob_file(*n)).collect();
        if objects.len() != self.large_objects.len()
            || !objects.iter().all(|file| files.remove(file) == Some(0))
            || files.keys().any(|file| file.starts_with("blob_"))
        {
            return Err(dump("its large objects are not those that were read").into());
        }
        self.files = files.into_keys().collect();
        Ok(())
    }

    fn order_by_size(&mut self) -> Result<(), PostgresError> {
        let rows = self.coordinator.query(&format!(
            "SELECT o, coalesce(pg_catalog.pg_table_size(o), 0) \
             FROM pg_catalog.unnest('{{{}}}'::pg_catalog.oid[]) AS o",
            self.numbers()
        ))?;
        let size = |row: &Row| {
            let [Some(oid), Some(size)] = &row[..] else { return None };
            Some((oid.parse().ok()?, size.parse().ok()?))
        };
        let sizes: BTreeMap<u32, u64> = rows.iter().filter_map(size).collect();
        for table in &mut self.tables {
            table.size = sizes.get(&table.oid).copied().unwrap_or(0);
        }
        self.tables.sort_by_key(|table| std::cmp::Reverse(table.size));
        Ok(())
    }

    fn list(&self) -> Result<BTreeMap<String, u64>, SourceError> {
        let folder = self.folder();
        let failed = |source| SourceError::Io { action: "list", path: folder.clone(), source };
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            files.insert(name, entry.metadata().map_err(failed)?.len());
        }
        Ok(files)
    }

    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, DumpError> {
        let path = self.folder().join(name);
        let failed = |source| SourceError::Io { action: "read", path: path.clone(), source };
        let length = std::fs::metadata(&path).map_err(failed)?.len();
        if length > bytes_max {
            return Err(dump(&format!("{name} has {length} bytes")).into());
        }
        Ok(std::fs::read(&path).map_err(failed)?)
    }
}

/// File of a large object.
#[must_use]
pub fn blob_file(number: u32) -> String {
    format!("blob_{number}.dat")
}

fn dump(what: &str) -> PostgresError {
    PostgresError::Dump { what: what.to_owned() }
}

/// All that a program prints, when it has ended well.
///
/// # Errors
/// It failed.
pub fn read_whole(mut stream: CommandStream) -> Result<Vec<u8>, SourceError> {
    let mut output = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    // What ends it early is what `finish` says.
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        output.extend_from_slice(&buffer[..length]);
    }
    Box::new(stream).finish().map(|()| output)
}

/// Whether what was asked for are the rows that the table of contents means.
fn is_same_copy(statement: &[u8], of_toc: &str) -> bool {
    let statement = String::from_utf8_lossy(statement);
    // Rows of a query: the table of contents names the table only.
    if statement.starts_with("COPY (") {
        return of_toc.starts_with("COPY ");
    }
    let asked = statement.trim_end().strip_suffix(" TO stdout;");
    asked.is_some() && asked == of_toc.trim_end().strip_suffix(" FROM stdin;")
}

/// A role that row security hides rows from must not make a dump: it would look whole.
fn require_every_row(sql: &mut Connection) -> Result<(), PostgresError> {
    let rows = sql.query(
        "SELECT c.oid::pg_catalog.regclass, current_user FROM pg_catalog.pg_class c \
         WHERE c.relrowsecurity AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't' \
         AND pg_catalog.row_security_active(c.oid) AND NOT EXISTS (SELECT 1 \
         FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
         AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1",
    )?;
    let Some(role) = rows.first().and_then(|row| row.last().cloned().flatten()) else {
        return Ok(());
    };
    Err(PostgresError::RowSecurity { role, tables: named(rows) })
}

/// The first values of rows, in one line.
fn named(rows: Vec<Row>) -> String {
    let more = rows.len().saturating_sub(TABLES_NAMED);
    let names = rows.into_iter().filter_map(|row| row.into_iter().next().flatten());
    let mut names = names.take(TABLES_NAMED).collect::<Vec<_>>();
    names.extend((more > 0).then(|| format!("{more} more")));
    names.join(", ")
}

/// Roles and tablespaces, which belong to no database.
fn globals(
    source: &DumpSource,
    tools: &DumpTools,
    sql: &mut Connection,
    folder: &PrivateFolder,
    restrict_key: &str,
    warnings: &mut Vec<String>,
) -> Result<Vec<u8>, DumpError> {
    let program = tools.program("pg_dumpall");
    let variables = without_settings(&source.variables);
    let help = output_of(&[program.clone(), "--help".into()], variables)?;
    let database = source.address.database.replace('\\', "\\\\").replace('\'', "\\'");
    let mut argv: Vec<OsString> = vec![
        program,
        "--globals-only".into(),
        "--no-password".into(),
        "--database".into(),
        format!("dbname='{database}'").into(),
    ];
    if String::from_utf8_lossy(&help).contains("--restrict-key") {
        argv.push(format!("--restrict-key={restrict_key}").into());
    }
    let sees_passwords = sql
        .value("SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')")?
        == "t";
    if !sees_passwords {
        argv.push("--no-role-passwords".into());
        let role = &source.address.user;
        warnings.push(format!("{role} may not read pg_authid: passwords of roles are not saved"));
    }
    Ok(source.run_behind_proxy(folder.path(), &argv, warnings)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_compared_with_the_table_of_contents() {
        let table = [
            ("COPY public.t (a) TO stdout;", "COPY public.t (a) FROM stdin;\n", true),
            ("COPY public.t (a) TO stdout;", "COPY public.u (a) FROM stdin;\n", false),
            ("COPY (SELECT a FROM t) TO stdout;", "COPY public.t (a) FROM stdin;\n", true),
            ("", "COPY public.t (a) FROM stdin;\n", false),
            ("", "", false),
        ];
        for (statement, toc, is_same) in table {
            assert_eq!(is_same_copy(statement.as_bytes(), toc), is_same, "{statement}");
        }
    }
}
