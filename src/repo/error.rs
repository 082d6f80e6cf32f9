//! What can go wrong with a repository as a whole.

use std::path::PathBuf;

use crate::crypto::recipient::KeyTextError;
use crate::crypto::seal::SealError;
use crate::crypto::secret::RandomnessError;
use crate::crypto::unseal::OpenError;
use crate::format::index_segment::SegmentError;
use crate::format::refs::RefsError;
use crate::format::signed_text::TextError;
use crate::format::snapshot::SnapshotError;
use crate::id::{ActorId, RepositoryId};
use crate::index::database::IndexError;
use crate::repo::chunk_writer::WriteError;
use crate::store::StoreError;

/// Why an operation on a repository failed.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// There is no repository at the place.
    #[error("there is no repository at {location}")]
    NotThere {
        /// The place.
        location: String,
    },
    /// There is one already.
    #[error("there is a repository at {location} already")]
    Exists {
        /// The place.
        location: String,
    },
    /// Somebody was stopped while making one.
    #[error("{location} holds the beginning of a repository that was never finished")]
    Unfinished {
        /// The place.
        location: String,
    },
    /// Two hosts changed the roster at once, and the other one was first.
    #[error("another host has written {object} meanwhile")]
    RosterTaken {
        /// The roster that is there now.
        object: String,
    },
    /// This host has the keys of another writer.
    #[error("this host is writer {present} already")]
    OtherWriter {
        /// Whose keys it has.
        present: ActorId,
    },
    /// The key file is the last one that opens the repository.
    #[error("the last key file is not removed")]
    LastKey,
    /// No key file is so called, or no writer.
    #[error("there is no {kind} {name:?}")]
    NotFound {
        /// `key file`, `writer`.
        kind: &'static str,
        /// As it was given.
        name: String,
    },
    /// The format is newer than this program.
    #[error("the repository has format {found:?}, this program knows `holdfast 1`")]
    FormatUnknown {
        /// What its FORMAT says, cut.
        found: String,
    },
    /// The place holds another repository than the one that this host knows there.
    #[error("repository {found} is at {location}, where this host knows {pinned}")]
    Replaced {
        /// The place.
        location: String,
        /// What this host has seen there before.
        pinned: RepositoryId,
        /// What is there now.
        found: RepositoryId,
    },
    /// A signed text is refused.
    #[error("{object} is refused")]
    Text {
        /// The object.
        object: String,
        /// Why.
        source: TextError,
    },
    /// Something that was there before is not there, or is another.
    #[error("the repository is not the one seen before: {what}")]
    Rollback {
        /// What is missing or different.
        what: String,
    },
    /// A chain of signed texts does not fit together.
    #[error("{object} does not continue what comes before it")]
    Chain {
        /// The object.
        object: String,
    },
    /// The medium does not give a signed text back.
    #[error("{object} cannot be read")]
    Unreadable {
        /// The object.
        object: String,
        /// What the store said.
        source: StoreError,
    },
    /// Another host writes with this host's key.
    #[error("{object} was written by somebody else with the key of writer {writer}")]
    DuplicateWriter {
        /// The commit that is there already.
        object: String,
        /// Whose key it is.
        writer: ActorId,
    },
    /// An object is not what its name says.
    #[error("the bytes of {object} are not those that its name stands for")]
    WrongName {
        /// The object.
        object: String,
    },
    /// A sealed object cannot be opened.
    #[error("{object} cannot be opened")]
    Open {
        /// The object.
        object: String,
        /// Why.
        source: OpenError,
    },
    /// A snapshot cannot be read.
    #[error("{object} cannot be read")]
    Snapshot {
        /// The object.
        object: String,
        /// Why.
        source: SnapshotError,
    },
    /// A refs object cannot be read.
    #[error("{object} cannot be read")]
    Refs {
        /// The object.
        object: String,
        /// Why.
        source: RefsError,
    },
    /// An index segment cannot be read.
    #[error("{object} cannot be read")]
    Segment {
        /// The object.
        object: String,
        /// Why.
        source: SegmentError,
    },
    /// What is inside an object contradicts its name or the commit that names it.
    #[error("{object} belongs to another place: {what}")]
    Misplaced {
        /// The object.
        object: String,
        /// What does not agree.
        what: &'static str,
    },
    /// This host holds no key for it.
    #[error("this host has no {role} key for repository {repository}")]
    NoKey {
        /// `writer`, `maintainer`, `root`.
        role: &'static str,
        /// The repository.
        repository: RepositoryId,
    },
    /// The roster does not allow it.
    #[error("the roster does not list {role} {id} as one that may write")]
    NotInRoster {
        /// `writer`, `maintainer`.
        role: &'static str,
        /// Who.
        id: ActorId,
    },
    /// None of the keys given opens the repository.
    #[error("none of {tried} key files of the repository opens with the key given")]
    WrongKey {
        /// Key files that were tried.
        tried: usize,
    },
    /// The recipient that writers would seal to is not the one that ROOT has signed.
    #[error("no recipient fits the active epoch {epoch} of the roster")]
    RecipientUnknown {
        /// The epoch.
        epoch: u32,
    },
    /// A pack that the run relies on is about to be deleted.
    #[error("{packs} packs that this run has reused are about to be deleted by a prune")]
    PacksIntended {
        /// How many.
        packs: usize,
    },
    /// A pack that this run has stored is not in the local index any more.
    #[error("pack {number} of this run has gone from the local index")]
    PackLost {
        /// Its number there.
        number: u32,
    },
    /// A pack that a snapshot needs is not in the index.
    #[error("pack {handle} is referenced and not in the index")]
    PackUnknown {
        /// Its handle.
        handle: crate::id::PackHandle,
    },
    /// A file of the local state cannot be used.
    #[error("{action} {path} failed")]
    State {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the local state does not hold what it must.
    #[error("{path} does not hold {what}")]
    StateContent {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The place is a replica: it is written by copying only.
    #[error("{location} is a replica")]
    IsReplica {
        /// The place.
        location: String,
    },
    /// The local index failed.
    #[error("the local index failed")]
    Index(#[from] IndexError),
    /// Chunks could not be written.
    #[error("the data could not be stored")]
    Write(#[from] WriteError),
    /// Something could not be sealed.
    #[error("an object could not be sealed")]
    Seal(#[from] SealError),
    /// The system has no randomness.
    #[error("no key could be drawn")]
    Randomness(#[from] RandomnessError),
    /// A recipient or identity is none.
    #[error("a key cannot be used")]
    KeyText(#[from] KeyTextError),
    /// Something could not be signed.
    #[error("an object could not be signed")]
    Sign(#[source] TextError),
}
