//! The client programs of `PostgreSQL`, for servers that we cannot talk to ourselves: `psql` for
//! queries, `pg_basebackup` for a cluster as one tar archive on its standard output.
//!
//! They get the connection string as it was given, and find passwords as they always do: in
//! `PGPASSWORD`, in the password file. One that holds a password is refused before.

use std::ffi::OsString;
use std::path::Path;

use crate::source::command::{CommandStream, StderrLines};
use crate::source::error::SourceError;
use crate::source::postgres::dump_tools::{Variables, output_of};
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::queries::Queries;
use crate::source::postgres::wire::Row;

/// What parts values and rows, and stands for no value, in what `psql` prints.
const VALUE_END: char = '\u{1f}';
const ROW_END: char = '\u{1e}';
const NO_VALUE: &str = "\u{1d}";
/// Settings of its sessions: what a role or a database has set must not change what is seen.
const SESSION: &str = "-c search_path= -c statement_timeout=0 -c lock_timeout=0";

/// Where the programs are, and how they get to the server.
#[derive(Debug, Clone)]
pub struct ClientTools {
    /// `pg_basebackup`, or what takes its arguments and does the same.
    pub base_backup: OsString,
    /// As it was given.
    pub connection: String,
    /// Their environment.
    pub variables: Variables,
    /// Where the server is, for messages.
    pub shown: String,
}

impl ClientTools {
    /// `psql`, beside the other program.
    fn psql(&self) -> OsString {
        let path = Path::new(&self.base_backup);
        match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            Some(folder) => folder.join("psql").into_os_string(),
            None => "psql".into(),
        }
    }

    /// Starts a base backup: a tar archive of all, the log that it needs and the list of its files
    /// included.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start_base_backup(
        &self,
        label: &str,
        stderr_lines: StderrLines,
    ) -> Result<CommandStream, SourceError> {
        let words = [
            "--pgdata=-",
            "--format=tar",
            // Of a stream of the log beside it there is no place in one archive.
            "--wal-method=fetch",
            "--checkpoint=fast",
            // Pages are looked at here, and the others are saved all the same.
            "--no-verify-checksums",
            "--manifest-checksums=CRC32C",
            "--no-password",
        ];
        let mut argv = vec![self.base_backup.clone()];
        argv.extend(words.map(OsString::from));
        argv.push(format!("--label={label}").into());
        argv.push(format!("--dbname={}", self.connection).into());
        CommandStream::start(&argv, self.variables.clone(), Some(stderr_lines))
    }
}

impl Queries for ClientTools {
    fn prepare(&mut self) -> Result<(), PostgresError> {
        let before = self.variables.iter().find(|(name, _)| name == "PGOPTIONS");
        let mut options = before.map(|(_, value)| value.clone()).unwrap_or_default();
        options.push(" ");
        options.push(SESSION);
        self.variables.retain(|(name, _)| name != "PGOPTIONS");
        self.variables.push(("PGOPTIONS".into(), options));
        Ok(())
    }

    fn query(&mut self, text: &str) -> Result<Vec<Row>, PostgresError> {
        let mut argv = vec![self.psql()];
        let words = ["-X", "-A", "-t", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-F"];
        argv.extend(words.map(OsString::from));
        argv.push(VALUE_END.to_string().into());
        argv.extend(["-R".into(), ROW_END.to_string().into(), "-P".into()]);
        argv.push(format!("null={NO_VALUE}").into());
        argv.extend(["-d".into(), self.connection.clone().into(), "-c".into(), text.into()]);
        let output = output_of(&argv, self.variables.clone()).map_err(|source| {
            PostgresError::Program { address: self.shown.clone(), source: Box::new(source) }
        })?;
        let output = String::from_utf8(output).map_err(|_| self.unexpected("reading a row"))?;
        Ok(rows(&output))
    }

    fn shown(&self) -> &str {
        &self.shown
    }
}

fn rows(output: &str) -> Vec<Row> {
    let output = output.strip_suffix('\n').unwrap_or(output);
    if output.is_empty() {
        return Vec::new();
    }
    let value = |text: &str| (text != NO_VALUE).then(|| text.to_owned());
    output.split(ROW_END).map(|row| row.split(VALUE_END).map(value).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_psql_prints_is_taken_apart() {
        assert_eq!(rows(""), Vec::<Row>::new());
        assert_eq!(rows("\n"), Vec::<Row>::new());
        let two = rows("a\u{1f}\u{1d}\u{1e}b\n\u{1f}\n");
        let value = |text: &str| Some(text.to_owned());
        assert_eq!(two, [vec![value("a"), None], vec![value("b\n"), value("")]]);
    }

    #[test]
    fn psql_is_looked_for_beside_the_other_program() {
        for (program, psql) in [("pg_basebackup", "psql"), ("/a/b/pg_basebackup", "/a/b/psql")] {
            let tools = ClientTools {
                base_backup: program.into(),
                connection: String::new(),
                variables: Vec::new(),
                shown: String::new(),
            };
            assert_eq!(tools.psql(), psql);
        }
    }
}
