//! A dump into a server: `pg_restore` into a new database, which gets its name when all is there.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use secrecy::{ExposeSecret as _, SecretString};

use crate::format::postgres::dump_toc::{DumpToc, TocEntry};
use crate::source::command::CommandStream;
use crate::source::postgres::address::{Address, Host};
use crate::source::postgres::connection::{Connection, Purpose};
use crate::source::postgres::dump::{DumpError, read_whole};
use crate::source::postgres::dump_tools::{DumpTools, Variables, without_settings};
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::replication::literal;
use crate::source::tls::TlsMode;

/// Database from which others are made and renamed.
const MAINTENANCE: &str = "postgres";
/// Longest name of a database in bytes.
const NAME_BYTES_MAX: usize = 63;
/// Kinds of entries that cannot be restored without the rows of all tables.
const WHOLE_ONLY: [&str; 5] =
    ["FK CONSTRAINT", "MATERIALIZED VIEW DATA", "BLOB", "BLOBS", "BLOB METADATA"];

/// How a dump is restored.
#[derive(Clone)]
pub struct RestoreTarget {
    /// The new database.
    pub address: Address,
    /// The password, where it is not in the password file.
    pub password: Option<SecretString>,
    /// The environment of the programs.
    pub variables: Variables,
}

/// A database that is being restored. It is dropped with the value, unless it was renamed.
pub struct NewDatabase {
    target: RestoreTarget,
    sql: Connection,
    temporary: String,
    is_named: bool,
}

impl NewDatabase {
    /// Connects, and looks whether there is room for the name on a server that is not older than
    /// `major`.
    ///
    /// # Errors
    /// [`PostgresError::Exists`], an older server, and what the server says.
    pub fn prepare(target: RestoreTarget, major: u32) -> Result<Self, PostgresError> {
        let place = target.address.with_database(MAINTENANCE);
        let mut sql = Connection::open(&place, Purpose::Sql, target.password.as_ref())?;
        let version = sql.value("SHOW server_version_num")?;
        let version: u32 = version.parse().map_err(|_| sql.unexpected("reading a number"))?;
        if version / 10_000 < major {
            let what = format!("version {} is older than {major}, the dump's", version / 10_000);
            return Err(PostgresError::Unfit { address: sql.shown().to_owned(), what });
        }
        let temporary = temporary_name(&target.address.database)?;
        let this = Self { target, sql, temporary, is_named: false };
        this.require_room()
    }

    fn require_room(mut self) -> Result<Self, PostgresError> {
        let name = &self.target.address.database;
        let found = self.sql.query(&format!(
            "SELECT 1 FROM pg_catalog.pg_database WHERE datname = {}",
            literal(name)
        ))?;
        if found.is_empty() {
            return Ok(self);
        }
        let address = self.sql.shown().to_owned();
        // Nothing was made yet that would have to be dropped.
        self.is_named = true;
        Err(PostgresError::Exists { address, name: name.clone() })
    }

    /// Makes the database, in the encoding and with the order of texts that the dump names.
    pub fn create(&mut self, toc: &DumpToc) -> Result<(), PostgresError> {
        let name = quoted(&self.temporary);
        let of_dump = toc.entries.iter().find(|entry| entry.kind == "DATABASE");
        let options = of_dump.and_then(|entry| {
            let at = entry.definition.find(" WITH TEMPLATE = template0")?;
            Some(entry.definition[at..].trim_end().trim_end_matches(';'))
        });
        let options = options.unwrap_or(" WITH TEMPLATE = template0");
        self.sql.query(&format!("CREATE DATABASE {name}{options}")).map(drop)
    }

