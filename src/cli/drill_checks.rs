//! What a drill looks at on the server that it has started.

use std::collections::HashMap;
use std::ffi::OsString;

use jiff::Timestamp;

use crate::cli::context::Context;
use crate::format::drill::{Check, Outcome};
use crate::format::postgres::dump_tables::{DumpTables, sum_text};
use crate::format::postgres::dump_toc::DumpToc;
use crate::source::command::CommandStream;
use crate::source::error::SourceError;
use crate::source::postgres::connection::Connection;
use crate::source::postgres::dump_tools::{DumpTools, Variables, without_settings};
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::local_server::{LocalServer, MAINTENANCE};
use crate::source::postgres::replication::literal;
use crate::source::postgres::row_sums::rows_of;
use crate::source::postgres::server::TIME_SQL;
use crate::source::stream::ByteStream as _;

/// Tables that are named in the detail of a check that failed.
const NAMED_MAX: usize = 20;
/// Most of what a program prints that is kept.
const SAID_BYTES_MAX: usize = 64 * 1024;
/// The first lines of a program that failed.
const LINES_SHOWN: usize = 20;
/// What `pg_dump` sets before it asks for rows.
const COPY_SETTINGS: &str = "SET search_path = ''; SET DateStyle = 'ISO'; \
     SET IntervalStyle = 'postgres'; SET extra_float_digits = 3; SET statement_timeout = 0; \
     SET zero_damaged_pages = off; SET ignore_checksum_failure = off";
/// The same for programs, whatever is set for the role or the database.
pub const CLIENT_OPTIONS: &str = "-c statement_timeout=0 -c zero_damaged_pages=off \
     -c ignore_checksum_failure=off";

/// The server, and who looks.
pub struct Checked<'a> {
    /// It.
    pub server: &'a LocalServer,
    /// Superuser.
    pub role: &'a str,
    /// The programs.
    pub tools: &'a DumpTools,
    /// Their environment.
    pub variables: &'a Variables,
    /// Folder of the socket.
    pub socket: &'a std::path::Path,
}

fn check(name: &str, outcome: Outcome, detail: impl Into<String>) -> Check {
    Check { name: name.to_owned(), outcome, detail: detail.into() }
}

fn of_result(name: &str, result: Result<String, PostgresError>) -> Check {
    match result {
        Ok(detail) => check(name, Outcome::Passed, detail),
        Err(error) => check(name, Outcome::Failed, error.to_string()),
    }
}

