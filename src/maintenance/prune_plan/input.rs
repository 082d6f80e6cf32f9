//! What a prune is told: the store's listing, what the logs say, what the refs say, and how much it
//! may do.
//!
//! All times are the store's own.

use std::time::{Duration, SystemTime};

use crate::id::ActorId;
use crate::maintenance::prune_plan::repack::Repack;
use crate::maintenance::prune_plan::usage::PackUsage;
use crate::store::Entry;

/// Kinds of objects that pruning may remove, in the order in which they are deleted: a crash
/// leaves packs without a snapshot, never a snapshot that is listed without its packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrunableKind {
    /// `snap/`
    Snapshot,
    /// `refs/`
    Refs,
    /// `data/`
    Pack,
    /// `index/`
    Index,
}

impl PrunableKind {
    /// The kind by the object's name; none for objects that are never pruned.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name.split_once('/')?.0 {
            "snap" => Some(Self::Snapshot),
            "refs" => Some(Self::Refs),
            "data" => Some(Self::Pack),
            "index" => Some(Self::Index),
            _ => None,
        }
    }
}

/// Which commit: the writer (or maintainer) and the number in its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitPosition {
    /// Whose log.
    pub actor: ActorId,
    /// Number in it, from 1.
    pub seq: u64,
}

/// An object that a valid commit puts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedObject {
    /// Full name.
    pub name: String,
    /// The commit that puts it. An index segment lists packs of its own commit only; so the
    /// position tells which packs it covers, without opening it.
    pub commit: CommitPosition,
}

/// A snapshot that a valid commit names, forgotten or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotState {
    /// Name of the snapshot object (`snap/…`).
    pub name: String,
    /// The refs that its own commit names; they tell which pack handles its references carry.
    pub refs_first: String,
    /// The refs that hold now; the same as the first unless a repack relocated the snapshot.
    pub refs_newest: String,
    /// Refs between the two: no one needs them.
    pub refs_superseded: Vec<String>,
    /// When the store first saw the tombstone that forgets it; none while it is live or recalled.
    pub forgotten: Option<SystemTime>,
}

/// An open intent: neither withdrawn nor done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenIntent {
    /// The object it names.
    pub name: String,
    /// When the store first saw the tombstone that holds it.
    pub first_seen: SystemTime,
}

/// A backup that is known to be running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunningBackup {
    /// Whose.
    pub writer: ActorId,
    /// Objects first seen since then may be its own; by the store's clock.
    pub began: SystemTime,
}

/// How much one run may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneOptions {
    /// How long an intent stands before it is carried out.
    pub grace: Duration,
    /// About packs used in part.
    pub repack: Repack,
    /// Most objects to delete in one run.
    pub deleted_objects_max: u64,
    /// Most bytes to delete in one run.
    pub deleted_bytes_max: u64,
}

/// Everything a plan depends on.
#[derive(Debug)]
pub struct PruneInput<'a> {
    /// The time by the store's clock, taken *before* anything below was read.
    pub now: SystemTime,
    /// The whole listing. It must be older than `committed`: taken before the logs are read, so
    /// that an object that seems to be in no commit was not committed in between.
    pub stored: &'a [Entry],
    /// Everything that valid commits put.
    pub committed: &'a [CommittedObject],
    /// Every snapshot that a valid commit names.
    pub snapshots: &'a [SnapshotState],
    /// What the needed snapshots use; see [`SnapshotState::is_needed`].
    pub usage: &'a PackUsage,
    /// The open intents.
    pub intents: &'a [OpenIntent],
    /// Backups known to be running.
    pub running: &'a [RunningBackup],
    /// Commits of rostered writers that this program does not understand.
    pub unsupported_commits: &'a [String],
    /// How much may be done.
    pub options: PruneOptions,
}

impl SnapshotState {
    /// Whether its objects must stay: it is live, or was forgotten less than `grace` ago.
    #[must_use]
    pub fn is_needed(&self, now: SystemTime, grace: Duration) -> bool {
        self.forgotten.is_none_or(|forgotten| !is_older(now, forgotten, grace))
    }
}

/// Whether `grace` or more has passed since `then`; a time in the future is not older.
#[must_use]
pub fn is_older(now: SystemTime, then: SystemTime, grace: Duration) -> bool {
    now.duration_since(then).is_ok_and(|age| age >= grace)
}
