//! Why maintenance of a repository failed.
//!
//! An operation that fails here has deleted nothing that any snapshot needs, and can be run again.

use std::path::PathBuf;

use jiff::Timestamp;

use crate::compress::CompressError;
use crate::crypto::seal::SealError;
use crate::id::ObjectId;
use crate::index::database::IndexError;
use crate::maintenance::prune_plan::PruneError;
use crate::maintenance::retention::RetentionError;
use crate::repo::error::RepoError;
use crate::repo::pack_builder::PackBuildError;
use crate::repo::pack_reader::PackReadError;
use crate::repo::read_access::ReadError;
use crate::store::StoreError;

/// Why maintenance failed.
#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    /// The repository is not as it must be, or cannot be read.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// Prune is not sure of what is needed.
    #[error(transparent)]
    Prune(#[from] PruneError),
    /// The policy has no rule.
    #[error(transparent)]
    Retention(#[from] RetentionError),
    /// The roster requires that the snapshot is kept.
    #[error("snapshot {snapshot} must be kept until {until}")]
    Floor {
        /// The snapshot object.
        snapshot: ObjectId,
        /// End of the retention floor.
        until: Timestamp,
    },
    /// A snapshot that should be brought back is not whole any more.
    #[error("{missing} objects of snapshot {snapshot} have been deleted")]
    Gone {
        /// The snapshot object.
        snapshot: ObjectId,
        /// How many objects it lacks.
        missing: usize,
    },
    /// Other maintainers were faster, again and again.
    #[error("{object} was taken by another maintainer, {attempts} times in a row")]
    Contended {
        /// The object that was to be written last.
        object: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// It was asked to stop.
    #[error("stopped before the end")]
    Cancelled,
    /// Chunks could not be read.
    #[error("the data could not be read")]
    Read(#[from] ReadError),
    /// A pack could not be read in full.
    #[error("a pack could not be read")]
    Pack(#[from] PackReadError),
    /// A pack could not be built.
    #[error("a pack could not be built")]
    Build(#[from] PackBuildError),
    /// zstd failed.
    #[error("data could not be compressed")]
    Compress(#[from] CompressError),
    /// What was compressed does not decode to what went in.
    #[error("a frame of {raw_bytes} bytes does not decode to what was compressed")]
    FrameMismatch {
        /// Length of its content.
        raw_bytes: usize,
    },
    /// An object could not be sealed.
    #[error("an object could not be sealed")]
    Seal(#[from] SealError),
    /// The local index failed.
    #[error("the local index failed")]
    Index(#[from] IndexError),
    /// The record of what was read failed.
    #[error("the record of packs that were read cannot be used: {path}")]
    Checked {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A file of the local state cannot be removed.
    #[error("removing {path} failed")]
    Remove {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A backup of this host is running.
    #[error("{runs} runs of this host are using the local index")]
    Busy {
        /// How many.
        runs: usize,
    },
}
