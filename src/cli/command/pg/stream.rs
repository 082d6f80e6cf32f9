//! `holdfast pg stream`: takes the log from the server as it is written.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use jiff::Span;
use serde_json::json;

use crate::backup::error::BackupError;
use crate::backup::log_root::{LogContent, LogInput};
use crate::backup::postgres_wal::{WalError, WalRun, save_wal, wal_source};
use crate::backup::wal_series::WalSeries;
use crate::backup::wal_spool::WalSpool;
use crate::cli::command::backup_run::{label_now, level};
use crate::cli::command::pg::wal_push::wal_error;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::postgres;
use crate::cli::open_repository::open;
use crate::cli::postgres::{Client, KnownSources, NamedServer, failed, named_server};
use crate::cli::signals::signals;
use crate::cli::time::{fixed_span, format_rfc3339};
use crate::clock::SystemClock;
use crate::format::postgres::facts::ClusterFacts;
use crate::format::postgres::lsn::{Lsn, Timeline};
use crate::progress::Progress;
use crate::repo::session::SessionOptions;
use crate::repo::state::StateDir;
use crate::source::postgres::connection::Purpose;
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::replication::{
    create_slot, drop_slot, identify, read_slot, timeline_history,
};
use crate::source::postgres::server::ServerFacts;
use crate::source::postgres::wal_stream::{Streamed, WalStream};
use crate::units::parse_span;

/// Whole segments that wait are saved without waiting for the time.
const WHOLE_SEGMENTS_MAX: usize = 4;
/// The server hears from us at least so often.
const REPLY_AFTER: Duration = Duration::from_secs(10);
/// How long to wait before a broken connection is made anew: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// `undefined_file`: the server does not have the log any more.
const REMOVED: &str = "58P01";
/// `object_not_in_prerequisite_state`: the slot has lost what it was to keep.
const LOST: &str = "55000";

const AFTER_HELP: &str = "\
It runs until it is told to stop (SIGTERM or Ctrl-C), and then saves what it has. A connection that
breaks is made anew. The server keeps its log in a replication slot until it is durable here: watch
the disk of a server whose stream has stopped (holdfast pg status), and set max_slot_wal_keep_size.

Examples:
  holdfast pg stream shop
  holdfast pg stream shop='postgres://backup@db/postgres' --flush-every 5s";

/// Arguments of `pg stream`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct StreamArgs {
    /// Name of the source, and where its server is if that is not known
    #[arg(value_name = "NAME[=CONNECTION]")]
    pub server: String,
    /// Name of the replication slot; made if absent [default: holdfast_NAME]
    #[arg(long, value_name = "NAME")]
    pub slot: Option<String>,
    /// What was written is saved after so long at most
    #[arg(long, value_name = "SPAN", value_parser = parse_span, default_value = "10s")]
    pub flush_every: Span,
    /// End when the log up to this position is saved
    #[arg(long, value_name = "LSN")]
    pub until: Option<Lsn>,
}

/// The state of a stream that outlives its connections.
struct Streamer<'a> {
    context: &'a Context,
    /// Local state: a store that is away must not end the stream.
    state: StateDir,
    server: NamedServer,
    slot: String,
    flush_every: Duration,
    until: Option<Lsn>,
    cluster: ClusterFacts,
    /// Everything before it is durable, on this timeline.
    durable: Option<(Timeline, Lsn)>,
    newest: i64,
    saves: u64,
    /// What was saved does not lead on: go on where the slot begins.
    is_after_gap: bool,
}

/// Why one connection has ended.
enum Ended {
    /// We were told to stop, or have what was asked for.
    Stopped,
    /// The connection broke; it is made anew.
    Broken(PostgresError),
    /// Nothing helps.
    Failed(CommandError),
}

impl From<CommandError> for Ended {
    fn from(error: CommandError) -> Self {
        Self::Failed(error)
    }
}

impl From<PostgresError> for Ended {
    fn from(error: PostgresError) -> Self {
        match error {
            PostgresError::Connect { .. } | PostgresError::Broken { .. } => Self::Broken(error),
            // Classes 57 (shutdown, starting up) and 53 (too many connections), 55006 (slot in use).
            PostgresError::Server { ref code, .. }
                if code.starts_with("57") || code.starts_with("53") || code == "55006" =>
            {
                Self::Broken(error)
            }
            error => Self::Failed(failed(&error)),
        }
    }
}

