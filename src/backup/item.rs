//! What flows from the threads that read to the thread that writes the snapshot.

use std::sync::Arc;

use crate::backup::block::Block;
use crate::backup::pieces::Pieces;
use crate::crypto::ids::{ChunkKind, DomainKeys};
use crate::format::node::{ChunkRun, Node};
use crate::id::{ChunkId, ContentHash};

/// An entry of a tree, or a stream, with what the next run compares it with.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Path of the parent below the root.
    pub dir: Arc<[u8]>,
    /// The node; its content is filled in when it is known.
    pub node: Node,
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Same number: the same file under another name.
    pub link_group: Option<u64>,
}

/// Plain bytes cut into chunks, with their ids.
#[derive(Debug, Default)]
pub struct CutBytes {
    /// The bytes, chunk after chunk.
    pub bytes: Block,
    /// Id and length of each chunk.
    pub chunks: Vec<(ChunkId, u32)>,
}

impl CutBytes {
    /// Computes the ids of chunks of those lengths.
    #[must_use]
    pub fn hash(keys: &DomainKeys, bytes: Block, lengths: &[u32]) -> Self {
        let mut rest = &bytes[..];
        let chunks = lengths
            .iter()
            .map(|length| {
                let (chunk, after) = rest.split_at(*length as usize);
                rest = after;
                (keys.chunk_id(ChunkKind::Data, chunk), *length)
            })
            .collect();
        Self { bytes, chunks }
    }
}

/// Pages of a file beside those of the previous snapshot.
#[derive(Debug, Default)]
pub struct Pages {
    /// Length of a page in bytes; the last of a file may be shorter.
    pub page_bytes: u32,
    /// Fingerprint of each page, 16 bytes.
    pub fingerprints: Vec<u8>,
    /// For each page whether it is the same as before.
    pub kept: Vec<bool>,
    /// The pages that are not, one after another.
    pub changed: Block,
    /// Plain bytes of all the pages.
    pub total_bytes: u64,
    /// Plain bytes that were read of them.
    pub read_bytes: u64,
}

/// One step of a run, in the order of the tree.
pub enum Item {
    /// Entries that are whole: known, small, or not to be had.
    Batch(Vec<Step>),
    /// A large file or a stream begins.
    Begin(Box<Entry>),
    /// The file is cut in pages, and was in the previous snapshot: the references it had there.
    PreviousPages(Vec<ChunkRun>),
    /// The file is made of pieces, and was so in the previous snapshot: the references it had there.
    PreviousPieces(Vec<ChunkRun>),
    /// The next bytes of it.
    Data(CutBytes),
    /// The next pages of it.
    Pages(Pages),
    /// The next pieces of it.
    Pieces(Pieces),
    /// It changed while it was read: what came so far is of no use, it is read once more.
    Again,
    /// It ends.
    End(Box<Ended>),
    /// Something of one of several files that are read at once, each in a lane of its own: what one
    /// lane gives is in order. Only where entries may come in any order.
    InLane(u32, Box<Item>),
    /// The source has failed: nothing is saved.
    Failed(crate::backup::error::BackupError),
}

/// One entry of a batch.
pub enum Step {
    /// Its content is known, or it has none.
    Known(Entry, KnownContent),
    /// A small file that was read as a whole.
    Small(SmallFile),
    /// It could not be read; the message names it. The rest goes on.
    Unreadable(String),
    /// It is saved, but something about it is worth a word.
    Warning(String),
}

/// Content that needs no reading.
#[derive(Debug, Clone)]
pub enum KnownContent {
    /// None: a directory, a link, an empty file.
    None,
    /// The same as in the previous snapshot.
    Same {
        /// Its references.
        runs: Vec<ChunkRun>,
        /// Its page fingerprints.
        fingerprints: Vec<u8>,
    },
}

/// A file that was read as a whole.
pub struct SmallFile {
    /// The entry; size, times and holes as they were while it was read.
    pub entry: Entry,
    /// Its content.
    pub cut: CutBytes,
    /// Whether the previous snapshot had the file.
    pub is_known: bool,
}

/// How the reading of a large file or a stream ended.
pub struct Ended {
    /// The entry as it is to be stored.
    pub entry: Entry,
    /// BLAKE3 of the content where the reader has computed it.
    pub hash: Option<ContentHash>,
    /// Whether the previous snapshot had the file.
    pub is_known: bool,
    /// The bytes are of no use: the file is left out, with this message.
    pub discard: Option<String>,
}
