//! Listing directories piece by piece: a place in a listing is a number, and a listing holds no
//! entries of a tree.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::format::node::Bytes;
use crate::format::tree::EntryKey;
use crate::mount::attributes::Attributes;
use crate::mount::error::VfsError;
use crate::mount::file_system::{Above, FileSystem, LATEST, join_paths};
use crate::mount::inode::{Ino, Meaning};
use crate::mount::loaded::{LoadedTree, names_below};

/// Places from here on are in the entries that do not come from the tree.
const MORE: u64 = 1 << 62;

/// Takes an entry: where the next one is, its name, its attributes.
pub type Take<'a> = dyn FnMut(u64, &[u8], &Attributes) -> ControlFlow<()> + 'a;

/// An open directory.
pub struct Directory {
    ino: Ino,
    own: Attributes,
    tree: Option<TreePart>,
    /// Entries that no tree has.
    more: Vec<(Bytes, Ino)>,
    /// A part of it was lost, and that was not said yet.
    is_lost: AtomicBool,
}

/// The entries of one directory in a tree.
struct TreePart {
    tree: Arc<LoadedTree>,
    dir: Bytes,
    /// Ordinal of the first of them.
    first: u64,
}

impl Directory {
    /// Its own attributes.
    #[must_use]
    pub fn own(&self) -> &Attributes {
        &self.own
    }
}

impl FileSystem {
    /// Opens a directory.
    pub fn open_directory(&self, ino: Ino) -> Result<Directory, VfsError> {
        let Meaning::Above(_) = Meaning::of(ino) else { return self.open_in_tree(ino, ino) };
        let own = self.attributes(ino)?;
        let fixed =
            |more| Directory { ino, own, tree: None, more, is_lost: AtomicBool::new(false) };
        match self.above(ino).ok_or(VfsError::NotFound)? {
            Above::Top => {
                self.catalog.refresh(&self.frames);
                let sources = self.catalog.sources();
                let entry = |name: &String| {
                    (name.clone().into_bytes(), self.number_of(Above::Source(name.clone())))
                };
                Ok(fixed(sources.keys().map(entry).collect()))
            }
            Above::Source(name) => {
                self.catalog.refresh(&self.frames);
                let sources = self.catalog.sources();
                let source = sources.get(&name).ok_or(VfsError::NotFound)?;
                let snapshots = source.snapshots.iter().map(|(name, listed)| {
                    let above = Above::Between(listed.name, Bytes::new());
                    (name.clone().into_bytes(), self.number_of(above))
                });
                let link = source
                    .latest
                    .is_some()
                    .then(|| (LATEST.into(), self.number_of(Above::Latest(name.clone()))));
                Ok(fixed(snapshots.chain(link).collect()))
            }
            Above::Latest(_) => Err(VfsError::NotDirectory),
            Above::Between(snapshot, path) => {
                let loaded = self.load(snapshot)?;
                if let Some(tree) = loaded.root_at(&path) {
                    return self.open_in_tree(ino, Meaning::Root { tree }.ino());
                }
                let mut more = Vec::new();
                for name in loaded.names_below(&path) {
                    let found = self.at_path(&loaded, snapshot, &join_paths(&path, name))?;
                    more.push((name.to_vec(), found));
                }
                Ok(fixed(more))
            }
        }
    }

    fn open_in_tree(&self, ino: Ino, shown: Ino) -> Result<Directory, VfsError> {
        let found = self.find(shown)?;
        if !found.node().is_dir() {
            return Err(VfsError::NotDirectory);
        }
        let (tree, dir) = (found.tree().clone(), found.below());
        let key = EntryKey { dir: dir.clone(), name: Bytes::new() };
        let (first, is_lost) = match self.with_newest(|| self.trees.seek(&tree.root, &key)) {
            Ok(place) => (place.map_or(tree.root.entries, |place| place.ordinal()), false),
            Err(lost) => {
                self.lost(&tree, shown, &dir, &lost);
                (lost.until, true)
            }
        };
        let mut more = Vec::new();
        for name in names_below(tree.nested.iter().map(|(path, _)| &path[..]), &dir) {
            let path = join_paths(&dir, name);
            let is_root = tree.nested.iter().any(|(nested, _)| *nested == path);
            let key = EntryKey { dir: dir.clone(), name: name.to_vec() };
            let is_in_tree =
                || self.trees.find(&tree.root, &key).is_ok_and(|found| found.is_some());
            if is_root || !is_in_tree() {
                more.push((name.to_vec(), self.lookup(shown, name)?));
            }
        }
        let own = self.attributes_of(&tree, ino, found.node());
        let tree = Some(TreePart { tree, dir, first });
        Ok(Directory { ino, own, tree, more, is_lost: AtomicBool::new(is_lost) })
    }

    /// Hands out the entries from `place` on until `take` has enough; 0 is the beginning.
    ///
    /// # Errors
    /// [`VfsError::Damaged`] once, when all entries that can be read were handed out and there
    /// were others.
    pub fn list(
        &self,
        directory: &Directory,
        place: u64,
        take: &mut Take<'_>,
    ) -> Result<(), VfsError> {
        let mut place = place;
        if place < MORE {
            if let Some(part) = &directory.tree
                && self.list_tree(directory, part, place, take).is_break()
            {
                return Ok(());
            }
            place = MORE;
        }
        let index = usize::try_from(place - MORE).unwrap_or(usize::MAX);
        for (number, (name, ino)) in (place + 1..).zip(directory.more.iter().skip(index)) {
            if take(number, name, &self.attributes(*ino)?).is_break() {
                return Ok(());
            }
        }
        if directory.is_lost.swap(false, Relaxed) { Err(VfsError::Damaged) } else { Ok(()) }
    }

    fn list_tree(
        &self,
        directory: &Directory,
        part: &TreePart,
        place: u64,
        take: &mut Take<'_>,
    ) -> ControlFlow<()> {
        let tree = &part.tree;
        let mut ordinal = part.first.saturating_add(place);
        loop {
            let mut entry = match self.with_newest(|| self.trees.at(&tree.root, ordinal)) {
                Ok(Some(entry)) => entry,
                Ok(None) => return ControlFlow::Continue(()),
                Err(lost) => {
                    self.lost(tree, directory.ino, &part.dir, &lost);
                    directory.is_lost.store(true, Relaxed);
                    ordinal = lost.until;
                    continue;
                }
            };
            loop {
                if entry.key().dir != part.dir {
                    return ControlFlow::Continue(());
                }
                let name = &entry.key().name;
                ordinal = entry.ordinal() + 1;
                if !directory.more.iter().any(|(other, _)| other == name) {
                    let ino = self.number_of_entry(tree, &entry);
                    let attributes = self.attributes_of(tree, ino, entry.node());
                    take(ordinal - part.first, name, &attributes)?;
                }
                if !entry.advance() {
                    break;
                }
            }
        }
    }
}
