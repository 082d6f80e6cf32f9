//! Redis and Valkey sources by name: from the arguments, the configuration, or an earlier run.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::backup::journal_pending::UNSURE_MS_MAX;
use crate::backup::redis_dump::{SharedFacts, dump_root};
use crate::backup::run::{RootSource, SnapshotLabel};
use crate::backup::stream::OpenStream;
use crate::cli::config::SecretReference;
use crate::cli::context::{Context, Location};
use crate::cli::error::CommandError;
use crate::cli::explain::redis;
use crate::cli::place::{Place, S3Args};
use crate::cli::redis_cluster;
use crate::cli::signals::signals;
use crate::cli::source_config::SourceKind;
use crate::cli::time::format_rfc3339;
use crate::format::redis::facts::DumpOrder;
use crate::format::redis::server_facts::{DumpFacts, SHRUNKEN_TAG};
use crate::repo::error::RepoError;
use crate::repo::open::Repository;
use crate::repo::state::{StateDir, read_json, write_json};
use crate::source::redis::address::{Address, Host};
use crate::source::redis::connection::{Access, Connection};
use crate::source::redis::digest::{Followed, digest_of_dump};
use crate::source::redis::error::RedisError;
use crate::source::redis::replication::Position;
use crate::source::redis::sentinel::find;
use crate::source::redis::server::ServerState;
use crate::source::redis::snapshot::RedisSnapshot;

/// A server that writes its append-only file anew is waited for so long.
const REWRITE_PATIENCE: Duration = Duration::from_mins(5);
/// The systemd credential that is looked for where nothing is named: this and the source's name.
const CREDENTIAL: &str = "holdfast-redis-";
const SENTINEL_CREDENTIAL: &str = "holdfast-redis-sentinel-";

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
    /// Read the password of the sentinels from a file that only you can read
    #[arg(long, value_name = "FILE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_sentinel_password_file: Option<PathBuf>,
    /// Run a command, without a shell, that prints the password of the sentinels
    #[arg(long, value_name = "COMMAND", conflicts_with = "redis_sentinel_password_file")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_sentinel_password_command: Option<String>,
}

