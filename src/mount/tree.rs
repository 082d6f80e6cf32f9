//! Trees of snapshots by number and by path, their parts decoded and kept for all threads.
//!
//! An index node says how many entries lie below each of its children, so the nth entry is found
//! from the top. That a part holds as many as was said, begins where it should and ends before the
//! next one is checked each time.

use std::sync::{Arc, Mutex};

use crate::format::limits;
use crate::format::node::{ChunkRun, Node};
use crate::format::snapshot::Root;
use crate::format::tree::{EntryKey, IndexChild, decode_index, decode_leaf};
use crate::id::PackHandle;
use crate::mount::frames::Frames;
use crate::mount::lru::Lru;
use crate::mount::sync::lock;
use crate::repo::tree_reader::TreeReadError;

/// Decoded parts of trees that are kept, in bytes by estimate.
const KEPT_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// What a decoded entry takes beside its names and references, in bytes.
const ENTRY_BYTES: u64 = 600;

enum Part {
    Index(Vec<IndexChild>),
    Leaf(Vec<(EntryKey, Node)>),
}

impl Part {
    fn is_in_place(&self, step: &Step) -> bool {
        let (entries, first, last) = match self {
            Self::Leaf(entries) => {
                let (first, last) = (entries.first(), entries.last());
                (entries.len() as u64, first.map(|entry| &entry.0), last.map(|entry| &entry.0))
            }
            Self::Index(children) => {
                let sum = children.iter().fold(0_u64, |sum, c| sum.saturating_add(c.entries));
                let (first, last) = (children.first(), children.last());
                (sum, first.map(|child| &child.first), last.map(|child| &child.first))
            }
        };
        entries == step.entries
            && first.is_some()
            && (step.first.is_none() || step.first.as_ref() == first)
            && (step.before.is_none() || last < step.before.as_ref())
    }
}

/// A part of a tree that cannot be read.
#[derive(Debug)]
pub struct LostPart {
    /// The first entry behind it.
    pub until: u64,
    /// Why.
    pub source: TreeReadError,
}

/// An entry, and with it the leaf that it is in.
#[derive(Clone)]
pub struct Place {
    part: Arc<Part>,
    index: usize,
    ordinal: u64,
}

impl Place {
    fn entry(&self) -> &(EntryKey, Node) {
        match &*self.part {
            Part::Leaf(entries) => &entries[self.index],
            Part::Index(_) => unreachable!("a place is made of leaves only"),
        }
    }

    /// Its directory and name.
    #[must_use]
    pub fn key(&self) -> &EntryKey {
        &self.entry().0
    }

    /// The entry.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.entry().1
    }

    /// How many entries of the tree come before it.
    #[must_use]
    pub fn ordinal(&self) -> u64 {
        self.ordinal
    }

    /// Goes to the next entry of the leaf, if there is one.
    pub fn advance(&mut self) -> bool {
        let Part::Leaf(entries) = &*self.part else { return false };
        if self.index + 1 >= entries.len() {
            return false;
        }
        self.index += 1;
        self.ordinal += 1;
        true
    }
}

/// What is looked for.
#[derive(Clone, Copy)]
enum Goal<'a> {
    Ordinal(u64),
    /// The first entry that is not before this.
    Key(&'a EntryKey),
}

/// Where the descent is.
struct Step {
    chunk: ChunkRun,
    level: u8,
    /// Ordinal of its first entry.
    begin: u64,
    entries: u64,
    /// Key of its first entry, where the node above says it.
    first: Option<EntryKey>,
    /// Key that all of its entries are before.
    before: Option<EntryKey>,
}

/// Reads trees.
pub struct Trees {
    frames: Arc<Frames>,
    kept: Mutex<Lru<(PackHandle, u32, u8), Arc<Part>>>,
}

impl Trees {
    /// Reads through `frames`.
    #[must_use]
    pub fn new(frames: Arc<Frames>) -> Self {
        Self { frames, kept: Mutex::new(Lru::new(KEPT_BYTES_MAX)) }
    }

    /// The entry with that many before it.
    pub fn at(&self, root: &Root, ordinal: u64) -> Result<Option<Place>, LostPart> {
        if ordinal >= root.entries {
            return Ok(None);
        }
        self.descend(root, Goal::Ordinal(ordinal))
    }