/// Streams.
pub fn run(args: &StreamArgs, context: &Context) -> Result<Exit, CommandError> {
    let repository = open(context)?;
    let known = KnownSources::read(&repository)?;
    let server = named_server(&args.server, Client::Own, context, &known)?;
    let found = server.access.connect(Purpose::Sql).and_then(|mut sql| {
        let found = ServerFacts::read(&mut sql)?;
        found.require_cluster(&server.name, server.expected.as_deref(), sql.shown())?;
        Ok(found)
    });
    let cluster = found.map_err(|error| failed(&error))?.cluster;
    let connection = Some(&*server.connection);
    KnownSources::remember(&repository, &server.name, connection, &cluster)?;
    let slot = args.slot.clone().unwrap_or_else(|| slot_name(&server.name));
    let mut streamer = Streamer {
        context,
        state: repository.state.clone(),
        server,
        slot,
        flush_every: fixed_span(args.flush_every)?,
        until: args.until,
        cluster,
        durable: None,
        newest: 0,
        saves: 0,
        is_after_gap: false,
    };
    signals().arm();
    let mut delay = PAUSES.0;
    let exit = loop {
        let saves = streamer.saves;
        match streamer.stream() {
            Ended::Stopped => break Ok(Exit::Done),
            Ended::Failed(error) => break Err(error),
            Ended::Broken(error) => context.output.warning(&format!("{error}; trying again")),
        }
        delay = if streamer.saves > saves { PAUSES.0 } else { (2 * delay).min(PAUSES.1) };
        if wait(delay) {
            break Ok(Exit::Done);
        }
    };
    signals().disarm();
    let exit = exit?;
    let durable = streamer.durable.map(|(_, lsn)| lsn);
    context.output.summary(exit, &json!({ "durable": durable, "saves": streamer.saves }));
    Ok(exit)
}

