//! Reads a byte stream: blocks are cut in the order of their bytes and hashed by the workers.

use std::sync::Arc;

use crate::backup::block::{Block, BlockPool};
use crate::backup::error::BackupError;
use crate::backup::item::{CutBytes, Ended, Entry, Item};
use crate::backup::ordered::Giver;
use crate::backup::run::RootSource;
use crate::chunker::{ChunkSizes, Chunker};
use crate::crypto::ids::DomainKeys;
use crate::format::node::{Node, NodeKind};
use crate::progress::Progress;
use crate::repo::workers::Submitter;
use crate::source::error::SourceError;
use crate::source::stream::ByteStream;

/// Plain bytes that are cut and hashed as one piece of work.
const BLOCK_BYTES: usize = 1024 * 1024;

/// What a reading thread needs.
#[derive(Clone)]
pub struct Reading {
    /// Keys of the chunk ids.
    pub keys: DomainKeys,
    /// Where hashing is done.
    pub workers: Submitter,
    /// Memory of blocks.
    pub blocks: BlockPool,
    /// Whether to go on.
    pub progress: Arc<Progress>,
}

impl Reading {
    /// Reads to the end (`read` gives 0) in blocks of whole chunks; `false` when nobody takes any more.
    ///
    /// # Errors
    /// A read error; what was given before it is of no use.
    pub fn cut_all(
        &self,
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize, SourceError>,
        chunker: &Chunker,
        items: &mut Giver<Item>,
    ) -> Result<bool, SourceError> {
        self.cut_each(read, chunker, items, |item| item)
    }

    /// As [`Reading::cut_all`], into a lane.
    ///
    /// # Errors
    /// A read error; what was given before it is of no use.
    pub fn cut_lane(
        &self,
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize, SourceError>,
        chunker: &Chunker,
        items: &mut Giver<Item>,
        lane: u32,
    ) -> Result<bool, SourceError> {
        self.cut_each(read, chunker, items, move |item| Item::InLane(lane, Box::new(item)))
    }

    fn cut_each(
        &self,
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize, SourceError>,
        chunker: &Chunker,
        items: &mut Giver<Item>,
        wrap: impl Fn(Item) -> Item + Copy + Send + 'static,
    ) -> Result<bool, SourceError> {
        let mut rest = Vec::new();
        loop {
            let (mut block, at_end) = self.fill(read, &rest)?;
            let (lengths, cut) = cut(chunker, &block, at_end);
            rest.clear();
            rest.extend_from_slice(&block[cut..]);
            block.truncate(cut);
            if !block.is_empty() && !self.hash(block, lengths, items, wrap) {
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

    /// Reads until a block that begins with `rest` is full or the stream ends; whether it ended.
    fn fill(
        &self,
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize, SourceError>,
        rest: &[u8],
    ) -> Result<(Block, bool), SourceError> {
        let mut block = self.blocks.block(rest.len().max(BLOCK_BYTES) + BLOCK_BYTES / 4);
        block[..rest.len()].copy_from_slice(rest);
        let mut length = rest.len();
        while length < block.len() {
            match read(&mut block[length..])? {
                0 => {
                    block.truncate(length);
                    return Ok((block, true));
                }
                bytes => length += bytes,
            }
        }
        Ok((block, false))
    }

    fn hash(
        &self,
        block: Block,
        lengths: Vec<u32>,
        items: &mut Giver<Item>,
        wrap: impl Fn(Item) -> Item + Send + 'static,
    ) -> bool {
        let Some(slot) = items.slot() else { return false };
        let keys = self.keys.clone();
        self.workers.submit(move |_| {
            slot.fill(wrap(Item::Data(CutBytes::hash(&keys, block, &lengths))));
        });
        true
    }
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

/// Opens a stream when its turn has come: a command starts only then.
pub type OpenStream = Box<dyn FnOnce() -> Result<Box<dyn ByteStream>, SourceError> + Send>;

/// What it means that a stream has no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Emptiness {
    /// Something may be wrong with what it comes from.
    Strange,
    /// Nothing.
    Normal,
}

/// A byte stream as a root: standard input, or what a command prints.
pub struct StreamRoot {
    name: String,
    open: Option<OpenStream>,
    emptiness: Emptiness,
}

impl StreamRoot {
    /// A stream of that name.
    #[must_use]
    pub fn new(name: String, open: OpenStream) -> Self {
        Self { name, open: Some(open), emptiness: Emptiness::Strange }
    }

    /// The same where it is nothing to warn of that it is empty.
    #[must_use]
    pub fn often_empty(self) -> Self {
        Self { emptiness: Emptiness::Normal, ..self }
    }

    fn read_whole(
        &mut self,
        reading: &Reading,
        chunker: &Chunker,
        items: &mut Giver<Item>,
    ) -> Result<bool, SourceError> {
        let unfinished = || SourceError::Unfinished { name: self.name.clone() };
        let mut stream = self.open.take().ok_or_else(unfinished)?()?;
        let mut bytes = 0;
        let mut counted = |buffer: &mut [u8]| {
            let length = stream.read(buffer)?;
            bytes += length as u64;
            Ok(length)
        };
        let read = reading.cut_all(&mut counted, chunker, items);
        if let Ok(false) = read {
            return Ok(false);
        }
        // A command that failed says more than the broken read it may have caused.
        stream.finish()?;
        if bytes == 0 && self.emptiness == Emptiness::Strange {
            let name = &self.name;
            let what = format!("the stream {name} is empty: nothing came out of it");
            reading.progress.warn(what);
        }
        read
    }
}

impl RootSource for StreamRoot {
    fn name(&self) -> String {
        format!("stream:{}", self.name)
    }

    fn path(&self) -> Vec<u8> {
        self.name.clone().into_bytes()
    }

    fn chunk_sizes(&self) -> ChunkSizes {
        ChunkSizes::STREAM
    }

    fn read(&mut self, reading: &Reading, chunker: &Chunker, items: &mut Giver<Item>) {
        let entry = Entry {
            dir: Arc::from([]),
            node: Node::new(NodeKind::Stream, self.name.as_bytes()),
            device: 0,
            inode: 0,
            link_group: None,
        };
        if !items.give(Item::Begin(Box::new(entry.clone()))) {
            return;
        }
        let last = match self.read_whole(reading, chunker, items) {
            Ok(false) => return,
            Ok(true) => {
                let ended = Ended { entry, hash: None, is_known: false, discard: None };
                Item::End(Box::new(ended))
            }
            Err(source) => Item::Failed(BackupError::Source { name: self.name.clone(), source }),
        };
        items.give(last);
    }
}
