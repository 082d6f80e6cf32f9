//! Checking a repository, as deep as the keys at hand reach.
//!
//! Without a key: logs, signatures and chains, that every object which commits name is there with
//! its size, and that small objects (and packs, when asked) are what their names say. With read
//! identities also everything inside. Nothing is changed.
//!
//! # Invariants
//! * The logs are read before the listing, so that what is being written meanwhile is no finding;
//!   what a prune deletes meanwhile is looked up in the logs again.
//! * An object that is too new is reported as such, never as damaged.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::clock::Clock;
use crate::crypto::ids::{DomainKeys, content_hash, object_id};
use crate::crypto::recipient::Identity;
use crate::format::commit::{ObjectName, PutEntry, SnapshotName};
use crate::format::limits;
use crate::format::roster::Roster;
use crate::id::{DomainId, ObjectId};
use crate::maintenance::check_snapshots;
use crate::maintenance::checked::Coverage;
use crate::maintenance::error::MaintenanceError;
use crate::maintenance::finding::{Finding, Problem};
use crate::maintenance::listing::words;
use crate::maintenance::pack_catalog::{PackCatalog, packs_of};
use crate::maintenance::prune_plan::Amount;
use crate::maintenance::read_data;
use crate::maintenance::snapshot_refs::{BATCH, RefsReader};
use crate::progress::Progress;
use crate::repo::error::RepoError;
use crate::repo::history::{History, SnapshotRecord};
use crate::repo::open::Repository;
use crate::repo::parallel::in_parallel;
use crate::repo::read_access::ReadAccess;
use crate::repo::texts::TextCache;
use crate::store::StoreError;
use crate::units::Part;

/// The keys of a check; all may be missing.
#[derive(Clone, Copy, Default)]
pub struct CheckKeys<'a> {
    /// What reads snapshots and chunks, with an index that is up to date.
    pub access: Option<&'a Arc<ReadAccess>>,
    /// Keys of the domains that can be read.
    pub domains: &'a [(DomainId, DomainKeys)],
    /// What opens refs: read identities or a maintainer's.
    pub refs: &'a [Identity],
}

/// How much is checked.
#[derive(Debug, Clone, Copy)]
pub struct CheckOptions {
    /// Which part of the packs is read; none where only structure is checked.
    pub read_data: Option<Part>,
    /// Threads that read packs; each holds one pack, sealed and plain.
    pub threads: usize,
}

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Objects that commits name and the store has.
    pub objects: Amount,
    /// Objects that no commit names: of runs that go on or were killed. A prune removes them.
    pub orphans: Amount,
    /// Snapshots that are listed.
    pub snapshots: u64,
    /// Packs that were read.
    pub read: Amount,
    /// What has been read on this host, this time and before.
    pub coverage: Coverage,
    /// Of the objects that commits name, the one whose lock ends first, where the store has locks.
    pub weakest_lock: Option<WeakestLock>,
}

/// The object that is protected the shortest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeakestLock {
    /// Its name.
    pub object: String,
    /// Until when it is locked; nothing where it is not.
    pub until: Option<SystemTime>,
    /// How many have no lock, or one that has ended.
    pub unlocked: u64,
}

/// The repository while it is checked.
pub struct Checking<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// What the logs say.
    pub history: History,
    /// Sizes of all objects.
    pub stored: HashMap<String, u64>,
    /// The keys.
    pub keys: CheckKeys<'a>,
    /// Where reading is counted.
    pub progress: &'a Progress,
}

impl Checking<'_> {
    /// Whether the store has the object.
    #[must_use]
    pub fn has(&self, name: &ObjectName) -> bool {
        self.stored.contains_key(&name.to_string())
    }
}

