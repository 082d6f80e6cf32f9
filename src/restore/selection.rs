//! The entries of a snapshot that a restore concerns, with the paths they get.
//!
//! Order of the tree; a directory comes before what is in it, also where only something below it
//! is wanted. Memory: directories that are not wanted themselves but may lead to something.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::format::node::Node;
use crate::format::snapshot::{Root, Snapshot};
use crate::format::tree::{EntryKey, join};
use crate::repo::read_access::ReadAccess;
use crate::repo::snapshot_path::{FoundPath, find_path, normal_path};
use crate::repo::tree_reader::{TreeReadError, TreeReader, is_beneath};
use crate::restore::filter::{Filters, Verdict};

/// Directories that wait for something wanted below them, before those passed are dropped.
const WAITING_DIRS: usize = 4096;

/// One entry, and where it goes.
#[derive(Debug, Clone)]
pub struct SelectedEntry<'a> {
    /// Path in the snapshot, beginning with `/`.
    pub source_path: Vec<u8>,
    /// Path below the target; components joined by `/`, not checked yet.
    pub path: Vec<u8>,
    /// The root it is from.
    pub root: &'a Root,
    /// The entry.
    pub node: Node,
    /// Whether it is to be restored; the others only say what a directory holds.
    pub is_wanted: bool,
    /// A directory that comes once more, because something below it turned out to be wanted.
    pub is_late: bool,
    /// Whether it is the root itself: its parents in the target may be missing.
    pub is_root: bool,
}

struct Part<'a> {
    root: &'a Root,
    root_path: Vec<u8>,
    below: Vec<u8>,
    node: Node,
    landing: Vec<u8>,
    /// A directory whose contents only are asked for.
    is_open: bool,
}

/// Walks a selection.
pub struct SelectedEntries<'a> {
    access: Arc<ReadAccess>,
    filters: &'a Filters,
    parts: VecDeque<Part<'a>>,
    current: Option<(Part<'a>, TreeReader)>,
    ready: VecDeque<SelectedEntry<'a>>,
    waiting: BTreeMap<Vec<u8>, SelectedEntry<'a>>,
    excluded: BTreeSet<Vec<u8>>,
    dir: Option<Vec<u8>>,
}

impl<'a> SelectedEntries<'a> {
    /// What is at `path` in the snapshot (empty: everything); `None` if nothing is.
    ///
    /// Roots land under their own paths, the contents of a directory directly in the target, a
    /// single file or stream under its name.
    pub fn open(
        access: &Arc<ReadAccess>,
        snapshot: &'a Snapshot,
        path: &[u8],
        filters: &'a Filters,
    ) -> Result<Option<Self>, TreeReadError> {
        let asked = normal_path(path);
        let found = find_path(access, snapshot, path)?;
        if found.is_empty() {
            return Ok(None);
        }
        let parts = found.into_iter().map(|found| part(found, &asked)).collect();
        Ok(Some(Self {
            access: access.clone(),
            filters,
            parts,
            current: None,
            ready: VecDeque::new(),
            waiting: BTreeMap::new(),
            excluded: BTreeSet::new(),
            dir: None,
        }))
    }

    /// The directory whose contents land directly in the target, if that is what was asked for.
    #[must_use]
    pub fn filled_from(&self) -> Option<Vec<u8>> {
        let part = self.parts.front().filter(|part| part.is_open)?;
        Some(source_path(part, b""))
    }

    fn begin_part(&mut self, part: Part<'a>) -> Result<(), TreeReadError> {
        self.waiting.clear();
        self.excluded.clear();
        self.dir = None;
        if !part.is_open {
            let source_path = source_path(&part, b"");
            let verdict = self.filters.verdict(&source_path);
            let path = part.landing.clone();
            let (node, root) = (part.node.clone(), part.root);
            let is_wanted = verdict == Verdict::Wanted;
            let (is_late, is_root) = (false, true);
            let entry =
                SelectedEntry { source_path, path, root, node, is_wanted, is_late, is_root };
            match verdict {
                Verdict::Excluded => return Ok(()),
                Verdict::NotIncluded => drop(self.waiting.insert(part.below.clone(), entry)),
                Verdict::Wanted => self.ready.push_back(entry),
            }
        }
        if part.node.is_dir() {
            let reader = TreeReader::open_below(&self.access, part.root, &part.below);
            let reader = reader?;
            self.current = Some((part, reader));
        }
        Ok(())
    }

