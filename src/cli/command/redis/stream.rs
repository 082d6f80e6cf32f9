//! `holdfast redis stream`: follows a server as a replica, and saves its commands.
//!
//! One thread takes what comes, into files; this one saves it. What is in the files survives a
//! kill of this process, and is gone on from.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;
use crossbeam_channel::{Receiver, bounded};
use jiff::Span;
use serde_json::json;

use crate::backup::error::BackupError;
use crate::backup::journal_receiver::{ReceiveError, Receiving};
use crate::backup::journal_series::{JournalSeries, journal_source};
use crate::backup::journal_spool::{JournalEnd, JournalSpool};
use crate::backup::log_root::{lock_name, series_path};
use crate::backup::redis_dump::{SharedFacts, dump_root};
use crate::backup::redis_journal::{JournalRun, save_journal};
use crate::backup::run::run as run_backup;
use crate::cli::command::backup_run::{backup_error, label_now, level};
use crate::cli::command::redis::connecting::{Connected, connect, first_header};
use crate::cli::command::redis::ended::{Ended, shown, spool_error};
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::redis;
use crate::cli::open_repository::open;
use crate::cli::reading::Reading;
use crate::cli::redis::{
    KnownServers, NamedRedis, RedisPasswordArgs, facts_of, failed, is_inexact, named_redis, now,
    remember,
};
use crate::cli::redis_archive::RedisArchive;
use crate::cli::signals::signals;
use crate::cli::time::fixed_span;
use crate::clock::{SystemClock, now_ms};
use crate::crypto::secret::random_bytes;
use crate::format::redis::facts::DumpOrder;
use crate::format::redis::journal::SegmentHeader;
use crate::progress::Progress;
use crate::repo::error::RepoError;
use crate::repo::open::Repository;
use crate::repo::session::SessionOptions;
use crate::repo::state::StateDir;
use crate::source::redis::connection::Connection;
use crate::source::redis::error::RedisError;
use crate::source::redis::replication::{Begun, Position};
use crate::source::redis::server::ServerState;
use crate::source::redis::snapshot::RedisSnapshot;
use crate::source::redis::watch::Watch;
use crate::units::{parse_size, parse_span};

/// How often is looked at what there is to do.
const TICK: Duration = Duration::from_millis(20);
/// A server that does nothing is saved so often, which proves that it did nothing.
const IDLE_SAVE_AFTER: Duration = Duration::from_mins(5);
/// How often is looked whether the dump is still kept.
const LOOK_AFTER: Duration = Duration::from_hours(1);
/// How long to wait before something that failed is tried anew: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

const AFTER_HELP: &str = "\
It runs until it is told to stop (SIGTERM or Ctrl-C), and then saves what it has. It begins with a
dump, and goes on where it was when it is started again, as far as the server's backlog
(repl-backlog-size) reaches: where it does not, the gap is said and a new dump is taken. What comes
while the repository is away waits in a file. The server hears of what is durable only.

It never says where it listens, so nothing can make a primary of it. A dump of a schedule beside it
(holdfast backup --redis NAME) shortens what is replayed, and lets go of older parts.

Examples:
  holdfast redis stream cache
  holdfast redis stream cache=redis://db:6379 --flush-every 2s";

/// Arguments of `redis stream`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct StreamArgs {
    /// Name of the source, and where its server is if that is not known
    #[arg(value_name = "NAME[=ADDRESS]")]
    pub server: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the help")]
    pub password: RedisPasswordArgs,
    /// What changes something is saved after so long at most
    #[arg(long, value_name = "SPAN", value_parser = parse_span, default_value = "5s")]
    pub flush_every: Span,
    /// So much may wait on this host while the repository takes nothing
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "10GiB")]
    pub spool_max: u64,
}