/// Checks.
///
/// # Errors
/// Something kept it from looking at everything; damage is a finding and no error.
pub fn check(
    repository: &Repository,
    clock: &dyn Clock,
    keys: CheckKeys<'_>,
    options: CheckOptions,
    progress: &Progress,
) -> Result<CheckReport, MaintenanceError> {
    // What this host has kept of the texts says nothing of those that are stored.
    let repository = &Repository { texts: Arc::new(TextCache::none()), ..repository.clone() };
    let mut history = History::read(repository)?;
    let mut report = CheckReport::default();
    for finding in std::mem::take(&mut history.findings) {
        report.findings.push(log_finding(&finding));
    }
    let mut stored = HashMap::new();
    repository.store.list("", &mut |entry| {
        stored.insert(entry.name, entry.size);
    })?;
    let checking = Checking { repository, history, stored, keys, progress };
    report.snapshots = checking.history.live().count() as u64;
    check_rosters(&checking, &mut report.findings)?;
    check_fixed_files(&checking, &mut report.findings)?;
    check_committed(&checking, &mut report)?;
    let (catalog, segments) = PackCatalog::read(repository, &checking.history, keys.domains);
    for finding in segments {
        let name = finding.segment.to_string();
        // Missing and changed ones were reported above.
        if !report.findings.iter().any(|known| known.object == name)
            && checking.has(&finding.segment)
        {
            report.findings.push(Finding::new(name, Problem::Unreadable, words(&finding.error)));
        }
    }
    if let Some(access) = keys.access {
        check_snapshots::check_all(&checking, access, &catalog, &mut report.findings)?;
    }
    read_data::read(&checking, clock, &catalog, options, &mut report)?;
    report.weakest_lock = weakest_lock(&checking, clock.now())?;
    find_affected(&checking, &mut report.findings);
    report.findings.sort_by(|a, b| (&a.object, a.problem).cmp(&(&b.object, b.problem)));
    report.findings.dedup();
    Ok(report)
}

/// Asks for the lock of every object that a commit names and nobody means to delete.
fn weakest_lock(
    checking: &Checking<'_>,
    now: SystemTime,
) -> Result<Option<WeakestLock>, MaintenanceError> {
    let store = &*checking.repository.store;
    if !store.can_lock() {
        return Ok(None);
    }
    let history = &checking.history;
    let puts = history.logs.values().flatten().flat_map(|record| &record.commit.puts);
    let mut names: Vec<ObjectName> = puts
        .map(|put| put.name)
        .filter(|name| !history.announced.contains_key(name) && checking.has(name))
        .collect();
    names.sort_unstable();
    names.dedup();
    let ask = |name: &ObjectName| match store.locked_until(&name.to_string()) {
        Err(StoreError::NotFound { .. }) => Ok(None),
        other => other.map(Some),
    };
    let mut weakest: Option<WeakestLock> = None;
    let mut unlocked = 0;
    for (name, locked) in names.iter().zip(in_parallel(store.read_slots(), &names, ask)) {
        let Some(until) = locked? else { continue };
        unlocked += u64::from(until.is_none_or(|until| until <= now));
        if weakest.as_ref().is_none_or(|weakest| until < weakest.until) {
            weakest = Some(WeakestLock { object: name.to_string(), until, unlocked: 0 });
        }
    }
    Ok(weakest.map(|weakest| WeakestLock { unlocked, ..weakest }))
}

fn log_finding(error: &RepoError) -> Finding {
    let object = match error {
        RepoError::Text { object, .. }
        | RepoError::Chain { object }
        | RepoError::Unreadable { object, .. }
        | RepoError::Misplaced { object, .. } => object.clone(),
        RepoError::Rollback { what } => {
            what.split(' ').next().unwrap_or_default().trim_end_matches(':').to_owned()
        }
        _ => "log".to_owned(),
    };
    Finding::new(object, Problem::Log, words(error))
}

