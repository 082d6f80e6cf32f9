//! What a prune does next: which objects are announced for deletion, which announcements are taken
//! back, and which objects go now.
//!
//! Deletion has two phases. An object that nothing needs is first named by a signed intent; it is
//! deleted once the intent is older than the grace time *and* nothing has come to need it since.
//! In between, a writer that wants to refer to it sees the intent and stores its chunks anew, and a
//! forgotten snapshot can be recalled. No lock is needed, and several prunes at once do no harm:
//! each acts only on intents that all could see for the whole grace time.
//!
//! # Invariants
//! * An object that a live snapshot needs, or one forgotten less than the grace time ago, is
//!   neither deleted nor newly intended; an intent that names it is withdrawn. A snapshot needs its
//!   own object, its first and its newest refs, every pack that the newest refs use, and every
//!   index segment that resolves a pack handle of its first refs.
//! * An object is deleted only on an intent that is older than the grace time by the store's
//!   first-seen time, and only if the present state alone would justify a new intent.
//! * Nothing younger than the grace time is intended, named by a commit or not: a backup puts
//!   its packs before its commit, and a checkpoint names packs that no snapshot uses yet. What
//!   a listed running backup may have put is held however old it is.
//! * Only `data/`, `index/`, `snap/` and `refs/` are ever touched. The logs (`log/`, `tomb/`,
//!   `roster/`), keys and everything unknown stay.
//! * Nothing is planned on doubt: not when the clock stands before what the store has already seen,
//!   not when the refs of a snapshot are not there, not when a commit is not understood.
//! * All times are the store's (first seen, now); none is a writer's claim.
//! * A plan carried out only in part, in any order within a list, leaves a state of which all of
//!   this holds again; planning twice without a change between gives the same.
//!
//! What remains for writers: between their last look at the intents and their commit no more than
//! the grace time may pass, and a pack that is *gone* is to be treated like one that is intended.

pub mod facts;
pub mod input;
pub mod repack;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
pub mod usage;

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime};

use crate::maintenance::prune_plan::facts::{Cause, Facts, Fate};
use crate::maintenance::prune_plan::input::{PrunableKind, PruneInput, PruneOptions, is_older};
use crate::maintenance::prune_plan::repack::{RepackCandidate, plan_repack};
use crate::repo::history::is_half_spent;
use crate::store::Entry;

/// How far the clock may stand before the newest first-seen time: clocks of a store's own hosts
/// differ by seconds.
pub const CLOCK_BEHIND_MAX: Duration = Duration::from_mins(1);

/// Why nothing is planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PruneError {
    /// The clock was set back, or is not the store's.
    #[error("the store's clock is {behind_seconds} s behind the time of its newest object {name}")]
    ClockBehind {
        /// The object, or the one that an intent or a forget names.
        name: String,
        /// By how much.
        behind_seconds: u64,
    },
    /// A needed snapshot whose refs were not counted.
    #[error("the refs of snapshot {snapshot} are not known, so what it needs is not known")]
    RefsUnknown {
        /// The snapshot object.
        snapshot: String,
    },
    /// A committed snapshot object that is not among the snapshots.
    #[error("commits put snapshot {snapshot}, but its state is not known")]
    SnapshotUnknown {
        /// The snapshot object.
        snapshot: String,
    },
    /// A commit of a newer format, whose objects would look like orphans.
    #[error("commit {commit} is of a kind that this program does not know")]
    UnsupportedCommit {
        /// The commit object.
        commit: String,
    },
}

/// An object that goes, now or later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadObject {
    /// Full name.
    pub name: String,
    /// Stored bytes.
    pub size_bytes: u64,
    /// Why.
    pub cause: Cause,
}

/// A number of objects and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub objects: u64,
    /// Their stored bytes.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

/// The sums for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneTotals {
    /// All prunable objects of the store.
    pub stored: Amount,
    /// Goes now.
    pub deleted_now: Amount,
    /// Due, but beyond what one run may delete.
    pub deferred: Amount,
    /// Intended, before or by this plan, and not due yet.
    pub waiting: Amount,
    /// When the last of what waits is due; for new intents the grace time from now.
    pub waiting_until: Option<SystemTime>,
    /// Not needed, but too young to intend, or perhaps of a running backup.
    pub held: Amount,
    /// Estimate of the bytes that needed packs hold for chunks that no snapshot uses.
    pub unused_bytes: u64,
    /// Estimate of what the repack candidates free, once their old packs are gone.
    pub repack_freed_bytes: u64,
}

/// What to do, in this order: `withdrawals` and `intents` and `done` in a tombstone; `deletions`
/// in the order given, then their `done` in another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunePlan {
    /// Intended objects that are needed again, or held while the intent is young.
    pub withdrawals: Vec<String>,
    /// Objects to intend.
    pub intents: Vec<DeadObject>,
    /// Intended objects that are gone already: a run ended between deletion and tombstone.
    pub done: Vec<String>,
    /// Objects to delete now.
    pub deletions: Vec<DeadObject>,
    /// Packs worth writing anew.
    pub repack: Vec<RepackCandidate>,
    /// Objects that a needed snapshot needs and the store has not: damage, for `check` to report.
    pub missing: Vec<String>,
    /// The sums.
    pub totals: PruneTotals,
}

