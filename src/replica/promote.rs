//! Making a replica the primary.
//!
//! A new roster, signed by the root key, begins the next generation and records where every log
//! ended: what the writers and maintainers of the lost primary sign after that, under an older
//! roster, does not count anywhere. The same hosts go on with the same keys as soon as they use the
//! new primary; what they had seen of the old one beyond the fences they forget.

use crate::format::roster::Generation;
use crate::id::ActorId;
use crate::replica::error::ReplicaError;
use crate::repo::error::RepoError;
use crate::repo::history::History;
use crate::repo::open::Repository;
use crate::repo::roles::publish;
use crate::repo::unlock::Unlocked;

/// What a promotion recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promotion {
    /// The new generation.
    pub generation: u64,
    /// Last commit that counts of each log.
    pub fences: Vec<(ActorId, u64)>,
    /// Last tombstone that counts.
    pub fence_tomb: u64,
}

/// Makes the replica the primary.
///
/// # Errors
/// [`ReplicaError::NotReplica`]; a history with findings; [`RepoError::NoKey`] without the root
/// key, [`RepoError::RosterTaken`] where another host was faster. Nothing has changed then.
pub fn promote(
    repository: &mut Repository,
    unlocked: &Unlocked,
) -> Result<Promotion, ReplicaError> {
    if !repository.is_replica {
        return Err(ReplicaError::NotReplica { place: repository.store.location() });
    }
    let root = unlocked.root()?;
    let mut history = History::read(repository)?;
    history.require_sound()?;
    let fences: Vec<(ActorId, u64)> = history
        .logs
        .iter()
        .filter_map(|(actor, log)| Some((*actor, log.last()?.commit.seq)))
        .collect();
    let fence_tomb = history.tomb.map_or(0, |(seq, _)| seq);
    let mut next = repository.roster.next(repository.roster_hash);
    let number = repository.roster.generation.number + 1;
    next.generation = Generation { number, since: next.seq, fences: fences.clone(), fence_tomb };
    publish(repository, root, next).map_err(|error: RepoError| ReplicaError::from(error))?;
    repository.is_replica = false;
    Ok(Promotion { generation: number, fences, fence_tomb })
}
