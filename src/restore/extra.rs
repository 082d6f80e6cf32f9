//! What a snapshot does not have is removed from directories that it has (`restore --delete`).
//!
//! A directory is cleared once all of its entries have been met. Entries that the patterns do not
//! want stay, and once a part of the tree could not be read nothing more is removed at all.

use std::collections::{BTreeMap, HashSet};

use crate::format::tree::{EntryKey, join};
use crate::progress::Progress;
use crate::restore::error::with_causes;
use crate::restore::filter::{Filters, Verdict};
use crate::restore::target::Target;
use crate::restore::target_path::TargetPath;

/// Collects the names of one directory at a time.
pub(super) struct ExtraNames<'a> {
    target: &'a Target,
    filters: &'a Filters,
    progress: &'a Progress,
    is_enabled: bool,
    /// Directories to clear whose entries have not begun, with their paths in the snapshot.
    pending: BTreeMap<EntryKey, Vec<u8>>,
    dir: Option<Vec<u8>>,
    names: HashSet<Vec<u8>>,
    removed: u64,
}

fn key(dir: &[u8]) -> EntryKey {
    EntryKey { dir: dir.to_vec(), name: Vec::new() }
}

impl<'a> ExtraNames<'a> {
    pub(super) fn new(target: &'a Target, filters: &'a Filters, progress: &'a Progress) -> Self {
        Self {
            target,
            filters,
            progress,
            is_enabled: true,
            pending: BTreeMap::new(),
            dir: None,
            names: HashSet::new(),
            removed: 0,
        }
    }

    /// Nothing will be removed any more.
    pub(super) fn disable(&mut self) {
        self.is_enabled = false;
        self.pending.clear();
        self.names.clear();
    }

    /// A directory of the target that the snapshot has.
    pub(super) fn add_dir(&mut self, path: &TargetPath, source_path: &[u8]) {
        if self.is_enabled {
            self.pending.insert(key(path.as_bytes()), source_path.to_vec());
        }
    }

    /// An entry of the snapshot, wanted or not, in the order of the tree.
    pub(super) fn see(&mut self, path: &TargetPath) {
        if !self.is_enabled {
            return;
        }
        let (dir, name) = path.split();
        if self.dir.as_deref() != Some(dir) {
            self.clear_before(Some(dir));
            self.dir = Some(dir.to_vec());
        }
        self.names.insert(name.to_vec());
    }

    /// Removed so far.
    pub(super) fn removed(&self) -> u64 {
        self.removed
    }

    /// Clears the directories that are left.
    pub(super) fn finish(&mut self) {
        if self.is_enabled {
            self.clear_before(None);
        }
    }

    /// Clears the directory whose entries have ended, and those passed that have none.
    fn clear_before(&mut self, dir: Option<&[u8]>) {
        let names = std::mem::take(&mut self.names);
        if let Some(ended) = self.dir.take()
            && let Some(source_path) = self.pending.remove(&key(&ended))
        {
            self.clear(&ended, &source_path, &names);
        }
        let bound = dir.map(key);
        while let Some(first) = self.pending.first_entry() {
            if bound.as_ref().is_some_and(|bound| first.key() >= bound) {
                break;
            }
            let (passed, source_path) = first.remove_entry();
            self.clear(&passed.dir, &source_path, &HashSet::new());
        }
    }

    fn clear(&mut self, dir: &[u8], source_path: &[u8], names: &HashSet<Vec<u8>>) {
        let source_path = if source_path == b"/" { b"" } else { source_path };
        let keep = |name: &[u8]| {
            let path = if source_path.is_empty() {
                [b"/", name].concat()
            } else {
                join(source_path, name)
            };
            names.contains(name) || self.filters.verdict(&path) != Verdict::Wanted
        };
        let cleared = TargetPath::parse(dir)
            .map_err(Into::into)
            .and_then(|path| self.target.remove_extra(&path, &keep, self.progress));
        match cleared {
            Ok(removed) => self.removed += removed,
            Err(error) => self.progress.warn(with_causes(&error)),
        }
    }
}
