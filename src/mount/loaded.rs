//! Snapshots that somebody has gone into, and the trees in them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::format::commit::SnapshotName;
use crate::format::node::Bytes;
use crate::format::snapshot::{Root, Snapshot};
use crate::format::tree::is_name;
use crate::mount::catalog::Listed;
use crate::mount::error::VfsError;
use crate::mount::inode::{ENTRIES_MAX, TREES_MAX};
use crate::mount::sync::lock;
use crate::repo::snapshot_path::normal_path;
use crate::repo::tree_reader::is_beneath;

/// A root of a snapshot.
pub struct LoadedTree {
    /// Its number.
    pub number: u32,
    /// The root.
    pub root: Root,
    /// Its path in the snapshot, without slashes at its ends.
    pub path: Bytes,
    /// The snapshot.
    pub snapshot: Arc<Listed>,
    /// Other roots that lie within it, by their paths below it.
    pub nested: Vec<(Bytes, u32)>,
}

/// The roots of a snapshot by their paths; of several at one path the first.
pub struct LoadedSnapshot {
    /// Path and number of each.
    pub roots: Vec<(Bytes, u32)>,
}

impl LoadedSnapshot {
    /// The root at a path.
    #[must_use]
    pub fn root_at(&self, path: &[u8]) -> Option<u32> {
        self.roots.iter().find(|(root, _)| root == path).map(|(_, number)| *number)
    }

    /// The names of what is in a directory above the roots, each once.
    #[must_use]
    pub fn names_below(&self, dir: &[u8]) -> Vec<&[u8]> {
        let paths = self.roots.iter().map(|(path, _)| &path[..]);
        names_below(paths, dir)
    }

    /// Whether a path is a directory above roots.
    #[must_use]
    pub fn is_above(&self, path: &[u8]) -> bool {
        self.roots.iter().any(|(root, _)| root != path && is_beneath(root, path))
    }
}

/// The first components behind `dir` of those paths that lie below it, each once, in order.
pub fn names_below<'a>(paths: impl Iterator<Item = &'a [u8]>, dir: &[u8]) -> Vec<&'a [u8]> {
    let below = paths.filter(|path| *path != dir && is_beneath(path, dir));
    let behind = if dir.is_empty() { 0 } else { dir.len() + 1 };
    let first = |path: &'a [u8]| path[behind..].split(|byte| *byte == b'/').next();
    let mut names: Vec<&[u8]> = below.filter_map(first).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[derive(Default)]
struct State {
    trees: Vec<Arc<LoadedTree>>,
    snapshots: HashMap<SnapshotName, Arc<LoadedSnapshot>>,
}

/// All that was loaded; grows with the roots of the snapshots that are looked into.
#[derive(Default)]
pub struct Loaded {
    state: Mutex<State>,
}

impl Loaded {
    /// A tree by number.
    #[must_use]
    pub fn tree(&self, number: u32) -> Option<Arc<LoadedTree>> {
        lock(&self.state).trees.get(number as usize).cloned()
    }

    /// A snapshot, if it was loaded.
    #[must_use]
    pub fn snapshot(&self, name: SnapshotName) -> Option<Arc<LoadedSnapshot>> {
        lock(&self.state).snapshots.get(&name).cloned()
    }

    /// Takes in a snapshot; whoever comes second gets what the first has made. Roots that cannot
    /// be shown are reported to `hidden`.
    pub fn add(
        &self,
        listed: &Arc<Listed>,
        snapshot: Snapshot,
        hidden: &mut dyn FnMut(&Root),
    ) -> Result<Arc<LoadedSnapshot>, VfsError> {
        let mut state = lock(&self.state);
        if let Some(loaded) = state.snapshots.get(&listed.name) {
            return Ok(loaded.clone());
        }
        let first = state.trees.len();
        let mut roots: Vec<(Bytes, u32)> = Vec::new();
        let mut taken = Vec::new();
        for root in snapshot.roots {
            let path = normal_path(&root.path);
            let is_shown = path.is_empty() || path.split(|byte| *byte == b'/').all(is_name);
            if !is_shown || roots.iter().any(|(other, _)| *other == path) {
                hidden(&root);
                continue;
            }
            let number = (first + roots.len()) as u32;
            if number >= TREES_MAX || root.entries >= ENTRIES_MAX {
                return Err(VfsError::TooMany);
            }
            roots.push((path, number));
            taken.push(root);
        }
        for (root, (path, number)) in taken.into_iter().zip(&roots) {
            state.trees.push(Arc::new(LoadedTree {
                number: *number,
                root,
                path: path.clone(),
                snapshot: listed.clone(),
                nested: nested(&roots, path),
            }));
        }
        let loaded = Arc::new(LoadedSnapshot { roots });
        state.snapshots.insert(listed.name, loaded.clone());
        Ok(loaded)
    }
}

/// The roots within the one at `path`, by their paths below it.
fn nested(roots: &[(Bytes, u32)], path: &[u8]) -> Vec<(Bytes, u32)> {
    let within = roots.iter().filter(|(other, _)| other != path && is_beneath(other, path));
    let behind = if path.is_empty() { 0 } else { path.len() + 1 };
    within.map(|(other, number)| (other[behind..].to_vec(), *number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_between_the_roots() {
        let paths: [&[u8]; 4] = [b"home/user/docs", b"home/user", b"homes", b"srv/a/b"];
        let names = |dir: &[u8]| names_below(paths.into_iter(), dir);
        assert_eq!(names(b""), [&b"home"[..], b"homes", b"srv"]);
        assert_eq!(names(b"home"), [b"user"]);
        assert_eq!(names(b"home/user"), [b"docs"]);
        assert_eq!(names(b"homes"), Vec::<&[u8]>::new());
        let roots: Vec<_> = paths.iter().zip(0..).map(|(path, n)| (path.to_vec(), n)).collect();
        assert_eq!(nested(&roots, b"home/user"), [(b"docs".to_vec(), 0)]);
        assert_eq!(nested(&roots, b"").len(), 4);
    }
}