    /// Takes the next entry of the tree; whether there was one.
    fn take_entry(&mut self) -> Result<bool, TreeReadError> {
        let Some((_, reader)) = &mut self.current else { return Ok(false) };
        let Some((key, node)) = reader.next().transpose()? else { return Ok(false) };
        if self.dir.as_deref() != Some(&key.dir[..]) {
            if let Some(excluded) = excluded_above(&self.excluded, &key.dir) {
                reader.seek_behind(&excluded)?;
                return Ok(true);
            }
            self.dir = Some(key.dir.clone());
            drop_passed(&mut self.waiting, &key.dir);
        }
        self.sort(&key, node);
        Ok(true)
    }

    fn sort(&mut self, key: &EntryKey, node: Node) {
        let Some((part, _)) = &self.current else { return };
        let below = key.path();
        let source_path = source_path(part, &below);
        let relative = below[part.below.len().min(below.len())..].to_vec();
        let relative = relative.strip_prefix(b"/").unwrap_or(&relative);
        let path = join(&part.landing, relative);
        let verdict = self.filters.verdict(&source_path);
        let is_wanted = verdict == Verdict::Wanted;
        if is_wanted {
            self.release_ancestors(&below);
        } else if node.is_dir() && verdict == Verdict::Excluded {
            self.excluded.insert(below.clone());
        }
        let Some((part, _)) = &self.current else { return };
        let (root, is_late, is_root) = (part.root, false, false);
        let entry = SelectedEntry { source_path, path, root, node, is_wanted, is_late, is_root };
        if entry.node.is_dir() && verdict == Verdict::NotIncluded {
            self.waiting.insert(below, entry.clone());
        }
        self.ready.push_back(entry);
    }

    /// Something below them is wanted, so they are.
    fn release_ancestors(&mut self, below: &[u8]) {
        if self.waiting.is_empty() {
            return;
        }
        let slashes = below.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        for end in std::iter::once(0).chain(slashes.map(|(index, _)| index)) {
            if let Some(entry) = self.waiting.remove(&below[..end]) {
                self.ready.push_back(SelectedEntry { is_wanted: true, is_late: true, ..entry });
            }
        }
    }
}

impl<'a> Iterator for SelectedEntries<'a> {
    type Item = Result<SelectedEntry<'a>, TreeReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Some(Ok(entry));
            }
            let step = if self.current.is_some() {
                self.take_entry().map(|found| {
                    if !found {
                        self.current = None;
                    }
                })
            } else {
                let part = self.parts.pop_front()?;
                self.begin_part(part)
            };
            if let Err(error) = step {
                return Some(Err(error));
            }
        }
    }
}

fn part<'a>(found: FoundPath<'a>, asked: &[u8]) -> Part<'a> {
    let is_open = !found.is_above && found.node.is_dir();
    let landing = if found.is_above {
        normal_path(&found.root_path[asked.len().min(found.root_path.len())..])
    } else if is_open {
        Vec::new()
    } else {
        found.name().to_vec()
    };
    let FoundPath { root, root_path, below, node, .. } = found;
    Part { root, root_path, below, node, landing, is_open }
}

fn source_path(part: &Part<'_>, below: &[u8]) -> Vec<u8> {
    let below = if below.is_empty() { &part.below } else { below };
    let mut path = Vec::with_capacity(2 + part.root_path.len() + below.len());
    for section in [&part.root_path[..], below] {
        if !section.is_empty() {
            path.push(b'/');
            path.extend_from_slice(section);
        }
    }
    if path.is_empty() { b"/".to_vec() } else { path }
}

fn excluded_above(excluded: &BTreeSet<Vec<u8>>, dir: &[u8]) -> Option<Vec<u8>> {
    if excluded.is_empty() {
        return None;
    }
    let slashes = dir.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let mut ends = slashes.map(|(index, _)| index).chain([dir.len()]);
    ends.find_map(|end| excluded.get(&dir[..end]).cloned())
}

/// Drops directories that the walk has left behind for good.
fn drop_passed(waiting: &mut BTreeMap<Vec<u8>, SelectedEntry<'_>>, dir: &[u8]) {
    if waiting.len() >= WAITING_DIRS {
        let now = EntryKey { dir: dir.to_vec(), name: Vec::new() };
        waiting.retain(|path, _| {
            is_beneath(dir, path) || EntryKey { dir: path.clone(), name: Vec::new() } > now
        });
    }
}