    /// The first entry that is not before `key`.
    pub fn seek(&self, root: &Root, key: &EntryKey) -> Result<Option<Place>, LostPart> {
        self.descend(root, Goal::Key(key))
    }

    /// The entry at `key`.
    pub fn find(&self, root: &Root, key: &EntryKey) -> Result<Option<Place>, LostPart> {
        Ok(self.seek(root, key)?.filter(|place| place.key() == key))
    }

    fn descend(&self, root: &Root, goal: Goal<'_>) -> Result<Option<Place>, LostPart> {
        let Some(chunk) = root.tree else { return Ok(None) };
        if u64::from(root.levels) > limits::TREE_LEVELS_MAX {
            return Err(LostPart { until: root.entries, source: TreeReadError::Shape });
        }
        let mut step = Step {
            chunk,
            level: root.levels,
            begin: 0,
            entries: root.entries,
            first: None,
            before: None,
        };
        loop {
            let until = step.begin + step.entries;
            let part = self.part(&step).map_err(|source| LostPart { until, source })?;
            let children = match &*part {
                Part::Index(children) => children,
                Part::Leaf(entries) => {
                    let index = match goal {
                        Goal::Ordinal(ordinal) => (ordinal - step.begin) as usize,
                        Goal::Key(key) => entries.partition_point(|(found, _)| found < key),
                    };
                    if index < entries.len() {
                        let ordinal = step.begin + index as u64;
                        return Ok(Some(Place { part, index, ordinal }));
                    }
                    return self.at(root, until);
                }
            };
            step = step.below(children, goal);
        }
    }

    /// The part that a step leads to, checked.
    fn part(&self, step: &Step) -> Result<Arc<Part>, TreeReadError> {
        if step.chunk.count != 1 || step.chunk.slice.is_some() {
            return Err(TreeReadError::Shape);
        }
        let (pack, ordinal) = (step.chunk.pack, step.chunk.first);
        let key = (pack, ordinal, step.level);
        let kept = lock(&self.kept).find(&key);
        let part = if let Some(part) = kept {
            part
        } else {
            let (part, bytes) = self.decode(step)?;
            let part = Arc::new(part);
            lock(&self.kept).keep(key, part.clone(), bytes);
            part
        };
        if part.is_in_place(step) {
            Ok(part)
        } else {
            Err(TreeReadError::Misplaced { pack, ordinal })
        }
    }

    fn decode(&self, step: &Step) -> Result<(Part, u64), TreeReadError> {
        let (pack, ordinal) = (step.chunk.pack, step.chunk.first);
        let lost = |source| TreeReadError::Read { entries: step.entries, source };
        let bytes = self.frames.chunk(&pack, ordinal).map_err(lost)?;
        let refused = |source| TreeReadError::Document { pack, ordinal, source };
        let part = if step.level == 0 {
            Part::Leaf(decode_leaf(&bytes).map_err(refused)?)
        } else {
            Part::Index(decode_index(&bytes, step.level).map_err(refused)?)
        };
        let entries = match &part {
            Part::Leaf(entries) => entries.len(),
            Part::Index(children) => children.len(),
        };
        Ok((part, bytes.len() as u64 + entries as u64 * ENTRY_BYTES))
    }
}

impl Step {
    /// The child in which the goal is. The part was checked: it has children, and their counts
    /// make up its own.
    fn below(mut self, children: &[IndexChild], goal: Goal<'_>) -> Self {
        let index = match goal {
            Goal::Key(key) => children.partition_point(|child| child.first <= *key).max(1) - 1,
            Goal::Ordinal(ordinal) => {
                let mut end = self.begin;
                let reached = children.iter().position(|child| {
                    end += child.entries;
                    ordinal < end
                });
                reached.unwrap_or(children.len() - 1)
            }
        };
        let begin = self.begin + children[..index].iter().map(|child| child.entries).sum::<u64>();
        let child = &children[index];
        if let Some(next) = children.get(index + 1) {
            self.before = Some(next.first.clone());
        }
        Self {
            chunk: child.chunk,
            level: self.level - 1,
            begin,
            entries: child.entries,
            first: Some(child.first.clone()),
            before: self.before,
        }
    }
}
