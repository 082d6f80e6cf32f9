//! Fetching what is damaged or missing from other copies.
//!
//! # Invariants
//! * What is put was compared with its name, or is a text that another copy's verified history has.
//! * Damaged bytes are kept below `aside/` before they are replaced, but for those that the medium
//!   does not give back; nothing is overwritten.
//! * A crash leaves an object either as it was, missing with its bytes aside, or whole.
//! * Copies of another generation are refused: their logs may have gone another way.

pub mod texts;

use std::collections::HashMap;

use crate::crypto::ids::object_id;
use crate::format::commit::ObjectName;
use crate::format::limits;
use crate::id::ObjectId;
use crate::maintenance::finding::{Finding, Problem};
use crate::progress::Progress;
use crate::replica::error::{ReplicaError, at};
use crate::repo::history::History;
use crate::repo::open::Repository;
use crate::store::{Put, Store, StoreError};

/// Another copy, whose texts have been verified.
pub struct Copy {
    /// What it is called.
    pub name: String,
    /// The copy.
    pub repository: Repository,
    /// What its logs say.
    pub history: History,
}

/// An object that is whole again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healed {
    /// The object.
    pub object: String,
    /// The copy that it came from.
    pub from: String,
    /// Whether damaged bytes were kept aside.
    pub kept_aside: bool,
}

/// What a repair did.
#[derive(Debug, Default)]
pub struct HealReport {
    /// Objects that are whole again.
    pub healed: Vec<Healed>,
    /// Findings that no copy helps with.
    pub left: Vec<Finding>,
}

/// Whether another copy can help with a finding.
fn can_heal(problem: Problem) -> bool {
    matches!(
        problem,
        Problem::Log
            | Problem::Missing
            | Problem::WrongSize
            | Problem::WrongName
            | Problem::Unreadable
            | Problem::Content
    )
}

/// Refuses copies from before a promotion, or after one that `place` has not followed.
fn require_generation(place: &str, own: u64, copies: &[Copy]) -> Result<(), ReplicaError> {
    let theirs = |copy: &Copy| copy.repository.roster.generation.number;
    match copies.iter().find(|copy| theirs(copy) != own) {
        None => Ok(()),
        Some(copy) => Err(ReplicaError::OtherGeneration {
            place: place.to_owned(),
            own,
            copy: copy.name.clone(),
            theirs: theirs(copy),
        }),
    }
}

/// Fetches the objects of the findings from the copies, of which the first that has it whole counts.
///
/// # Errors
/// A copy of another generation; a failure of the store that is repaired. A copy that fails is passed
/// over.
pub fn heal(
    repository: &Repository,
    history: &History,
    findings: Vec<Finding>,
    copies: &[Copy],
    progress: &Progress,
) -> Result<HealReport, ReplicaError> {
    let store = &*repository.store;
    require_generation(&store.location(), repository.roster.generation.number, copies)?;
    let commits = history.logs.values().flatten().map(|record| &record.commit);
    let sizes: HashMap<ObjectName, u64> =
        commits.flat_map(|commit| commit.puts.iter().map(|put| (put.name, put.bytes))).collect();
    let mut report = HealReport::default();
    Progress::add(&progress.items_total, findings.len() as u64);
    for finding in findings {
        if progress.is_cancelled() {
            return Err(ReplicaError::Cancelled);
        }
        let done = report.healed.iter().any(|healed| healed.object == finding.object);
        let found = match copies {
            _ if done => None,
            _ if !can_heal(finding.problem) => None,
            copies => copies.iter().find_map(|copy| {
                let bytes = whole_copy(copy, &finding.object, &sizes)?;
                Some((copy, bytes))
            }),
        };
        let replaced = match found {
            Some((copy, bytes)) => {
                replace(store, &finding.object, bytes)?.map(|kept_aside| (copy, kept_aside))
            }
            None => None,
        };
        if let Some((copy, kept_aside)) = replaced {
            let (object, from) = (finding.object, copy.name.clone());
            report.healed.push(Healed { object, from, kept_aside });
        } else if !done {
            report.left.push(finding);
        }
        Progress::add(&progress.items_done, 1);
    }
    Ok(report)
}

/// The object as a copy has it, if that is surely the right one.
fn whole_copy(copy: &Copy, object: &str, sizes: &HashMap<ObjectName, u64>) -> Option<Vec<u8>> {
    let store = &*copy.repository.store;
    if let Ok(name) = object.parse::<ObjectName>() {
        let bytes_max = sizes.get(&name).copied().unwrap_or(limits::PACK_BYTES_MAX);
        let bytes = store.get(object, bytes_max).ok()?;
        return (object_id(&bytes) == name.id()).then_some(bytes);
    }
    let bytes = store.get(object, limits::SIGNED_TEXT_BYTES_MAX).ok()?;
    let is_right = match object.split_once('/') {
        Some(("log", rest)) => {
            let actor = rest.split('/').next()?.parse().ok()?;
            let log = copy.history.logs.get(&actor)?;
            let known = |hash: ObjectId| log.iter().any(|record| record.hash == hash);
            known(object_id(&bytes))
        }
        Some(("keys" | "roster" | "tomb", _)) => texts::is_sound(copy, object, &bytes),
        Some(("recovery", file)) => {
            let mut known = copy.repository.roster.recovery.iter();
            known.any(|known| {
                known.name.as_str() == file
                    && known.hash == crate::crypto::ids::content_hash(&bytes)
            })
        }
        _ if object == "FORMAT" => {
            bytes == format!("holdfast 1 {}\n", copy.repository.id).as_bytes()
        }
        _ => object == "RECOVERY.md",
    };
    is_right.then_some(bytes)
}

/// Puts the bytes under the name; what is there is kept aside. Whether anything was; nothing where
/// the object has these bytes already.
fn replace(store: &dyn Store, object: &str, bytes: Vec<u8>) -> Result<Option<bool>, ReplicaError> {
    let failed = at(&store.location());
    let damaged = match store.get(object, limits::PACK_BYTES_MAX) {
        Ok(found) if found == bytes => return Ok(None),
        Ok(found) => Some(found),
        Err(StoreError::NotFound { .. }) => None,
        // Bytes that cannot be read cannot be kept.
        Err(error) if error.is_unreadable() => {
            store.delete(object).map_err(&failed)?;
            None
        }
        // Too long to be kept: only its beginning is of any use to whoever looks at the damage.
        Err(StoreError::WrongSize { .. }) => {
            let mut start = vec![0; limits::PACK_BYTES_MAX as usize];
            store.read_at(object, 0, &mut start).map_err(&failed)?;
            Some(start)
        }
        Err(error) => return Err(failed(error)),
    };
    if let Some(found) = &damaged {
        let digits: String = object_id(found).to_string().chars().take(16).collect();
        store.put(&format!("aside/{object}-{digits}"), found).map_err(&failed)?;
        store.delete(object).map_err(&failed)?;
    }
    let expected = bytes.clone();
    if store.put_owned(object, bytes).map_err(&failed)? == Put::Exists {
        // Another repair was faster.
        let found = store.get(object, expected.len() as u64).map_err(&failed)?;
        if found != expected {
            return Err(ReplicaError::Diverged {
                place: store.location(),
                object: object.to_owned(),
            });
        }
    }
    Ok(Some(damaged.is_some()))
}