/// The state of a stream that outlives its connections.
struct Streamer<'a> {
    context: &'a Context,
    /// Local state: a store that is away must not end the stream.
    state: StateDir,
    server: NamedRedis,
    source: String,
    flush_every: Duration,
    receiving: Arc<Receiving>,
    /// It goes on between connections, so that what was done meanwhile has its time too.
    watch: Arc<Watch>,
    /// When was looked whether a dump is kept that leads to what is saved.
    looked: Option<Instant>,
    /// The server could not go on, and its dump is not saved yet.
    needs_dump: bool,
    saves: u64,
    dumps: u64,
}

/// Streams.
pub fn run(args: &StreamArgs, context: &Context) -> Result<Exit, CommandError> {
    let repository = open(context)?;
    let state = repository.state.clone();
    let known = KnownServers::read(&state)?;
    let server = named_redis(&args.server, &args.password, context, &known)?;
    let source = journal_source(&server.name);
    let lock = state.try_lock(&lock_name(&format!("{source} stream")))?;
    let _only_one = lock.ok_or_else(|| {
        let what = format!("the journal of {} is being taken by another process", server.name);
        CommandError::new(&redis::STREAMING, what)
    })?;
    remember(context, &state, &server, None);
    let folder = series_path(&state, &source).with_extension("spool");
    let mut spool =
        JournalSpool::open(&folder, args.spool_max).map_err(|error| spool_error(&error))?;
    let mut series = JournalSeries::read(&state, &source, now_ms())?;
    spool.keep_line(series.line.as_deref());
    spool.keep_beyond(&series.segments).map_err(|error| spool_error(&error))?;
    series.begin_process(now_ms())?;
    series.write(&state, &source)?;
    let watch = Arc::new(Watch::start(&server.access));
    let mut streamer = Streamer {
        context,
        state,
        server,
        source,
        flush_every: fixed_span(args.flush_every)?,
        receiving: Arc::new(Receiving::new(spool)),
        watch,
        looked: None,
        needs_dump: false,
        saves: 0,
        dumps: 0,
    };
    signals().arm();
    let exit = streamer.stream_all();
    signals().disarm();
    let exit = exit?;
    context.output.summary(
        exit,
        &json!({
            "durable": streamer.receiving.durable.load(Ordering::Relaxed),
            "dumps": streamer.dumps, "saves": streamer.saves,
        }),
    );
    Ok(exit)
}

