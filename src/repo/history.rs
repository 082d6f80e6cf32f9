//! What the signed logs say: which objects exist, which snapshots, what is to be deleted.
//!
//! Every text is checked: name, signature, chain, and that nothing seen before is missing. What
//! is wrong with one log is a finding; the others are read all the same.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use crate::crypto::ids::object_id;
use crate::format::commit::{Commit, ObjectName, SnapshotEntry, SnapshotName};
use crate::format::signed_text::NO_PREVIOUS;
use crate::format::tombstone::{Declaration, Tombstone};
use crate::id::{ActorId, ObjectId};
use crate::repo::error::RepoError;
use crate::repo::history_texts::{check_commit, check_tomb};
use crate::repo::open::Repository;
use crate::repo::state::Witness;
use crate::repo::texts::{BATCH, read_texts};
use crate::store::{Entry, StoreError};

/// A commit that counts.
#[derive(Debug, Clone)]
pub struct CommitRecord {
    /// What it says.
    pub commit: Commit,
    /// Hash of its object.
    pub hash: ObjectId,
    /// When the store took it in.
    pub first_seen: SystemTime,
}

/// A snapshot that a commit names.
#[derive(Debug, Clone)]
pub struct SnapshotRecord {
    /// Its name.
    pub name: SnapshotName,
    /// Its place in its writer's log.
    pub seq: u64,
    /// The writer's claim of when it was committed.
    pub time: jiff::Timestamp,
    /// When the store took its commit in.
    pub first_seen: SystemTime,
    /// The refs that its own commit named.
    pub original: SnapshotEntry,
    /// The newest refs, after repacks.
    pub refs: SnapshotEntry,
    /// When the store took in the tombstone that forgets it, while that stands.
    pub forgotten: Option<SystemTime>,
    /// The snapshot object has been deleted.
    pub is_deleted: bool,
}

impl SnapshotRecord {
    /// Whether it is listed.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.forgotten.is_none() && !self.is_deleted
    }
}

/// Gaps of one log behind which its commits are still read.
const GAPS_MAX: u32 = 64;

/// All that the logs say.
#[derive(Debug, Default)]
pub struct History {
    /// Commits by log, in order.
    pub logs: BTreeMap<ActorId, Vec<CommitRecord>>,
    /// Snapshots, forgotten ones too, in the order of their times; those of one writer in the order
    /// of its log.
    pub snapshots: Vec<SnapshotRecord>,
    /// Objects that are to be deleted, with the time their tombstone was first seen.
    pub intents: HashMap<ObjectName, SystemTime>,
    /// Objects that have been deleted.
    pub deleted: HashSet<ObjectName>,
    /// When the store took in the first tombstone that says of an object that it is to be deleted,
    /// or has been; of those that are intended or deleted now.
    pub announced: HashMap<ObjectName, SystemTime>,
    /// Newest tombstone: sequence number and hash.
    pub tomb: Option<(u64, ObjectId)>,
    /// What is wrong; a repository with findings is not written to.
    pub findings: Vec<RepoError>,
}

impl History {
    /// Reads all logs and tombstones of a repository, and remembers the newest of each.
    pub fn read(repository: &Repository) -> Result<Self, RepoError> {
        let witness = repository.state.witness()?;
        let mut history = Self::default();
        let mut logs: BTreeMap<ActorId, Vec<(u64, Entry)>> = BTreeMap::new();
        repository.store.list("log/", &mut |entry| {
            if let Some((actor, seq)) = parse_log_name(&entry.name) {
                logs.entry(actor).or_default().push((seq, entry));
            }
        })?;
        for actor in witness.logs.keys().filter_map(|key| key.parse().ok()) {
            logs.entry(actor).or_default();
        }
        for (actor, mut entries) in logs {
            entries.sort_unstable_by_key(|(seq, _)| *seq);
            history.read_log(repository, actor, &entries, &witness)?;
        }
        history.read_tombs(repository, &witness)?;
        history.find_taken_packs(repository);
        history.sort_snapshots();
        if history.findings.is_empty() {
            history.remember(repository)?;
        }
        Ok(history)
    }

