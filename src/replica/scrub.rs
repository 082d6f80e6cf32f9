//! Reading every object and comparing it with its name: for whoever hosts the bytes, who has
//! neither a key nor any state of the repository.

use std::sync::Mutex;
use std::sync::PoisonError;

use crate::crypto::ids::object_id;
use crate::format::commit::ObjectName;
use crate::format::limits;
use crate::maintenance::check::{unread, wrong_name};
use crate::maintenance::finding::Finding;
use crate::maintenance::prune_plan::Amount;
use crate::progress::Progress;
use crate::replica::error::{ReplicaError, at};
use crate::repo::parallel::in_parallel;
use crate::store::{Entry, Store, StoreError};
use crate::units::Part;

/// Objects between two looks whether to stop.
const BATCH: usize = 256;

/// What a scrub found.
#[derive(Debug, Default)]
pub struct ScrubReport {
    /// Objects that were read.
    pub read: Amount,
    /// Objects whose names say nothing of their bytes.
    pub unnamed: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Reads the objects of a store, or the part of them whose turn it is.
///
/// # Errors
/// The store fails. Damage is a finding.
pub fn scrub(
    store: &dyn Store,
    part: Part,
    threads: usize,
    progress: &Progress,
) -> Result<ScrubReport, ReplicaError> {
    let place = store.location();
    let mut entries: Vec<Entry> = Vec::new();
    let mut report = ScrubReport::default();
    let listed = store.list("", &mut |entry| {
        if entry.name.starts_with("aside/") {
            return;
        }
        if digits_of(&entry.name).is_none() {
            report.unnamed += 1;
        } else if is_in(part, &entry.name) {
            entries.push(entry);
        }
    });
    listed.map_err(at(&place))?;
    Progress::add(&progress.items_total, entries.len() as u64);
    Progress::add(&progress.bytes_total, entries.iter().map(|entry| entry.size).sum());
    let read = Mutex::new(Amount::default());
    for batch in entries.chunks(BATCH) {
        if progress.is_cancelled() {
            return Err(ReplicaError::Cancelled);
        }
        let found = in_parallel(threads, batch, |entry| {
            let finding = look_at(store, entry);
            let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
            read.objects += 1;
            read.bytes += entry.size;
            Progress::add(&progress.items_done, 1);
            Progress::add(&progress.bytes_done, entry.size);
            finding
        });
        for finding in found {
            report.findings.extend(finding.map_err(at(&place))?);
        }
    }
    report.read = read.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.findings.sort_by(|a, b| a.object.cmp(&b.object));
    Ok(report)
}

/// Objects fall into the parts by a hash of their names, so each has its turn.
fn is_in(part: Part, name: &str) -> bool {
    let hash = blake3::hash(name.as_bytes());
    let [a, b, c, d, ..] = *hash.as_bytes();
    u32::from_le_bytes([a, b, c, d]) % part.of == part.number - 1
}

/// The digits of an object's hash in its name, where there are any.
fn digits_of(name: &str) -> Option<&str> {
    if let Some(file) = name.strip_prefix("keys/") {
        let digits = file.strip_suffix(".age")?.rsplit('-').next()?;
        return (digits.len() == 16).then_some(digits);
    }
    name.parse::<ObjectName>().ok()?;
    name.rsplit('/').next()
}

fn look_at(store: &dyn Store, entry: &Entry) -> Result<Option<Finding>, StoreError> {
    let Some(digits) = digits_of(&entry.name) else { return Ok(None) };
    match store.get(&entry.name, limits::REFS_BYTES_MAX * 2) {
        Ok(bytes) if object_id(&bytes).to_string().starts_with(digits) => Ok(None),
        Ok(_) => Ok(Some(wrong_name(&entry.name))),
        // Deleted since the listing.
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => unread(&entry.name, error).map(Some),
    }
}
