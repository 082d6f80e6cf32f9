//! Walking the tree of a snapshot root, in order and with bounded memory.
//!
//! One leaf is decoded at a time, and one index node of each level. The order of entries across
//! leaves, the first key of every node and its kind are checked; a part that cannot be read is an
//! error in its place, and the walk goes on behind it.

use std::sync::Arc;
use std::vec::IntoIter;

use crate::format::limits;
use crate::format::node::{ChunkRun, Node};
use crate::format::snapshot::Root;
use crate::format::tree::{EntryKey, IndexChild, TreeError, decode_index, decode_leaf};
use crate::id::PackHandle;
use crate::repo::chunk_reader::ChunkReader;
use crate::repo::read_access::{ReadAccess, ReadError};

/// Why a part of a tree, or a list of references, could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeReadError {
    /// Its chunk is lost.
    #[error("{entries} entries of a tree cannot be read")]
    Read {
        /// Entries that are missing with it, as the node above says; 0 where that is not known.
        entries: u64,
        /// Why.
        source: ReadError,
    },
    /// Its chunk is not what it should be.
    #[error("chunk {ordinal} of pack {pack} is no valid part of a tree")]
    Document {
        /// Handle of the pack.
        pack: PackHandle,
        /// Ordinal of the chunk.
        ordinal: u32,
        /// What is wrong.
        source: TreeError,
    },
    /// It does not begin with the entry that the node above says, or entries are out of order.
    #[error("chunk {ordinal} of pack {pack} does not belong where the tree has it")]
    Misplaced {
        /// Handle of the pack.
        pack: PackHandle,
        /// Ordinal of the chunk.
        ordinal: u32,
    },
    /// More levels than the format allows, or a reference to a node that is not one whole chunk.
    #[error("a tree or a list of references is of a shape that the format does not allow")]
    Shape,
    /// The reader could not be started.
    #[error("the repository cannot be read")]
    Access(#[from] ReadError),
}

/// A node of the tree that the walk has not opened yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingNode {
    /// 0 for a leaf.
    pub level: u8,
    /// Its chunk.
    pub chunk: ChunkRun,
    /// Entries below it.
    pub entries: u64,
}

/// The entries of one tree, in order.
pub struct TreeReader {
    chunks: ChunkReader,
    levels: u8,
    /// Children not opened yet, the top's at the bottom.
    stack: Vec<IntoIter<IndexChild>>,
    leaf: IntoIter<(EntryKey, Node)>,
    last: Option<EntryKey>,
    within: Option<Vec<u8>>,
}

impl TreeReader {
    /// Begins at the first entry below `root`.
    pub fn open(access: &Arc<ReadAccess>, root: &Root) -> Result<Self, TreeReadError> {
        if u64::from(root.levels) > limits::TREE_LEVELS_MAX {
            return Err(TreeReadError::Shape);
        }
        let child = |chunk| IndexChild { first: EntryKey::default(), chunk, entries: root.entries };
        let top: Vec<IndexChild> = root.tree.map(child).into_iter().collect();
        Ok(Self {
            chunks: access.reader()?,
            levels: root.levels,
            stack: vec![top.into_iter()],
            leaf: Vec::new().into_iter(),
            last: None,
            within: None,
        })
    }

    /// Begins at the first entry below the directory `dir` (path below the root), and ends with
    /// the last one below it.
    pub fn open_below(
        access: &Arc<ReadAccess>,
        root: &Root,
        dir: &[u8],
    ) -> Result<Self, TreeReadError> {
        let mut reader = Self::open(access, root)?;
        if !dir.is_empty() {
            reader.seek(&EntryKey { dir: dir.to_vec(), name: Vec::new() })?;
            reader.within = Some(dir.to_vec());
        }
        Ok(reader)
    }

