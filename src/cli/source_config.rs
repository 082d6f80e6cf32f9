//! `[sources.NAME]` of the configuration: what is saved, and how.
//!
//! A key that does not go together with the kind is refused.

use std::path::PathBuf;

use serde::Deserialize;

use crate::cli::config::{SecretReference, optional_size};

/// What kind of source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// Files and folders.
    Files,
    /// The output of a command.
    Command,
    /// A PostgreSQL server.
    Postgres,
    /// A Redis or Valkey server.
    Redis,
}

/// What a backup of a PostgreSQL server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PostgresMethod {
    /// A dump of one database, as `pg_dump` makes it
    #[default]
    Dump,
    /// The whole cluster, as `pg_basebackup` takes it: the base for any point in time
    Base,
}

/// `[sources.NAME]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is an independent switch, as on the command line"
)]
pub struct SourceConfig {
    /// What kind of source; says which of the other keys may stand.
    pub kind: SourceKind,
    /// Tags of its snapshots.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Files: what to save.
    #[serde(default)]
    pub paths: Vec<PathBuf>,
    /// Files: patterns to leave out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Files: patterns to leave out in any case of letters.
    #[serde(default)]
    pub iexclude: Vec<String>,
    /// Files: files of patterns.
    #[serde(default)]
    pub exclude_file: Vec<PathBuf>,
    /// Files: names of ignore files to obey.
    #[serde(default)]
    pub ignore_file: Vec<String>,
    /// Files: leave out folders with a `CACHEDIR.TAG`.
    #[serde(default)]
    pub exclude_caches: bool,
    /// Files: leave out folders with a file of such a name.
    #[serde(default)]
    pub exclude_if_present: Vec<String>,
    /// Files: stay within the file systems of the paths.
    #[serde(default)]
    pub one_file_system: bool,
    /// Files: leave out larger ones.
    #[serde(default, deserialize_with = "optional_size")]
    pub exclude_larger_than: Option<u64>,
    /// Command: program and arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// Command: name of the stream; the source's own name where it is left out.
    pub name: Option<String>,
    /// Postgres and Redis: where the server is, without a password.
    pub connection: Option<String>,
    /// Redis: its password.
    pub password: Option<SecretReference>,
    /// Redis: the password of its sentinels.
    pub sentinel_password: Option<SecretReference>,
    /// Redis: the program of the server that a drill starts.
    pub redis_server: Option<PathBuf>,
    /// Postgres: what `backup` makes.
    pub method: Option<PostgresMethod>,
    /// Postgres: connections of a dump.
    pub jobs: Option<u32>,
    /// Postgres: folder with `pg_dump` and its kin.
    pub pg_bin: Option<PathBuf>,
}

impl SourceConfig {
    /// Looks that the keys go together with the kind.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn validate(&self) -> Result<(), &'static str> {
        let for_files = !self.exclude.is_empty()
            || !self.iexclude.is_empty()
            || !self.exclude_file.is_empty()
            || !self.ignore_file.is_empty()
            || !self.exclude_if_present.is_empty()
            || self.exclude_caches
            || self.one_file_system
            || self.exclude_larger_than.is_some();
        let for_commands = !self.command.is_empty() || self.name.is_some();
        let of_dump = self.method.is_some() || self.jobs.is_some() || self.pg_bin.is_some();
        let for_postgres = self.connection.is_some() || of_dump;
        match self.kind {
            SourceKind::Redis if self.connection.is_none() => Err("kind redis needs connection"),
            SourceKind::Redis if for_files || for_commands || of_dump || !self.paths.is_empty() => {
                Err("kind redis has connection, passwords and redis-server only")
            }
            _ if self.kind != SourceKind::Redis
                && (self.password.is_some()
                    || self.sentinel_password.is_some()
                    || self.redis_server.is_some()) =>
            {
                Err("only kind redis has password, sentinel-password and redis-server")
            }
            SourceKind::Files if self.paths.is_empty() => Err("kind files needs paths"),
            SourceKind::Postgres if self.connection.is_none() => {
                Err("kind postgres needs connection")
            }
            SourceKind::Postgres if for_files || for_commands || !self.paths.is_empty() => {
                Err("kind postgres has connection, method, jobs and pg-bin only")
            }
            SourceKind::Files | SourceKind::Command if for_postgres => {
                Err("only kind postgres has connection, method, jobs and pg-bin")
            }
            SourceKind::Files if for_commands => Err("kind files has neither command nor name"),
            SourceKind::Command if self.command.is_empty() => Err("kind command needs command"),
            SourceKind::Command if for_files || !self.paths.is_empty() => {
                Err("kind command has neither paths nor anything to exclude")
            }
            _ => Ok(()),
        }
    }
}