    /// What commits and tombstones say that were checked before: logs with their commits in order,
    /// and the chain with the times when the store took its tombstones in.
    #[must_use]
    pub fn of_texts(
        logs: BTreeMap<ActorId, Vec<CommitRecord>>,
        is_maintainer: impl Fn(ActorId) -> bool,
        tombs: &[(&Tombstone, ObjectId, SystemTime)],
    ) -> Self {
        let mut history = Self::default();
        for record in logs.values().flatten() {
            history.take_snapshot(record);
        }
        history.logs = logs;
        history.apply_relocations(is_maintainer);
        for (tomb, hash, first_seen) in tombs {
            history.apply_tomb(tomb, *first_seen);
            history.tomb = Some((tomb.seq, *hash));
        }
        history.sort_snapshots();
        history
    }

    /// By time; but those of one writer stay in the order of its log, whatever its clock said.
    fn sort_snapshots(&mut self) {
        let mut newest: HashMap<ActorId, jiff::Timestamp> = HashMap::new();
        self.snapshots.sort_by_key(|record| (record.seq, record.name));
        let mut places = HashMap::new();
        for record in &self.snapshots {
            let newest = newest.entry(record.name.writer).or_insert(record.time);
            *newest = record.time.max(*newest);
            places.insert(record.name, *newest);
        }
        self.snapshots.sort_by_key(|record| (places[&record.name], record.seq, record.name));
    }

    /// The first finding as an error: whoever is about to write asks this.
    pub fn require_sound(&mut self) -> Result<(), RepoError> {
        if self.findings.is_empty() { Ok(()) } else { Err(self.findings.remove(0)) }
    }

    /// Newest commit of a log.
    #[must_use]
    pub fn head(&self, actor: ActorId) -> Option<(u64, ObjectId)> {
        let last = self.logs.get(&actor)?.last()?;
        Some((last.commit.seq, last.hash))
    }

    /// Snapshots that are listed, in the order of their times.
    #[must_use]
    pub fn live(&self) -> impl DoubleEndedIterator<Item = &SnapshotRecord> {
        self.snapshots.iter().filter(|record| record.is_live())
    }

    fn remember(&self, repository: &Repository) -> Result<(), RepoError> {
        repository.see(|witness| {
            for (actor, records) in &self.logs {
                if let Some(last) = records.last() {
                    let seen = witness.logs.entry(actor.to_string()).or_default_log();
                    if last.commit.seq > seen.0 {
                        *seen = (last.commit.seq, last.hash);
                    }
                }
            }
            if self.tomb.map(|tomb| tomb.0) > witness.tomb.map(|tomb| tomb.0) {
                witness.tomb = self.tomb;
            }
        })
    }

    fn read_log(
        &mut self,
        repository: &Repository,
        actor: ActorId,
        entries: &[(u64, Entry)],
        witness: &Witness,
    ) -> Result<(), RepoError> {
        // Unknown behind a commit that is missing or refused: those that follow count all the same,
        // they carry the writer's signature, and whoever has lost one object wants all others back.
        let mut prev = Some(NO_PREVIOUS);
        let mut next = 1;
        let mut gaps = 0;
        for ((seq, entry), text) in with_texts(repository, entries) {
            let object = entry.name.clone();
            if *seq != next {
                let missing = Commit::object_name(actor, next);
                self.findings.push(RepoError::Rollback { what: format!("{missing} is missing") });
                (prev, gaps) = (None, gaps + 1);
            }
            if gaps > GAPS_MAX {
                break;
            }
            let bytes = match text {
                Err(source) if source.is_unreadable() => {
                    self.findings.push(RepoError::Unreadable { object, source });
                    (prev, next, gaps) = (None, seq.saturating_add(1), gaps + 1);
                    continue;
                }
                text => text?,
            };
            let hash = object_id(&bytes);
            match check_commit(repository, actor, *seq, prev, &bytes) {
                Ok(Some(commit)) => {
                    let record = CommitRecord { commit, hash, first_seen: entry.first_seen };
                    self.take_commit(repository, actor, record);
                }
                // Later than the revocation of its writer: it does not count, nor what follows.
                Ok(None) => break,
                Err(finding) => {
                    self.findings.push(finding);
                    (prev, next, gaps) = (None, seq.saturating_add(1), gaps + 1);
                    continue;
                }
            }
            if let Some((seen, seen_hash)) = witness.log(actor)
                && seen == *seq
                && seen_hash != hash
            {
                self.findings.push(RepoError::Rollback { what: format!("{object} is another") });
            }
            (prev, next) = (Some(hash), seq.saturating_add(1));
        }
        // What was seen before its writer was revoked, and does not count any more, is not missed.
        let revoked_after = repository.roster.writer(actor).and_then(|entry| entry.revoked_after);
        let seen = witness.log(actor).map_or(0, |(seq, _)| seq);
        let seen = revoked_after.map_or(seen, |last| seen.min(last));
        if seen >= next && !self.is_reported(&Commit::object_name(actor, next)) {
            let what = format!("{} is missing", Commit::object_name(actor, next));
            self.findings.push(RepoError::Rollback { what });
        }
        Ok(())
    }

