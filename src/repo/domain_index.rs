//! Bringing the local index of a domain up to date with the segments that commits name.
//!
//! A writer believes its own segments and those of maintainers; a reader, who recomputes every
//! chunk id, takes all of the domain. A segment is entered only if it lists packs of its own
//! commit, with the sizes that the commit says.

use std::collections::{HashMap, HashSet};

use crate::crypto::recipient::Identity;
use crate::format::commit::{Commit, ObjectName, PutEntry};
use crate::format::index_segment::IndexSegment;
use crate::format::limits;
use crate::id::{ActorId, DomainId, ObjectId};
use crate::index::database::IndexDatabase;
use crate::repo::error::RepoError;
use crate::repo::history::History;
use crate::repo::objects::open_named;
use crate::repo::open::Repository;
use crate::repo::parallel::in_parallel;

/// Sealed bytes of segments that are fetched at once where the way is long.
const BYTES_AT_ONCE: u64 = 16 * 1024 * 1024;

/// Segments of a domain that could not be entered, and why.
pub type SegmentFindings = Vec<RepoError>;

/// Enters all segments of `domain` that the database lacks and `believes` allows.
///
/// # Errors
/// Failures of the store or the database. What is wrong with a segment is returned: its chunks
/// count as not there, and are stored anew.
pub fn update(
    repository: &Repository,
    history: &History,
    domain: DomainId,
    identity: &Identity,
    database: &IndexDatabase,
    believes: impl Fn(ActorId) -> bool,
) -> Result<SegmentFindings, RepoError> {
    let known = database.segments()?;
    let mut findings = SegmentFindings::new();
    let records = history.logs.iter().filter(|(actor, _)| believes(**actor));
    let mut records: Vec<_> = records.flat_map(|(_, records)| records).collect();
    // A handle belongs to whom the store saw first: nobody can know it earlier than its owner.
    records.sort_by_key(|record| record.first_seen);
    let missing: Vec<(&Commit, PutEntry)> = records
        .iter()
        .flat_map(|record| {
            let puts = missing_segments(&record.commit, domain, &known, history);
            puts.into_iter().map(|put| (&record.commit, put))
        })
        .collect();
    let mut rest = &missing[..];
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(batch_length(rest));
        rest = later;
        let read = in_parallel(repository.store.read_slots(), batch, |(commit, put)| {
            read_segment(repository, commit, domain, identity, &put.name)
        });
        for ((_, put), segment) in batch.iter().zip(read) {
            match segment {
                Ok(segment) if database.add_segment(&put.name.id(), &segment.packs)? => {}
                Ok(_) => findings.push(RepoError::Misplaced {
                    object: put.name.to_string(),
                    what: "it lists a handle that another segment has for another pack",
                }),
                Err(
                    error @ (RepoError::Store(crate::store::StoreError::NotFound { .. })
                    | RepoError::WrongName { .. }
                    | RepoError::Open { .. }
                    | RepoError::Segment { .. }
                    | RepoError::Misplaced { .. }),
                ) => findings.push(error),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(findings)
}

fn missing_segments(
    commit: &Commit,
    domain: DomainId,
    known: &HashSet<ObjectId>,
    history: &History,
) -> Vec<PutEntry> {
    let is_missing = |put: &&PutEntry| {
        matches!(put.name, ObjectName::Index(of, id) if of == domain && !known.contains(&id))
            && !history.deleted.contains(&put.name)
    };
    commit.puts.iter().filter(is_missing).copied().collect()
}

/// How many of the segments are fetched together: one, or as many as are short enough.
fn batch_length(segments: &[(&Commit, PutEntry)]) -> usize {
    let mut bytes = 0;
    let fits = |(_, put): &&(&Commit, PutEntry)| {
        bytes += put.bytes;
        bytes <= BYTES_AT_ONCE
    };
    segments.iter().take_while(fits).count().max(1)
}

/// Reads one segment and compares it with the commit that names it.
pub fn read_segment(
    repository: &Repository,
    commit: &Commit,
    domain: DomainId,
    identity: &Identity,
    name: &ObjectName,
) -> Result<IndexSegment, RepoError> {
    let object = name.to_string();
    let content = open_named(&*repository.store, name, &[identity], limits::INDEX_BYTES_MAX)?;
    let segment = IndexSegment::decode(&content)
        .map_err(|source| RepoError::Segment { object: object.clone(), source })?;
    let owner = segment.owner;
    let misplaced = |what| RepoError::Misplaced { object: object.clone(), what };
    if owner.repository != repository.id || owner.writer != commit.writer || owner.domain != domain
    {
        return Err(misplaced("its owner is not the one that committed it"));
    }
    let sizes: HashMap<ObjectName, u64> =
        commit.puts.iter().map(|put| (put.name, put.bytes)).collect();
    let listed = |pack: &crate::format::index_segment::IndexedPack| {
        sizes.get(&ObjectName::Data(pack.name)) == Some(&pack.size)
    };
    if !segment.packs.iter().all(listed) {
        return Err(misplaced("it lists packs that its commit does not"));
    }
    Ok(segment)
}
