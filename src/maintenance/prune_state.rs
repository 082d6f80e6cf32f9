//! Gathers what a prune is planned from: the listing, then the logs, then the refs.
//!
//! The order matters: an object that the listing has and no commit names was not committed in
//! between. A repository with findings is not pruned at all.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use crate::crypto::recipient::Identity;
use crate::format::commit::{ObjectName, SnapshotName};
use crate::format::refs;
use crate::id::ActorId;
use crate::maintenance::error::MaintenanceError;
use crate::maintenance::prune_plan::CLOCK_BEHIND_MAX;
use crate::maintenance::prune_plan::input::{
    CommitPosition, CommittedObject, OpenIntent, PruneInput, PruneOptions, RunningBackup,
    SnapshotState,
};
use crate::maintenance::prune_plan::usage::{PackUsage, PackUse, UsedChunks};
use crate::maintenance::snapshot_refs::{BATCH, RefsReader};
use crate::repo::error::RepoError;
use crate::repo::history::{History, SnapshotRecord};
use crate::repo::open::Repository;
use crate::store::Entry;

/// A snapshot that is needed: what the logs say, and what the plan is told of it.
pub type Needed<'a> = (&'a SnapshotRecord, &'a SnapshotState);

/// Everything that a plan is made from.
pub struct PruneState {
    /// By the store's clock, before anything was read.
    pub now: SystemTime,
    /// All objects.
    pub stored: Vec<Entry>,
    /// What the logs say.
    pub history: History,
    committed: Vec<CommittedObject>,
    snapshots: Vec<SnapshotState>,
    usage: PackUsage,
    intents: Vec<OpenIntent>,
    running: Vec<RunningBackup>,
}

impl PruneState {
    /// Reads the repository. `now` is the time by the store's clock, or an earlier one.
    ///
    /// # Errors
    /// Any finding of the history; refs of a needed snapshot that cannot be read.
    pub fn gather(
        repository: &Repository,
        identities: &[Identity],
        now: SystemTime,
        grace: Duration,
    ) -> Result<Self, MaintenanceError> {
        let mut stored = Vec::new();
        let running = running_backups(repository)?;
        repository.store.list("", &mut |entry| {
            // What is foreign to the format stays where it is.
            if entry.name.parse::<ObjectName>().is_ok() {
                stored.push(entry);
            }
        })?;
        let mut history = History::read(repository)?;
        history.require_sound()?;
        let maintainer_reads = |history: &History, needed: &[Needed<'_>]| {
            read_usage(&RefsReader::new(repository, history, identities), needed)
        };
        Self::of_parts(now, grace, stored, history, running, maintainer_reads)
    }

    /// The same from parts that were read before, in the order *running*, *stored*, *history*;
    /// `usage` reads the refs of the snapshots that are needed.
    pub fn of_parts<E>(
        now: SystemTime,
        grace: Duration,
        stored: Vec<Entry>,
        history: History,
        running: Vec<RunningBackup>,
        usage: impl FnOnce(&History, &[Needed<'_>]) -> Result<PackUsage, E>,
    ) -> Result<Self, E> {
        let names: HashSet<&str> = stored.iter().map(|entry| entry.name.as_str()).collect();
        let snapshots = snapshot_states(&history, &names);
        let records = history.snapshots.iter().zip(&snapshots);
        let needed: Vec<_> = records.filter(|(_, state)| state.is_needed(now, grace)).collect();
        let usage = usage(&history, &needed)?;
        let committed = committed_objects(&history);
        let intents = history.intents.iter();
        let intents = intents
            .map(|(name, first_seen)| OpenIntent {
                name: name.to_string(),
                first_seen: *first_seen,
            })
            .collect();
        Ok(Self { now, stored, history, committed, snapshots, usage, intents, running })
    }

    /// The input of the plan.
    #[must_use]
    pub fn input(&self, options: PruneOptions) -> PruneInput<'_> {
        PruneInput {
            now: self.now,
            stored: &self.stored,
            committed: &self.committed,
            snapshots: &self.snapshots,
            usage: &self.usage,
            intents: &self.intents,
            running: &self.running,
            unsupported_commits: &[],
            options,
        }
    }

    /// Snapshots whose objects must stay, with all that is known of them.
    pub fn needed(&self, grace: Duration) -> impl Iterator<Item = &SnapshotRecord> {
        let records = self.history.snapshots.iter().zip(&self.snapshots);
        records.filter(move |(_, state)| state.is_needed(self.now, grace)).map(|(record, _)| record)
    }
}

/// Names in the chain that change when anything is written: if they are the same, so is the rest.
#[must_use]
pub fn heads(history: &History) -> (Vec<(ActorId, u64)>, Option<u64>) {
    let logs = history.logs.iter();
    let logs = logs.filter_map(|(actor, records)| Some((*actor, records.last()?.commit.seq)));
    (logs.collect(), history.tomb.map(|tomb| tomb.0))
}

/// Runs of this host: their lock files are younger than anything that they have stored.
fn running_backups(repository: &Repository) -> Result<Vec<RunningBackup>, MaintenanceError> {
    let Some(keys) = repository.state.writer()? else { return Ok(Vec::new()) };
    Ok(live_runs(repository)?
        .into_iter()
        .map(|began| RunningBackup {
            writer: keys.id,
            // The host's clock and the store's may differ a little.
            began: began.checked_sub(CLOCK_BEHIND_MAX).unwrap_or(SystemTime::UNIX_EPOCH),
        })
        .collect())
}

/// When each run of this host that lives has begun, by the host's clock.
pub fn live_runs(repository: &Repository) -> Result<Vec<SystemTime>, MaintenanceError> {
    let dead = repository.state.dead_runs()?;
    let folder = repository.state.path().join("runs");
    let failed = |source| RepoError::State { action: "list", path: folder.clone(), source };
    let mut begun = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_dead = entry.file_name().to_str().is_some_and(|run| dead.iter().any(|d| d == run));
        // A run that has ended meanwhile has no file any more.
        if !is_dead && let Ok(time) = entry.metadata().and_then(|metadata| metadata.modified()) {
            begun.push(time);
        }
    }
    Ok(begun)
}