    /// Runs `pg_restore` on a dump; only what `list` has, where that is given. Warnings are what it
    /// said on the way.
    ///
    /// # Errors
    /// It failed, and what it said.
    pub fn restore(
        &self,
        tools: &DumpTools,
        dump: &Path,
        list: Option<&Path>,
        jobs: u32,
        ownership: Ownership,
    ) -> Result<Vec<String>, DumpError> {
        let mut argv: Vec<OsString> = vec![
            tools.program("pg_restore"),
            "--exit-on-error".into(),
            "--no-password".into(),
            format!("--jobs={jobs}").into(),
            "--dbname".into(),
            format!("dbname={}", self.temporary).into(),
        ];
        match ownership {
            Ownership::AsSaved => {}
            Ownership::AsSavedWithoutTablespaces => argv.push("--no-tablespaces".into()),
            Ownership::Ours => argv.extend(["--no-owner".into(), "--no-privileges".into()]),
        }
        if let Some(list) = list {
            argv.extend(["--use-list".into(), list.into()]);
        }
        argv.push(dump.into());
        let said = Arc::new(Mutex::new(Vec::new()));
        let collected = Arc::clone(&said);
        let collect = move |line: &[u8]| {
            let mut said = collected.lock().unwrap_or_else(PoisonError::into_inner);
            said.push(String::from_utf8_lossy(line).into_owned());
        };
        let variables = self.target.libpq_variables();
        read_whole(CommandStream::start(&argv, variables, Some(Box::new(collect)))?)?;
        Ok(std::mem::take(&mut said.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Gives it its name.
    pub fn rename(mut self) -> Result<(), PostgresError> {
        let (from, to) = (quoted(&self.temporary), quoted(&self.target.address.database));
        self.sql.query(&format!("ALTER DATABASE {from} RENAME TO {to}"))?;
        self.is_named = true;
        Ok(())
    }
}

impl Drop for NewDatabase {
    fn drop(&mut self) {
        if !self.is_named {
            // What the server says to that is said nowhere: something else failed before.
            let name = quoted(&self.temporary);
            drop(self.sql.query(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")));
        }
    }
}

/// Whose the restored objects are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// As in the dump: its roles must be there.
    AsSaved,
    /// As in the dump, but everything lies where the new database does.
    AsSavedWithoutTablespaces,
    /// Everything belongs to the role that restores, and nobody else has a privilege.
    Ours,
}

impl RestoreTarget {
    fn libpq_variables(&self) -> Variables {
        let mut variables = without_settings(&self.variables);
        let mut set = |name: &str, value: OsString| variables.push((name.into(), value));
        let (mut hosts, mut ports) = (Vec::new(), Vec::new());
        for host in &self.address.hosts {
            let (name, port) = match host {
                Host::Tcp(name, port) => (OsString::from(name), port),
                Host::Socket(folder, port) => (folder.clone().into_os_string(), port),
            };
            hosts.push(name);
            ports.push(port.to_string());
        }
        set("PGHOST", hosts.join(",".as_ref()));
        set("PGPORT", ports.join(",").into());
        set("PGUSER", self.address.user.clone().into());
        let mode = match self.address.tls {
            TlsMode::Disable => "disable",
            TlsMode::Prefer => "prefer",
            TlsMode::Require => "require",
            TlsMode::VerifyCa => "verify-ca",
            TlsMode::VerifyFull => "verify-full",
        };
        set("PGSSLMODE", mode.into());
        if let Some(path) = &self.address.root_certificates {
            set("PGSSLROOTCERT", path.into());
        }
        if let Some(path) = &self.address.password_file {
            set("PGPASSFILE", path.into());
        }
        if let Some(password) = &self.password {
            set("PGPASSWORD", password.expose_secret().into());
        }
        variables
    }
}

/// Entries of a restore with the rows of some tables only: all definitions are restored, but for
/// those that the rows of other tables are needed for.
///
/// # Errors
/// A table that the dump does not have.
pub fn entries_for<'a>(
    toc: &'a DumpToc,
    tables: &[String],
) -> Result<Vec<&'a TocEntry>, PostgresError> {
    let is_of = |entry: &TocEntry, table: &str| match table.split_once('.') {
        Some((schema, name)) if entry.schema == schema && entry.name == name => true,
        _ => entry.name == table && entry.schema == "public",
    };
    let has_rows = |entry: &&TocEntry| entry.kind == "TABLE DATA";
    for table in tables {
        if !toc.entries.iter().filter(has_rows).any(|entry| is_of(entry, table)) {
            let what = format!("it has no rows of a table {table}");
            return Err(PostgresError::Dump { what });
        }
    }
    let is_wanted = |entry: &&TocEntry| match entry.kind.as_str() {
        "TABLE DATA" => tables.iter().any(|table| is_of(entry, table)),
        kind => !WHOLE_ONLY.contains(&kind),
    };
    Ok(toc.entries.iter().filter(is_wanted).collect())
}

/// Writes the numbers of entries to a file as `pg_restore --use-list` takes them.
pub fn write_list(path: &PathBuf, entries: &[&TocEntry]) -> Result<(), PostgresError> {
    let mut text = String::new();
    for entry in entries {
        writeln!(text, "{};", entry.number).expect("text is written to memory");
    }
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = written.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| PostgresError::File { path: path.clone(), what: source.to_string() })
}

/// The name with something that nobody has before its end, and no longer than a name may be.
fn temporary_name(name: &str) -> Result<String, PostgresError> {
    let wrong = |what: String| PostgresError::Address { what };
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.as_bytes().contains(&0) {
        return Err(wrong(format!("{name:?} is no name for a database")));
    }
    let number = getrandom::u32().map_err(|error| wrong(error.to_string()))?;
    let letters = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    let front: String = name.chars().filter(letters).take(32).collect();
    Ok(format!("{front}_holdfast_{number:08x}"))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: &str, schema: &str, name: &str) -> TocEntry {
        TocEntry {
            number: 1,
            oid: 0,
            kind: kind.into(),
            name: name.into(),
            schema: schema.into(),
            definition: String::new(),
            copy_statement: String::new(),
            file: String::new(),
        }
    }