impl Streamer<'_> {
    /// Makes one connection after the other.
    fn stream_all(&mut self) -> Result<Exit, CommandError> {
        let mut delay = PAUSES.0;
        loop {
            let saves = self.saves;
            match self.stream() {
                Ended::Stopped => return Ok(Exit::Done),
                Ended::Failed(error) => return Err(error),
                Ended::Broken(why) => {
                    self.context.output.warning(&format!("{why}; trying again"));
                }
            }
            delay = if self.saves > saves { PAUSES.0 } else { (2 * delay).min(PAUSES.1) };
            // What came before it broke does not wait for the server, nor the server for that.
            match self.try_save() {
                Ok(is_saved) => self.saves += u64::from(is_saved),
                Err(error) => {
                    let what = format!("the journal is not saved: {}; trying again", shown(&error));
                    self.context.output.warning(&what);
                }
            }
            if wait(delay) {
                return self.save_waiting().map(|_| Exit::Done);
            }
        }
    }

    /// Streams over one connection.
    fn stream(&mut self) -> Ended {
        let ended = match self.begin() {
            Ok(ended) => ended,
            Err(error) => return error,
        };
        let outcome = self.save_while(&ended);
        self.receiving.is_stopping.store(true, Ordering::Relaxed);
        // The receiving thread sees it within a tick, and ends its segment.
        let last = ended.recv();
        self.receiving.is_stopping.store(false, Ordering::Relaxed);
        match (outcome, last) {
            (Err(error), _) => Ended::Failed(error),
            (Ok(true), _) => match self.save_waiting() {
                Ok(_) => Ended::Stopped,
                Err(error) => Ended::Failed(error),
            },
            (Ok(false), Ok(Err(ReceiveError::Server(error)))) => error.into(),
            (Ok(false), Ok(Err(ReceiveError::Spool(error)))) => error.into(),
            (Ok(false), Ok(Ok(())) | Err(_)) => Ended::Broken("the stream has ended".to_owned()),
        }
    }

    /// Where to go on: after what is in the spool, else after what is saved.
    fn end(&self) -> Result<Option<JournalEnd>, RepoError> {
        let series = JournalSeries::read(&self.state, &self.source, now_ms())?;
        let line = series.line;
        // The server hears of what is saved, not of what waits here.
        let saved_end = series.last.as_ref().filter(|last| Some(&last.range.line) == line.as_ref());
        let saved_end = saved_end.map_or(0, |last| last.range.end);
        self.receiving.durable.store(saved_end, Ordering::Relaxed);
        let saved = series.last.map(|last| JournalEnd {
            line: last.range.line,
            session: last.range.session,
            replid: last.range.replid,
            offset: last.range.end,
            db: last.db,
        });
        let ends = saved.into_iter().chain(self.receiving.spool().end());
        let of_line = ends.filter(|end| Some(&end.line) == line.as_ref());
        Ok(of_line.max_by_key(|end| (end.session, end.offset)))
    }

    /// Connects, and gives what the receiving thread will say when it ends.
    fn begin(&mut self) -> Result<Receiver<Result<(), ReceiveError>>, Ended> {
        let end = self.end()?;
        if end.is_none() {
            // A server is not made to dump what cannot be saved.
            drop(open(self.context)?);
        } else if self.needs_dump {
            drop(open(self.context).map_err(|error| Ended::Broken(shown(&error)))?);
        }
        let position =
            end.as_ref().map(|end| Position { replid: end.replid.clone(), offset: end.offset });
        let Some(connected) = connect(&self.server.access, position)? else {
            return Err(match self.save_waiting() {
                Ok(_) => Ended::Stopped,
                Err(error) => Ended::Failed(error),
            });
        };
        let Connected { connection, state, begun, age } = connected;
        self.receiving.set_sender(&state);
        match (begun, end) {
            (Begun::Continued(replid), Some(end)) => {
                let offset = end.offset;
                self.context
                    .output
                    .status(&format!("{} goes on at {offset} of {}", self.server.name, end.replid));
                let after = replid.as_ref().map(|_| end.replid.clone());
                let position = Position { replid: replid.unwrap_or(end.replid), offset };
                let header = SegmentHeader {
                    after: after.filter(|after| *after != position.replid),
                    // No other connection of the line has that number, whatever is forgotten here.
                    session: now_ms().max(end.session + 1),
                    db: end.db,
                    ..first_header(position, end.line)
                };
                Ok(self.continue_with(connection, header))
            }
            (Begun::Full(Some(position)), end) => {
                if let Some(end) = end.filter(|_| !self.needs_dump) {
                    self.say_gap(&end);
                }
                self.needs_dump = true;
                let inexact = is_inexact(&state, Some(&position), age);
                let begun = self.begin_with_dump(connection, position, (&state, inexact))?;
                self.needs_dump = false;
                Ok(begun)
            }
            (Begun::Full(None) | Begun::Continued(_), _) => {
                let address = connection.shown().to_owned();
                let what = "it does not say where its dump is in the stream".to_owned();
                Err(failed(&RedisError::Protocol { address, what }).into())
            }
        }
    }

    fn say_gap(&self, end: &JournalEnd) {
        let (name, offset, replid) = (&self.server.name, end.offset, &end.replid);
        let id = redis::GAP.id;
        self.context.output.warning(&format!(
            "{name} cannot go on at {offset} of {replid}: the journal has a gap, a new dump is \
             taken ({id})"
        ));
    }

    fn continue_with(
        &self,
        mut connection: Connection,
        header: SegmentHeader,
    ) -> Receiver<Result<(), ReceiveError>> {
        let (said, ended) = bounded(1);
        let (receiving, watch) = (Arc::clone(&self.receiving), Arc::clone(&self.watch));
        std::thread::spawn(move || {
            drop(said.send(receiving.receive(&mut connection, &watch, header)));
        });
        ended
    }

    /// A new line: its dump is saved while the commands after it come.
    fn begin_with_dump(
        &mut self,
        connection: Connection,
        position: Position,
        state: (&ServerState, bool),
    ) -> Result<Receiver<Result<(), ReceiveError>>, Ended> {
        let line = data_encoding::HEXLOWER.encode(&random_bytes::<8>().map_err(RepoError::from)?);
        let (said, ended) = bounded(1);
        let header = first_header(position.clone(), line.clone());
        let (receiving, watch) = (Arc::clone(&self.receiving), Arc::clone(&self.watch));
        let after = move |mut connection, db| {
            let header = SegmentHeader { db, ..header };
            drop(said.send(receiving.receive(&mut connection, &watch, header)));
        };
        // Nothing of the new history is durable before its dump is saved.
        self.receiving.durable.store(0, Ordering::Relaxed);
        let offset = position.offset;
        let stream = RedisSnapshot::take(connection, self.state.path(), Box::new(after))?;
        let saved = self.save_dump(stream, position, state);
        if let Err(error) = saved {
            self.receiving.is_stopping.store(true, Ordering::Relaxed);
            // An error: the dump was not whole, and nobody has followed.
            drop(ended.recv());
            self.receiving.is_stopping.store(false, Ordering::Relaxed);
            let before = JournalSeries::read(&self.state, &self.source, now_ms())?.line;
            self.receiving.spool().keep_line(before.as_deref());
            return Err(error);
        }
        let _lock = self.state.lock(&lock_name(&self.source))?;
        let mut series = JournalSeries::read(&self.state, &self.source, now_ms())?;
        series.line = Some(line);
        series.write(&self.state, &self.source)?;
        self.receiving.durable.store(offset, Ordering::Relaxed);
        Ok(ended)
    }

    fn save_dump(
        &mut self,
        stream: RedisSnapshot,
        position: Position,
        (state, inexact): (&ServerState, bool),
    ) -> Result<(), Ended> {
        let (context, name) = (self.context, self.server.name.clone());
        let mut label = label_now(&name);
        let mut facts = facts_of(context, state, &name, &self.state, &mut label)?;
        facts.moment = now();
        facts.inexact = inexact;
        (facts.replid, facts.offset) = (Some(position.replid), Some(position.offset));
        let keys = facts.keys_count();
        let facts = SharedFacts::new(facts.into());
        let open_stream = Box::new(move || Ok(Box::new(stream) as _));
        let root = dump_root(&name, DumpOrder::Server, open_stream, facts);
        let progress = Arc::new(Progress::default());
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let options = SessionOptions { threads, level: level(context) };
        let repository = open(context).map_err(|error| Ended::Broken(shown(&error)))?;
        let watch = context.watch(&progress);
        let saved =
            run_backup(repository, Arc::new(SystemClock), options, &label, vec![root], &progress);
        watch.finish();
        // Its watch has taken the signals with it.
        signals().arm();
        let summary = saved.map_err(|error| {
            let is_told = signals().came().is_some();
            let error = backup_error(error);
            if is_told { Ended::Failed(error) } else { Ended::Broken(shown(&error)) }
        })?;
        remember(context, &self.state, &self.server, Some(keys));
        self.dumps += 1;
        let id = summary.committed.map(|committed| committed.snapshot.id.to_string());
        let id = id.unwrap_or_default();
        context.output.status(&format!("dump of {name} with {keys} keys saved: {id:.8}"));
        Ok(())
    }

    /// Saves what comes until we are told to stop (`true`), or nothing comes any more.
    fn save_while(
        &mut self,
        ended: &Receiver<Result<(), ReceiveError>>,
    ) -> Result<bool, CommandError> {
        let mut saved_at = Instant::now();
        loop {
            let is_told = signals().came().is_some();
            if is_told || !ended.is_empty() {
                return Ok(is_told);
            }
            let has_data = self.receiving.spool().has_unsaved_data();
            let since = saved_at.elapsed();
            if (has_data && since >= self.flush_every) || since >= IDLE_SAVE_AFTER {
                saved_at = Instant::now();
                if self.save_waiting()? {
                    return Ok(true);
                }
                if self.leads_nowhere()? {
                    return Ok(false);
                }
            }
            std::thread::sleep(TICK);
        }
    }

    /// Whether no dump is kept that leads to what was saved: then the next connection takes one.
    fn leads_nowhere(&mut self) -> Result<bool, CommandError> {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_AFTER) {
            return Ok(false);
        }
        let mut series = JournalSeries::read(&self.state, &self.source, now_ms())?;
        let Some(line) = series.line.clone() else { return Ok(false) };
        // A store that is away is asked after the next save.
        let Ok(reading) = Reading::open(self.context) else { return Ok(false) };
        let kept = RedisArchive::read(&reading, self.context, &self.server.name);
        // Who does not see what was saved just now cannot say what is gone.
        let saved = series.last.as_ref().map(|last| &last.range);
        let Ok(kept) = kept else { return Ok(false) };
        if !saved.is_some_and(|saved| saved.line == line && kept.has(saved)) {
            return Ok(false);
        }
        self.looked = Some(Instant::now());
        if kept.leads_to(&line) {
            return Ok(false);
        }
        let _lock = self.state.lock(&lock_name(&self.source))?;
        series.line = None;
        series.write(&self.state, &self.source)?;
        let (name, id) = (&self.server.name, redis::GAP.id);
        self.context.output.warning(&format!(
            "no dump is kept from which the journal of {name} leads on: a new one is taken ({id})"
        ));
        Ok(true)
    }

    /// Saves what waits; a store that does not answer is tried again until it does. Whether we were
    /// told to stop meanwhile.
    ///
    /// # Errors
    /// We were told to stop, and it still fails.
    fn save_waiting(&mut self) -> Result<bool, CommandError> {
        let mut delay = PAUSES.0;
        loop {
            let error = match self.try_save() {
                Ok(is_saved) => {
                    self.saves += u64::from(is_saved);
                    return Ok(signals().came().is_some());
                }
                Err(error) => error,
            };
            let what = format!("the journal is not saved: {}; trying again", shown(&error));
            self.context.output.warning(&what);
            if wait(delay) {
                return Err(error);
            }
            delay = (2 * delay).min(PAUSES.1);
        }
    }

    fn try_save(&self) -> Result<bool, CommandError> {
        let run_of = JournalRun {
            name: &self.server.name,
            label: label_now(&self.source),
            options: SessionOptions { threads: 1, level: level(self.context) },
            clock: Arc::new(SystemClock),
            progress: Arc::new(Progress::default()),
        };
        let mut failure = None;
        let mut reopen = || -> Result<Repository, BackupError> {
            open(self.context).map_err(|error| {
                let source = std::io::Error::other(error.what().to_owned());
                failure = Some(error);
                BackupError::Root { path: "the repository".to_owned(), source }
            })
        };
        let saved = save_journal(&run_of, &self.receiving, &mut reopen);
        saved.map_err(|error| failure.unwrap_or_else(|| backup_error(error)))
    }
}

/// Sleeps; whether we were told to stop meanwhile.
fn wait(delay: Duration) -> bool {
    let until = Instant::now() + delay;
    while Instant::now() < until && signals().came().is_none() {
        std::thread::sleep(TICK);
    }
    signals().came().is_some()
}
