//! What `holdfast backup` is to save: gathered from its arguments and the configuration.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backup::redis_dump::SharedFacts;
use crate::cli::command::backup::{BackupArgs, ExcludeArgs, listed_paths};
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::explain::{source, usage};
use crate::cli::open_repository::open;
use crate::cli::postgres::{Client, KnownSources, NamedServer, named_server};
use crate::cli::postgres_dump::DumpArgs;
use crate::cli::redis::{KnownServers, NamedRedis, named_redis};
use crate::cli::redis_files;
use crate::cli::source_config::{PostgresMethod, SourceKind};
use crate::format::redis::facts::DumpOrder;

/// What is to be saved, gathered from arguments and configuration.
pub struct Sources {
    /// Files and folders.
    pub paths: Vec<PathBuf>,
    /// Streams by their names, and the commands that print them.
    pub commands: Vec<(String, Vec<std::ffi::OsString>)>,
    /// Name of the stream that standard input is.
    pub stdin: Option<String>,
    /// A dump file of Redis, and its name as a source.
    pub redis_rdb: Option<(String, PathBuf)>,
    /// An append-only file of Redis, and its name as a source.
    pub redis_aof: Option<(String, PathBuf)>,
    /// Standard input is not looked at: it is stored as it comes, or not at all.
    pub is_plain: bool,
    /// In which order the records of a dump of Redis are kept.
    pub order: DumpOrder,
    /// A PostgreSQL server, and how it is saved.
    pub server: Option<(NamedServer, PostgresMethod)>,
    /// A Redis server, and what its dump says about itself.
    pub redis: Option<(NamedRedis, SharedFacts)>,
    /// How a dump is made.
    pub dump: DumpArgs,
    /// What is left out.
    pub exclude: ExcludeArgs,
    /// Tags of the snapshot.
    pub tags: Vec<String>,
    /// The source's name, where there is one.
    pub name: Option<String>,
}

impl Sources {
    fn are_none(&self) -> bool {
        self.paths.is_empty()
            && self.commands.is_empty()
            && self.stdin.is_none()
            && self.redis_rdb.is_none()
            && self.redis_aof.is_none()
            && self.server.is_none()
            && self.redis.is_none()
    }
}

/// Gathers it.
///
/// # Errors
/// Nothing is named, or what is named is not known.
pub fn gather(args: &BackupArgs, context: &Context) -> Result<Sources, CommandError> {
    let mut sources = Sources {
        paths: args.paths.clone(),
        commands: Vec::new(),
        stdin: args.stdin.clone(),
        redis_rdb: None,
        redis_aof: None,
        is_plain: args.plain || args.dry_run,
        order: if args.canonical { DumpOrder::Keys } else { DumpOrder::Server },
        server: None,
        redis: None,
        dump: args.dump.clone(),
        exclude: args.exclude.clone(),
        tags: args.label.tag.clone(),
        name: args.label.source.clone(),
    };
    if let [only] = &args.paths[..]
        && let Some(name) = only.to_str()
        && let Some(table) = context.loaded.config.sources.get(name)
    {
        if only.exists() {
            let what = format!("{name} is taken as the configured source; ./{name} is the folder");
            context.output.warning(&what);
        }
        sources.paths.clear();
        sources.name.get_or_insert_with(|| name.to_owned());
        sources.tags.extend(table.tags.iter().cloned());
        match table.kind {
            SourceKind::Files => {
                sources.paths.clone_from(&table.paths);
                sources.exclude = ExcludeArgs::from(table);
            }
            SourceKind::Command => {
                let stream = table.name.clone().unwrap_or_else(|| name.to_owned());
                let argv = table.command.iter().map(Into::into).collect();
                sources.commands.push((stream, argv));
            }
            SourceKind::Postgres => {
                sources.dump = args.dump.or(Some(table));
                let known = known_sources(args, context)?;
                let server = named_server(name, Client::Own, context, &known)?;
                sources.server = Some((server, table.method.unwrap_or_default()));
            }
            SourceKind::Redis => {
                let known = known_servers(args, context)?;
                let server = named_redis(name, &args.redis_password, context, &known)?;
                sources.redis = Some((server, SharedFacts::default()));
            }
        }
    }
    gather_servers(args, context, &mut sources)?;
    if let [only] = &sources.paths[..]
        && !only.exists()
        && only.components().count() == 1
        && only.file_name().is_some_and(|name| name == only.as_os_str())
    {
        let what = format!("there is neither a file nor a source called {}", only.display());
        return Err(CommandError::new(&source::UNKNOWN_NAME, what));
    }
    for file in &args.files_from {
        sources.paths.extend(listed_paths(&read_list(file)?));
    }
    let streams = args.command_streams()?;
    sources.commands.extend(streams.into_iter().map(|stream| (stream.name, stream.argv)));
    if sources.are_none() {
        return Err(CommandError::new(&usage::ARGUMENT, "nothing to back up was named")
            .hint("holdfast backup PATH…, or --stdin NAME, or --command NAME -- PROGRAM…"));
    }
    Ok(sources)
}

