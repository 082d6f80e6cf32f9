//! A root of a snapshot of another repository as a root to back up: its entries as they are, its
//! chunks cut where they were cut, under the keys of this repository.

use std::sync::Arc;

use crate::backup::error::BackupError;
use crate::backup::item::{CutBytes, Ended, Entry, Item, KnownContent, Step};
use crate::backup::ordered::Giver;
use crate::backup::run::RootSource;
use crate::backup::stream::Reading;
use crate::chunker::{ChunkSizes, Chunker};
use crate::format::node::{Content, Node, NodeKind};
use crate::format::snapshot::{Facts, Root};
use crate::repo::chunk_reader::ChunkReader;
use crate::repo::content_reader::ContentRuns;
use crate::repo::read_access::{FrameSpan, ReadAccess};
use crate::repo::tree_reader::{TreeReadError, TreeReader};
use crate::source::error::SourceError;

/// Plain bytes that are hashed as one piece of work.
const BATCH_BYTES: usize = 1024 * 1024;

/// A root of a snapshot.
pub struct SnapshotRoot {
    access: Arc<ReadAccess>,
    root: Root,
    path: Vec<u8>,
    is_partial: bool,
}

impl SnapshotRoot {
    /// That root, read through `access`; of a snapshot in which items are missing the copy says so
    /// too.
    #[must_use]
    pub fn new(access: Arc<ReadAccess>, root: Root, is_partial: bool) -> Self {
        let path = root.path.clone();
        Self { access, root, path, is_partial }
    }

    fn read_all(&self, reading: &Reading, items: &mut Giver<Item>) -> Result<bool, TreeReadError> {
        let mut chunks = self.access.reader()?;
        if self.is_partial {
            let message = format!("{}: items were missing when it was saved", self.root.name);
            items.give(Item::Batch(vec![Step::Unreadable(message)]));
        }
        let first = (Arc::from([]), self.root.node.clone());
        if !self.give(first, &mut chunks, reading, items)? {
            return Ok(false);
        }
        if !self.root.node.is_dir() {
            return Ok(true);
        }
        let mut dir: Arc<[u8]> = Arc::from([]);
        for entry in TreeReader::open(&self.access, &self.root)? {
            let (key, node) = entry?;
            if *dir != key.dir[..] {
                dir = Arc::from(&key.dir[..]);
            }
            if reading.progress.is_cancelled() {
                items.give(Item::Failed(BackupError::Cancelled));
                return Ok(false);
            }
            if !self.give((Arc::clone(&dir), node), &mut chunks, reading, items)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives one entry with its content; `false` when nobody takes any more.
    fn give(
        &self,
        (dir, mut node): (Arc<[u8]>, Node),
        chunks: &mut ChunkReader,
        reading: &Reading,
        items: &mut Giver<Item>,
    ) -> Result<bool, TreeReadError> {
        let content = std::mem::take(&mut node.content);
        let (hash, link_group) = (node.hash, node.link_group);
        let entry = Entry { dir, node, device: 0, inode: 0, link_group };
        let has_content = matches!(entry.node.kind, NodeKind::File | NodeKind::Stream);
        if !has_content || (content.runs.is_empty() && entry.node.kind == NodeKind::File) {
            return Ok(items.give(Item::Batch(vec![Step::Known(entry, KnownContent::None)])));
        }
        if !items.give(Item::Begin(Box::new(entry.clone()))) {
            return Ok(false);
        }
        if !self.give_content(&content, chunks, reading, items)? {
            return Ok(false);
        }
        Ok(items.give(Item::End(Box::new(Ended { entry, hash, is_known: false, discard: None }))))
    }

    fn give_content(
        &self,
        content: &Content,
        chunks: &mut ChunkReader,
        reading: &Reading,
        items: &mut Giver<Item>,
    ) -> Result<bool, TreeReadError> {
        let mut runs = ContentRuns::new(content)?;
        let mut spans: Vec<FrameSpan> = Vec::new();
        let (mut bytes, mut lengths) = (Vec::new(), Vec::new());
        while let Some(run) = runs.next(chunks)? {
            self.access.spans(&run, &mut spans)?;
            for span in spans.drain(..) {
                let is_whole = span.slice.is_none();
                let before = bytes.len();
                bytes.extend_from_slice(chunks.span(&span, span.frame)?);
                if is_whole {
                    lengths.extend(self.access.chunk_lengths(&span)?);
                } else {
                    lengths.push((bytes.len() - before) as u32);
                }
                if bytes.len() >= BATCH_BYTES && !give_cut(&mut bytes, &mut lengths, reading, items)
                {
                    return Ok(false);
                }
            }
        }
        Ok(bytes.is_empty() || give_cut(&mut bytes, &mut lengths, reading, items))
    }
}

fn give_cut(
    bytes: &mut Vec<u8>,
    lengths: &mut Vec<u32>,
    reading: &Reading,
    items: &mut Giver<Item>,
) -> bool {
    let Some(slot) = items.slot() else { return false };
    let keys = reading.keys.clone();
    let (block, lengths) = (std::mem::take(bytes).into(), std::mem::take(lengths));
    reading.workers.submit(move |_| {
        slot.fill(Item::Data(CutBytes::hash(&keys, block, &lengths)));
    });
    true
}

impl RootSource for SnapshotRoot {
    fn name(&self) -> String {
        self.root.name.clone()
    }

    fn path(&self) -> Vec<u8> {
        self.path.clone()
    }

    fn chunk_sizes(&self) -> ChunkSizes {
        ChunkSizes::STREAM
    }

    fn facts(&self) -> Option<Facts> {
        self.root.facts.clone()
    }

    fn read(&mut self, reading: &Reading, _: &Chunker, items: &mut Giver<Item>) {
        if let Err(error) = self.read_all(reading, items) {
            let (name, path) = (self.name(), self.name().into());
            let source = std::io::Error::other(error);
            let source = SourceError::Io { action: "read", path, source };
            items.give(Item::Failed(BackupError::Source { name, source }));
        }
    }
}
