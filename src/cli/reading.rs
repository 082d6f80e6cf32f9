//! Opening a repository for reading back: keys, index, snapshots.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::{repository as explain_repository, restore};
use crate::cli::maintaining::short;
use crate::cli::open_repository::{open, open_at, unlock};
use crate::cli::place::open_store;
use crate::cli::replicas;
use crate::cli::selector::{Candidate, Selector, SelectorError, Which};
use crate::cli::time::format_local;
use crate::format::commit::ObjectName;
use crate::format::drill::drill_of;
use crate::format::limits;
use crate::format::snapshot::Snapshot;
use crate::id::{DomainId, ObjectId};
use crate::maintenance::log_retention::series_of;
use crate::progress::Progress;
use crate::repo::error::RepoError;
use crate::repo::history::{History, SnapshotRecord};
use crate::repo::objects::open_named;
use crate::repo::open::Repository;
use crate::repo::read_access::ReadAccess;
use crate::repo::reading::read_access;
use crate::repo::state::StateDir;
use crate::repo::unlock::Unlocked;
use crate::restore::error::with_causes;
use crate::store::Store;
use crate::store::fallback::FallbackStore;

/// A snapshot with what the logs say of it.
pub type FoundSnapshot<'a> = (&'a SnapshotRecord, Snapshot);

/// A repository that can be read.
pub struct Reading {
    /// The repository.
    pub repository: Repository,
    /// What its logs say.
    pub history: History,
    /// The keys.
    pub unlocked: Unlocked,
    /// The chunks.
    pub access: Arc<ReadAccess>,
}

impl Reading {
    /// Asks for the key, checks the logs and brings the local index up to date.
    ///
    /// What is wrong with a log or an index segment is a warning: what can be read is read.
    pub fn open(context: &Context) -> Result<Self, CommandError> {
        let repository = open(context)?;
        let history = History::read(&repository)?;
        Self::of(context, repository, history)
    }

    /// As [`Self::open`] of the repository where its logs are sound, else of the copy that has the
    /// newest snapshot. What that one does not give whole is taken from the others.
    ///
    /// # Errors
    /// No copy can be opened: what keeps the repository itself from it.
    pub fn open_any(context: &Context) -> Result<(Self, Arc<FallbackStore>), CommandError> {
        let location = context.location()?;
        let states = context.state_dir()?;
        let place = location.place.remembered(&location.s3);
        let mut copies = vec![("the repository".to_owned(), location.place, location.s3)];
        let known = StateDir::known_at(&states, &place)?;
        if let Some(id) = known {
            let folder = StateDir::open(&states, id)?;
            let named = replicas::all(context, folder.path())?;
            copies.extend(named.into_iter().map(|one| (one.name, one.place, one.s3)));
        }
        let has_copies = copies.len() > 1;
        for (_, _, s3) in &mut copies {
            s3.has_copies = has_copies;
        }
        let mut silent = HashSet::new();
        let mut failure = None;
        let mut opened: Vec<(usize, Repository, History)> = Vec::new();
        for (index, (name, place, s3)) in copies.iter().enumerate() {
            let this = open_at(context, place, s3, known)
                .and_then(|repository| Ok((History::read(&repository)?, repository)));
            match this {
                Ok((history, repository)) => {
                    let is_sound = history.findings.is_empty();
                    opened.push((index, repository, history));
                    if is_sound && index == 0 {
                        break;
                    }
                }
                Err(error) => {
                    let what = format!("{name} ({place}) cannot be used: {}", error.what());
                    context.output.warning(&what);
                    if error.exit() == Exit::StoreUnreachable {
                        silent.insert(index);
                    }
                    failure.get_or_insert(error);
                }
            }
        }
        let best = opened.into_iter().max_by_key(|(index, _, history)| {
            let newest = history.live().map(|record| record.time).max();
            let commits: usize = history.logs.values().map(Vec::len).sum();
            (newest, commits, history.findings.is_empty(), std::cmp::Reverse(*index))
        });
        let Some((chosen, mut repository, history)) = best else {
            return Err(failure.expect("the repository itself is among the copies"));
        };
        if let Some(id) = known {
            let seen = StateDir::open(&states, id)?.witness()?;
            let behind = commits_behind(&history, &seen.logs);
            if behind > 0 {
                let name = &copies[chosen].0;
                let what = format!("{name} lacks {behind} commits that this host has seen");
                context.output.warning(&format!("{what}: there may be newer snapshots"));
            }
        }
        let first = (copies[chosen].0.clone(), Arc::clone(&repository.store));
        let is_asked = |other: usize| other != chosen && !silent.contains(&other);
        let rest = copies.iter().enumerate().filter(|(other, _)| is_asked(*other));
        let rest = rest
            .filter_map(|(_, (name, place, s3))| Some((name.clone(), open_store(place, s3).ok()?)));
        let store = Arc::new(FallbackStore::new(std::iter::once(first).chain(rest).collect()));
        repository.store = Arc::clone(&store) as Arc<dyn Store>;
        Ok((Self::of(context, repository, history)?, store))
    }

