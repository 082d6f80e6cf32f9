//! Reads a byte stream: blocks are cut in the order of their bytes and hashed by the workers.

use std::io::Read;
use std::sync::Arc;

use crate::backup::error::BackupError;
use crate::backup::item::{CutBytes, Ended, Entry, Item};
use crate::backup::ordered::Giver;
use crate::backup::run::{RootSource, SnapshotLabel};
use crate::chunker::{ChunkSizes, Chunker};
use crate::crypto::ids::DomainKeys;
use crate::format::node::{Node, NodeKind};
use crate::index::previous_tree::PreviousTreeWriter;
use crate::progress::Progress;
use crate::repo::session::WriteSession;
use crate::repo::workers::Submitter;
use crate::source::error::SourceError;

/// Plain bytes that are cut and hashed as one piece of work.
const BLOCK_BYTES: usize = 1024 * 1024;

/// What a reading thread needs.
#[derive(Clone)]
pub struct Reading {
    /// Keys of the chunk ids.
    pub keys: DomainKeys,
    /// Where hashing is done.
    pub workers: Submitter,
    /// Whether to go on.
    pub progress: Arc<Progress>,
}

impl Reading {
    /// Reads `source` to its end in blocks of whole chunks; `false` when nobody takes any more.
    ///
    /// # Errors
    /// A read error; what was given before it is of no use.
    pub fn cut_all(
        &self,
        source: &mut dyn Read,
        chunker: &Chunker,
        items: &mut Giver<Item>,
    ) -> std::io::Result<bool> {
        let mut rest = Vec::new();
        loop {
            let (block, at_end) = fill(source, std::mem::take(&mut rest))?;
            let (lengths, cut) = cut(chunker, &block, at_end);
            let mut block = block;
            rest.clear();
            rest.extend_from_slice(&block[cut..]);
            block.truncate(cut);
            if !block.is_empty() && !self.hash(block, lengths, items) {
                return Ok(false);
            }
            if at_end {
                return Ok(true);
            }
            if self.progress.is_cancelled() {
                items.give(Item::Failed(BackupError::Cancelled));
                return Ok(false);
            }
        }
    }

    fn hash(&self, block: Vec<u8>, lengths: Vec<u32>, items: &mut Giver<Item>) -> bool {
        let Some(slot) = items.slot() else { return false };
        let keys = self.keys.clone();
        self.workers.submit(move |_| {
            slot.fill(Item::Data(CutBytes::hash(&keys, block, &lengths)));
        });
        true
    }
}

/// Reads until the block is full or the stream ends; whether it ended.
fn fill(source: &mut dyn Read, mut block: Vec<u8>) -> std::io::Result<(Vec<u8>, bool)> {
    let mut length = block.len();
    block.resize(length.max(BLOCK_BYTES) + BLOCK_BYTES / 4, 0);
    while length < block.len() {
        match source.read(&mut block[length..]) {
            Ok(0) => {
                block.truncate(length);
                return Ok((block, true));
            }
            Ok(read) => length += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((block, false))
}

/// Lengths of the chunks at the front of the block whose ends are certain, and their sum.
fn cut(chunker: &Chunker, block: &[u8], at_end: bool) -> (Vec<u32>, usize) {
    let mut lengths = Vec::new();
    let mut at = 0;
    while let Some(length) = chunker.cut(&block[at..], at_end) {
        lengths.push(length as u32);
        at += length;
    }
    (lengths, at)
}

/// A byte stream as a root: standard input, or what a command prints.
pub struct StreamRoot<R> {
    name: String,
    source: R,
}

/// A reader whose end can be a failure.
pub trait EndingRead: Read + Send {
    /// Says whether the end that was read is the real one.
    ///
    /// # Errors
    /// The source has failed: what was read is no backup.
    fn finish(&mut self) -> Result<(), SourceError>;
}

impl<R: EndingRead> StreamRoot<R> {
    /// A stream of that name.
    #[must_use]
    pub fn new(name: String, source: R) -> Self {
        Self { name, source }
    }
}

impl<R: EndingRead> RootSource for StreamRoot<R> {
    fn name(&self) -> String {
        format!("stream:{}", self.name)
    }

    fn path(&self) -> Vec<u8> {
        self.name.clone().into_bytes()
    }

    fn chunk_sizes(&self) -> ChunkSizes {
        ChunkSizes::STREAM
    }

    fn previous(
        &mut self,
        _: &mut WriteSession,
        _: &SnapshotLabel,
    ) -> Result<Option<PreviousTreeWriter>, BackupError> {
        Ok(None)
    }

    fn read(&mut self, reading: &Reading, chunker: &Chunker, items: &mut Giver<Item>) {
        let entry = Entry {
            dir: Arc::from([]),
            node: Node::new(NodeKind::Stream, self.name.as_bytes()),
            device: 0,
            inode: 0,
            link_count: 1,
        };
        if !items.give(Item::Begin(Box::new(entry.clone()))) {
            return;
        }
        let read = reading.cut_all(&mut self.source, chunker, items).map_err(|source| {
            SourceError::Io { action: "read", path: self.name.clone().into(), source }
        });
        // A command that failed says more than the broken read it may have caused.
        let last = match (self.source.finish(), read) {
            (Ok(()), Ok(true)) => {
                let ended = Ended { entry, hash: None, is_known: false, discard: None };
                Item::End(Box::new(ended))
            }
            (Ok(()), Ok(false)) => return,
            (Err(source), _) | (Ok(()), Err(source)) => {
                Item::Failed(BackupError::Source { name: self.name.clone(), source })
            }
        };
        items.give(last);
    }
}
