//! Building index segments and the local index anew.
//!
//! A pack that commits name and no readable segment describes is read in full: its ids are computed
//! from its chunks, so nothing has to be believed. The new segment comes with a commit of the
//! maintainer, which writers believe. What is lost in the packs themselves stays lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::crypto::ids::DomainKeys;
use crate::crypto::recipient::Identity;
use crate::format::commit::ObjectName;
use crate::format::index_segment::IndexedPack;
use crate::format::pack::PackOwner;
use crate::id::{DomainId, ObjectId};
use crate::maintenance::error::MaintenanceError;
use crate::maintenance::finding::{Finding, Problem};
use crate::maintenance::listing::words;
use crate::maintenance::maintainer_log::Changes;
use crate::maintenance::maintainer_packs::put_segments;
use crate::maintenance::pack_catalog::{PackCatalog, packs_of};
use crate::maintenance::prune_state::live_runs;
use crate::maintenance::tombs::Maintainer;
use crate::progress::Progress;
use crate::repo::history::History;
use crate::repo::open::Repository;
use crate::repo::pack_reader::PackReadError;
use crate::repo::pack_scan::{PackScanner, ScannedPack};
use crate::store::StoreError;

/// What opens packs and index segments.
pub struct RepairKeys<'a> {
    /// Read identities of all epochs.
    pub read: Arc<[Identity]>,
    /// Keys of the domains.
    pub domains: &'a [(DomainId, DomainKeys)],
}

/// What a repair of the index found and did.
#[derive(Debug, Default)]
pub struct RepairReport {
    /// Packs that no readable segment describes.
    pub unindexed: u64,
    /// Of those, packs that are described now.
    pub indexed: u64,
    /// Packs that cannot be read.
    pub findings: Vec<Finding>,
}

/// Packs of commits that are there and that no readable segment describes; with `all` every pack.
#[must_use]
pub fn unindexed_packs(
    repository: &Repository,
    history: &History,
    keys: &RepairKeys<'_>,
    stored: &BTreeSet<String>,
    all: bool,
) -> Vec<ObjectId> {
    let (catalog, _) = PackCatalog::read(repository, history, keys.domains);
    let commits = history.logs.values().flatten().map(|record| &record.commit);
    let packs: BTreeSet<ObjectId> = commits.flat_map(packs_of).collect();
    packs
        .into_iter()
        .filter(|pack| all || catalog.pack(pack).is_none())
        .filter(|pack| stored.contains(&ObjectName::Data(*pack).to_string()))
        .collect()
}

/// Describes all packs that no readable segment describes, in new segments.
///
/// With `all` every pack is read, and those whose segment says something else are described anew.
pub fn repair_segments(
    maintainer: &Maintainer<'_>,
    keys: &RepairKeys<'_>,
    all: bool,
    progress: &Progress,
) -> Result<RepairReport, MaintenanceError> {
    maintainer.check_rights()?;
    let repository = maintainer.repository;
    let mut history = History::read(repository)?;
    history.require_sound()?;
    let mut stored = BTreeSet::new();
    repository.store.list("data/", &mut |entry| {
        stored.insert(entry.name);
    })?;
    let packs = unindexed_packs(repository, &history, keys, &stored, all);
    let mut report = RepairReport { unindexed: packs.len() as u64, ..RepairReport::default() };
    Progress::add(&progress.items_total, packs.len() as u64);
    let scanned: Vec<_> =
        packs.par_iter().map(|pack| scan(repository, keys, pack, progress)).collect();
    let mut by_domain: BTreeMap<DomainId, Vec<IndexedPack>> = BTreeMap::new();
    for result in scanned {
        match result? {
            Ok(pack) => by_domain.entry(pack.owner.domain).or_default().push(pack.entry),
            Err(finding) => report.findings.push(finding),
        }
    }
    for (domain, packs) in by_domain {
        let Some((_, domain_keys)) = keys.domains.iter().find(|(id, _)| *id == domain) else {
            continue;
        };
        let count = packs.len() as u64;
        let owner = PackOwner { repository: repository.id, writer: maintainer.keys.id, domain };
        let puts = put_segments(maintainer, owner, domain_keys, packs)?;
        maintainer
            .commit(|_, _| Ok(Some(Changes { puts: puts.clone(), relocations: Vec::new() })))?;
        report.indexed += count;
    }
    Ok(report)
}

type Scan = Result<Result<ScannedPack, Finding>, MaintenanceError>;

fn scan(
    repository: &Repository,
    keys: &RepairKeys<'_>,
    pack: &ObjectId,
    progress: &Progress,
) -> Scan {
    if progress.is_cancelled() {
        return Err(MaintenanceError::Cancelled);
    }
    let mut scanner = PackScanner::new(repository.store.clone(), keys.read.clone())?;
    let keys_of = |domain: &DomainId| {
        keys.domains.iter().find(|(id, _)| id == domain).map(|(_, keys)| keys.clone())
    };
    let scanned = scanner.scan(pack, keys_of);
    Progress::add(&progress.items_done, 1);
    match scanned {
        Ok(scanned) if scanned.owner.repository == repository.id => Ok(Ok(scanned)),
        Err(PackReadError::Store {
            source: source @ (StoreError::Io { .. } | StoreError::Refused { .. }),
            ..
        }) => Err(source.into()),
        Ok(_) => Ok(Err(unusable(pack, "it belongs to another repository".to_owned()))),
        Err(error) => Ok(Err(unusable(pack, words(&error)))),
    }
}

fn unusable(pack: &ObjectId, what: String) -> Finding {
    Finding::new(ObjectName::Data(*pack).to_string(), Problem::Content, what)
}

/// Removes the local index databases of these domains: the next use builds them anew.
///
/// # Errors
/// [`MaintenanceError::Busy`] while a backup of this host runs.
pub fn drop_local_index(repository: &Repository) -> Result<u64, MaintenanceError> {
    let runs = live_runs(repository)?.len();
    if runs > 0 {
        return Err(MaintenanceError::Busy { runs });
    }
    let folder = repository.state.path();
    let failed = |path: PathBuf| move |source| MaintenanceError::Remove { path, source };
    let mut removed = 0;
    for entry in std::fs::read_dir(folder).map_err(failed(folder.into()))? {
        let entry = entry.map_err(failed(folder.into()))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_index = name.contains("index-")
            && [".sqlite", ".sqlite-wal", ".sqlite-shm"].iter().any(|end| name.ends_with(end));
        if is_index {
            std::fs::remove_file(entry.path()).map_err(failed(entry.path()))?;
            removed += u64::from(name.ends_with(".sqlite"));
        }
    }
    Ok(removed)
}
