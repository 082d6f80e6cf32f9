//! Bringing forgotten snapshots back while all their objects last.
//!
//! The recall takes back, in the same tombstone, every intent on what the snapshot needs, so a
//! prune that reads afterwards keeps it. A prune that is deleting at this very moment may be a few
//! deletions ahead: so everything is looked at again in the end, and what is not whole any more is
//! forgotten again. Where the intents are older than half the grace time nobody should prune now.

use std::collections::{BTreeSet, HashSet};

use crate::crypto::recipient::Identity;
use crate::format::commit::ObjectName;
use crate::format::tombstone::{Declaration, Remark};
use crate::maintenance::error::MaintenanceError;
use crate::maintenance::snapshot_refs::RefsReader;
use crate::maintenance::tombs::Maintainer;
use crate::repo::history::{History, SnapshotRecord};
use crate::repo::open::Repository;
use crate::store::{Store, StoreError};

/// All objects that a snapshot cannot be read without.
pub fn needed_objects(
    repository: &Repository,
    history: &History,
    identities: &[Identity],
    record: &SnapshotRecord,
) -> Result<BTreeSet<ObjectName>, MaintenanceError> {
    let reader = RefsReader::new(repository, history, identities);
    let newest = reader.read(&record.refs)?;
    let original = reader.read(&record.original)?;
    let mut objects = BTreeSet::from([
        record.name.object_name(),
        RefsReader::name(&record.refs),
        RefsReader::name(&record.original),
    ]);
    let packs = |refs: &crate::format::refs::Refs| {
        refs.packs.iter().map(|pack| ObjectName::Data(pack.pack)).collect::<Vec<_>>()
    };
    objects.extend(packs(&newest));
    let addressed: HashSet<ObjectName> =
        packs(&original).into_iter().chain(packs(&newest)).collect();
    for commit in history.logs.values().flatten().map(|record| &record.commit) {
        if commit.puts.iter().any(|put| addressed.contains(&put.name)) {
            let names = commit.puts.iter().map(|put| put.name);
            objects.extend(names.filter(|name| matches!(name, ObjectName::Index(..))));
        }
    }
    Ok(objects)
}

/// Those of the objects that the store has not.
pub fn missing(
    store: &dyn Store,
    objects: &BTreeSet<ObjectName>,
) -> Result<Vec<ObjectName>, MaintenanceError> {
    let mut missing = Vec::new();
    for name in objects {
        match store.stat(&name.to_string()) {
            Ok(_) => {}
            Err(StoreError::NotFound { .. }) => missing.push(*name),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(missing)
}

/// Checks that a forgotten snapshot is whole, and gives what it needs.
///
/// # Errors
/// [`MaintenanceError::Gone`].
pub fn check_whole(
    repository: &Repository,
    history: &History,
    identities: &[Identity],
    record: &SnapshotRecord,
) -> Result<BTreeSet<ObjectName>, MaintenanceError> {
    let gone = |missing| MaintenanceError::Gone { snapshot: record.name.id, missing };
    if record.is_deleted {
        return Err(gone(1));
    }
    // Its refs go together with the snapshot object: without them nothing is known to be there.
    for entry in [&record.refs, &record.original] {
        match repository.store.stat(&RefsReader::name(entry).to_string()) {
            Err(StoreError::NotFound { .. }) => return Err(gone(1)),
            other => other.map(drop)?,
        }
    }
    let objects = needed_objects(repository, history, identities, record)?;
    match missing(&*repository.store, &objects)?.len() {
        0 => Ok(objects),
        missing => Err(gone(missing)),
    }
}

/// Lists a forgotten snapshot again.
///
/// # Errors
/// [`MaintenanceError::Gone`]: nothing was written, or a prune that was running was faster.
pub fn recall(
    maintainer: &Maintainer<'_>,
    history: &History,
    identities: &[Identity],
    record: &SnapshotRecord,
) -> Result<(), MaintenanceError> {
    let objects = check_whole(maintainer.repository, history, identities, record)?;
    let mut declarations = vec![Declaration::Recall(record.name)];
    let intended = objects.iter().filter(|name| history.intents.contains_key(name));
    declarations.extend(intended.map(|name| Declaration::Withdraw(*name)));
    maintainer.declare(&declarations)?;
    match missing(&*maintainer.repository.store, &objects)?.len() {
        0 => Ok(()),
        missing => {
            let reason = Remark::lossy("a prune was faster than its recall");
            maintainer.declare(&[Declaration::Forget { snapshot: record.name, reason }])?;
            Err(MaintenanceError::Gone { snapshot: record.name.id, missing })
        }
    }
}
