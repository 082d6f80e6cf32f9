//! Every limit of the format, named; `format-spec/limits.md` is the same table and a test compares them.
//!
//! A decoder checks a length against these before it allocates.

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident: $value:expr;)*) => {
        $($(#[$doc])* pub const $name: u64 = $value;)*
        /// All limits by name, for the test that compares them with the specification.
        pub const ALL: &[(&str, u64)] = &[$((stringify!($name), $name)),*];
    };
}

limits! {
    /// Format number of repositories that this program writes and reads.
    FORMAT_NUMBER: 1;
    /// Exact size in bytes of every full pack object; a roster may say another.
    PACK_BYTES_DEFAULT: 32 * 1024 * 1024;
    /// Smallest pack size a roster may say.
    PACK_BYTES_MIN: 1024 * 1024;
    /// Largest pack size a roster may say.
    PACK_BYTES_MAX: 256 * 1024 * 1024;
    /// Smallest sealed object; smaller ones are padded up to it.
    SEALED_BYTES_MIN: 16 * 1024;
    /// Largest plaintext of one chunk.
    CHUNK_BYTES_MAX: 4 * 1024 * 1024;
    /// Largest plaintext of one frame.
    FRAME_BYTES_MAX: 8 * 1024 * 1024;
    /// Most frames in one pack.
    FRAMES_PER_PACK_MAX: 65_536;
    /// Most chunks in one pack.
    CHUNKS_PER_PACK_MAX: 262_144;
    /// Most packs in one index segment.
    PACKS_PER_INDEX_MAX: 8_192;
    /// Largest plaintext of an index segment.
    INDEX_BYTES_MAX: 64 * 1024 * 1024;
    /// Largest plaintext of a snapshot.
    SNAPSHOT_BYTES_MAX: 16 * 1024 * 1024;
    /// Largest plaintext of a refs object.
    REFS_BYTES_MAX: 256 * 1024 * 1024;
    /// Largest signed text (roster, commit, tombstone, attestation).
    SIGNED_TEXT_BYTES_MAX: 4 * 1024 * 1024;
    /// Largest file below `keys/`.
    KEY_FILE_BYTES_MAX: 64 * 1024;
    /// Deepest directory, counted in path components.
    TREE_DEPTH_MAX: 4_096;
    /// Most levels of index nodes above the leaves of a tree.
    TREE_LEVELS_MAX: 16;
    /// Longest file name in bytes.
    NAME_BYTES_MAX: 255;
    /// Longest path, symlink target or stream name in bytes.
    PATH_BYTES_MAX: 65_536;
    /// Most extended attributes of one node.
    XATTRS_PER_NODE_MAX: 4_096;
    /// Largest value of one extended attribute.
    XATTR_BYTES_MAX: 1024 * 1024;
    /// Most levels of reference lists above the chunks of a file.
    LIST_LEVELS_MAX: 4;
    /// Most roots in one snapshot.
    ROOTS_PER_SNAPSHOT_MAX: 4_096;
    /// Most tags of one snapshot.
    TAGS_PER_SNAPSHOT_MAX: 256;
    /// Largest zstd window, as a power of two.
    WINDOW_LOG_MAX: 23;
    /// Largest statement about itself that the root of a snapshot carries, as JSON.
    FACTS_BYTES_MAX: 1024 * 1024;
    /// As much as is kept of one record of a PostgreSQL log, to tell which transaction it ends.
    WAL_RECORD_KEPT_BYTES_MAX: 1024 * 1024;
    /// Largest history of a PostgreSQL timeline.
    TIMELINE_HISTORY_BYTES_MAX: 1024 * 1024;
    /// Largest line at the beginning of a segment of a Redis journal.
    JOURNAL_HEADER_BYTES_MAX: 4_096;
    /// Largest frame of a Redis journal.
    JOURNAL_FRAME_BYTES_MAX: 4 * 1024 * 1024;
    /// Largest list of the files that an append-only file of Redis consists of.
    AOF_MANIFEST_BYTES_MAX: 1024 * 1024;
    /// Most files of one.
    AOF_FILES_MAX: 1_024;
}