impl Checked<'_> {
    fn connect(&self, database: &str) -> Result<Connection, PostgresError> {
        self.server.connect(self.role, database)
    }

    /// Databases that can be connected to, without the templates.
    pub fn databases(&self) -> Result<Vec<String>, PostgresError> {
        let rows = self.connect(MAINTENANCE)?.query(
            "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate \
             ORDER BY datname",
        )?;
        Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
    }

    /// Pages that were damaged on the server already.
    #[must_use]
    pub fn pages(count: u64) -> Check {
        let name = "pages of the backup";
        match count {
            0 => check(name, Outcome::Passed, "none was damaged"),
            _ => check(name, Outcome::Failed, format!("{count} were damaged on the server")),
        }
    }

    /// Every table and index by `pg_amcheck`, where it and its extension are there.
    #[must_use]
    pub fn structure(&self) -> Check {
        let name = "pg_amcheck";
        let program = self.tools.program(name);
        if !std::path::Path::new(&program).is_file() {
            return check(name, Outcome::Skipped, "the program is not on this host");
        }
        let has_extension = self.connect(MAINTENANCE).and_then(|mut sql| {
            sql.value(
                "SELECT count(*) FROM pg_catalog.pg_available_extensions WHERE name = 'amcheck'",
            )
        });
        match has_extension {
            Ok(count) if count == "0" => {
                return check(name, Outcome::Skipped, "the extension amcheck is not on this host");
            }
            Ok(_) => {}
            Err(error) => return check(name, Outcome::Failed, error.to_string()),
        }
        let maintenance = format!("--maintenance-db={MAINTENANCE}");
        let words =
            ["--all", "--install-missing", "--heapallindexed", "--no-password", &maintenance];
        let mut argv: Vec<OsString> = vec![program];
        argv.extend(words.iter().map(OsString::from));
        let mut variables = without_settings(self.variables);
        let mut set = |name: &str, value: OsString| variables.push((name.into(), value));
        set("PGHOST", self.socket.as_os_str().to_owned());
        set("PGPORT", "5432".into());
        set("PGUSER", self.role.into());
        set("PGOPTIONS", CLIENT_OPTIONS.into());
        let mut said = Vec::new();
        match said_by(&argv, variables, &mut said) {
            Ok(()) => check(name, Outcome::Passed, "all tables and indexes of all databases"),
            Err(SourceError::CommandFailed { stderr_tail, status, .. }) => {
                let said = format!("{}{stderr_tail}", String::from_utf8_lossy(&said));
                let lines: Vec<&str> = said.lines().take(LINES_SHOWN).collect();
                check(name, Outcome::Failed, format!("{status}: {}", lines.join("; ")))
            }
            Err(error) => check(name, Outcome::Failed, error.to_string()),
        }
    }

    /// Every row of every table is read.
    #[must_use]
    pub fn all_rows(&self) -> Check {
        let count = || {
            let (mut tables, mut rows, databases) = (0_u64, 0_u64, self.databases()?);
            for database in &databases {
                let mut sql = self.connect(database)?;
                sql.query(COPY_SETTINGS)?;
                let names = sql.query(
                    "SELECT pg_catalog.quote_ident(n.nspname) || '.' || \
                     pg_catalog.quote_ident(c.relname) FROM pg_catalog.pg_class c \
                     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                     WHERE c.relkind IN ('r', 'm') AND c.relispopulated \
                     AND c.relpersistence = 'p' ORDER BY 1",
                )?;
                for table in names.into_iter().filter_map(|row| row.into_iter().next().flatten()) {
                    // Materialized views can be copied by a query only.
                    let statement = format!("COPY (SELECT * FROM {table}) TO STDOUT");
                    rows += rows_of(&mut sql, &statement, &table)?.rows;
                    tables += 1;
                }
            }
            Ok(format!("{rows} rows of {tables} tables in {} databases", databases.len()))
        };
        of_result("every row is read", count())
    }

    /// The rows of a restored dump are those that were saved.
    #[must_use]
    pub fn rows_of_dump(&self, database: &str, toc: &DumpToc, saved: &DumpTables) -> Check {
        let compare = || {
            let mut sql = self.connect(database)?;
            sql.query(COPY_SETTINGS)?;
            // The saved rows are in the encoding of the database.
            let encoding = sql.value("SHOW server_encoding")?;
            sql.query(&format!("SET client_encoding = '{encoding}'"))?;
            for (name, value) in &saved.settings {
                let (name, value) = (literal(name), literal(value));
                sql.query(&format!("SELECT pg_catalog.set_config({name}, {value}, false)"))?;
            }
            let statements: HashMap<&str, &str> = toc
                .entries
                .iter()
                .filter(|entry| entry.kind == "TABLE DATA")
                .map(|entry| (&*entry.file, &*entry.copy_statement))
                .collect();
            let (mut rows, mut wrong) = (0_u64, Vec::new());
            for table in &saved.tables {
                let name = format!("{}.{}", table.schema, table.name);
                let statement = statements.get(&*table.file).copied().unwrap_or_default();
                let Some(front) = statement.trim_end().strip_suffix("FROM stdin;") else {
                    wrong.push(format!("{name} is not in the dump"));
                    continue;
                };
                let found = rows_of(&mut sql, &format!("{front}TO STDOUT"), &name)?;
                rows += found.rows;
                if (found.rows, sum_text(found.sum)) != (table.rows, table.sum.clone()) {
                    wrong.push(format!("{name}: {} rows, {} saved", found.rows, table.rows));
                }
            }
            Ok::<_, PostgresError>((rows, wrong))
        };
        let name = "rows are those that were saved";
        match compare() {
            Ok((rows, wrong)) if wrong.is_empty() => {
                let tables = saved.tables.len();
                check(name, Outcome::Passed, format!("{rows} rows of {tables} tables"))
            }
            Ok((_, wrong)) => {
                let named = wrong.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join("; ");
                let what = format!("{} tables differ: {named}", wrong.len());
                check(name, Outcome::Failed, what)
            }
            Err(error) => check(name, Outcome::Failed, error.to_string()),
        }
    }

    /// A query of the user must say yes.
    #[must_use]
    pub fn assertion(&self, database: &str, query: &str) -> Check {
        let answer = self.connect(database).and_then(|mut sql| sql.query(query));
        match answer {
            Ok(rows) => match &rows[..] {
                [row] if row[..] == [Some("t".to_owned())] => check(query, Outcome::Passed, "true"),
                [row] if row.len() == 1 => {
                    let value = row[0].clone().unwrap_or_else(|| "null".to_owned());
                    check(query, Outcome::Failed, format!("it says {value}, not true"))
                }
                _ => check(query, Outcome::Failed, "it gives other than one value"),
            },
            Err(error) => check(query, Outcome::Failed, error.to_string()),
        }
    }

    /// The moment that a query of the user gives: that of the newest row.
    pub fn newest_row(&self, database: &str, query: &str) -> Result<Timestamp, Check> {
        let name = "age of the newest row";
        let failed = |detail: String| check(name, Outcome::Failed, detail);
        let asked = self.connect(database).and_then(|mut sql| {
            sql.query("SET TimeZone = 'UTC'")?;
            let inner = query.trim().trim_end_matches(';');
            let value = TIME_SQL.replace("clock_timestamp()", &format!("({inner})::timestamptz"));
            sql.value(&format!("SELECT {value}"))
        });
        let text = asked.map_err(|error| failed(error.to_string()))?;
        text.parse().map_err(|_| failed(format!("{text} is no moment")))
    }

    /// When the last transaction ended that was recovered.
    #[must_use]
    pub fn last_transaction(&self) -> Option<Timestamp> {
        let value =
            TIME_SQL.replace("clock_timestamp()", "pg_catalog.pg_last_xact_replay_timestamp()");
        let mut sql = self.connect(MAINTENANCE).ok()?;
        sql.value(&format!("SELECT {value}")).ok()?.parse().ok()
    }
}

/// Runs a program to its end, and keeps the beginning of what it prints.
fn said_by(argv: &[OsString], variables: Variables, said: &mut Vec<u8>) -> Result<(), SourceError> {
    let mut stream = Box::new(CommandStream::start(argv, variables, None)?);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return stream.finish();
        }
        let room = SAID_BYTES_MAX.saturating_sub(said.len());
        said.extend_from_slice(&buffer[..length.min(room)]);
    }
}

/// Says how a check has ended.
pub fn say(context: &Context, check: &Check) {
    let word = match check.outcome {
        Outcome::Passed => "ok",
        Outcome::Failed => "FAILED",
        Outcome::Skipped => "skipped",
    };
    context.output.note(&format!("  {word}: {} ({})", check.name, check.detail));
}
