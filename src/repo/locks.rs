//! Locks on what a snapshot needs, where the store has them: extended at its commit, old packs too.
//!
//! What this host has locked, and until when, is kept in the local state: a lock only ever grows, so
//! what was locked long enough costs no request. Losing the file costs requests.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, params};

use crate::format::commit::{Commit, ObjectName};
use crate::format::roster::Roster;
use crate::id::ActorId;
use crate::repo::error::RepoError;
use crate::repo::history::History;
use crate::repo::open::Repository;
use crate::repo::parallel::in_parallel;
use crate::store::StoreError;

/// Objects that are locked between two writes of the record.
const BATCH: usize = 256;
/// The part of the span by which a lock may be shorter than asked: extending every lock at every
/// commit would cost as many requests as there are packs.
const MARGIN_PARTS: u32 = 10;

/// What was locked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LockReport {
    /// Objects that the snapshot needs.
    pub objects: u64,
    /// Of those, how many locks were set or extended now.
    pub extended: u64,
}

/// Everything that a restore of the newest snapshot of a writer takes: these packs, the writer's
/// log and index segments, what its newest commit has put, the rosters and keys.
///
/// # Errors
/// Failures of the store.
pub fn needed_names(
    repository: &Repository,
    history: &History,
    writer: ActorId,
    packs: &[ObjectName],
) -> Result<Vec<String>, RepoError> {
    let mut names: Vec<String> = packs.iter().map(ToString::to_string).collect();
    let log = history.logs.get(&writer).map(Vec::as_slice).unwrap_or_default();
    for record in log {
        names.push(Commit::object_name(writer, record.commit.seq));
        let puts = record.commit.puts.iter().map(|put| put.name);
        let is_index = |name: &ObjectName| matches!(name, ObjectName::Index(..));
        let there = puts.filter(|name| is_index(name) && !history.announced.contains_key(name));
        names.extend(there.map(|name| name.to_string()));
    }
    if let Some(newest) = log.last() {
        names.extend(newest.commit.puts.iter().map(|put| put.name.to_string()));
    }
    names.extend((1..=repository.roster.seq).map(Roster::object_name));
    for folder in ["keys/", "recovery/"] {
        repository.store.list(folder, &mut |entry| names.push(entry.name))?;
    }
    names.extend(["FORMAT", "RECOVERY.md"].map(str::to_owned));
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Locks the objects until `now + span`; those whose lock is nearly that long already stay.
///
/// # Errors
/// The first object that could not be locked; those before it are.
pub fn extend(
    repository: &Repository,
    names: &[String],
    now: SystemTime,
    span: Duration,
) -> Result<LockReport, RepoError> {
    let record = Record::open(repository)?;
    let store = &*repository.store;
    let until = now + span; // spans that can be written end long before the clock does
    let enough = until - span / MARGIN_PARTS;
    let mut report = LockReport { objects: names.len() as u64, extended: 0 };
    let mut due = Vec::new();
    for name in names {
        if record.until(name)?.is_none_or(|known| known < enough) {
            due.push(name);
        }
    }
    for batch in due.chunks(BATCH) {
        let locked = in_parallel(store.read_slots(), batch, |name| {
            // Another host may have locked it longer.
            match store.locked_until(name)? {
                Some(locked) if locked >= enough => Ok((locked, false)),
                _ => store.lock_until(name, until).map(|()| (until, true)),
            }
        });
        let mut done = Vec::new();
        let mut failure: Option<StoreError> = None;
        for (name, locked) in batch.iter().zip(locked) {
            match locked {
                Ok((until, is_new)) => {
                    report.extended += u64::from(is_new);
                    done.push((name.as_str(), until));
                }
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        record.note(&done)?;
        if let Some(error) = failure {
            return Err(error.into());
        }
    }
    Ok(report)
}

struct Record {
    connection: Connection,
    path: PathBuf,
}

impl Record {
    fn open(repository: &Repository) -> Result<Self, RepoError> {
        let path = repository.state.path().join("locks.sqlite");
        let open = || {
            let connection = Connection::open(&path)?;
            connection.busy_timeout(Duration::from_secs(30))?;
            connection.execute_batch(
                "CREATE TABLE IF NOT EXISTS lock (name TEXT PRIMARY KEY, until INTEGER NOT NULL) \
                 WITHOUT ROWID",
            )?;
            Ok(connection)
        };
        match open() {
            Ok(connection) => Ok(Self { connection, path }),
            Err(error) => Err(failed("open", path, error)),
        }
    }

    fn until(&self, name: &str) -> Result<Option<SystemTime>, RepoError> {
        let found = self.connection.query_row(
            "SELECT until FROM lock WHERE name = ?1",
            params![name],
            |row| row.get::<_, i64>(0),
        );
        let found = found.optional().map_err(|e| failed("read", self.path.clone(), e))?;
        let time = |seconds| {
            let since = Duration::from_secs(u64::try_from(seconds).ok()?);
            SystemTime::UNIX_EPOCH.checked_add(since)
        };
        Ok(found.and_then(time))
    }

    fn note(&self, locked: &[(&str, SystemTime)]) -> Result<(), RepoError> {
        let write = || {
            let transaction = self.connection.unchecked_transaction()?;
            for (name, until) in locked {
                let seconds = until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                transaction.execute(
                    "INSERT OR REPLACE INTO lock VALUES (?1, ?2)",
                    params![name, seconds.as_secs().cast_signed()],
                )?;
            }
            transaction.commit()
        };
        write().map_err(|error| failed("write", self.path.clone(), error))
    }
}

fn failed(action: &'static str, path: PathBuf, error: rusqlite::Error) -> RepoError {
    RepoError::State { action, path, source: std::io::Error::other(error) }
}
