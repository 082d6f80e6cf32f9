//! What can go wrong with one item of a source; each says which item.

use std::path::PathBuf;
use std::process::ExitStatus;

use rustix::io::Errno;

use crate::source::redis::aof::AofError;
use crate::source::redis::error::RedisError;

/// Why an item of a source could not be read. The rest of the source goes on.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The system refused or failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb: `open`, `lstat`, `read`, `list`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It was there a moment ago (listed, or given by the caller) and is no longer.
    #[error("{} has vanished", path.display())]
    Vanished {
        /// Which item.
        path: PathBuf,
    },
    /// Under the name there is now another file than the one that was looked at.
    #[error("{} was replaced by another file meanwhile", path.display())]
    Replaced {
        /// Which item.
        path: PathBuf,
    },
    /// The item exceeds a limit of the format.
    #[error("{} exceeds the limit {limit} ({actual} > {max})", path.display())]
    LimitExceeded {
        /// Which item.
        path: PathBuf,
        /// Name of the limit in `format/limits.rs`.
        limit: &'static str,
        /// Its value.
        max: u64,
        /// What the item has.
        actual: u64,
    },
    /// The file system reports a kind of file that no node can have.
    #[error("{} has the unknown file type {mode:#o}", path.display())]
    UnknownKind {
        /// Which item.
        path: PathBuf,
        /// `st_mode` as the system gave it.
        mode: u32,
    },
    /// A pattern in an exclude option or in an ignore file is malformed.
    #[error("invalid exclude pattern {pattern:?} in {origin}")]
    BadPattern {
        /// The pattern as written.
        pattern: String,
        /// Option or file it comes from.
        origin: String,
        /// What is wrong with it.
        source: PatternError,
    },
    /// A stream was closed before its end had been seen.
    #[error("stream {name} was closed before its end")]
    Unfinished {
        /// Name of the stream.
        name: String,
    },
    /// A command whose output was read has failed: what it wrote is no backup.
    #[error("command {program} failed ({status}){}", tail_text(stderr_tail))]
    CommandFailed {
        /// First word of its command line.
        program: String,
        /// `exit status: 1`, `signal: 9 (SIGKILL)`.
        status: ExitStatus,
        /// The last bytes it wrote to standard error, at most 64 KiB, as text.
        stderr_tail: String,
    },
    /// A Redis server failed, or the way to it.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// An append-only file of Redis cannot be saved.
    #[error(transparent)]
    Aof(#[from] AofError),
    /// A command line without a program.
    #[error("the command line is empty")]
    EmptyCommand,
}

/// What is wrong with an exclude pattern.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// It is not valid UTF-8; bytes that are not are matched by `?` and `*`.
    #[error("it is not UTF-8")]
    NotUtf8,
    /// Nothing is left of it without `!` and `/`.
    #[error("it is empty")]
    Empty,
    /// Unbalanced brackets or the like.
    #[error(transparent)]
    Glob(#[from] globset::Error),
    /// The same in an ignore file.
    #[error(transparent)]
    Ignore(#[from] ignore::Error),
}

impl SourceError {
    /// The error for a failed system call; `ENOENT` means that the item has vanished.
    pub(crate) fn from_errno(action: &'static str, path: PathBuf, errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::Vanished { path },
            _ => Self::Io { action, path, source: errno.into() },
        }
    }
}

fn tail_text(tail: &str) -> String {
    let last = tail.lines().rev().find(|line| !line.trim().is_empty());
    last.map(|line| format!(": {}", line.trim())).unwrap_or_default()
}