/// Plans the next step; see the module's invariants.
///
/// # Errors
/// Each [`PruneError`] is a reason to do nothing at all.
pub fn plan_prune(input: &PruneInput<'_>) -> Result<PrunePlan, PruneError> {
    check_clock(input)?;
    check_knowledge(input)?;
    let facts = Facts::new(input);
    let mut plan = PrunePlan { missing: facts.missing(input), ..PrunePlan::default() };
    let mut intended: BTreeMap<&str, SystemTime> = BTreeMap::new();
    for intent in input.intents {
        let latest = intended.entry(&intent.name).or_insert(intent.first_seen);
        *latest = intent.first_seen.max(*latest);
    }
    let mut due = Vec::new();
    for entry in input.stored {
        let Some(kind) = PrunableKind::of(&entry.name) else { continue };
        plan.totals.stored.add(entry.size);
        let since = intended.remove(entry.name.as_str());
        match (facts.fate(kind, entry), since) {
            (Fate::Needed, None) => {}
            (Fate::Held, None) => plan.totals.held.add(entry.size),
            // Another maintainer, who knows of no running backup, may be deleting it by now: who
            // relies on it must see the intent.
            (Fate::Held, Some(since)) if is_half_spent(input.now, since, input.options.grace) => {
                plan.totals.held.add(entry.size);
            }
            (Fate::Needed | Fate::Held, Some(_)) => plan.withdrawals.push(entry.name.clone()),
            (Fate::Dead(cause), None) => {
                let until = input.now.checked_add(input.options.grace);
                plan.wait(entry.size, until);
                plan.intents.push(dead(entry, cause));
            }
            (Fate::Dead(cause), Some(since)) if is_older(input.now, since, input.options.grace) => {
                due.push((kind, since, dead(entry, cause)));
            }
            (Fate::Dead(_), Some(since)) => {
                plan.wait(entry.size, since.checked_add(input.options.grace));
            }
        }
    }
    plan.done = intended.into_keys().map(str::to_owned).collect();
    plan.choose_deletions(due, input.options);
    plan.choose_repack(input);
    plan.withdrawals.sort();
    plan.intents.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(plan)
}

fn dead(entry: &Entry, cause: Cause) -> DeadObject {
    DeadObject { name: entry.name.clone(), size_bytes: entry.size, cause }
}

impl PrunePlan {
    fn wait(&mut self, bytes: u64, until: Option<SystemTime>) {
        self.totals.waiting.add(bytes);
        self.totals.waiting_until = self.totals.waiting_until.max(until);
    }

    /// Takes what is due, by kind and then the longest intended first, as far as one run may go.
    fn choose_deletions(
        &mut self,
        mut due: Vec<(PrunableKind, SystemTime, DeadObject)>,
        options: PruneOptions,
    ) {
        due.sort_by(|a, b| (a.0, a.1, &a.2.name).cmp(&(b.0, b.1, &b.2.name)));
        for (_, _, object) in due {
            let so_far = self.totals.deleted_now;
            if so_far.objects < options.deleted_objects_max
                && so_far.bytes.saturating_add(object.size_bytes) <= options.deleted_bytes_max
            {
                self.totals.deleted_now.add(object.size_bytes);
                self.deletions.push(object);
            } else {
                self.totals.deferred.add(object.size_bytes);
            }
        }
    }

    fn choose_repack(&mut self, input: &PruneInput<'_>) {
        let packs = input
            .stored
            .iter()
            .filter(|entry| PrunableKind::of(&entry.name) == Some(PrunableKind::Pack))
            .filter_map(|entry| {
                let (chunks, used) = input.usage.counts(&entry.name)?;
                Some(RepackCandidate::new(&entry.name, entry.size, chunks, used))
            });
        let repack = plan_repack(packs.collect(), input.options.repack);
        self.totals.unused_bytes = repack.unused_bytes;
        self.totals.repack_freed_bytes = repack.chosen.iter().map(|pack| pack.freed_bytes).sum();
        self.repack = repack.chosen;
    }
}

/// The newest of all first-seen times must not lie ahead of now.
fn check_clock(input: &PruneInput<'_>) -> Result<(), PruneError> {
    let stored = input.stored.iter().map(|entry| (entry.first_seen, entry.name.as_str()));
    let intents = input.intents.iter().map(|intent| (intent.first_seen, intent.name.as_str()));
    let forgotten = input.snapshots.iter();
    let forgotten = forgotten.filter_map(|snapshot| Some((snapshot.forgotten?, &*snapshot.name)));
    let Some((newest, name)) = stored.chain(intents).chain(forgotten).max() else {
        return Ok(());
    };
    match newest.duration_since(input.now) {
        Ok(behind) if behind > CLOCK_BEHIND_MAX => {
            Err(PruneError::ClockBehind { name: name.to_owned(), behind_seconds: behind.as_secs() })
        }
        _ => Ok(()),
    }
}

/// What is not known must not look like what is not needed.
fn check_knowledge(input: &PruneInput<'_>) -> Result<(), PruneError> {
    if let Some(commit) = input.unsupported_commits.first() {
        return Err(PruneError::UnsupportedCommit { commit: commit.clone() });
    }
    let mut known = HashSet::new();
    for snapshot in input.snapshots {
        known.insert(snapshot.name.as_str());
        let is_needed = snapshot.is_needed(input.now, input.options.grace);
        if is_needed && !input.usage.has_counted(&snapshot.name) {
            return Err(PruneError::RefsUnknown { snapshot: snapshot.name.clone() });
        }
    }
    let unknown = input.committed.iter().find(|object| {
        PrunableKind::of(&object.name) == Some(PrunableKind::Snapshot)
            && !known.contains(object.name.as_str())
    });
    match unknown {
        Some(object) => Err(PruneError::SnapshotUnknown { snapshot: object.name.clone() }),
        None => Ok(()),
    }
}