/// Sleeps; whether we were told to stop meanwhile.
fn wait(delay: Duration) -> bool {
    let until = Instant::now() + delay;
    while Instant::now() < until {
        if signals().came().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

fn slot_name(source: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let name: String = source.chars().map(allowed).take(50).collect();
    format!("holdfast_{name}")
}

impl Streamer<'_> {
    /// Streams over one connection.
    fn stream(&mut self) -> Ended {
        let mut started = || -> Result<(Timeline, Lsn), Ended> {
            let mut connection = self.server.access.connect(Purpose::Replication)?;
            let identity = identify(&mut connection)?;
            if identity.system != self.cluster.system {
                let what = format!("the server is cluster {} now", identity.system);
                return Err(CommandError::new(&postgres::OTHER_CLUSTER, what).into());
            }
            let mut slot = read_slot(&mut connection, &self.slot)?;
            if slot.is_none() {
                create_slot(&mut connection, &self.slot)?;
                slot = read_slot(&mut connection, &self.slot)?;
            }
            self.save_histories(&mut connection, identity.timeline)?;
            let begin = self.begin(slot.and_then(|slot| slot.restart), identity.flushed)?;
            Ok(begin.unwrap_or((identity.timeline, identity.flushed)))
        };
        let mut at = match started() {
            Ok(at) => at,
            Err(ended) => return ended,
        };
        loop {
            match self.stream_timeline(at) {
                Ok(next) => at = next,
                Err(ended) => return ended,
            }
        }
    }

    /// Where to go on: after what is saved, else where the slot holds the log.
    fn begin(
        &mut self,
        slot: Option<(Lsn, Timeline)>,
        flushed: Lsn,
    ) -> Result<Option<(Timeline, Lsn)>, CommandError> {
        let series = WalSeries::read(&self.state, &wal_source(&self.server.name))?;
        let slot = slot.map(|(lsn, timeline)| (timeline, lsn));
        let saved = series.filter(|series| series.cluster.system == self.cluster.system);
        let saved = saved.and_then(|series| {
            let last = series.wal_facts().ranges.into_iter().max_by_key(|r| (r.timeline, r.end))?;
            Some((last.timeline, last.end))
        });
        self.durable = self.durable.max(saved);
        if std::mem::take(&mut self.is_after_gap) {
            self.durable = None;
            return Ok(slot);
        }
        // What is saved may lie before what the server still has: then a gap is unavoidable.
        match (self.durable, slot) {
            (Some(saved), Some(slot)) if slot.0 == saved.0 && slot.1 > saved.1 => {
                let (from, to) = (saved.1, slot.1);
                let id = postgres::GAP.id;
                self.context.output.warning(&format!(
                    "the server does not keep {from} to {to} any more: take a base backup ({id})"
                ));
                Ok(Some(slot))
            }
            (Some(saved), _) if saved.1 <= flushed => Ok(Some(saved)),
            (_, slot) => Ok(slot),
        }
    }

    /// Saves the histories of all timelines up to this one, where they are not saved.
    fn save_histories(
        &mut self,
        connection: &mut crate::source::postgres::connection::Connection,
        newest: Timeline,
    ) -> Result<(), Ended> {
        let mut files = Vec::new();
        for timeline in 2..=newest.0 {
            // Ancestors that the server itself never knew are no loss.
            match timeline_history(connection, Timeline(timeline)) {
                Ok((name, content)) => {
                    files.push(LogInput { name, content: LogContent::Bytes(content.into()) });
                }
                Err(error) if error.code() == Some(REMOVED) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if files.is_empty() { Ok(()) } else { self.save(&files).map_err(Ended::from) }
    }

    /// Streams one timeline from the segment of a position on; gives where the next begins.
    fn stream_timeline(&mut self, at: (Timeline, Lsn)) -> Result<(Timeline, Lsn), Ended> {
        let (timeline, from) = at;
        let size = self.cluster.segments();
        let from = size.start(from);
        let connection = self.server.access.connect(Purpose::Replication)?;
        let patience = self.flush_every.min(Duration::from_secs(1));
        connection.set_patience(Some(patience))?;
        let mut stream = match WalStream::start(connection, &self.slot, from, timeline) {
            Err(error) if matches!(error.code(), Some(REMOVED | LOST)) => {
                return Err(self.renew_slot(error));
            }
            stream => stream?,
        };
        let series = WalSeries::path(&self.state, &wal_source(&self.server.name));
        let mut spool = WalSpool::begin(&series.with_extension("spool"), size, timeline, from)
            .map_err(|error| CommandError::classify(&error, &postgres::SPOOL))?;
        let (mut saved_at, mut replied_at) = (Instant::now(), Instant::now());
        loop {
            let streamed = match stream.take() {
                Err(error) if error.code() == Some(REMOVED) => {
                    return Err(self.renew_slot(error));
                }
                streamed => streamed?,
            };
            let mut wants_reply = false;
            let mut next = None;
            match streamed {
                Streamed::Data { start, bytes, clock } => {
                    spool
                        .take(start, &bytes)
                        .map_err(|error| CommandError::classify(&error, &postgres::SPOOL))?;
                    self.newest = self.newest.max(clock);
                }
                Streamed::Alive { wants_reply: wants, .. } => wants_reply = wants,
                Streamed::TimelineEnds { next: timeline, at } => next = Some((timeline, at)),
                Streamed::Silence => {}
            }
            let is_told = signals().came().is_some();
            let has_all = self.until.is_some_and(|until| spool.position() >= until);
            let is_due = saved_at.elapsed() >= self.flush_every
                || spool.whole() >= WHOLE_SEGMENTS_MAX
                || next.is_some()
                || is_told
                || has_all;
            // After a restart the segment comes once more from its start: what is saved of it must
            // not shrink.
            let saved = self.durable.filter(|(known, _)| *known == timeline);
            let is_ahead = saved.is_none_or(|(_, lsn)| spool.position() > lsn);
            if is_due && is_ahead && spool.has_unsaved() {
                self.save(&spool.files())?;
                spool.saved();
                self.durable = Some((timeline, spool.position()));
                wants_reply = true;
            }
            if is_due {
                saved_at = Instant::now();
            }
            if next.is_none() && (wants_reply || replied_at.elapsed() >= REPLY_AFTER) {
                let durable = self.durable.filter(|(known, _)| *known == timeline);
                let durable = durable.map_or(from, |(_, lsn)| lsn);
                stream.acknowledge(spool.position(), durable)?;
                replied_at = Instant::now();
            }
            if let Some((timeline, at)) = next {
                let mut connection = self.server.access.connect(Purpose::Replication)?;
                self.save_histories(&mut connection, timeline)?;
                return Ok((timeline, at));
            }
            if is_told || has_all {
                return Err(Ended::Stopped);
            }
        }
    }

    /// The log from where we were is gone: only a new slot leads on, after a gap.
    fn renew_slot(&mut self, error: PostgresError) -> Ended {
        let id = postgres::GAP.id;
        self.context.output.warning(&format!("{error}: the log has a gap from here on ({id})"));
        let renewed =
            self.server.access.connect(Purpose::Replication).and_then(|mut connection| {
                drop_slot(&mut connection, &self.slot)?;
                create_slot(&mut connection, &self.slot)
            });
        self.is_after_gap = true;
        match renewed {
            Ok(()) => Ended::Broken(error),
            Err(error) => error.into(),
        }
    }

    /// Saves files; a store that does not answer is tried again until it does, and the server
    /// keeps its log meanwhile.
    fn save(&mut self, files: &[LogInput]) -> Result<(), CommandError> {
        let newest = jiff::Timestamp::from_microsecond(self.newest).unwrap_or_default();
        let mut delay = PAUSES.0;
        loop {
            let run = WalRun {
                name: &self.server.name,
                cluster: self.cluster.clone(),
                owner: Some(self.cluster.system.clone()),
                label: label_now(&wal_source(&self.server.name)),
                newest: format_rfc3339(newest),
                options: SessionOptions { threads: 1, level: level(self.context) },
                clock: Arc::new(SystemClock),
                progress: Arc::new(Progress::default()),
            };
            let mut failure = None;
            let mut reopen = || {
                open(self.context).map_err(|error| {
                    let what = error.what().to_owned();
                    failure = Some(error);
                    let source = std::io::Error::other(what);
                    BackupError::Root { path: "the repository".to_owned(), source }
                })
            };
            let saved = save_wal(&run, &mut reopen, files);
            let error = match (saved, failure) {
                (Ok(_), _) => {
                    self.saves += 1;
                    return Ok(());
                }
                (Err(_), Some(error)) => error,
                (Err(error @ (WalError::Differs { .. } | WalError::OtherCluster { .. })), _) => {
                    return Err(wal_error(error));
                }
                (Err(error), None) => wal_error(error),
            };
            let id = error.id();
            let why = error.causes().last().map_or(error.what(), String::as_str);
            let what = format!("the log is not saved: {why} ({id}); trying again");
            self.context.output.warning(&what);
            if wait(delay) {
                return Err(error);
            }
            delay = (2 * delay).min(PAUSES.1);
        }
    }
}