    fn is_reported(&self, object: &str) -> bool {
        self.findings.iter().any(|finding| finding.to_string().contains(object))
    }

    /// Whether nothing new may rely on the object: it has been deleted, or has an intent that is
    /// half the grace time old or more, so that a deletion may be under way.
    ///
    /// `now` is the time by the store's clock, taken after this history was read, or a later one.
    #[must_use]
    pub fn is_doomed(&self, name: &ObjectName, now: SystemTime, grace: Duration) -> bool {
        let is_old = |since: &SystemTime| is_half_spent(now, *since, grace);
        self.deleted.contains(name) || self.intents.get(name).is_some_and(is_old)
    }

    fn take_snapshot(&mut self, record: &CommitRecord) {
        if let Some(entry) = record.commit.snapshot {
            self.snapshots.push(SnapshotRecord {
                name: entry.snapshot,
                seq: record.commit.seq,
                time: record.commit.time,
                first_seen: record.first_seen,
                original: entry,
                refs: entry,
                forgotten: None,
                is_deleted: false,
            });
        }
    }

    fn take_commit(&mut self, repository: &Repository, actor: ActorId, record: CommitRecord) {
        self.take_snapshot(&record);
        if repository.roster.maintainer(actor).is_none() {
            let object = Commit::object_name(actor, record.commit.seq);
            if !record.commit.relocations.is_empty() {
                let what = "only a maintainer may relocate";
                self.findings.push(RepoError::Misplaced { object, what });
            } else if !has_own_domain(repository, actor, &record.commit) {
                let what = "a writer may put index segments of its own domain only";
                self.findings.push(RepoError::Misplaced { object, what });
            }
        }
        self.logs.entry(actor).or_default().push(record);
    }

    /// A pack belongs to the writer that sealed it: a second one that commits it could say another
    /// table of it. Maintainers may, to index a pack anew.
    fn find_taken_packs(&mut self, repository: &Repository) {
        let mut owners: HashMap<ObjectId, (ActorId, SystemTime, u64)> = HashMap::new();
        let mut takers = BTreeMap::new();
        let writers = self.logs.iter().filter(|(id, _)| repository.roster.writer(**id).is_some());
        for (actor, record) in writers.flat_map(|(id, list)| list.iter().map(move |r| (*id, r))) {
            for put in &record.commit.puts {
                let ObjectName::Data(pack) = put.name else { continue };
                let this = (actor, record.first_seen, record.commit.seq);
                let owner = *owners.entry(pack).or_insert(this);
                if owner.0 != actor {
                    let (later, _, seq) = if this.1 < owner.1 { owner } else { this };
                    takers.entry(later).or_insert(seq);
                }
            }
        }
        self.findings.extend(takers.into_iter().map(|(actor, seq)| RepoError::Misplaced {
            object: Commit::object_name(actor, seq),
            what: "it puts packs of another writer",
        }));
    }

    fn read_tombs(&mut self, repository: &Repository, witness: &Witness) -> Result<(), RepoError> {
        self.apply_relocations(|actor| repository.roster.maintainer(actor).is_some());
        let mut entries = Vec::new();
        repository.store.list("tomb/", &mut |entry| entries.push(entry))?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut prev = NO_PREVIOUS;
        let mut next = 1;
        let entries: Vec<(u64, Entry)> = (1..).zip(entries).collect();
        for ((_, entry), text) in with_texts(repository, &entries) {
            let bytes = match text {
                Err(source) if source.is_unreadable() => {
                    let object = entry.name.clone();
                    self.findings.push(RepoError::Unreadable { object, source });
                    return Ok(());
                }
                text => text?,
            };
            match check_tomb(repository, next, prev, &entry.name, &bytes) {
                Ok(tomb) if !repository.roster.generation.has_tomb(tomb.seq, tomb.roster.seq) => {
                    break;
                }
                Ok(tomb) => self.apply_tomb(&tomb, entry.first_seen),
                Err(finding) => {
                    self.findings.push(finding);
                    return Ok(());
                }
            }
            prev = object_id(&bytes);
            self.tomb = Some((next, prev));
            if witness.tomb.is_some_and(|(seq, seen)| seq == next && seen != prev) {
                let what = format!("{} is another", entry.name);
                self.findings.push(RepoError::Rollback { what });
            }
            next += 1;
        }
        if witness.tomb.is_some_and(|(seq, _)| seq >= next) {
            let what = format!("{} is missing", Tombstone::object_name(next));
            self.findings.push(RepoError::Rollback { what });
        }
        Ok(())
    }

