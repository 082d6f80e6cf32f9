//! How much a run has written: numbers for its statistics, no more.

/// Counts of what was written.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct WriteCounts {
    /// Chunks that were new.
    pub new_chunks: u64,
    /// Their plain bytes.
    pub new_bytes: u64,
    /// Chunks that were there already.
    pub known_chunks: u64,
    /// Bytes of pack objects stored.
    pub stored_bytes: u64,
    /// Pack objects stored.
    pub stored_packs: u64,
}
