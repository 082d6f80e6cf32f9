//! Copying a repository to another place: byte for byte, without a key, only what is missing there.
//!
//! # Invariants
//! * The target is complete at every moment: tombstones and objects go before the commits that name
//!   them, the commits of a log in their order, those of maintainers (who relocate) first.
//! * What is moved was compared with its name; texts were checked as those of any repository.
//! * A target that knows more than the source stops the copy: a rollback is not passed on.
//! * Nothing at the target is overwritten. It is deleted only when asked, and then only what a
//!   maintainer has declared deleted.
//!
//! A copy that is stopped anywhere goes on where it was: what the target lists is not moved again.

mod texts;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender};

use crate::crypto::ids::object_id;
use crate::format::commit::{Commit, ObjectName};
use crate::format::limits;
use crate::format::tombstone::{Declaration, Tombstone};
use crate::maintenance::finding::{Finding, Problem};
use crate::maintenance::prune_plan::Amount;
use crate::progress::Progress;
use crate::replica::error::{ReplicaError, at};
use crate::replica::target::Target;
use crate::replica::transfer::{Job, Moved, transfer};
use crate::repo::history::{CommitRecord, History};
use crate::repo::open::Repository;
use crate::store::{Entry, Put, Store, StoreError};

/// How a copy works.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Delete at the target what was deleted at the source so long ago.
    pub delete_after: Option<Duration>,
}

/// What a copy did, or would do.
#[derive(Debug, Default)]
pub struct CopyReport {
    /// Objects that were moved, commits and other texts not counted.
    pub copied: Amount,
    /// Objects that were there already.
    pub present: Amount,
    /// Commits that are new at the target.
    pub commits: u64,
    /// Of those, snapshots.
    pub snapshots: u64,
    /// Tombstones that are younger than the grace time, and wait.
    pub young_tombs: u64,
    /// Objects deleted at the target.
    pub deleted: Amount,
    /// Key files at the target that the source has not any more.
    pub extra_keys: Vec<String>,
    /// Texts of an earlier generation that were kept aside.
    pub set_aside: Vec<String>,
    /// What is damaged or missing, here or there.
    pub findings: Vec<Finding>,
}

struct Copying<'a> {
    source: &'a Repository,
    history: &'a History,
    target: Target<'a>,
    /// Texts of the source by their names: rosters, keys, help, attestations, logs, tombstones.
    listed: BTreeMap<String, Entry>,
    options: CopyOptions,
    now: SystemTime,
    begun: Instant,
    /// When the source took in the first tombstone that is not carried over.
    carried_until: Option<SystemTime>,
    progress: &'a Progress,
    report: CopyReport,
}

/// Copies the repository `source` to `target`, which is empty or an earlier copy.
///
/// # Errors
/// The target cannot be a copy of the source, or a store fails. What is damaged is a finding of the
/// report and no error: everything else is copied.
pub fn copy(
    source: &Repository,
    target: &dyn Store,
    options: CopyOptions,
    now: SystemTime,
    progress: &Progress,
) -> Result<CopyReport, ReplicaError> {
    let begun = Instant::now();
    let mut history = History::read(source)?;
    let mut report = CopyReport::default();
    for finding in std::mem::take(&mut history.findings) {
        report.findings.push(Finding::new("log", Problem::Log, finding.to_string()));
    }
    let target = Target::read(source, &history, target)?;
    let listed = list_texts(source)?;
    let mut copying = Copying {
        source,
        history: &history,
        target,
        listed,
        options,
        now,
        begun,
        carried_until: None,
        progress,
        report,
    };
    copying.find_rollback()?;
    copying.find_damaged_texts();
    copying.texts()?;
    copying.objects()?;
    copying.delete()?;
    if !options.dry_run && !copying.target.stored.contains_key("FORMAT") {
        copying.put_text("FORMAT", format!("holdfast 1 {}\n", source.id).as_bytes())?;
    }
    if !options.dry_run {
        copying.target.require_generation(source)?;
    }
    if !options.dry_run && copying.report.findings.is_empty() {
        copying.remember()?;
    }
    Ok(copying.report)
}

fn list_texts(source: &Repository) -> Result<BTreeMap<String, Entry>, ReplicaError> {
    let mut listed = BTreeMap::new();
    for folder in ["roster/", "keys/", "recovery/", "attest/", "log/", "tomb/"] {
        let list = source.store.list(folder, &mut |entry| {
            listed.insert(entry.name.clone(), entry);
        });
        list.map_err(at(&source.store.location()))?;
    }
    Ok(listed)
}