/// The servers that the arguments name.
fn gather_servers(
    args: &BackupArgs,
    context: &Context,
    sources: &mut Sources,
) -> Result<(), CommandError> {
    if let Some(text) = &args.postgres {
        let name = text.split_once('=').map_or(&**text, |(name, _)| name);
        let table = context.loaded.config.sources.get(name);
        let method = args.method.or_else(|| table?.method).unwrap_or_default();
        sources.dump = args.dump.or(table);
        let program = args.via_tool.as_deref().map(|program| sources.dump.in_folder(program));
        if program.is_some() && method != PostgresMethod::Base {
            let what = "--via-tool goes with --method base: a dump is made by pg_dump anyway";
            return Err(CommandError::new(&usage::ARGUMENT, what));
        }
        let client = program.as_deref().map_or(Client::Own, Client::Tools);
        let mut server = named_server(text, client, context, &known_sources(args, context)?)?;
        if args.new_cluster {
            server.expected = None;
        }
        sources.name.get_or_insert_with(|| server.name.clone());
        sources.server = Some((server, method));
    }
    if let Some(text) = &args.redis_rdb {
        let (name, file) = redis_files::named_file("--redis-rdb", text)?;
        sources.name.get_or_insert_with(|| name.clone());
        sources.redis_rdb = Some((name, file));
    }
    if let Some(text) = &args.redis_aof {
        let (name, folder) = redis_files::named_file("--redis-aof", text)?;
        sources.name.get_or_insert_with(|| name.clone());
        sources.redis_aof = Some((name, folder));
    }
    if let Some(text) = &args.redis {
        let known = known_servers(args, context)?;
        let server = named_redis(text, &args.redis_password, context, &known)?;
        let server = NamedRedis { order: sources.order, ..server };
        sources.name.get_or_insert_with(|| server.name.clone());
        sources.redis = Some((server, SharedFacts::default()));
    }
    match &mut sources.redis {
        Some((server, _)) if args.redis_digest => server.digest = Some(Arc::default()),
        None if args.redis_digest => {
            let what = "--redis-digest is for a Redis server";
            return Err(CommandError::new(&usage::ARGUMENT, what));
        }
        _ => {}
    }
    Ok(())
}

/// What is remembered of servers.
fn known_sources(args: &BackupArgs, context: &Context) -> Result<KnownSources, CommandError> {
    if args.init { Ok(KnownSources::default()) } else { Ok(KnownSources::read(&open(context)?)?) }
}

fn known_servers(args: &BackupArgs, context: &Context) -> Result<KnownServers, CommandError> {
    if args.init {
        return Ok(KnownServers::default());
    }
    Ok(KnownServers::read(&open(context)?.state)?)
}

fn read_list(file: &Path) -> Result<Vec<u8>, CommandError> {
    let mut list = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut list).map(drop)
    } else {
        std::fs::read(file).map(|bytes| list = bytes)
    };
    read.map(|()| list).map_err(|error| {
        CommandError::new(&usage::ARGUMENT, format!("cannot read {}", file.display()))
            .because(&error)
    })
}
