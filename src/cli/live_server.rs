//! A server on a live directory: its programs, its user, its settings.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::explain::postgres;
use crate::cli::postgres::failed;
use crate::cli::signals::signals;
use crate::source::postgres::dump_tools::{DumpTools, Variables};
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::local_server::{
    LocalServer, Readiness, RunAs, ServerOptions, user_of,
};

/// What a server says to those who come too early.
const KNOCKED: &str = "the database system is starting up";
/// The last lines of a log that are shown.
const LINES_SHOWN: usize = 15;

/// How a server on this host is run.
#[derive(Debug, Clone, Args)]
pub struct LocalServerArgs {
    /// Folder with postgres [default: what PATH and the system have of the cluster's version]
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
    /// User that the server runs as, where we are root [default: postgres; redis for Redis]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// A setting that outweighs that of the original (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Superuser of the cluster
    #[arg(long, value_name = "NAME", default_value = "postgres")]
    pub role: String,
    /// Where a folder for the mount, and for what is local, is made [default: the temporary folder]
    #[arg(long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
}

impl LocalServerArgs {
    /// Who the server runs as: somebody else where we are root, whom PostgreSQL refuses.
    pub fn user(&self) -> Result<Option<RunAs>, CommandError> {
        if !rustix::process::getuid().is_root() {
            return Ok(None);
        }
        let user = user_of(self.user.as_deref().unwrap_or("postgres"));
        user.map(Some).map_err(|error| CommandError::classify(&error, &postgres::NOT_STARTED))
    }

    /// The programs of just that version: no other one starts on the directory.
    pub fn programs(&self, variables: &Variables, major: u32) -> Result<DumpTools, CommandError> {
        DumpTools::find_server(self.pg_bin.as_deref(), variables, major).ok_or_else(|| {
            let what = format!("no programs of a PostgreSQL {major} server were found");
            CommandError::new(&postgres::NOT_STARTED, what)
        })
    }

    /// Where folders are made.
    #[must_use]
    pub fn workspace(&self) -> PathBuf {
        self.workspace.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// The settings that were given.
    pub fn settings(&self) -> Result<Vec<(String, String)>, CommandError> {
        let pair = |text: &String| {
            let (name, value) = text.split_once('=').ok_or_else(|| {
                let what = format!("{text:?} is no NAME=VALUE");
                CommandError::new(&crate::cli::explain::usage::ARGUMENT, what)
            })?;
            Ok((name.to_owned(), value.to_owned()))
        };
        self.set.iter().map(pair).collect()
    }
}

/// Environment of the programs.
#[must_use]
pub fn variables(context: &Context) -> Variables {
    let secret: Vec<_> = context.loaded.config.secret_variables().collect();
    context.environment.of_child(&secret)
}

/// Starts a server and waits until it takes connections; `None` where a signal came first.
pub fn start(options: ServerOptions, role: &str) -> Result<Option<LocalServer>, CommandError> {
    let mut server = LocalServer::start(options).map_err(|error| not_started(&error))?;
    let ready = server.wait_until_ready(role, &|| signals().came().is_some());
    match ready.map_err(|error| not_started(&error))? {
        Readiness::Ready => Ok(Some(server)),
        Readiness::Starting => Ok(None),
    }
}

/// The error for people, with the last lines of the server's log.
#[must_use]
pub fn not_started(error: &PostgresError) -> CommandError {
    match error {
        PostgresError::Ended { log, .. } => {
            // We have knocked ourselves.
            let lines = log.lines().rev().filter(|line| !line.contains(KNOCKED));
            let lines: Vec<&str> = lines.take(LINES_SHOWN).collect();
            let what = CommandError::new(&postgres::NOT_STARTED, error.to_string());
            lines.into_iter().rev().fold(what, CommandError::because_text)
        }
        PostgresError::File { .. } => CommandError::new(&postgres::NOT_STARTED, error.to_string()),
        error => failed(error),
    }
}

/// The options of a server on `data`.
#[must_use]
pub fn options_of(
    tools: &DumpTools,
    data: &Path,
    socket: &Path,
    log: PathBuf,
    user: Option<RunAs>,
    variables: Variables,
) -> ServerOptions {
    ServerOptions {
        programs: tools.folder.clone(),
        data: data.to_owned(),
        socket: socket.to_owned(),
        port: 5432,
        log,
        user,
        settings: Vec::new(),
        variables,
    }
}
