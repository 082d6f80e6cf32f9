//! Redis and Valkey sources by name: from the arguments, the configuration, or an earlier run.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::backup::redis_dump::SharedFacts;
use crate::backup::run::SnapshotLabel;
use crate::backup::stream::OpenStream;
use crate::cli::context::{Context, Location};
use crate::cli::error::CommandError;
use crate::cli::explain::redis;
use crate::cli::place::{Place, S3Args};
use crate::cli::source_config::SourceKind;
use crate::cli::time::format_rfc3339;
use crate::format::redis::server_facts::{DumpFacts, SHRUNKEN_TAG};
use crate::repo::error::RepoError;
use crate::repo::open::Repository;
use crate::repo::state::{StateDir, read_json, write_json};
use crate::source::redis::address::Address;
use crate::source::redis::connection::Access;
use crate::source::redis::digest::{Followed, digest_of_dump};
use crate::source::redis::error::RedisError;
use crate::source::redis::server::ServerState;
use crate::source::redis::snapshot::RedisSnapshot;

/// A server that writes its append-only file anew is waited for so long.
const REWRITE_PATIENCE: Duration = Duration::from_mins(5);
/// The systemd credential that is looked for where nothing is named: this and the source's name.
const CREDENTIAL: &str = "holdfast-redis-";

/// Where the password of a Redis server is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
pub struct RedisPasswordArgs {
    /// Read the password of the Redis server from a file that only you can read
    #[arg(long, value_name = "FILE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_password_file: Option<PathBuf>,
    /// Run a command, without a shell, that prints the password of the Redis server
    #[arg(long, value_name = "COMMAND", conflicts_with = "redis_password_file")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_password_command: Option<String>,
}

impl RedisPasswordArgs {
    fn is_empty(&self) -> bool {
        self.redis_password_file.is_none() && self.redis_password_command.is_none()
    }
}

/// What this host remembers of its Redis sources, by name.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KnownServers(BTreeMap<String, KnownServer>);

/// One of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownServer {
    /// Its address.
    pub connection: String,
    /// Where its password is.
    #[serde(flatten)]
    pub password: RedisPasswordArgs,
    /// Keys of the last dump.
    #[serde(default)]
    pub keys: Option<u64>,
}

impl KnownServers {
    /// Reads what is remembered in a folder of local state.
    pub fn read(state: &StateDir) -> Result<Self, RepoError> {
        Ok(read_json(&path(state))?.unwrap_or_default())
    }

    /// Changes what is remembered of one.
    pub fn change(
        state: &StateDir,
        name: &str,
        change: impl FnOnce(&mut KnownServer),
    ) -> Result<(), RepoError> {
        let _lock = state.lock("redis.lock")?;
        let mut known = Self::read(state)?;
        let before = known.0.get(name).cloned().unwrap_or_default();
        let mut after = before.clone();
        change(&mut after);
        if before == after {
            return Ok(());
        }
        known.0.insert(name.to_owned(), after);
        write_json(&path(state), &known)
    }
}

fn path(state: &StateDir) -> PathBuf {
    state.path().join("redis.json")
}

/// A source with the way to its server.
#[derive(Clone)]
pub struct NamedRedis {
    /// Its name.
    pub name: String,
    /// Its address, as it was given.
    pub connection: String,
    /// Where its password is, where an option said it.
    pub password: RedisPasswordArgs,
    /// The way.
    pub access: Access,
    /// Its digest is wanted with the dump; in there, why it was not kept.
    pub digest: Option<Arc<Mutex<Option<String>>>>,
}