impl RedisPasswordArgs {
    /// These, and where nothing is said of one of both passwords what `other` says of it.
    fn or(&self, other: &Self) -> Self {
        let of = |own: bool, one: &Self| if own { self.clone() } else { one.clone() };
        let has = self.redis_password_file.is_some() || self.redis_password_command.is_some();
        let server = of(has, other);
        let has = self.redis_sentinel_password_file.is_some()
            || self.redis_sentinel_password_command.is_some();
        let sentinel = of(has, other);
        Self {
            redis_password_file: server.redis_password_file,
            redis_password_command: server.redis_password_command,
            redis_sentinel_password_file: sentinel.redis_sentinel_password_file,
            redis_sentinel_password_command: sentinel.redis_sentinel_password_command,
        }
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
    /// In which order its keys come back.
    pub order: DumpOrder,
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
    let password = remembered.map_or_else(|| password.clone(), |one| password.or(&one.password));
    let access = access_of(&connection, name, &password, context)?;
    Ok(NamedRedis {
        name: name.to_owned(),
        connection,
        password,
        access,
        digest: None,
        order: DumpOrder::Server,
    })
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
    let table = context.loaded.config.sources.get(name);
    let of_server = Places {
        file: password.redis_password_file.as_deref(),
        command: password.redis_password_command.as_deref(),
        configured: table.and_then(|table| table.password.as_ref()),
        variables: ["HOLDFAST_REDIS_PASSWORD_FILE", "HOLDFAST_REDIS_PASSWORD_COMMAND"],
        credential: format!("{CREDENTIAL}{name}"),
    };
    let of_sentinels = Places {
        file: password.redis_sentinel_password_file.as_deref(),
        command: password.redis_sentinel_password_command.as_deref(),
        configured: table.and_then(|table| table.sentinel_password.as_ref()),
        variables: [
            "HOLDFAST_REDIS_SENTINEL_PASSWORD_FILE",
            "HOLDFAST_REDIS_SENTINEL_PASSWORD_COMMAND",
        ],
        credential: format!("{SENTINEL_CREDENTIAL}{name}"),
    };
    let mut password = password_of(&of_server, context)?;
    if password.is_none() {
        password = context.environment.text("REDISCLI_AUTH")?.map(SecretString::from);
    }
    let has_sentinels = matches!(address.host, Host::Sentinel(_));
    let of_sentinels = has_sentinels.then(|| password_of(&of_sentinels, context)).transpose()?;
    Ok(Access { address, password, sentinel_password: of_sentinels.flatten() })
}

/// Where a password may be.
struct Places<'a> {
    file: Option<&'a Path>,
    command: Option<&'a str>,
    configured: Option<&'a SecretReference>,
    /// Of a file, of a command.
    variables: [&'static str; 2],
    credential: String,
}

/// The password, from the first place that is named: option, configuration, variable, credential.
fn password_of(
    places: &Places<'_>,
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
    let of_options = given(places.file, places.command)?;
    if of_options.is_some() {
        return Ok(of_options);
    }
    if let Some(reference) = places.configured {
        return secrets.configured(reference).map(Some);
    }
    let environment = &context.environment;
    let [file, command] = places.variables;
    let (file, command) = (environment.path(file), environment.text(command)?);
    let of_environment = given(file.as_deref(), command)?;
    if of_environment.is_some() {
        return Ok(of_environment);
    }
    secrets.credential(&places.credential)
}

/// The error for people, with the end of the log of a server of ours.
#[must_use]
pub fn failed(error: &RedisError) -> CommandError {
    CommandError::classify(error, &redis::SERVER)
}

/// Asks the server how it is, until its data may be taken.
pub fn ready_state(access: &Access) -> Result<ServerState, RedisError> {
    ready_state_of(&mut access.connect()?)
}

/// The same over a connection.
pub fn ready_state_of(connection: &mut Connection) -> Result<ServerState, RedisError> {
    let begun = Instant::now();
    loop {
        let state = ServerState::read(connection)?;
        state.require_ready(connection.shown())?;
        if !state.is_rewriting() {
            return Ok(state);
        }
        if begun.elapsed() > REWRITE_PATIENCE || signals().came().is_some() {
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
    let facts = facts_of_state(state);
    let shrunken = is_shrunken(context, name, facts.keys_count(), local, label)?;
    Ok(DumpFacts { shrunken, ..facts })
}

/// The same without a look at what was before.
#[must_use]
pub fn facts_of_state(state: &ServerState) -> DumpFacts {
    let (server, version) = state.version();
    DumpFacts {
        server: server.to_owned(),
        version: version.to_owned(),
        run_id: state.run_id().to_owned(),
        from_replica: state.is_replica(),
        keys: state.keys(),
        moment: now(),
        ..DumpFacts::default()
    }
}

/// Whether less than half of the keys are left; that is said, and the label says it too.
pub fn is_shrunken(
    context: &Context,
    name: &str,
    keys: u64,
    local: &StateDir,
    label: &mut SnapshotLabel,
) -> Result<bool, CommandError> {
    let known = KnownServers::read(local)?;
    let before = known.0.get(name).and_then(|one| one.keys).unwrap_or(0);
    let is_shrunken = keys < before.div_ceil(2);
    if is_shrunken {
        let id = redis::SHRUNKEN.id;
        context.output.warning(&format!(
            "{name} has {keys} keys, and had {before} in the last snapshot: both are kept ({id})"
        ));
        label.tags.push(SHRUNKEN_TAG.to_owned());
    }
    Ok(is_shrunken)
}

/// Looks at the server before anything is saved: its state goes into the facts. What is to be saved.
pub fn prepare(
    context: &Context,
    repository: &Repository,
    (server, facts): &(NamedRedis, SharedFacts),
    label: &mut SnapshotLabel,
) -> Result<Vec<Box<dyn RootSource>>, CommandError> {
    // Sentinels are asked once, so that state and dump are of the same server.
    let access = match &server.access.address.host {
        Host::Cluster(nodes) => {
            let local = &repository.state;
            return redis_cluster::prepare(context, local, (server, nodes), facts, label);
        }
        Host::Sentinel(sentinels) => {
            find(&server.access, sentinels).map_err(|error| failed(&error))?
        }
        Host::Tcp(..) | Host::Socket(_) => server.access.clone(),
    };
    let state = ready_state(&access).map_err(|error| failed(&error))?;
    let found = facts_of(context, &state, &server.name, &repository.state, label)?;
    *facts.lock().unwrap_or_else(PoisonError::into_inner) = found;
    remember(context, &repository.state, server, None);
    let server = NamedRedis { access, ..server.clone() };
    let open = open_dump(&server, repository.state.path(), facts);
    Ok(vec![dump_root(&server.name, server.order, open, Arc::clone(facts))])
}

/// Remembers the way to a server, and the keys of the dump that was saved.
pub fn remember(context: &Context, state: &StateDir, server: &NamedRedis, keys: Option<u64>) {
    let changed = KnownServers::change(state, &server.name, |known| {
        known.connection.clone_from(&server.connection);
        known.password.clone_from(&server.password);
        let RedisPasswordArgs { redis_password_file, redis_sentinel_password_file, .. } =
            &mut known.password;
        for file in redis_password_file.iter_mut().chain(redis_sentinel_password_file) {
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
        let asked = Instant::now();
        let before = state_of(&access)?;
        let took = asked.elapsed();
        let (stream, position, age) = RedisSnapshot::start(&access, &folder)?;
        let mut facts = shared.lock().unwrap_or_else(PoisonError::into_inner);
        facts.moment = now();
        facts.inexact = is_inexact(&before, position.as_ref(), took + age);
        (facts.replid, facts.offset) =
            position.as_ref().map(|position| (position.replid.clone(), position.offset)).unzip();
        drop(facts);
        let Some(refused) = digest else { return Ok(Box::new(stream)) };
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

/// Whether a dump may lack what was done by now. `before` is how the server was before it was asked,
/// and `age` bounds how long ago it began.
#[must_use]
pub fn is_inexact(before: &ServerState, position: Option<&Position>, age: Duration) -> bool {
    let is_behind = position.is_none_or(|position| position.is_behind(before));
    is_behind || before.is_replica() || age.as_millis() > u128::from(UNSURE_MS_MAX)
}

fn state_of(access: &Access) -> Result<ServerState, RedisError> {
    ServerState::read(&mut access.connect()?)
}

/// The time, as facts say it.
#[must_use]
pub fn now() -> String {
    format_rfc3339(jiff::Timestamp::now())
}
