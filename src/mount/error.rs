//! Why the file system cannot answer; what is damaged has been reported as a warning besides.

/// An answer that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VfsError {
    /// There is nothing of that name or number.
    #[error("there is no such entry")]
    NotFound,
    /// It is no directory.
    #[error("it is no directory")]
    NotDirectory,
    /// It is a directory.
    #[error("it is a directory")]
    IsDirectory,
    /// The question does not fit the entry.
    #[error("it is no entry of that kind")]
    WrongKind,
    /// The repository cannot be read, or what was read is not what was stored.
    #[error("it cannot be read")]
    Damaged,
    /// Too many trees or entries to be numbered.
    #[error("there is too much of it")]
    TooMany,
}
