//! The data of a Redis source at a moment of its journal, or of an append-only file: a folder in
//! which a server of ours has loaded them.
//!
//! *Why a server*: what a command does to a key depends on whether the key has expired. Replayed
//! into a server that works, commands of yesterday would find keys gone that were there when they
//! came. A server that loads its append-only file lets nothing expire, and one that follows nobody
//! keeps it so.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::command::restore_journal::{BASE, FILE, FOLDER, Written, write_folder};
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::explain::{postgres, redis, restore as explain_restore};
use crate::cli::reading::Reading;
use crate::cli::redis::failed;
use crate::cli::redis_append_only::write_files;
use crate::cli::redis_archive::RedisArchive;
use crate::cli::redis_found::{FeedError, Take};
use crate::cli::run_folder::run_folder;
use crate::cli::signals::signals;
use crate::format::redis::dump_parts::{DumpParts, LOOKAHEAD_BYTES, is_dump};
use crate::format::redis::grammar::Dialect;
use crate::format::redis::reach::Plan;
use crate::format::snapshot::Snapshot;
use crate::source::postgres::local_server::{RunAs, user_of};
use crate::source::postgres::private_folder::PrivateFolder;
use crate::source::redis::error::RedisError;
use crate::source::redis::local_server::{DUMP_FILE, LocalServer, ServerOptions};
use crate::source::redis::server::ServerState;
use crate::source::redis::server_program::{ServerProgram, needed};

/// Who a server runs as where we are root and nobody is named: the first that there is.
const USERS: [&str; 3] = ["redis", "valkey", "nobody"];
/// The last lines of a log that are shown.
const LINES_SHOWN: usize = 15;
/// A server writes all of its data in so long.
const SAVE_PATIENCE: Duration = Duration::from_hours(6);

/// What leads to the data.
#[derive(Clone, Copy)]
pub enum Way<'a> {
    /// A dump and the commands after it.
    Journal(&'a RedisArchive<'a>, &'a Plan),
    /// An append-only file.
    Files(&'a Snapshot),
}

/// How the server is started.
pub struct MomentOptions<'a> {
    /// The folder below which it has one of its own, which takes all data.
    pub workspace: &'a Path,
    /// Who it runs as, where we are root.
    pub user: Option<RunAs>,
    /// Its program, where one is named.
    pub program: Option<&'a Path>,
    /// Settings that it has besides.
    pub settings: Vec<(String, String)>,
}

/// A server that has loaded a moment, in which nothing expires; gone with the value, as its folder.
pub struct MomentServer {
    /// The server.
    pub server: LocalServer,
    /// What it says of itself.
    pub state: ServerState,
    /// Its program and version.
    pub shown: String,
    /// Commands after the dump, where that is known.
    pub commands: Option<u64>,
    run: PathBuf,
    folder: PrivateFolder,
}

impl MomentServer {
    /// Starts it.
    ///
    /// # Errors
    /// The journal is damaged, there is no server program that reads the dump, or it does not load
    /// what leads to the moment.
    pub fn start(
        context: &Context,
        reading: &Reading,
        way: Way<'_>,
        options: MomentOptions<'_>,
    ) -> Result<Self, CommandError> {
        let user = options.user;
        let folder = PrivateFolder::create(options.workspace)
            .map_err(|error| CommandError::classify(&error, &postgres::LAYER))?;
        let run = run_folder(folder.path(), user)?;
        let (source, form, commands, database_max) = match way {
            Way::Journal(archive, plan) => {
                let written = write_folder(reading, archive, plan, &run)?;
                let base = Some(run.join(FOLDER).join(BASE)).filter(|path| path.exists());
                let form = form_of(&base.unwrap_or_else(|| run.join(FILE)))?;
                let Written { commands, database_max, .. } = written;
                let source = &archive.dumps[plan.dump].found.1.source;
                (source, form, Some(commands), database_max)
            }
            Way::Files(snapshot) => {
                let written = write_files(reading, context, snapshot, &run)?;
                let form = written.base.map_or(Ok((Dialect::Redis, 0)), |base| form_of(&base))?;
                (&snapshot.source, form, None, written.database_max)
            }
        };
        hand_over(&run, user)?;
        let program = program(context, (source, options.program), form)?;
        let shown = program.shown();
        let options = ServerOptions {
            program,
            folder: run.clone(),
            log: folder.path().join("log"),
            user,
            settings: options.settings,
            database_max: database_max.into(),
        };
        let mut server = LocalServer::start(&options).map_err(|error| not_started(&error))?;
        let loaded = server.wait_until_loaded(&|| signals().came().is_some());
        let loaded = loaded.map_err(|error| not_started(&error))?;
        let Some(state) = loaded else { return Err(not_started(&RedisError::Cancelled)) };
        Ok(Self { server, state, shown, commands, run, folder })
    }
}

/// A dump of that moment, gone with the value.
pub struct MomentDump {
    path: PathBuf,
    _folder: PrivateFolder,
}

