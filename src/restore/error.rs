//! Why a restore ended early; trouble with single entries is reported and counted instead.

use std::error::Error;
use std::fmt::Write as _;

use crate::format::redis::facts::RecordFactsError;
use crate::repo::lanes::LaneError;
use crate::repo::read_access::ReadError;
use crate::repo::tree_reader::TreeReadError;
use crate::restore::target_error::TargetError;

/// Why a restore ended early. What is complete by then stays, and the next run continues.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The snapshot has nothing at that path.
    #[error("the snapshot has nothing at {path}")]
    NotFound {
        /// As asked for, escaped.
        path: String,
    },
    /// The path names something else than is needed here.
    #[error("{path} is no {wanted}")]
    WrongKind {
        /// As asked for, escaped.
        path: String,
        /// What is needed.
        wanted: &'static str,
    },
    /// The tree cannot be read.
    #[error("the snapshot cannot be read")]
    Tree(#[from] TreeReadError),
    /// Content cannot be read, where a gap would go unnoticed.
    #[error("the content of {path} cannot be read")]
    Content {
        /// Escaped path in the snapshot.
        path: String,
        /// Why.
        source: ReadError,
    },
    /// The repository cannot be read.
    #[error("the repository cannot be read")]
    Read(#[from] ReadError),
    /// The target takes nothing more.
    #[error("the target cannot be written")]
    Target(#[from] TargetError),
    /// Writing to the output failed.
    #[error("the output cannot be written")]
    Output(#[source] std::io::Error),
    /// What was put out has another hash than the snapshot says.
    #[error("the content of {path} does not have the hash that the snapshot says")]
    WrongHash {
        /// Escaped path in the snapshot.
        path: String,
    },
    /// The records of a dump do not fit together.
    #[error("the {what} of a dump of Redis are damaged")]
    Dump {
        /// Which of its parts.
        what: &'static str,
    },
    /// A dump of Redis is stored in a form that is not known.
    #[error("the dump of Redis cannot be put together")]
    DumpFacts(#[from] RecordFactsError),
    /// What is put together could not be kept meanwhile.
    #[error("the dump could not be put together")]
    Lanes(#[from] LaneError),
    /// It was asked to stop.
    #[error("the restore was interrupted")]
    Cancelled,
    /// A thread of the restore has panicked.
    #[error("a worker of the restore has ended unexpectedly")]
    WorkerLost,
}

/// An error with all its causes in one line, for messages about single entries.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