fn snapshot_states(history: &History, stored: &HashSet<&str>) -> Vec<SnapshotState> {
    let mut relocations: HashMap<SnapshotName, Vec<String>> = HashMap::new();
    for record in history.logs.values().flatten() {
        for relocation in &record.commit.relocations {
            let name = RefsReader::name(relocation).to_string();
            relocations.entry(relocation.snapshot).or_default().push(name);
        }
    }
    let state = |record: &SnapshotRecord| {
        let name = record.name.object_name().to_string();
        let refs_first = RefsReader::name(&record.original).to_string();
        let refs_newest = RefsReader::name(&record.refs).to_string();
        let mut refs_superseded = relocations.remove(&record.name).unwrap_or_default();
        refs_superseded.retain(|refs| *refs != refs_newest);
        // Recalled too late: what has been deleted cannot be needed any more.
        let is_gone = record.is_deleted && !stored.contains(name.as_str());
        let forgotten = record.forgotten.or(is_gone.then_some(SystemTime::UNIX_EPOCH));
        SnapshotState { name, refs_first, refs_newest, refs_superseded, forgotten }
    };
    history.snapshots.iter().map(state).collect()
}

fn committed_objects(history: &History) -> Vec<CommittedObject> {
    let records = history.logs.values().flatten();
    let objects = records.flat_map(|record| {
        let commit = CommitPosition { actor: record.commit.writer, seq: record.commit.seq };
        let puts = record.commit.puts.iter();
        puts.map(move |put| CommittedObject { name: put.name.to_string(), commit })
    });
    objects.collect()
}

fn read_usage(
    reader: &RefsReader<'_>,
    needed: &[Needed<'_>],
) -> Result<PackUsage, MaintenanceError> {
    let mut usage = PackUsage::default();
    for batch in needed.chunks(BATCH) {
        let records: Vec<&SnapshotRecord> = batch.iter().map(|(record, _)| *record).collect();
        for (refs, (record, state)) in reader.read_newest(&records).into_iter().zip(batch) {
            let newest = refs?;
            let first = if record.refs == record.original {
                None
            } else {
                Some(reader.read(&record.original)?)
            };
            let first = first.as_ref().unwrap_or(&newest);
            add_usage(&mut usage, state, &newest.packs, &first.packs);
        }
    }
    Ok(usage)
}

/// Adds what the newest and the first refs of a snapshot say.
pub fn add_usage(
    usage: &mut PackUsage,
    snapshot: &SnapshotState,
    newest: &[refs::PackUse],
    first: &[refs::PackUse],
) {
    usage.add_snapshot(&snapshot.name, newest.iter().map(pack_use), pack_names(first));
}

fn pack_names(refs: &[refs::PackUse]) -> Vec<String> {
    refs.iter().map(|pack| ObjectName::Data(pack.pack).to_string()).collect()
}

/// A line of refs as the plan takes it.
#[must_use]
pub fn pack_use(line: &refs::PackUse) -> PackUse {
    PackUse {
        pack: ObjectName::Data(line.pack).to_string(),
        chunks: line.used.chunks(),
        used: UsedChunks::Bitmap(line.used.as_bytes().to_vec()),
    }
}