    #[test]
    fn some_tables_take_all_definitions_but_those_between_tables() {
        let toc = DumpToc {
            version: (1, 16),
            database: "shop".into(),
            server: "17".into(),
            tool: "17".into(),
            entries: vec![
                entry("TABLE", "public", "orders"),
                entry("TABLE", "old", "orders"),
                entry("TABLE DATA", "public", "orders"),
                entry("TABLE DATA", "old", "orders"),
                entry("TABLE DATA", "public", "a.b"),
                entry("BLOBS", "", "BLOBS"),
                entry("CONSTRAINT", "public", "orders orders_pkey"),
                entry("FK CONSTRAINT", "public", "orders orders_who"),
            ],
        };
        let of = |tables: &[&str]| {
            let tables: Vec<String> = tables.iter().map(|&table| table.to_owned()).collect();
            let found = entries_for(&toc, &tables);
            found.map(|all| {
                let rows = all.iter().filter(|entry| entry.kind == "TABLE DATA");
                (all.len(), rows.map(|entry| entry.schema.clone()).collect::<Vec<_>>())
            })
        };
        assert_eq!(of(&["orders"]).unwrap(), (4, vec!["public".to_owned()]));
        assert_eq!(of(&["old.orders"]).unwrap(), (4, vec!["old".to_owned()]));
        assert_eq!(of(&["public.orders", "a.b"]).unwrap().0, 5);
        assert!(of(&["customers"]).is_err());
    }

    #[test]
    fn names_stay_short_and_are_quoted() {
        let name = temporary_name(&"sh'op\"".repeat(10)).unwrap();
        assert!(name.starts_with("shopshop") && name.len() <= NAME_BYTES_MAX, "{name}");
        assert!(temporary_name("").is_err());
        assert!(temporary_name(&"x".repeat(64)).is_err());
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
