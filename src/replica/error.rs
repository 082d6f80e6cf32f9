//! Why work with a replica failed.
//!
//! A copy that fails has changed nothing that was there; what it has moved is not moved again.

use crate::id::RepositoryId;
use crate::repo::error::RepoError;
use crate::store::StoreError;

/// Why it failed.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The repository is not as it must be, or cannot be read.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// A store failed.
    #[error("the store at {place} failed")]
    Store {
        /// Which one.
        place: String,
        /// What it said.
        source: StoreError,
    },
    /// The target holds something else.
    #[error("{place} holds repository {found}, not {expected}")]
    OtherRepository {
        /// The target.
        place: String,
        /// The repository that is copied.
        expected: RepositoryId,
        /// What is there.
        found: RepositoryId,
    },
    /// The target holds objects, but no repository.
    #[error("{place} is not empty, and not a copy of this repository")]
    Occupied {
        /// The target.
        place: String,
    },
    /// The target knows more than the source: the source was rolled back, or the target written to.
    #[error("{object} is at {place}, and not in the source")]
    Ahead {
        /// The target.
        place: String,
        /// What the source lacks.
        object: String,
    },
    /// The two have different texts under one name.
    #[error("{object} at {place} is another one than in the source")]
    Diverged {
        /// The target.
        place: String,
        /// The text.
        object: String,
    },
    /// The target was made the primary.
    #[error("{place} was promoted: it is of generation {found}, the source of {source_generation}")]
    Promoted {
        /// The target.
        place: String,
        /// Its generation.
        found: u64,
        /// That of the source.
        source_generation: u64,
    },
    /// Only copies of the same generation heal.
    #[error("the copy {copy} is of generation {theirs}, and {place} of {own}")]
    OtherGeneration {
        /// What is healed.
        place: String,
        /// Its generation; 0 where no roster is left.
        own: u64,
        /// The copy.
        copy: String,
        /// The generation of the copy.
        theirs: u64,
    },
    /// A prune has deleted what was to be copied, and says so in a tombstone that is too young.
    #[error("{object} was pruned while it was to be copied")]
    PrunedMeanwhile {
        /// The object.
        object: String,
    },
    /// Source and target are one place.
    #[error("{place} is the repository itself")]
    SamePlace {
        /// The place.
        place: String,
    },
    /// The target is the primary of its generation.
    #[error("{place} is the primary, and the source a copy of it")]
    IsPrimary {
        /// The target.
        place: String,
    },
    /// Only a replica can be promoted.
    #[error("{place} is no replica")]
    NotReplica {
        /// The place.
        place: String,
    },
    /// It was asked to stop.
    #[error("stopped before the end")]
    Cancelled,
}

/// The error of a store, with its place.
pub(super) fn at(place: &str) -> impl Fn(StoreError) -> ReplicaError + use<> {
    let place = place.to_owned();
    move |source| ReplicaError::Store { place: place.clone(), source }
}