    fn of(
        context: &Context,
        repository: Repository,
        history: History,
    ) -> Result<Self, CommandError> {
        let unlocked = unlock(context, &repository)?;
        for finding in &history.findings {
            context.output.warning(&finding.to_string());
        }
        let is_closed = |id: &&DomainId| unlocked.domain(**id).is_none();
        for id in repository.roster.domains.iter().filter(is_closed) {
            context.output.warning(&format!("the key given does not open domain {id}"));
        }
        let (access, findings) = read_access(&repository, &history, &unlocked)?;
        for finding in findings {
            context.output.warning(&with_causes(&finding));
        }
        Ok(Self { repository, history, unlocked, access })
    }

    /// Reads one snapshot.
    pub fn snapshot(&self, record: &SnapshotRecord) -> Result<Snapshot, RepoError> {
        let name = ObjectName::Snapshot(record.name.writer, record.name.id);
        let identities = self.unlocked.read_identities();
        let identities: Vec<_> = identities.iter().collect();
        let content =
            open_named(&*self.repository.store, &name, &identities, limits::SNAPSHOT_BYTES_MAX)?;
        let object = name.to_string();
        let snapshot = Snapshot::decode(&content)
            .map_err(|source| RepoError::Snapshot { object: object.clone(), source })?;
        let is_own = snapshot.repository == self.repository.id
            && snapshot.writer == record.name.writer
            && snapshot.seq == record.seq;
        if is_own {
            Ok(snapshot)
        } else {
            Err(RepoError::Misplaced { object, what: "its writer or sequence number" })
        }
    }

    /// The snapshot that a selector means; only what choosing it takes is opened.
    ///
    /// One that cannot be read is a warning; an older one is not taken in its stead.
    ///
    /// # Errors
    /// `HF-REPO-005`, `-006`; what keeps a snapshot from being read that has this id, or is newer than
    /// the one that would be taken.
    pub fn select(
        &self,
        context: &Context,
        selector: &Selector,
    ) -> Result<FoundSnapshot<'_>, CommandError> {
        let mut records: Vec<&SnapshotRecord> = self.history.live().collect();
        records.sort_by_key(|record| (record.time, record.seq, record.name));
        match &selector.which {
            Which::Latest => {
                let mut back = selector.back;
                for record in records.iter().rev().copied() {
                    let Ok(snapshot) = self.snapshot(record) else {
                        self.require_readable([record].into_iter())?;
                        continue;
                    };
                    // The log of a database is saved every few seconds, and nobody means it, nor the
                    // record of a drill.
                    if series_of(&snapshot.tags).is_some() || drill_of(&snapshot.tags).is_some() {
                        continue;
                    }
                    if back == 0 {
                        return Ok((record, snapshot));
                    }
                    back -= 1;
                }
                Err(selector.not_found(records.len()).into())
            }
            Which::Id(_) => {
                let ids: Vec<String> = records.iter().map(|r| r.name.id.to_string()).collect();
                let candidates: Vec<Candidate<'_>> = records
                    .iter()
                    .zip(&ids)
                    .map(|(record, id)| candidate(record, id, None))
                    .collect();
                let record = records[selector.resolve(&candidates)?];
                Ok((record, self.snapshot(record)?))
            }
            Which::Source(_) | Which::Until(_) => {
                let mut found = self.all(context);
                let readable: HashSet<_> = found.iter().map(|(record, _)| record.name).collect();
                let index = resolve(selector, &found)?;
                let newer = (found[index].0.time, found[index].0.seq);
                let unread = records.iter().copied().filter(|record| {
                    !readable.contains(&record.name) && (record.time, record.seq) >= newer
                });
                let is_meant = |record: &&SnapshotRecord| match selector.which {
                    Which::Until(until) => record.time <= until,
                    _ => true,
                };
                self.require_readable(unread.filter(is_meant))?;
                Ok(found.swap_remove(index))
            }
        }
    }

    /// Refuses to go on without a snapshot that may be the one that is meant.
    fn require_readable<'a>(
        &self,
        records: impl Iterator<Item = &'a SnapshotRecord>,
    ) -> Result<(), CommandError> {
        for record in records {
            if let Err(error) = self.snapshot(record) {
                let id = short(&record.name.id);
                let what =
                    format!("snapshot {id} cannot be read, and may be the one that is meant");
                return Err(CommandError::classify(&error, &explain_repository::SNAPSHOT_MISSING)
                    .because_text(&what)
                    .hint("--from-any takes it from a replica; holdfast repair --from fetches it")
                    .hint("holdfast snapshots lists the others: name one by its id"));
            }
        }
        Ok(())
    }

    /// All live snapshots that can be read, in the order of their times.
    #[must_use]
    pub fn all(&self, context: &Context) -> Vec<FoundSnapshot<'_>> {
        let live = self.history.live();
        let mut found: Vec<_> = live.filter_map(|record| self.readable(context, record)).collect();
        found.sort_by_key(|(record, snapshot)| {
            (made_at(record, Some(snapshot)), record.seq, record.name)
        });
        found
    }

    /// The snapshots that any of the selectors means, in the order of their times; all where none
    /// is given.
    ///
    /// # Errors
    /// As [`Self::select`].
    pub fn select_all(
        &self,
        context: &Context,
        selectors: &[String],
    ) -> Result<Vec<FoundSnapshot<'_>>, CommandError> {
        let mut found = self.all(context);
        if !selectors.is_empty() {
            let mut chosen = Vec::new();
            for text in selectors {
                chosen.push(resolve(&context.selector(text)?, &found)?);
            }
            let mut number = 0..;
            found.retain(|_| number.next().is_some_and(|number| chosen.contains(&number)));
        }
        Ok(found)
    }

    fn readable<'a>(
        &self,
        context: &Context,
        record: &'a SnapshotRecord,
    ) -> Option<FoundSnapshot<'a>> {
        match self.snapshot(record) {
            Ok(snapshot) => Some((record, snapshot)),
            Err(error) => {
                context.output.warning(&with_causes(&error));
                None
            }
        }
    }
}

