//! Checking one text of a log or of the chain of tombstones: signature, place, generation.

use crate::format::commit::Commit;
use crate::format::signed_text::{SignedText, TextError};
use crate::format::tombstone::Tombstone;
use crate::id::{ActorId, ObjectId};
use crate::repo::error::RepoError;
use crate::repo::objects::refused;
use crate::repo::open::Repository;

/// The commit, or nothing when its writer was revoked before it, or when a replica was made the
/// primary before it, of which it does not know.
pub(super) fn check_commit(
    repository: &Repository,
    actor: ActorId,
    seq: u64,
    prev: Option<ObjectId>,
    bytes: &[u8],
) -> Result<Option<Commit>, RepoError> {
    let object = Commit::object_name(actor, seq);
    let Some(key) = repository.roster.log_key(actor, seq) else {
        let is_revoked = repository.roster.writer(actor).is_some();
        return if is_revoked {
            Ok(None)
        } else {
            Err(RepoError::NotInRoster { role: "writer", id: actor })
        };
    };
    let commit = Commit::open(bytes, key, repository.id).map_err(refused(&object))?;
    if !repository.roster.generation.has_commit(actor, seq, commit.roster.seq) {
        return Ok(None);
    }
    if commit.writer != actor || commit.seq != seq || prev.is_some_and(|prev| commit.prev != prev) {
        return Err(RepoError::Chain { object });
    }
    Ok(Some(commit))
}

/// The tombstone of that number in the chain.
pub(super) fn check_tomb(
    repository: &Repository,
    seq: u64,
    prev: ObjectId,
    object: &str,
    bytes: &[u8],
) -> Result<Tombstone, RepoError> {
    if Tombstone::object_name(seq) != object {
        let what = format!("{} is missing", Tombstone::object_name(seq));
        return Err(RepoError::Rollback { what });
    }
    let text = SignedText::split(bytes).map_err(refused(object))?;
    let missing = TextError::Missing { field: "maintainer" };
    let id = Tombstone::claimed_maintainer(&text).ok_or(missing).map_err(refused(object))?;
    let maintainer = repository
        .roster
        .maintainer(id)
        .ok_or(RepoError::NotInRoster { role: "maintainer", id })?;
    let tomb = Tombstone::open(bytes, &maintainer.key, repository.id).map_err(refused(object))?;
    if tomb.seq != seq || tomb.prev != prev || tomb.maintainer != id {
        return Err(RepoError::Chain { object: object.into() });
    }
    Ok(tomb)
}
