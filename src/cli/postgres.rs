//! PostgreSQL sources by name: from the arguments, the configuration, or an earlier run.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::backup::postgres_base::Access;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::explain::postgres;
use crate::cli::source_config::{PostgresMethod, SourceKind};
use crate::format::postgres::facts::ClusterFacts;
use crate::repo::error::RepoError;
use crate::repo::open::Repository;
use crate::repo::state::{StateDir, read_json, write_json};
use crate::source::postgres::address::{Address, Defaults, Host};
use crate::source::postgres::client_tools::ClientTools;
use crate::source::postgres::connection::Purpose;
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::queries::Queries;
use crate::source::postgres::server::ServerFacts;

/// What this host remembers of its PostgreSQL sources, by name.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KnownSources(pub BTreeMap<String, KnownSource>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownSource {
    /// Connection string, where one was ever given.
    #[serde(default)]
    pub connection: Option<String>,
    /// The cluster that it led to.
    pub cluster: ClusterFacts,
}

impl KnownSources {
    /// Reads what is remembered.
    pub fn read(repository: &Repository) -> Result<Self, RepoError> {
        Self::read_at(&repository.state)
    }

    /// Reads what is remembered in a folder of local state.
    pub fn read_at(state: &StateDir) -> Result<Self, RepoError> {
        Ok(read_json(&path(state))?.unwrap_or_default())
    }

    /// Remembers one.
    pub fn remember(
        repository: &Repository,
        name: &str,
        connection: Option<&str>,
        cluster: &ClusterFacts,
    ) -> Result<(), RepoError> {
        let _lock = repository.state.lock("postgres.lock")?;
        let mut known = Self::read(repository)?;
        let before = known.0.get(name).and_then(|one| one.connection.clone());
        let connection = connection.map(str::to_owned).or(before);
        let source = KnownSource { connection, cluster: cluster.clone() };
        if known.0.get(name) == Some(&source) {
            return Ok(());
        }
        known.0.insert(name.to_owned(), source);
        write_json(&path(&repository.state), &known)
    }
}

fn path(state: &StateDir) -> std::path::PathBuf {
    state.path().join("postgres.json")
}

/// A source with the way to its server.
#[derive(Clone)]
pub struct NamedServer {
    /// Its name.
    pub name: String,
    /// As it was given.
    pub connection: String,
    /// The way.
    pub access: Access,
    /// System identifier of the cluster that was saved under the name before.
    pub expected: Option<String>,
    /// The programs that go there in our place.
    pub tools: Option<ClientTools>,
}

impl NamedServer {
    /// Whoever answers queries.
    fn queries(&self) -> Result<Box<dyn Queries>, PostgresError> {
        Ok(match &self.tools {
            Some(tools) => Box::new(tools.clone()),
            None => Box::new(self.access.connect(Purpose::Sql)?),
        })
    }
}

/// Who talks to the server.
#[derive(Clone, Copy)]
pub enum Client<'a> {
    /// We do.
    Own,
    /// This `pg_basebackup`, and the `psql` beside it.
    Tools(&'a OsStr),
}

/// Takes `NAME=CONNECTION` apart, or looks a bare `NAME` up.
pub fn named_server(
    text: &str,
    client: Client<'_>,
    context: &Context,
    known: &KnownSources,
) -> Result<NamedServer, CommandError> {
    let (name, given) = match text.split_once('=') {
        Some((name, connection)) => (name, Some(connection.to_owned())),
        None => (text, None),
    };
    if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
        let what = format!("{name:?} is no name for a source");
        return Err(CommandError::new(&postgres::UNKNOWN, what));
    }
    let configured = || {
        let table = context.loaded.config.sources.get(name)?;
        let is_postgres = table.kind == SourceKind::Postgres;
        table.connection.clone().filter(|_| is_postgres)
    };
    let remembered = || known.0.get(name)?.connection.clone();
    let connection = given.or_else(configured).or_else(remembered).ok_or_else(|| {
        CommandError::new(&postgres::UNKNOWN, format!("no server of the name {name} is known"))
    })?;
    let access = match client {
        Client::Own => access_of(&connection, context)?,
        Client::Tools(_) => access_by(&connection, context, Address::parse_for_tools)?,
    };
    let tools = match client {
        Client::Own => None,
        Client::Tools(program) => {
            let secret: Vec<_> = context.loaded.config.secret_variables().collect();
            let hosts: Vec<String> = access.address.hosts.iter().map(Host::to_string).collect();
            Some(ClientTools {
                base_backup: program.to_owned(),
                connection: connection.clone(),
                variables: context.environment.of_child(&secret),
                shown: hosts.join(","),
            })
        }
    };
    let expected = known.0.get(name).map(|one| one.cluster.system.clone());
    Ok(NamedServer { name: name.to_owned(), connection, access, expected, tools })
}

/// The way to the server of a connection string.
pub fn access_of(connection: &str, context: &Context) -> Result<Access, CommandError> {
    access_by(connection, context, Address::parse)
}

fn access_by(
    connection: &str,
    context: &Context,
    parse: fn(&str, &dyn Defaults) -> Result<Address, PostgresError>,
) -> Result<Access, CommandError> {
    let variable = |name: &str| {
        let value = context.environment.value(name)?;
        value.to_str().map(str::to_owned)
    };
    let address = parse(connection, &variable).map_err(|error| failed(&error))?;
    let password = context.environment.text("PGPASSWORD")?.map(SecretString::from);
    Ok(Access { address, password })
}

/// The error for people.
#[must_use]
pub fn failed(error: &PostgresError) -> CommandError {
    CommandError::classify(error, &postgres::SERVER)
}

/// The name that is meant where a command names none: the only one there is.
pub fn only_name(context: &Context, known: &KnownSources) -> Result<String, CommandError> {
    let configured = context.loaded.config.sources.iter();
    let configured = configured.filter(|(_, table)| table.kind == SourceKind::Postgres);
    let mut names: Vec<&String> = configured.map(|(name, _)| name).chain(known.0.keys()).collect();
    names.sort();
    names.dedup();
    match names[..] {
        [only] => Ok(only.clone()),
        [] => Err(CommandError::new(&postgres::UNKNOWN, "no PostgreSQL source is known here")),
        _ => {
            let names = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
            let what = format!("which one is meant: {names}?");
            Err(CommandError::new(&postgres::UNKNOWN, what).hint("--source NAME"))
        }
    }
}

/// Remembers the server before anything is saved: its `archive_command` may be at work already, and
/// knows the source by what is remembered.
pub fn remember_server(
    context: &Context,
    repository: &Repository,
    server: &NamedServer,
    method: PostgresMethod,
) -> Result<(), CommandError> {
    let found = server.queries().and_then(|mut sql| {
        let found = ServerFacts::read(&mut *sql)?;
        // A dump stands alone, whichever cluster it is of.
        if method == PostgresMethod::Base {
            found.require_cluster(&server.name, server.expected.as_deref(), sql.shown())?;
        }
        Ok(found)
    });
    if method == PostgresMethod::Dump && server.expected.is_some() {
        return Ok(());
    }
    let found = found.map_err(|error| failed(&error))?;
    let (name, connection) = (&server.name, Some(&*server.connection));
    if let Err(error) = KnownSources::remember(repository, name, connection, &found.cluster) {
        context.output.warning(&format!("{name} is not remembered here: {error}"));
    }
    Ok(())
}