/// Takes `NAME=ADDRESS` apart, or looks a bare `NAME` up.
pub fn named_redis(
    text: &str,
    password: &RedisPasswordArgs,
    context: &Context,
    known: &KnownServers,
) -> Result<NamedRedis, CommandError> {
    let (name, given) = match text.split_once('=') {
        Some((name, connection)) => (name, Some(connection.to_owned())),
        None => (text, None),
    };
    if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
        let what = format!("{name:?} is no name for a source");
        return Err(CommandError::new(&redis::UNKNOWN, what));
    }
    let table = context.loaded.config.sources.get(name);
    let table = table.filter(|table| table.kind == SourceKind::Redis);
    let remembered = known.0.get(name).filter(|one| !one.connection.is_empty());
    let connection = given
        .or_else(|| table.and_then(|table| table.connection.clone()))
        .or_else(|| remembered.map(|one| one.connection.clone()))
        .ok_or_else(|| {
            let what = format!("no Redis server of the name {name} is known");
            CommandError::new(&redis::UNKNOWN, what)
        })?;
    let password = match remembered {
        Some(one) if password.is_empty() => one.password.clone(),
        _ => password.clone(),
    };
    let access = access_of(&connection, name, &password, context)?;
    Ok(NamedRedis { name: name.to_owned(), connection, password, access, digest: None })
}

/// The way to the server at an address.
pub fn access_of(
    connection: &str,
    name: &str,
    password: &RedisPasswordArgs,
    context: &Context,
) -> Result<Access, CommandError> {
    let address = Address::parse(connection).map_err(|error| {
        let refused = failed(&error);
        match error {
            RedisError::PasswordShown => refused.hint(
                "--redis-password-file FILE, or password = \"secret:NAME\" in [sources.NAME]",
            ),
            _ => refused,
        }
    })?;
    let password = password_of(name, password, context)?;
    Ok(Access { address, password })
}

/// The password, from the first place that is named: option, configuration, variable, credential.
fn password_of(
    name: &str,
    args: &RedisPasswordArgs,
    context: &Context,
) -> Result<Option<SecretString>, CommandError> {
    let nowhere = Location {
        place: Place::Folder("/".into()),
        s3: S3Args::default(),
        name: None,
        table: None,
    };
    let secrets = context.secrets(&nowhere);
    let given = |file: Option<&Path>, command: Option<&str>| secrets.first_of(file, command, None);
    let of_options =
        given(args.redis_password_file.as_deref(), args.redis_password_command.as_deref())?;
    if of_options.is_some() {
        return Ok(of_options);
    }
    let table = context.loaded.config.sources.get(name);
    if let Some(reference) = table.and_then(|table| table.password.as_ref()) {
        return secrets.configured(reference).map(Some);
    }
    let environment = &context.environment;
    let file = environment.path("HOLDFAST_REDIS_PASSWORD_FILE");
    let command = environment.text("HOLDFAST_REDIS_PASSWORD_COMMAND")?;
    let of_environment = given(file.as_deref(), command)?;
    if of_environment.is_some() {
        return Ok(of_environment);
    }
    if let Some(secret) = secrets.credential(&format!("{CREDENTIAL}{name}"))? {
        return Ok(Some(secret));
    }
    Ok(environment.text("REDISCLI_AUTH")?.map(SecretString::from))
}

/// The error for people, with the end of the log of a server of ours.
#[must_use]
pub fn failed(error: &RedisError) -> CommandError {
    CommandError::classify(error, &redis::SERVER)
}

