//! `holdfast pg start`: PostgreSQL on a backup, before its data is copied.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::postgres;
use crate::cli::live_directory::{LiveDirectory, LiveOptions};
use crate::cli::live_server::{LocalServerArgs, not_started, options_of, start, variables};
use crate::cli::maintaining::short;
use crate::cli::postgres_recovery::PointArgs;
use crate::cli::reading::Reading;
use crate::cli::signals::signals;
use crate::cli::wal_archive::facts_of;
use crate::format::postgres::facts::PostgresFacts;
use crate::mount::overlay::folder::Folder;
use crate::mount::overlay::hydrate::Hydration;
use crate::source::postgres::local_server::LocalServer;
use crate::units::format_duration;

/// How often is looked whether anything has ended.
const TICK: Duration = Duration::from_millis(100);
/// Threads that fetch what nobody has asked for yet.
const HYDRATION_THREADS: usize = 2;

const AFTER_HELP: &str = "\
It runs until Ctrl-C or SIGTERM, which stop the server first. Without --hydrate everything that was
written goes with it. With --hydrate DIR all data is fetched into DIR while the server works, and DIR
is a data directory of its own at the end: start PostgreSQL there, and nothing of this is needed any
more. Until then holdfast and the repository are a part of the server. What the server has made
durable is durable in DIR; the same command goes on there after a crash.

Only the socket is listened on, and archiving is off.

Examples:
  holdfast pg start source:shop --socket /run/shop
  holdfast pg start source:shop --to-time 2026-11-23T01:30:00Z --socket /run/shop --hydrate /srv/pgdata";

/// Arguments of `pg start`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct StartArgs {
    /// Snapshot with a base backup, or source:NAME
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: String,
    /// Folder for the server's socket; made if absent
    #[arg(long, value_name = "DIR")]
    pub socket: PathBuf,
    /// Number in the socket's name
    #[arg(long, value_name = "PORT", default_value_t = 5432)]
    pub port: u16,
    /// Fetch everything into this folder while the server works
    #[arg(long, value_name = "DIR")]
    pub hydrate: Option<PathBuf>,
    /// With --hydrate, stop the server and end as soon as everything is there
    #[arg(long, requires = "hydrate")]
    pub until_hydrated: bool,
    /// File for the server's log [default: one that is removed at the end]
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub server: LocalServerArgs,
    #[command(flatten, next_help_heading = "Point in time")]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub point: PointArgs,
}

/// Starts it, and waits for the end.
pub fn run(args: &StartArgs, context: &Context) -> Result<Exit, CommandError> {
    let begun = Instant::now();
    let selector = context.selector(&args.snapshot)?;
    let reading = Reading::open(context)?;
    let (record, snapshot) = reading.select(context, &selector)?;
    let only = selector.names_one().then(|| record.name.id.to_string());
    let source = snapshot.source.clone();
    let Some(PostgresFacts::Base(facts)) = facts_of(&snapshot)? else {
        let what = format!("snapshot {} is no base backup", short(&record.name.id));
        return Err(CommandError::new(&postgres::NO_BACKUP, what));
    };
    let variables = variables(context);
    let user = args.server.user()?;
    let tools = args.server.programs(&variables, facts.cluster.major())?;
    let workspace = args.server.workspace();
    let options = LiveOptions {
        owner: user,
        hydrate: args.hydrate.as_deref(),
        workspace: &workspace,
        point: &args.point,
        only: only.as_deref(),
    };
    signals().arm();
    let mut directory = LiveDirectory::open(context, reading, &source, &options)?;
    make_socket_folder(&args.socket, &options)?;
    let log = args.log.clone().unwrap_or_else(|| directory.workspace().join("log"));
    let server = options_of(&tools, directory.data(), &args.socket, log, user, variables);
    let mut settings = server.settings.clone();
    settings.extend(args.server.settings()?);
    let server = crate::source::postgres::local_server::ServerOptions {
        port: args.port,
        settings,
        ..server
    };
    let started = start(server, &args.server.role);
    directory.pass_messages(context);
    let Some(server) = started? else { return Ok(Exit::Done) };
    if directory.is_resumed {
        context.output.note(&format!("Goes on with what was begun: {}", args.point.shown()));
    }
    say_ready(context, args, &directory, begun);
    let ended = serve(context, args, &directory, server, begun);
    directory.pass_messages(context);
    directory.unmount()?;
    let is_whole = ended?;
    if let (Some(target), true) = (&args.hydrate, is_whole) {
        directory.complete()?;
        let place = target.display();
        context.output.note(&format!("All data is in {place}: start PostgreSQL there"));
    } else if let Some(target) = &args.hydrate {
        let place = target.display();
        let what = format!("{place} is not whole yet: the same command goes on with it");
        if args.until_hydrated && signals().came().is_none() {
            return Err(CommandError::new(&postgres::LAYER, what));
        }
        context.output.warning(&what);
    }
    let hydrated = args.hydrate.is_some() && is_whole;
    let seconds = begun.elapsed().as_secs_f64();
    context.output.summary(Exit::Done, &json!({ "hydrated": hydrated, "seconds": seconds }));
    Ok(Exit::Done)
}