    /// The entry at a path below the root; `None` if there is none.
    pub fn find(
        access: &Arc<ReadAccess>,
        root: &Root,
        path: &[u8],
    ) -> Result<Option<Node>, TreeReadError> {
        let (dir, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], path),
        };
        let key = EntryKey { dir: dir.to_vec(), name: name.to_vec() };
        let mut reader = Self::open(access, root)?;
        reader.seek(&key)?;
        let found = reader.next().transpose()?;
        Ok(found.filter(|(found, _)| *found == key).map(|(_, node)| node))
    }

    /// What it reads chunks with.
    pub fn chunks(&mut self) -> &mut ChunkReader {
        &mut self.chunks
    }

    /// Goes forward to the first entry that is not before `key`; parts before it are not read.
    ///
    /// # Errors
    /// That of a part on the way to `key`, which is passed over then.
    pub fn seek(&mut self, key: &EntryKey) -> Result<(), TreeReadError> {
        loop {
            self.drop_before(key);
            let in_leaf = !self.leaf.as_slice().is_empty();
            let reached = self.stack.last().and_then(|level| level.as_slice().first());
            if in_leaf || reached.is_none_or(|child| child.first >= *key) {
                return Ok(());
            }
            self.open_pending()?;
        }
    }

    /// Goes forward behind everything below the directory `dir`.
    pub fn seek_behind(&mut self, dir: &[u8]) -> Result<(), TreeReadError> {
        // `/` sorts before every byte of a name, and 1 is the lowest of those.
        self.seek(&EntryKey { dir: [dir, b"\x01"].concat(), name: Vec::new() })
    }

    /// Drops what is known to lie before `key` without opening anything.
    fn drop_before(&mut self, key: &EntryKey) {
        let begins_before = |child: &IndexChild| child.first <= *key;
        let outer =
            self.stack.iter().position(|level| level.as_slice().first().is_some_and(begins_before));
        if let Some(outer) = outer {
            // The next child of an outer level begins at or before the key: so all that is open
            // below the one before it lies before the key.
            self.stack.truncate(outer + 1);
            self.leaf = Vec::new().into_iter();
            let level = &mut self.stack[outer];
            while level.as_slice().get(1).is_some_and(begins_before) {
                level.next();
            }
        }
        while self.leaf.as_slice().first().is_some_and(|(first, _)| first < key) {
            self.leaf.next();
        }
        self.drop_finished();
    }

    fn drop_finished(&mut self) {
        while self.stack.last().is_some_and(|level| level.as_slice().is_empty()) {
            self.stack.pop();
        }
    }

    /// The node that would be opened next; `None` inside of a leaf, and at the end.
    pub fn pending(&mut self) -> Option<PendingNode> {
        if !self.leaf.as_slice().is_empty() {
            return None;
        }
        self.drop_finished();
        let child = self.stack.last()?.as_slice().first()?;
        let level = self.levels - (self.stack.len() - 1) as u8;
        Some(PendingNode { level, chunk: child.chunk, entries: child.entries })
    }

    /// Passes over the node that [`TreeReader::pending`] tells.
    pub fn skip_pending(&mut self) {
        if self.pending().is_some() {
            self.stack.last_mut().and_then(Iterator::next);
        }
    }

    /// Opens the node that [`TreeReader::pending`] tells.
    ///
    /// # Errors
    /// What is wrong with it; it is passed over then.
    pub fn open_pending(&mut self) -> Result<(), TreeReadError> {
        let Some(PendingNode { level, chunk, entries }) = self.pending() else { return Ok(()) };
        let is_top = self.stack.len() == 1;
        let Some(child) = self.stack.last_mut().and_then(Iterator::next) else { return Ok(()) };
        if chunk.count != 1 || chunk.slice.is_some() {
            return Err(TreeReadError::Shape);
        }
        let (pack, ordinal) = (chunk.pack, chunk.first);
        let bytes = self.chunks.chunk(&pack, ordinal);
        let bytes = bytes.map_err(|source| TreeReadError::Read { entries, source })?;
        let refused = |source| TreeReadError::Document { pack, ordinal, source };
        let is_in_place = |first: Option<&EntryKey>, last: Option<&EntryKey>| {
            first.is_some_and(|first| is_top || *first == child.first)
                && (first > last || last.is_none())
        };
        if level == 0 {
            let nodes = decode_leaf(bytes).map_err(refused)?;
            if !is_in_place(nodes.first().map(|(key, _)| key), self.last.as_ref()) {
                return Err(TreeReadError::Misplaced { pack, ordinal });
            }
            self.last = nodes.last().map(|(key, _)| key.clone());
            self.leaf = nodes.into_iter();
        } else {
            let children = decode_index(bytes, level).map_err(refused)?;
            if !is_in_place(children.first().map(|child| &child.first), self.last.as_ref()) {
                return Err(TreeReadError::Misplaced { pack, ordinal });
            }
            self.stack.push(children.into_iter());
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<(EntryKey, Node)>, TreeReadError> {
        loop {
            if let Some(entry) = self.leaf.next() {
                return Ok(Some(entry));
            }
            if self.pending().is_none() {
                return Ok(None);
            }
            self.open_pending()?;
        }
    }
}

impl Iterator for TreeReader {
    type Item = Result<(EntryKey, Node), TreeReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.advance().transpose()?;
        if let (Ok((key, _)), Some(within)) = (&entry, &self.within)
            && !is_beneath(&key.dir, within)
        {
            self.stack.clear();
            self.leaf = Vec::new().into_iter();
            return None;
        }
        Some(entry)
    }
}

/// Whether a directory is `dir` or lies below it; both are paths below a root.
#[must_use]
pub fn is_beneath(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty()
        || path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}