/// Asks the server how it is, until its data may be taken.
pub fn ready_state(access: &Access) -> Result<ServerState, RedisError> {
    let begun = Instant::now();
    let mut connection = access.connect()?;
    loop {
        let state = ServerState::read(&mut connection)?;
        state.require_ready(connection.shown())?;
        if !state.is_rewriting() {
            return Ok(state);
        }
        if begun.elapsed() > REWRITE_PATIENCE {
            let address = connection.shown().to_owned();
            let what = "it is writing its append-only file anew".to_owned();
            return Err(RedisError::NotReady { address, what });
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// What a dump of a server in that state says about itself; where it has shrunk, that is said, and
/// the label says it too.
pub fn facts_of(
    context: &Context,
    state: &ServerState,
    name: &str,
    local: &StateDir,
    label: &mut SnapshotLabel,
) -> Result<DumpFacts, CommandError> {
    let known = KnownServers::read(local)?;
    let before = known.0.get(name).and_then(|one| one.keys).unwrap_or(0);
    let (server, version) = state.version();
    let mut facts = DumpFacts {
        server: server.to_owned(),
        version: version.to_owned(),
        run_id: state.run_id().to_owned(),
        from_replica: state.is_replica(),
        keys: state.keys(),
        moment: now(),
        ..DumpFacts::default()
    };
    let keys = facts.keys_count();
    facts.shrunken = keys < before.div_ceil(2);
    if facts.shrunken {
        let id = redis::SHRUNKEN.id;
        context.output.warning(&format!(
            "{name} has {keys} keys, and had {before} in the last snapshot: both are kept ({id})"
        ));
        label.tags.push(SHRUNKEN_TAG.to_owned());
    }
    Ok(facts)
}

/// Looks at the server before anything is saved: its state goes into the facts.
pub fn prepare(
    context: &Context,
    repository: &Repository,
    (server, facts): &(NamedRedis, SharedFacts),
    label: &mut SnapshotLabel,
) -> Result<(), CommandError> {
    let state = ready_state(&server.access).map_err(|error| failed(&error))?;
    let found = facts_of(context, &state, &server.name, &repository.state, label)?;
    *facts.lock().unwrap_or_else(PoisonError::into_inner) = found;
    remember(context, &repository.state, server, None);
    Ok(())
}

/// Remembers the way to a server, and the keys of the dump that was saved.
pub fn remember(context: &Context, state: &StateDir, server: &NamedRedis, keys: Option<u64>) {
    let changed = KnownServers::change(state, &server.name, |known| {
        known.connection.clone_from(&server.connection);
        known.password.clone_from(&server.password);
        if let Some(file) = &mut known.password.redis_password_file {
            *file = std::path::absolute(&*file).unwrap_or_else(|_| file.clone());
        }
        known.keys = keys.or(known.keys);
    });
    if let Err(error) = changed {
        context.output.warning(&format!("{} is not remembered here: {error}", server.name));
    }
    let refused = server.digest.as_ref().and_then(|why| {
        let why = why.lock().unwrap_or_else(PoisonError::into_inner);
        why.clone()
    });
    if let Some(why) = refused {
        let (name, id) = (&server.name, redis::DIGEST.id);
        context.output.warning(&format!("the digest of {name} was not kept: {why} ({id})"));
    }
}

/// How the dump of a server is opened; `folder` takes what comes faster than it is saved.
#[must_use]
pub fn open_dump(server: &NamedRedis, folder: &Path, facts: &SharedFacts) -> OpenStream {
    let (access, digest) = (server.access.clone(), server.digest.clone());
    let (folder, shared) = (folder.to_owned(), Arc::clone(facts));
    Box::new(move || {
        let digest = digest.map(|refused| Ok::<_, RedisError>((refused, state_of(&access)?)));
        let digest = digest.transpose()?;
        let (stream, position) = RedisSnapshot::start(&access, &folder)?;
        let mut facts = shared.lock().unwrap_or_else(PoisonError::into_inner);
        facts.moment = now();
        (facts.replid, facts.offset) =
            position.as_ref().map(|position| (position.replid.clone(), position.offset)).unzip();
        drop(facts);
        let Some((refused, before)) = digest else { return Ok(Box::new(stream)) };
        let then = move || match digest_of_dump(&access, &before, position.as_ref()) {
            Ok(digest) => {
                let mut facts = shared.lock().unwrap_or_else(PoisonError::into_inner);
                facts.digest = Some(digest);
            }
            Err(why) => *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(why),
        };
        Ok(Box::new(Followed { stream: Box::new(stream), then: Box::new(then) }))
    })
}

fn state_of(access: &Access) -> Result<ServerState, RedisError> {
    ServerState::read(&mut access.connect()?)
}

fn now() -> String {
    format_rfc3339(jiff::Timestamp::now())
}