fn make_socket_folder(socket: &Path, options: &LiveOptions<'_>) -> Result<(), CommandError> {
    if socket.is_dir() {
        return Ok(());
    }
    let made = std::fs::create_dir_all(socket).and_then(|()| match options.owner {
        Some(user) => std::os::unix::fs::chown(socket, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    });
    made.map_err(|error| {
        let what = format!("{} cannot be made", socket.display());
        CommandError::new(&postgres::LAYER, what).because(&error)
    })
}

fn say_ready(context: &Context, args: &StartArgs, directory: &LiveDirectory, begun: Instant) {
    let (socket, port) = (args.socket.display(), args.port);
    let major = directory.facts.cluster.major();
    let took = begun.elapsed();
    context.output.note(&format!(
        "PostgreSQL {major} takes connections after {}: psql -h {socket} -p {port}",
        format_duration(took),
    ));
    context.output.item(&json!({
        "socket": socket.to_string(), "port": port, "version": major,
        "snapshot": directory.snapshot, "data": directory.data().display().to_string(),
        "seconds": took.as_secs_f64(),
    }));
}

/// Waits for a signal or the server's end, and stops it; whether all data is local by then.
fn serve(
    context: &Context,
    args: &StartArgs,
    directory: &LiveDirectory,
    mut server: LocalServer,
    begun: Instant,
) -> Result<bool, CommandError> {
    let hydration = Arc::new(Hydration::default());
    let mut fetching = args.hydrate.as_ref().map(|_| {
        let (hydration, folder) = (Arc::clone(&hydration), Arc::clone(&directory.folder));
        std::thread::spawn(move || hydration.run(&folder, HYDRATION_THREADS))
    });
    let mut is_whole = false;
    let ended = loop {
        directory.pass_messages(context);
        if signals().came().is_some() {
            break server.stop().map_err(|error| not_started(&error));
        }
        match server.ended() {
            Ok(None) => {}
            Ok(Some(status)) if status.success() => break Ok(()),
            Ok(Some(_)) => break server.stop().map_err(|error| not_started(&error)),
            Err(error) => break Err(not_started(&error)),
        }
        if fetching.as_ref().is_some_and(JoinHandle::is_finished) {
            is_whole = fetched(fetching.take(), context)?;
            if is_whole {
                say_fetched(context, &directory.folder, begun);
            }
            if args.until_hydrated {
                break server.stop().map_err(|error| not_started(&error));
            }
        }
        std::thread::sleep(TICK);
    };
    hydration.stop.store(true, Relaxed);
    if fetching.is_some() {
        is_whole = fetched(fetching, context)?;
    }
    ended.map(|()| is_whole)
}

fn fetched(
    thread: Option<JoinHandle<std::io::Result<bool>>>,
    context: &Context,
) -> Result<bool, CommandError> {
    let result = thread.map_or(Ok(Ok(false)), JoinHandle::join);
    match result {
        Ok(Ok(is_whole)) => Ok(is_whole),
        Ok(Err(error)) => {
            // The server works on; what it asks for may still be there.
            context.output.warning(&format!("not everything could be fetched: {error}"));
            Ok(false)
        }
        Err(_) => Err(CommandError::new(&crate::cli::explain::usage::INTERNAL, "fetching ended")),
    }
}

fn say_fetched(context: &Context, folder: &Folder, begun: Instant) {
    let (bytes, took) = (context.output.size(folder.filled()), format_duration(begun.elapsed()));
    let place = folder.base().display();
    context.output.note(&format!("Everything is in {place} after {took}, {bytes} were fetched"));
}