/// How many of the commits that were seen a history has not.
#[must_use]
pub fn commits_behind(history: &History, seen: &BTreeMap<String, (u64, ObjectId)>) -> u64 {
    let behind = seen.iter().filter_map(|(actor, (seq, _))| {
        let head = history.head(actor.parse().ok()?).map_or(0, |(seq, _)| seq);
        Some(seq.saturating_sub(head))
    });
    behind.sum()
}

fn resolve(selector: &Selector, found: &[FoundSnapshot<'_>]) -> Result<usize, SelectorError> {
    let ids: Vec<String> = found.iter().map(|(record, _)| record.name.id.to_string()).collect();
    let candidates: Vec<Candidate<'_>> = found
        .iter()
        .zip(&ids)
        .map(|((record, snapshot), id)| candidate(record, id, Some(snapshot)))
        .collect();
    selector.resolve(&candidates)
}

fn candidate<'a>(
    record: &SnapshotRecord,
    id: &'a str,
    snapshot: Option<&'a Snapshot>,
) -> Candidate<'a> {
    let source = snapshot.map_or("", |snapshot| &snapshot.source);
    let (committed, seq) = (record.time, record.seq);
    Candidate { id, source, time: made_at(record, snapshot), committed, seq }
}

/// When a snapshot was made, as it says itself, else as its commit says.
#[must_use]
pub fn made_at(record: &SnapshotRecord, snapshot: Option<&Snapshot>) -> Timestamp {
    snapshot.and_then(|snapshot| snapshot.time.parse().ok()).unwrap_or(record.time)
}

/// `snapshot 1a2b3c4d of SOURCE at TIME`.
#[must_use]
pub fn heading(context: &Context, (record, snapshot): &FoundSnapshot<'_>) -> String {
    let time = format_local(made_at(record, Some(snapshot)), &context.now);
    format!("snapshot {} of {} at {time}", short(&record.name.id), snapshot.source)
}

/// Prints the troubles of a walk that nobody watched; with lost parts the command ends as a
/// check that has found damage.
pub fn ending(context: &Context, progress: &Progress, lost_parts: u64) -> Exit {
    for message in progress.take_messages() {
        context.output.warning(&message);
    }
    if lost_parts == 0 {
        return Exit::Done;
    }
    let id = restore::DAMAGED.id;
    context.output.warning(&format!("{lost_parts} parts of the tree could not be read ({id})"));
    Exit::Findings
}