impl MomentDump {
    /// Makes it, in a folder below `workspace`, which takes all data twice.
    ///
    /// # Errors
    /// As [`MomentServer::start`].
    pub fn make(
        context: &Context,
        reading: &Reading,
        way: Way<'_>,
        workspace: &Path,
    ) -> Result<Self, CommandError> {
        let options =
            MomentOptions { workspace, user: user(None)?, program: None, settings: Vec::new() };
        let started = MomentServer::start(context, reading, way, options)?;
        let saved = started.server.connect().and_then(|mut connection| {
            connection.set_patience(SAVE_PATIENCE)?;
            connection.command(&[b"SAVE"], "saving the moment")
        });
        saved.map_err(|error| failed(&error))?;
        Ok(Self { path: started.run.join(DUMP_FILE), _folder: started.folder })
    }

    /// Gives the bytes of the dump to `take`.
    ///
    /// # Errors
    /// They cannot be read, or are not taken.
    pub fn feed(&self, take: &mut Take<'_>) -> Result<(), FeedError> {
        let unreadable = |error| FeedError::Taken(spool_error(&self.path, error));
        let mut file = File::open(&self.path).map_err(unreadable)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).map_err(unreadable)? {
                0 => return Ok(()),
                length => take(&buffer[..length]).map_err(FeedError::Taken)?,
            }
        }
    }
}

fn spool_error(path: &Path, source: std::io::Error) -> RedisError {
    let folder = path.parent().unwrap_or(path).to_owned();
    RedisError::Spool { address: "the server of the moment".to_owned(), folder, source }
}

/// Whose dump a file is, and the version of its form; of commands that of the oldest.
fn form_of(path: &Path) -> Result<(Dialect, u32), CommandError> {
    let mut first = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(LOOKAHEAD_BYTES as u64).read_to_end(&mut first));
    read.map_err(|error| {
        let what = format!("cannot read {}", path.display());
        CommandError::new(&explain_restore::TARGET, what).because(&error)
    })?;
    let mut parts = DumpParts::default();
    if is_dump(&first) == Some(true) {
        parts.next(&first, false);
    }
    Ok((parts.dialect(), parts.version()))
}

/// Gives what lies in a folder of ours to the user of the server.
fn hand_over(folder: &Path, user: Option<RunAs>) -> Result<(), CommandError> {
    let Some(RunAs { uid, gid }) = user else { return Ok(()) };
    let give = |path: &Path| -> std::io::Result<()> {
        for entry in std::fs::read_dir(path)? {
            let path = entry?.path();
            chown(&path, Some(uid), Some(gid))?;
            if path.is_dir() {
                for entry in std::fs::read_dir(&path)? {
                    chown(entry?.path(), Some(uid), Some(gid))?;
                }
            }
        }
        Ok(())
    };
    give(folder).map_err(|error| {
        let what = format!("cannot hand over {}", folder.display());
        CommandError::new(&explain_restore::TARGET, what).because(&error)
    })
}

/// Who a server runs as; nobody else than we where we are not root.
///
/// # Errors
/// There is no such user.
pub fn user(named: Option<&str>) -> Result<Option<RunAs>, CommandError> {
    if !rustix::process::getuid().is_root() {
        return Ok(None);
    }
    let found = match named {
        Some(name) => user_of(name),
        None => match USERS.iter().find_map(|name| user_of(name).ok()) {
            Some(user) => Ok(user),
            None => user_of(USERS[0]),
        },
    };
    found.map(Some).map_err(|error| CommandError::new(&redis::NOT_STARTED, error.to_string()))
}

/// The program of a server that reads dumps of that form: the one that is named, else that of the
/// configuration of the source, else what this host has.
///
/// # Errors
/// There is none.
pub fn program(
    context: &Context,
    (source, named): (&str, Option<&Path>),
    (dialect, version): (Dialect, u32),
) -> Result<ServerProgram, CommandError> {
    let table = context.loaded.config.sources.get(source);
    let configured = table.and_then(|table| table.redis_server.as_deref());
    let needed = needed(dialect, version);
    let missing =
        |what: String| CommandError::new(&redis::NO_SERVER, format!("{what}: {needed} is needed"));
    if let Some(path) = named.or(configured) {
        let program = ServerProgram::ask(path)
            .ok_or_else(|| missing(format!("{} is no server", path.display())))?;
        if program.reads(dialect, version) {
            return Ok(program);
        }
        return Err(missing(format!("{} does not read the dump", program.shown())));
    }
    let variables = context.environment.of_child(&[]);
    let path = variables.iter().find(|(name, _)| name == "PATH");
    let path = path.map_or(OsStr::new(""), |(_, value)| value);
    ServerProgram::find(path, dialect, version)
        .ok_or_else(|| missing("no server that reads the dump is on this host".to_owned()))
}

/// The error for people, with the last lines of the server's log.
#[must_use]
pub fn not_started(error: &RedisError) -> CommandError {
    let what = CommandError::new(&redis::NOT_STARTED, error.to_string());
    let RedisError::LocalServer { log, .. } = error else { return what };
    let lines: Vec<&str> = log.lines().rev().take(LINES_SHOWN).collect();
    lines.into_iter().rev().fold(what, CommandError::because_text)
}