    fn apply_relocations(&mut self, is_maintainer: impl Fn(ActorId) -> bool) {
        for (actor, records) in &self.logs {
            if !is_maintainer(*actor) {
                continue;
            }
            for relocation in records.iter().flat_map(|record| &record.commit.relocations) {
                let known = self.snapshots.iter_mut().find(|s| s.name == relocation.snapshot);
                if let Some(snapshot) = known {
                    snapshot.refs = *relocation;
                }
            }
        }
    }

    fn apply_tomb(&mut self, tomb: &Tombstone, first_seen: SystemTime) {
        for declaration in &tomb.declarations {
            match declaration {
                Declaration::Forget { snapshot, .. } => {
                    self.set_forgotten(*snapshot, Some(first_seen));
                }
                Declaration::Recall(snapshot) => self.set_forgotten(*snapshot, None),
                Declaration::Intent(name) => {
                    self.intents.entry(*name).or_insert(first_seen);
                    self.announced.entry(*name).or_insert(first_seen);
                }
                Declaration::Withdraw(name) => {
                    self.intents.remove(name);
                    self.announced.remove(name);
                }
                // What nobody had announced is not gone because somebody says so.
                Declaration::Done(name)
                    if !self.intents.contains_key(name) && !self.deleted.contains(name) => {}
                Declaration::Done(name) => {
                    self.intents.remove(name);
                    self.deleted.insert(*name);
                    self.announced.entry(*name).or_insert(first_seen);
                    if let ObjectName::Snapshot(writer, id) = name {
                        self.set_deleted(SnapshotName { writer: *writer, id: *id });
                    }
                }
            }
        }
    }

    fn set_forgotten(&mut self, name: SnapshotName, when: Option<SystemTime>) {
        if let Some(record) = self.snapshots.iter_mut().find(|record| record.name == name) {
            record.forgotten = when;
        }
    }

    fn set_deleted(&mut self, name: SnapshotName) {
        if let Some(record) = self.snapshots.iter_mut().find(|record| record.name == name) {
            record.is_deleted = true;
        }
    }
}

/// The entries with their texts, of which a few are fetched ahead.
fn with_texts<'a>(
    repository: &'a Repository,
    entries: &'a [(u64, Entry)],
) -> impl Iterator<Item = (&'a (u64, Entry), Result<Vec<u8>, StoreError>)> {
    entries.chunks(BATCH).flat_map(|batch| {
        let listed: Vec<&Entry> = batch.iter().map(|(_, entry)| entry).collect();
        batch.iter().zip(read_texts(&*repository.store, &repository.texts, &listed))
    })
}

/// Whether an intent first seen at `since` is half the grace time old; one that seems to lie in the
/// future is: the clock is not to be trusted.
#[must_use]
pub fn is_half_spent(now: SystemTime, since: SystemTime, grace: Duration) -> bool {
    now.duration_since(since).map_or(true, |age| age >= grace / 2)
}

trait OrDefaultLog<'a> {
    fn or_default_log(self) -> &'a mut (u64, ObjectId);
}

impl<'a> OrDefaultLog<'a> for std::collections::btree_map::Entry<'a, String, (u64, ObjectId)> {
    fn or_default_log(self) -> &'a mut (u64, ObjectId) {
        self.or_insert((0, NO_PREVIOUS))
    }
}

fn has_own_domain(repository: &Repository, actor: ActorId, commit: &Commit) -> bool {
    let own = repository.roster.writer(actor).map(|entry| entry.domain);
    commit.puts.iter().all(|put| match put.name {
        ObjectName::Index(domain, _) => Some(domain) == own,
        _ => true,
    })
}

fn parse_log_name(name: &str) -> Option<(ActorId, u64)> {
    let (actor, seq) = name.strip_prefix("log/")?.split_once('/')?;
    let seq = u64::from_str_radix(seq, 16).ok()?;
    let actor = actor.parse().ok()?;
    (Commit::object_name(actor, seq) == name).then_some((actor, seq))
}
