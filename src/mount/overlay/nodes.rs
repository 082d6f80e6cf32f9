//! The paths of the entries that the kernel knows.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Number of the top folder for the kernel.
pub(super) const TOP: u64 = 1;
/// Folders within each other, at most.
const DEPTH_MAX: usize = 256;

struct Known {
    parent: u64,
    name: OsString,
    /// How often the kernel was told of it.
    count: u64,
}

/// Entries by their numbers, which are those of the folder's own file system.
#[derive(Default)]
pub(super) struct Nodes(HashMap<u64, Known>);

impl Nodes {
    /// The kernel is told of an entry.
    pub(super) fn tell(&mut self, ino: u64, parent: u64, name: &OsStr) {
        let known =
            self.0.entry(ino).or_insert_with(|| Known { parent, name: name.to_owned(), count: 0 });
        known.count += 1;
        // Of several names any will do, but it must be one that is there.
        (known.parent, known.name) = (parent, name.to_owned());
    }

    /// The kernel forgets that it was told of it so often.
    pub(super) fn forget(&mut self, ino: u64, count: u64) {
        if let Some(known) = self.0.get_mut(&ino) {
            known.count = known.count.saturating_sub(count);
            if known.count == 0 {
                self.0.remove(&ino);
            }
        }
    }

    /// An entry has another name now.
    pub(super) fn rename(&mut self, ino: u64, parent: u64, name: &OsStr) {
        if let Some(known) = self.0.get_mut(&ino) {
            (known.parent, known.name) = (parent, name.to_owned());
        }
    }

    /// The path below `base`.
    pub(super) fn path(&self, base: &Path, ino: u64) -> Option<PathBuf> {
        let (mut names, mut at) = (Vec::new(), ino);
        while at != TOP {
            let known = self.0.get(&at)?;
            names.push(&known.name);
            at = known.parent;
            if names.len() > DEPTH_MAX {
                return None;
            }
        }
        let mut path = base.to_owned();
        path.extend(names.into_iter().rev());
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_renamed_folders() {
        let mut nodes = Nodes::default();
        nodes.tell(10, TOP, "base".as_ref());
        nodes.tell(11, 10, "5".as_ref());
        nodes.tell(12, 11, "1259".as_ref());
        let path =
            |nodes: &Nodes, ino| nodes.path("/x".as_ref(), ino).map(|p| p.display().to_string());
        assert_eq!(path(&nodes, 12).as_deref(), Some("/x/base/5/1259"));
        assert_eq!(path(&nodes, TOP).as_deref(), Some("/x"));
        nodes.rename(11, TOP, "old".as_ref());
        assert_eq!(path(&nodes, 12).as_deref(), Some("/x/old/1259"));
        nodes.tell(12, 10, "other".as_ref());
        assert_eq!(path(&nodes, 12).as_deref(), Some("/x/base/other"));
        nodes.forget(12, 1);
        assert!(path(&nodes, 12).is_some());
        nodes.forget(12, 5);
        assert_eq!(path(&nodes, 12), None);
    }
}
