//! Dumps of PostgreSQL databases: how they are made, from arguments and configuration.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::Args;

use crate::backup::postgres_dump::PostgresDump;
use crate::backup::run::RootSource;
use crate::cli::postgres::NamedServer;
use crate::cli::source_config::SourceConfig;
use crate::source::postgres::dump::DumpSource;
use crate::source::postgres::dump_tools::Variables;

/// Connections that fetch rows, where nothing else is said.
const JOBS_DEFAULT: u32 = 4;

/// How a dump is made.
#[derive(Debug, Clone, Default, Args)]
pub struct DumpArgs {
    /// Connections that fetch tables at the same time [default: 4]
    #[arg(long, value_name = "N", requires = "postgres", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub jobs: Option<u32>,
    /// Folder with pg_dump and its kin [default: what PATH and the system have for the server]
    #[arg(long, value_name = "DIR", requires = "postgres")]
    pub pg_bin: Option<PathBuf>,
}

impl DumpArgs {
    /// What the arguments leave out comes from the configuration.
    #[must_use]
    pub fn or(&self, table: Option<&SourceConfig>) -> Self {
        Self {
            jobs: self.jobs.or(table.and_then(|table| table.jobs)),
            pg_bin: self.pg_bin.clone().or_else(|| table?.pg_bin.clone()),
        }
    }
}

impl DumpArgs {
    /// A program, in the folder that was given where only its name is.
    #[must_use]
    pub fn in_folder(&self, program: &OsStr) -> OsString {
        let is_name = !program.as_encoded_bytes().contains(&b'/');
        match self.pg_bin.as_deref().filter(|_| is_name) {
            Some(folder) => folder.join(program).into_os_string(),
            None => program.to_owned(),
        }
    }
}

/// The roots of a dump.
#[must_use]
pub fn dump_roots(
    server: &NamedServer,
    args: &DumpArgs,
    variables: &Variables,
) -> Vec<Box<dyn RootSource>> {
    let source = DumpSource {
        address: server.access.address.clone(),
        password: server.access.password.clone(),
        tools: args.pg_bin.clone(),
        workspace: std::env::temp_dir(),
        variables: variables.clone(),
    };
    PostgresDump::roots(&server.name, source, args.jobs.unwrap_or(JOBS_DEFAULT))
}
