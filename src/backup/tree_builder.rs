//! Builds the tree of one root: entries in order into leaves, leaves below index nodes.
//!
//! Where a leaf ends is decided by the names of its entries, so an insertion changes one leaf and
//! the nodes above it, and an unchanged tree is the same chunks again.

use crate::backup::usage::Usage;
use crate::format::limits;
use crate::format::node::{ChunkRun, Node};
use crate::format::tree::{EntryKey, IndexChild, LeafBuilder, encode_index, join};
use crate::repo::chunk_writer::{ChunkWriter, WriteError};

const LEAF_BYTES_MIN: usize = 16 * 1024;
const LEAF_BYTES_MAX: usize = 256 * 1024;
/// One entry in so many ends a leaf that is long enough.
const LEAF_ENDS: u64 = 256;
const CHILDREN_MIN: usize = 16;
const CHILDREN_MAX: usize = 1024;
/// One child in so many ends an index node that is long enough.
const INDEX_ENDS: u64 = 128;

/// The tree of one root while it grows.
#[derive(Default)]
pub struct TreeBuilder {
    leaf: LeafBuilder,
    levels: Vec<Vec<IndexChild>>,
    entries: u64,
}

/// A finished tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuiltTree {
    /// Its top chunk; none for a tree without entries.
    pub top: Option<ChunkRun>,
    /// Index levels above the leaves.
    pub levels: u8,
    /// Entries in it.
    pub entries: u64,
}

impl TreeBuilder {
    /// Appends an entry; they come in the order of the tree.
    pub fn push(
        &mut self,
        dir: &[u8],
        node: &Node,
        writer: &mut ChunkWriter,
        usage: &mut Usage,
    ) -> Result<(), WriteError> {
        self.leaf.push(dir, node);
        self.entries += 1;
        let ends = key_hash(&join(dir, &node.name)).is_multiple_of(LEAF_ENDS);
        if self.leaf.len() >= LEAF_BYTES_MAX || (ends && self.leaf.len() >= LEAF_BYTES_MIN) {
            self.finish_leaf(writer, usage)?;
        }
        Ok(())
    }

    fn finish_leaf(
        &mut self,
        writer: &mut ChunkWriter,
        usage: &mut Usage,
    ) -> Result<(), WriteError> {
        match self.leaf.finish() {
            Some((bytes, first, entries)) => self.add(0, &bytes, first, entries, writer, usage),
            None => Ok(()),
        }
    }

    /// Stores a node of `level` and enters it into the level above.
    fn add(
        &mut self,
        level: usize,
        bytes: &[u8],
        first: EntryKey,
        entries: u64,
        writer: &mut ChunkWriter,
        usage: &mut Usage,
    ) -> Result<(), WriteError> {
        debug_assert!(bytes.len() as u64 <= limits::CHUNK_BYTES_MAX, "tree chunk too long");
        let chunk = writer.put_tree(bytes)?;
        usage.add(&chunk);
        if self.levels.len() <= level {
            self.levels.push(Vec::new());
        }
        let hash = key_hash(&first.path()).rotate_right(8 * (level as u32 + 1));
        let children = &mut self.levels[level];
        children.push(IndexChild { first, chunk, entries });
        let ends = hash.is_multiple_of(INDEX_ENDS) && children.len() >= CHILDREN_MIN;
        if ends || children.len() >= CHILDREN_MAX {
            self.finish_index(level, writer, usage)?;
        }
        Ok(())
    }

    fn finish_index(
        &mut self,
        level: usize,
        writer: &mut ChunkWriter,
        usage: &mut Usage,
    ) -> Result<(), WriteError> {
        let children = std::mem::take(&mut self.levels[level]);
        let Some(first) = children.first().map(|child| child.first.clone()) else { return Ok(()) };
        let entries = children.iter().map(|child| child.entries).sum();
        let bytes = encode_index(level as u8 + 1, &children);
        self.add(level + 1, &bytes, first, entries, writer, usage)
    }

    /// Closes all that is open.
    pub fn finish(
        mut self,
        writer: &mut ChunkWriter,
        usage: &mut Usage,
    ) -> Result<BuiltTree, WriteError> {
        self.finish_leaf(writer, usage)?;
        let mut level = 0;
        while level < self.levels.len() {
            let is_top = level + 1 == self.levels.len();
            if let (true, [only]) = (is_top, &self.levels[level][..]) {
                let top = Some(only.chunk);
                return Ok(BuiltTree { top, levels: level as u8, entries: self.entries });
            }
            self.finish_index(level, writer, usage)?;
            level += 1;
        }
        Ok(BuiltTree { top: None, levels: 0, entries: self.entries })
    }
}

fn key_hash(path: &[u8]) -> u64 {
    let hash = blake3::hash(path);
    u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]))
}
