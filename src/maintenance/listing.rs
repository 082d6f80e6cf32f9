//! The list of snapshots, as far as the keys at hand open them.
//!
//! Every snapshot that a commit names is in the list: one that is too new or damaged is shown as
//! such, and without any key the logs alone say who committed what and when.

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::crypto::recipient::Identity;
use crate::format::commit::ObjectName;
use crate::format::limits;
use crate::format::refs::SnapshotLabel;
use crate::format::snapshot::{Snapshot, SnapshotError};
use crate::maintenance::snapshot_refs::RefsReader;
use crate::repo::error::RepoError;
use crate::repo::history::{History, SnapshotRecord};
use crate::repo::objects::open_named;
use crate::repo::open::Repository;

/// What could be read of a snapshot.
#[derive(Debug, Clone)]
pub enum Contents {
    /// All of it.
    Snapshot(Box<Snapshot>),
    /// Its label, by a maintainer's identity.
    Label(SnapshotLabel),
    /// It is of a format that this program does not know.
    Unsupported(String),
    /// It cannot be read.
    Unreadable(String),
    /// No key was given.
    Sealed,
}

/// One snapshot of the list.
#[derive(Debug, Clone)]
pub struct Listed {
    /// What the logs say.
    pub record: SnapshotRecord,
    /// What is inside.
    pub contents: Contents,
    /// Stored bytes that its commit added.
    pub added_bytes: u64,
}

/// The keys for a list: either, both or none.
#[derive(Clone, Copy, Default)]
pub struct ListKeys<'a> {
    /// Read identities.
    pub read: &'a [Identity],
    /// Identities that open refs.
    pub refs: &'a [Identity],
}

/// Reads those snapshots that are `wanted`, several at once; in the order of their times.
#[must_use]
pub fn list(
    repository: &Repository,
    history: &History,
    keys: ListKeys<'_>,
    wanted: impl Fn(&SnapshotRecord) -> bool,
) -> Vec<Listed> {
    let reader = RefsReader::new(repository, history, keys.refs);
    let records: Vec<_> = history.snapshots.iter().filter(|record| wanted(record)).collect();
    let listed = records.par_iter().map(|record| Listed {
        contents: contents(repository, record, keys, &reader),
        added_bytes: added_bytes(history, record),
        record: (*record).clone(),
    });
    listed.collect()
}

fn contents(
    repository: &Repository,
    record: &SnapshotRecord,
    keys: ListKeys<'_>,
    reader: &RefsReader<'_>,
) -> Contents {
    if !keys.read.is_empty() {
        return match read_snapshot(repository, record, keys.read) {
            Ok(snapshot) => Contents::Snapshot(Box::new(snapshot)),
            Err(RepoError::Snapshot { source: error @ SnapshotError::Unsupported(_), .. }) => {
                Contents::Unsupported(error.to_string())
            }
            Err(error) => Contents::Unreadable(words(&error)),
        };
    }
    if keys.refs.is_empty() {
        return Contents::Sealed;
    }
    match reader.read(&record.refs) {
        Ok(refs) => refs.label.map_or(Contents::Sealed, Contents::Label),
        Err(error) => Contents::Unreadable(words(&error)),
    }
}

/// An error with its causes in one line.
#[must_use]
pub fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Opens a snapshot and compares what it says with the commit that names it.
pub fn read_snapshot(
    repository: &Repository,
    record: &SnapshotRecord,
    identities: &[Identity],
) -> Result<Snapshot, RepoError> {
    let name = record.name.object_name();
    let object = name.to_string();
    let identities: Vec<&Identity> = identities.iter().collect();
    let content = open_named(&*repository.store, &name, &identities, limits::SNAPSHOT_BYTES_MAX)?;
    let snapshot = Snapshot::decode(&content)
        .map_err(|source| RepoError::Snapshot { object: object.clone(), source })?;
    if (snapshot.repository, snapshot.writer, snapshot.seq)
        != (repository.id, record.name.writer, record.seq)
    {
        return Err(RepoError::Misplaced { object, what: "its commit is another" });
    }
    Ok(snapshot)
}

fn added_bytes(history: &History, record: &SnapshotRecord) -> u64 {
    let log = history.logs.get(&record.name.writer).map(Vec::as_slice).unwrap_or_default();
    let commit = log.iter().find(|other| other.commit.seq == record.seq);
    let puts = commit.map(|record| record.commit.puts.as_slice()).unwrap_or_default();
    let is_data = |name: &ObjectName| matches!(name, ObjectName::Data(_) | ObjectName::Index(..));
    puts.iter().filter(|put| is_data(&put.name)).map(|put| put.bytes).fold(0, u64::saturating_add)
}