impl Copying<'_> {
    fn source_failed(&self) -> impl Fn(StoreError) -> ReplicaError + use<> {
        at(&self.source.store.location())
    }

    fn get(&self, name: &str) -> Result<Vec<u8>, ReplicaError> {
        let bytes = self.source.store.get(name, limits::SIGNED_TEXT_BYTES_MAX);
        bytes.map_err(at(&self.source.store.location()))
    }

    /// Puts a text that must have exactly these bytes.
    fn put_text(&self, name: &str, bytes: &[u8]) -> Result<(), ReplicaError> {
        let failed = at(&self.target.place);
        if self.target.store.put(name, bytes).map_err(&failed)? == Put::Created {
            return Ok(());
        }
        let found = self.target.store.get(name, limits::SIGNED_TEXT_BYTES_MAX).map_err(&failed)?;
        if found == bytes {
            return Ok(());
        }
        let (place, object) = (self.target.place.clone(), name.to_owned());
        Err(ReplicaError::Diverged { place, object })
    }

    /// Commits that the target lacks, or whose objects it lacks, in the order of their writing.
    fn commits<'h>(source: &Repository, history: &'h History) -> Vec<&'h CommitRecord> {
        let mut ordered = Vec::new();
        for (actor, records) in &history.logs {
            let is_writer = source.roster.maintainer(*actor).is_none();
            let mut newest = SystemTime::UNIX_EPOCH;
            for record in records {
                newest = newest.max(record.first_seen);
                ordered.push(((is_writer, newest, *actor, record.commit.seq), record));
            }
        }
        ordered.sort_by_key(|(key, _)| *key);
        ordered.into_iter().map(|(_, record)| record).collect()
    }

    fn objects(&mut self) -> Result<(), ReplicaError> {
        let commits = Self::commits(self.source, self.history);
        let mut missing: Vec<Vec<Job>> = Vec::with_capacity(commits.len());
        let mut seen: HashSet<ObjectName> = HashSet::new();
        for (tag, record) in commits.iter().enumerate() {
            let puts = record.commit.puts.iter().filter(|put| seen.insert(put.name));
            let mut jobs = Vec::new();
            for put in puts {
                match self.target.stored.get(&put.name.to_string()) {
                    Some(entry) if entry.size == put.bytes => {
                        self.report.present.objects += 1;
                        self.report.present.bytes += put.bytes;
                    }
                    Some(entry) => {
                        let what = format!(
                            "at {} it has {} bytes, its commit says {}",
                            self.target.place, entry.size, put.bytes
                        );
                        let name = put.name.to_string();
                        self.report.findings.push(Finding::new(name, Problem::WrongSize, what));
                    }
                    None if self.history.deleted.contains(&put.name) && self.is_gone(&put.name) => {
                    }
                    None => jobs.push(Job { name: put.name, bytes: put.bytes, tag }),
                }
            }
            missing.push(jobs);
        }
        let total = missing.iter().flatten().map(|job| job.bytes);
        Progress::add(&self.progress.bytes_total, total.sum());
        let total = missing.iter().map(Vec::len).sum::<usize>() as u64;
        Progress::add(&self.progress.items_total, total);
        if self.options.dry_run {
            self.count_only(&commits, &missing);
            return Ok(());
        }
        let over = || self.progress.is_cancelled();
        let (source, target) = (&*self.source.store, self.target.store);
        let mut work =
            Work { copied: Amount::default(), commits: 0, snapshots: 0, findings: Vec::new() };
        let done = transfer(source, target, &over, |jobs, answers| {
            self.move_all(&commits, missing, jobs, answers, &mut work)
        });
        self.report.copied = work.copied;
        self.report.commits = work.commits;
        self.report.snapshots = work.snapshots;
        self.report.findings.append(&mut work.findings);
        done
    }

    /// What this host has copied there before, and is not there any more: the replica was set back.
    fn find_rollback(&mut self) -> Result<(), ReplicaError> {
        let state = self.source.state.clone().of_replica(&self.target.place);
        let witness = state.witness()?;
        let generation = self.source.roster.generation.number;
        if !self.target.stored.contains_key("FORMAT") || witness.generation != generation {
            return Ok(());
        }
        for (actor, (seq, _)) in &witness.logs {
            let Ok(actor) = actor.parse() else { continue };
            let name = Commit::object_name(actor, *seq);
            if !self.target.stored.contains_key(&name) {
                let what = "it was copied there before, and is gone: the replica was set back";
                self.report.findings.push(Finding::new(name, Problem::Missing, what));
            }
        }
        Ok(())
    }

    /// Texts that have another length there: what is stored is not asked for, but a length is free.
    fn find_damaged_texts(&mut self) {
        for (name, entry) in &self.listed {
            let there = self.target.stored.get(name).map_or(entry.size, |there| there.size);
            if there != entry.size && !self.target.in_the_way.contains(name) {
                let place = &self.target.place;
                let what = format!("at {place} it has {there} bytes, in the source {}", entry.size);
                self.report.findings.push(Finding::new(name, Problem::WrongSize, what));
            }
        }
    }

    /// What is at the target now: whoever reads it on this host notices when it is set back.
    fn remember(&self) -> Result<(), ReplicaError> {
        let state = self.source.state.clone().of_replica(&self.target.place);
        state.see(|witness| {
            witness.see_roster(&self.source.roster, self.source.roster_hash);
            for (actor, records) in &self.history.logs {
                if let Some(last) = records.last() {
                    witness.logs.insert(actor.to_string(), (last.commit.seq, last.hash));
                }
            }
        })?;
        Ok(())
    }

    /// Whether the tombstones that the target has by now say that the object is to be deleted.
    fn is_gone(&self, name: &ObjectName) -> bool {
        let announced = self.history.announced.get(name);
        announced.is_some_and(|seen| self.carried_until.is_none_or(|until| *seen < until))
    }

    fn count_only(&mut self, commits: &[&CommitRecord], missing: &[Vec<Job>]) {
        for job in missing.iter().flatten() {
            self.report.copied.objects += 1;
            self.report.copied.bytes += job.bytes;
        }
        for record in commits {
            let name = Commit::object_name(record.commit.writer, record.commit.seq);
            if !self.target.stored.contains_key(&name) {
                self.report.commits += 1;
                self.report.snapshots += u64::from(record.commit.snapshot.is_some());
            }
        }
    }

    fn move_all(
        &self,
        commits: &[&CommitRecord],
        missing: Vec<Vec<Job>>,
        jobs: Sender<Job>,
        answers: &Receiver<(Job, Moved)>,
        work: &mut Work,
    ) -> Result<(), ReplicaError> {
        let mut open: HashMap<usize, usize> = HashMap::new();
        let mut waiting: VecDeque<usize> = VecDeque::new();
        for (tag, list) in missing.into_iter().enumerate() {
            open.insert(tag, list.len());
            waiting.push_back(tag);
            for job in list {
                // The queue is short: answers are taken while it is full.
                let mut job = Some(job);
                while let Some(next) = job.take() {
                    crossbeam_channel::select! {
                        send(jobs, next.clone()) -> sent => {
                            if sent.is_err() {
                                return Err(ReplicaError::Cancelled);
                            }
                        }
                        recv(answers) -> answer => {
                            job = Some(next);
                            self.take(answer.map_err(|_| ReplicaError::Cancelled)?, &mut open, work)?;
                        }
                    }
                }
            }
            self.put_ready(commits, &mut waiting, &open, work)?;
        }
        drop(jobs);
        while !waiting.is_empty() {
            self.put_ready(commits, &mut waiting, &open, work)?;
            if waiting.is_empty() {
                break;
            }
            let answer = answers.recv().map_err(|_| ReplicaError::Cancelled)?;
            self.take(answer, &mut open, work)?;
        }
        Ok(())
    }

    fn take(
        &self,
        (job, moved): (Job, Moved),
        open: &mut HashMap<usize, usize>,
        work: &mut Work,
    ) -> Result<(), ReplicaError> {
        let damaged = |problem, what: String| Finding::new(job.name.to_string(), problem, what);
        match moved {
            Moved::Done => {
                work.copied.objects += 1;
                work.copied.bytes += job.bytes;
                Progress::add(&self.progress.stored_bytes, job.bytes);
            }
            Moved::Missing => work.findings.extend(self.explain_missing(&job.name)?),
            Moved::Damaged(what) => {
                work.findings.push(damaged(Problem::WrongName, what.to_owned()));
            }
            Moved::Occupied => {
                let what = format!("at {} it has another length", self.target.place);
                work.findings.push(damaged(Problem::WrongSize, what));
            }
            Moved::SourceFailed(error) => return Err(self.source_failed()(error)),
            Moved::TargetFailed(error) => return Err(at(&self.target.place)(error)),
            Moved::Dropped => return Err(ReplicaError::Cancelled),
        }
        Progress::add(&self.progress.items_done, 1);
        Progress::add(&self.progress.bytes_done, job.bytes);
        if let Some(left) = open.get_mut(&job.tag) {
            *left -= 1;
        }
        Ok(())
    }

    /// Puts the commits whose objects are all there, in their order.
    fn put_ready(
        &self,
        commits: &[&CommitRecord],
        waiting: &mut VecDeque<usize>,
        open: &HashMap<usize, usize>,
        work: &mut Work,
    ) -> Result<(), ReplicaError> {
        while let Some(tag) = waiting.pop_front_if(|tag| open.get(tag) == Some(&0)) {
            if self.progress.is_cancelled() {
                return Err(ReplicaError::Cancelled);
            }
            let record = commits[tag];
            let name = Commit::object_name(record.commit.writer, record.commit.seq);
            if self.target.stored.contains_key(&name) {
                continue;
            }
            let bytes = self.get(&name)?;
            if object_id(&bytes) != record.hash {
                return Err(crate::repo::error::RepoError::Chain { object: name }.into());
            }
            self.put_text(&name, &bytes)?;
            work.commits += 1;
            work.snapshots += u64::from(record.commit.snapshot.is_some());
        }
        Ok(())
    }

    /// An object that the source has not got: pruned, as the target's tombstones say, or lost.
    ///
    /// Where only newer tombstones say it, the copy must begin anew, so that the target has them
    /// before the commit.
    fn explain_missing(&self, name: &ObjectName) -> Result<Option<Finding>, ReplicaError> {
        let grace = Duration::from_secs(self.source.roster.grace_seconds);
        let object = name.to_string();
        if self.is_gone(name) && self.begun.elapsed() < grace {
            return Ok(None);
        }
        if self.is_gone(name) || History::read(self.source)?.announced.contains_key(name) {
            return Err(ReplicaError::PrunedMeanwhile { object });
        }
        Ok(Some(Finding::new(object, Problem::Missing, "the source has not got it")))
    }

    /// Deletes at the target what a maintainer declared deleted, in a tombstone that the target has
    /// had for as long as asked.
    fn delete(&mut self) -> Result<(), ReplicaError> {
        let Some(after) = self.options.delete_after else { return Ok(()) };
        let tombs = self.target.stored.values().filter(|entry| entry.name.starts_with("tomb/"));
        let is_due =
            |entry: &Entry| self.now.duration_since(entry.first_seen).is_ok_and(|age| age >= after);
        let mut tombs: Vec<&Entry> = tombs.collect();
        tombs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut intended: HashSet<ObjectName> = HashSet::new();
        let mut doomed: HashSet<ObjectName> = HashSet::new();
        for entry in tombs {
            let bytes = self.get(&entry.name)?;
            let text = crate::format::signed_text::SignedText::split(&bytes);
            let maintainer = text.ok().and_then(|text| Tombstone::claimed_maintainer(&text));
            let maintainer = maintainer.and_then(|id| self.source.roster.maintainer(id));
            let Some(maintainer) = maintainer else { continue };
            let Ok(tomb) = Tombstone::open(&bytes, &maintainer.key, self.source.id) else {
                continue;
            };
            for declaration in &tomb.declarations {
                match declaration {
                    Declaration::Intent(name) => drop(intended.insert(*name)),
                    Declaration::Withdraw(name) => drop(intended.remove(name)),
                    // Nothing is deleted that nobody had announced.
                    Declaration::Done(name) if is_due(entry) && intended.contains(name) => {
                        doomed.insert(*name);
                    }
                    _ => {}
                }
            }
        }
        // Only what the whole history of the source says is gone: a later text may have outweighed it.
        doomed.retain(|name| self.history.deleted.contains(name));
        for name in doomed {
            let object = name.to_string();
            let Some(entry) = self.target.stored.get(&object) else { continue };
            match self.source.store.stat(&object) {
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(self.source_failed()(error)),
                Ok(_) => {
                    let what = "a tombstone says that it was deleted, and the source has it";
                    self.report.findings.push(Finding::new(object, Problem::Log, what));
                    continue;
                }
            }
            if !self.options.dry_run {
                self.target.store.delete(&object).map_err(at(&self.target.place))?;
            }
            self.report.deleted.objects += 1;
            self.report.deleted.bytes += entry.size;
        }
        Ok(())
    }
}

/// What the transfer has done so far.
struct Work {
    copied: Amount,
    commits: u64,
    snapshots: u64,
    findings: Vec<Finding>,
}
