//! Where bytes come from: file trees, streams, commands. Knows nothing of repositories.

/// Why a source ended early.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Reading failed.
    #[error("reading failed")]
    Read(#[source] std::io::Error),
}
