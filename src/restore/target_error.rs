//! Why an entry could not be restored.
//!
//! Every message names the entry, escaped: names come from the repository.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::restore::target_path::{BadPath, TargetPath, escape};

/// Trouble with one entry; the others may still be restored unless [`TargetError::is_fatal`].
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The name or path itself is refused.
    #[error(transparent)]
    BadPath(#[from] BadPath),
    /// The target's directory cannot be opened or made.
    #[error("the restore target {path} cannot be used")]
    Unusable {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something of that name is there, and overwriting was not asked for.
    #[error("{path} exists")]
    Exists {
        /// Escaped path in the target.
        path: String,
    },
    /// A directory with something in it stands where another kind of entry should be.
    #[error("{path} is a directory that is not empty")]
    NotEmpty {
        /// Escaped path in the target.
        path: String,
    },
    /// A symbolic link or a file stands where one of the entry's directories should be.
    #[error("a parent of {path} is not a directory")]
    NotBeneath {
        /// Escaped path in the target.
        path: String,
    },
    /// The object at the path is no longer the one that was restored there.
    #[error("{path} was exchanged by another process")]
    Exchanged {
        /// Escaped path in the target.
        path: String,
    },
    /// A kind of entry that is restored only when asked for.
    #[error("{path} is a {kind}, which was not asked for")]
    NotAsked {
        /// Escaped path in the target.
        path: String,
        /// `device` or `socket`.
        kind: &'static str,
    },
    /// A write past the size that the file was created with.
    #[error("{path} would have {end_bytes} bytes instead of {size_bytes}")]
    TooLong {
        /// Escaped path in the target.
        path: String,
        /// Size that the entry says.
        size_bytes: u64,
        /// Where the write would have ended.
        end_bytes: u64,
    },
    /// Anything else the system said.
    #[error("{action} {path} failed")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// Escaped path in the target.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl TargetError {
    /// Whether no further entry can be restored either: no space, read-only, broken medium.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        const FATAL: [Errno; 4] = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO];
        match self {
            Self::Unusable { .. } => true,
            Self::Io { source, .. } => {
                Errno::from_io_error(source).is_some_and(|errno| FATAL.contains(&errno))
            }
            _ => false,
        }
    }

    /// The system's answer to `action` on a path.
    pub(super) fn io(action: &'static str, path: &TargetPath, error: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_string(), source: error.into() }
    }

    /// The system's answer when the directory `dir` was to be opened.
    pub(super) fn descent(dir: &[u8], error: Errno) -> Self {
        let path = escape(dir);
        match error {
            Errno::LOOP | Errno::XDEV | Errno::NOTDIR => Self::NotBeneath { path },
            _ => Self::Io { action: "open", path, source: error.into() },
        }
    }
}