/// All rosters from the first: opening checks only those from the one seen last.
fn check_rosters(
    checking: &Checking<'_>,
    findings: &mut Vec<Finding>,
) -> Result<(), MaintenanceError> {
    let mut before: Option<(Roster, ObjectId)> = None;
    for seq in 1..=checking.repository.roster.seq {
        let object = Roster::object_name(seq);
        let bytes = match checking.repository.store.get(&object, limits::SIGNED_TEXT_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error @ (StoreError::NotFound { .. } | StoreError::WrongSize { .. })) => {
                findings.push(Finding::new(object, Problem::Log, error.to_string()));
                before = None;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match Roster::open(&bytes, checking.repository.id) {
            Ok(roster) => {
                let follows =
                    |(last, hash): &(Roster, ObjectId)| last.is_followed_by(&roster, *hash);
                if roster.seq != seq || before.as_ref().is_some_and(|before| !follows(before)) {
                    let what = "it does not continue the roster before it";
                    findings.push(Finding::new(object, Problem::Log, what));
                }
                before = Some((roster, object_id(&bytes)));
            }
            Err(error) => {
                findings.push(Finding::new(object, Problem::Log, words(&error)));
                before = None;
            }
        }
    }
    Ok(())
}

/// FORMAT, key files, attestations, and the files that help after a disaster.
fn check_fixed_files(
    checking: &Checking<'_>,
    findings: &mut Vec<Finding>,
) -> Result<(), MaintenanceError> {
    let store = &*checking.repository.store;
    let format = format!("holdfast 1 {}\n", checking.repository.id);
    match store.get("FORMAT", limits::SIGNED_TEXT_BYTES_MAX) {
        Ok(found) if found == format.as_bytes() => {}
        Ok(_) => {
            findings.push(Finding::new("FORMAT", Problem::WrongName, "it says something else"));
        }
        Err(error) => findings.push(unread("FORMAT", error)?),
    }
    if !checking.stored.contains_key("RECOVERY.md") {
        findings.push(Finding::new("RECOVERY.md", Problem::Missing, "the store has not got it"));
    }
    if !checking.stored.keys().any(|name| name.starts_with("keys/operator-")) {
        let what = "no key file is there: nobody can open the repository";
        findings.push(Finding::new("keys/", Problem::Missing, what));
    }
    let roster = &checking.repository.roster;
    let epoch = roster.active_epoch().number;
    for domain in &roster.domains {
        for start in [format!("keys/domain-{domain}-"), format!("keys/epoch-{epoch}-{domain}-")] {
            if !checking.stored.keys().any(|name| name.starts_with(&start)) {
                let what = "no key file of this domain is there";
                findings.push(Finding::new(start, Problem::Missing, what));
            }
        }
    }
    for recovery in &checking.repository.roster.recovery {
        let object = format!("recovery/{}", recovery.name.as_str());
        match store.get(&object, limits::SIGNED_TEXT_BYTES_MAX) {
            Ok(bytes) if content_hash(&bytes) == recovery.hash => {}
            Ok(_) => {
                let what = "it is not the one that the roster names";
                findings.push(Finding::new(object, Problem::WrongName, what));
            }
            Err(error @ (StoreError::NotFound { .. } | StoreError::WrongSize { .. })) => {
                findings.push(Finding::new(object, Problem::Missing, error.to_string()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    for name in checking.stored.keys() {
        let digits = match name.split_once('/') {
            Some(("keys", file)) => file.trim_end_matches(".age").rsplit('-').next(),
            Some(("attest", id)) => Some(id),
            _ => None,
        };
        let Some(digits) = digits else { continue };
        match store.get(name, limits::SIGNED_TEXT_BYTES_MAX) {
            Ok(bytes) if object_id(&bytes).to_string().starts_with(digits) => {}
            Ok(_) => findings.push(wrong_name(name)),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => findings.push(unread(name, error)?),
        }
    }
    Ok(())
}

/// What a failed read says of the object itself; a failure of the store stays one.
///
/// # Errors
/// The store's failure.
pub fn unread(object: &str, error: StoreError) -> Result<Finding, StoreError> {
    let problem = match &error {
        StoreError::NotFound { .. } => {
            return Ok(Finding::new(object, Problem::Missing, "it is gone"));
        }
        StoreError::WrongSize { .. } => Problem::WrongSize,
        error if error.is_unreadable() => Problem::Unreadable,
        _ => return Err(error),
    };
    Ok(Finding::new(object, problem, words(&error)))
}

/// The finding of an object whose bytes are others.
#[must_use]
pub fn wrong_name(object: &str) -> Finding {
    let what = "its bytes are not those that its name stands for";
    Finding::new(object, Problem::WrongName, what)
}

/// Every object that commits name: there, of its size; small ones also what their names say.
fn check_committed(
    checking: &Checking<'_>,
    report: &mut CheckReport,
) -> Result<(), MaintenanceError> {
    let history = &checking.history;
    let puts: HashMap<ObjectName, PutEntry> = history
        .logs
        .values()
        .flatten()
        .flat_map(|record| record.commit.puts.iter().map(|put| (put.name, *put)))
        .collect();
    count_orphans(checking, &puts, report);
    let mut missing = Vec::new();
    let mut small = Vec::new();
    for put in puts.values() {
        match checking.stored.get(&put.name.to_string()) {
            None => missing.push(put.name),
            Some(size) => {
                report.objects.objects += 1;
                report.objects.bytes += size;
                if *size == put.bytes && !matches!(put.name, ObjectName::Data(_)) {
                    small.push(put);
                } else if *size != put.bytes {
                    let what = format!("it has {size} bytes, its commit says {}", put.bytes);
                    let object = put.name.to_string();
                    report.findings.push(Finding::new(object, Problem::WrongSize, what));
                }
            }
        }
    }
    report_missing(checking, missing, &mut report.findings)?;
    let named: Vec<Result<Option<Finding>, StoreError>> =
        small.par_iter().map(|put| check_name(checking, put)).collect();
    for finding in named {
        report.findings.extend(finding?);
    }
    Ok(())
}

fn count_orphans(
    checking: &Checking<'_>,
    puts: &HashMap<ObjectName, PutEntry>,
    report: &mut CheckReport,
) {
    for (name, size) in &checking.stored {
        let is_orphan = match name.parse::<ObjectName>() {
            Ok(ObjectName::Attestation(_)) | Err(_) => false,
            Ok(name) => !puts.contains_key(&name),
        };
        if is_orphan {
            report.orphans.objects += 1;
            report.orphans.bytes += size;
        }
    }
}

/// What has been or is being deleted is not missing, unless a snapshot needs it, which its own
/// refs tell.
fn report_missing(
    checking: &Checking<'_>,
    missing: Vec<ObjectName>,
    findings: &mut Vec<Finding>,
) -> Result<(), MaintenanceError> {
    let is_pruned = |history: &History, name: &ObjectName| {
        history.deleted.contains(name) || history.intents.contains_key(name)
    };
    let missing: Vec<ObjectName> =
        missing.into_iter().filter(|name| !is_pruned(&checking.history, name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let newest = History::read(checking.repository)?;
    for name in missing.into_iter().filter(|name| !is_pruned(&newest, name)) {
        findings.push(Finding::new(name.to_string(), Problem::Missing, "the store has not got it"));
    }
    Ok(())
}

fn check_name(checking: &Checking<'_>, put: &PutEntry) -> Result<Option<Finding>, StoreError> {
    let object = put.name.to_string();
    match checking.repository.store.get(&object, put.bytes) {
        Ok(bytes) if object_id(&bytes) == put.name.id() => Ok(None),
        Ok(_) => Ok(Some(wrong_name(&object))),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => unread(&object, error).map(Some),
    }
}

/// Fills in which snapshots need the damaged objects.
fn find_affected(checking: &Checking<'_>, findings: &mut [Finding]) {
    let mut damaged: HashMap<ObjectId, Vec<SnapshotName>> = HashMap::new();
    for finding in findings.iter() {
        if let Ok(ObjectName::Data(pack)) = finding.object.parse() {
            damaged.entry(pack).or_default();
        }
    }
    if !damaged.is_empty() {
        users_of_packs(checking, &mut damaged);
    }
    for finding in findings.iter_mut().filter(|finding| finding.snapshots.is_empty()) {
        let Ok(name) = finding.object.parse::<ObjectName>() else { continue };
        finding.snapshots = match name {
            ObjectName::Data(pack) => damaged.get(&pack).cloned().unwrap_or_default(),
            name => users_by_log(checking, &name),
        };
    }
}

fn users_of_packs(checking: &Checking<'_>, damaged: &mut HashMap<ObjectId, Vec<SnapshotName>>) {
    let reader = RefsReader::new(checking.repository, &checking.history, checking.keys.refs);
    let records: Vec<&SnapshotRecord> = checking.history.live().collect();
    for batch in records.chunks(BATCH) {
        for (record, refs) in batch.iter().zip(reader.read_newest(batch)) {
            match refs {
                Ok(refs) => {
                    for pack in refs.packs {
                        if let Some(users) = damaged.get_mut(&pack.pack) {
                            users.push(record.name);
                        }
                    }
                }
                // Without its refs: the packs of its own commit are those it surely uses.
                Err(_) => own_packs(checking, record, damaged),
            }
        }
    }
}

fn own_packs(
    checking: &Checking<'_>,
    record: &SnapshotRecord,
    damaged: &mut HashMap<ObjectId, Vec<SnapshotName>>,
) {
    let log = checking.history.logs.get(&record.name.writer).into_iter().flatten();
    for commit in log.filter(|other| other.commit.seq == record.seq) {
        for pack in packs_of(&commit.commit) {
            if let Some(users) = damaged.get_mut(&pack) {
                users.push(record.name);
            }
        }
    }
}

/// Snapshots of the commits that put the object, and those that are relocated to it.
fn users_by_log(checking: &Checking<'_>, name: &ObjectName) -> Vec<SnapshotName> {
    let mut users = HashSet::new();
    for commit in checking.history.logs.values().flatten().map(|record| &record.commit) {
        if commit.puts.iter().any(|put| put.name == *name) {
            users.extend(commit.snapshot.iter().map(|entry| entry.snapshot));
            let relocated = commit.relocations.iter();
            let relocated = relocated.filter(|entry| RefsReader::name(entry) == *name);
            users.extend(relocated.map(|entry| entry.snapshot));
        }
    }
    let is_live = |name: &&SnapshotName| checking.history.live().any(|r| r.name == **name);
    let mut users: Vec<SnapshotName> = users.iter().filter(is_live).copied().collect();
    users.sort_unstable();
    users
}
