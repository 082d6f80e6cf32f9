//! Why a backup saved nothing.

use crate::backup::dump_records::DumpError;
use crate::index::database::IndexError;
use crate::index::previous_tree::PreviousTreeError;
use crate::repo::chunk_writer::WriteError;
use crate::repo::error::RepoError;
use crate::source::postgres::error::PostgresError;

/// A run that ended without a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The repository failed.
    #[error("the repository could not be used")]
    Repo(#[from] RepoError),
    /// Chunks could not be written.
    #[error("the data could not be stored")]
    Write(#[from] WriteError),
    /// The local index failed.
    #[error("the local index failed")]
    Index(#[from] IndexError),
    /// The local copy of the tree could not be written.
    #[error("the local state could not be written")]
    PreviousTree(#[from] PreviousTreeError),
    /// A stream ended by an error, so nothing was saved.
    #[error("the source {name} failed")]
    Source {
        /// Name of the stream or root.
        name: String,
        /// What went wrong.
        source: crate::source::error::SourceError,
    },
    /// A dump of Redis or Valkey is none that could be restored, or could not be sorted.
    #[error("the dump {name} was not saved")]
    Dump {
        /// Name of the source.
        name: String,
        /// What went wrong.
        source: DumpError,
    },
    /// A `PostgreSQL` server failed, or the way to it.
    #[error("the PostgreSQL server of {name} failed")]
    Postgres {
        /// Name of the source.
        name: String,
        /// What went wrong.
        source: PostgresError,
    },
    /// Files that are to be carried over into the next snapshot are not to be seen any more.
    #[error("the last snapshot of {name} cannot be built upon")]
    NothingToBuildOn {
        /// Name of the source.
        name: String,
    },
    /// A root does not exist or cannot be read at all.
    #[error("{path} cannot be backed up")]
    Root {
        /// The path, escaped.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Two roots or streams have one name.
    #[error("{name} is given twice")]
    DuplicateRoot {
        /// The name.
        name: String,
    },
    /// It was asked to stop.
    #[error("the backup was cancelled")]
    Cancelled,
    /// A thread of the run ended early.
    #[error("a thread of the run has ended unexpectedly")]
    ThreadLost,
}
