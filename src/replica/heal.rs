//! Fetching what is damaged or missing from other copies.
//!
//! # Invariants
//! * What is put was compared with its name, or is a text that another copy's verified history has.
//! * Damaged bytes are kept below `aside/` before they are replaced; nothing is overwritten.
//! * A crash leaves an object either as it was, missing with its bytes aside, or whole.

use std::collections::HashMap;

use crate::crypto::ids::object_id;
use crate::format::commit::{Commit, ObjectName};
use crate::format::limits;
use crate::format::roster::Roster;
use crate::format::tombstone::Tombstone;
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

/// Fetches the objects of the findings from the copies, of which the first that has it whole counts.
///
/// # Errors
/// A failure of the store that is repaired. A copy that fails is passed over.
pub fn heal(
    store: &dyn Store,
    sizes: &HashMap<ObjectName, u64>,
    findings: Vec<Finding>,
    copies: &[Copy],
    progress: &Progress,
) -> Result<HealReport, ReplicaError> {
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
                let bytes = whole_copy(copy, &finding.object, sizes)?;
                Some((copy, bytes))
            }),
        };
        if let Some((copy, bytes)) = found {
            let kept_aside = replace(store, &finding.object, bytes)?;
            let (object, from) = (finding.object, copy.name.clone());
            report.healed.push(Healed { object, from, kept_aside });
        } else if !done {
            report.left.push(finding);
        }
        Progress::add(&progress.items_done, 1);
    }
    Ok(report)
}

/// Texts that the copies have and the store has not, or has otherwise: rosters, commits, tombstones,
/// keys, FORMAT and the files that help. Needed before the repository can be opened and checked.
///
/// # Errors
/// As [`heal`].
pub fn heal_texts(store: &dyn Store, copies: &[Copy]) -> Result<Vec<Healed>, ReplicaError> {
    let mut healed = Vec::new();
    for copy in copies {
        let mut names = Vec::new();
        let listed = copy.repository.store.list("", &mut |entry| {
            let text = ["roster/", "keys/", "recovery/", "log/", "tomb/", "FORMAT", "RECOVERY.md"];
            let is_text = text.iter().any(|start| entry.name.starts_with(start));
            if is_text && !entry.name.starts_with("roster/replica-") {
                names.push(entry.name);
            }
        });
        if listed.is_err() {
            continue;
        }
        for name in names {
            let ours = match store.get(&name, limits::SIGNED_TEXT_BYTES_MAX) {
                Ok(bytes) => Some(bytes),
                Err(StoreError::NotFound { .. }) => None,
                Err(StoreError::WrongSize { .. }) => Some(Vec::new()),
                Err(error) => return Err(at(&store.location())(error)),
            };
            // Key files that were removed here stay removed.
            if ours.is_none() && name.starts_with("keys/operator-") {
                continue;
            }
            if ours.as_deref().is_some_and(|bytes| is_sound(copy, &name, bytes)) {
                continue;
            }
            let Some(bytes) = whole_copy(copy, &name, &HashMap::new()) else { continue };
            if ours.as_ref() == Some(&bytes) {
                continue;
            }
            let kept_aside = replace(store, &name, bytes)?;
            healed.push(Healed { object: name, from: copy.name.clone(), kept_aside });
        }
    }
    Ok(healed)
}

/// Whether a text that differs from the copy's may still be right: a newer or other text, validly
/// signed, is not damage.
fn is_sound(copy: &Copy, name: &str, bytes: &[u8]) -> bool {
    let repository = &copy.repository;
    match name.split_once('/') {
        Some(("roster", _)) => Roster::open(bytes, repository.id)
            .is_ok_and(|roster| Roster::object_name(roster.seq) == name),
        Some(("log", rest)) => {
            let actor = rest.split('/').next().and_then(|actor| actor.parse().ok());
            let seq = name.rsplit('/').next().and_then(|seq| u64::from_str_radix(seq, 16).ok());
            let key = actor.zip(seq).and_then(|(a, s)| repository.roster.log_key(a, s));
            key.is_some_and(|key| Commit::open(bytes, key, repository.id).is_ok())
        }
        Some(("tomb", _)) => {
            let text = crate::format::signed_text::SignedText::split(bytes);
            let id = text.ok().and_then(|text| Tombstone::claimed_maintainer(&text));
            let maintainer = id.and_then(|id| repository.roster.maintainer(id));
            maintainer.is_some_and(|m| Tombstone::open(bytes, &m.key, repository.id).is_ok())
        }
        Some(("keys", file)) => name_fits(file.trim_end_matches(".age"), bytes),
        _ => false,
    }
}

fn name_fits(stem: &str, bytes: &[u8]) -> bool {
    let digits = stem.rsplit('-').next().unwrap_or_default();
    digits.len() == 16 && object_id(bytes).to_string().starts_with(digits)
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
        Some(("keys", file)) => name_fits(file.trim_end_matches(".age"), &bytes),
        Some(("roster" | "tomb", _)) => is_sound(copy, object, &bytes),
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

/// Puts the bytes under the name; what is there is kept aside. Whether anything was.
fn replace(store: &dyn Store, object: &str, bytes: Vec<u8>) -> Result<bool, ReplicaError> {
    let failed = at(&store.location());
    let damaged = match store.get(object, limits::PACK_BYTES_MAX) {
        Ok(found) if found == bytes => return Ok(false),
        Ok(found) => Some(found),
        Err(StoreError::NotFound { .. }) => None,
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
    Ok(damaged.is_some())
}
