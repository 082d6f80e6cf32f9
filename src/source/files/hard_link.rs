//! Which entries of a walk are the same file under several names.
//!
//! Group numbers are inode numbers wherever that is unambiguous, so that one more hard link does
//! not renumber all others and the tree stays the same from snapshot to snapshot.

use std::collections::{HashMap, HashSet};

use crate::format::node::NodeKind;
use crate::source::files::stat::Stat;

/// The hard links met so far in one root; memory grows with files of several names only.
#[derive(Debug, Default)]
pub struct HardLinks {
    groups: HashMap<(u64, u64), u64>,
    taken: HashSet<u64>,
}

/// What a further entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Its only name (or a directory): no group.
    Alone,
    /// The first name met of a group; the content stands with it.
    First(u64),
    /// A further name of a group.
    Again(u64),
}

impl HardLinks {
    /// Takes an entry in, in the order of the walk.
    pub fn meet(&mut self, stat: &Stat) -> Link {
        if stat.nlink < 2 || stat.kind == NodeKind::Dir {
            return Link::Alone;
        }
        let key = (stat.dev, stat.ino);
        if let Some(group) = self.groups.get(&key) {
            return Link::Again(*group);
        }
        let mut group = stat.ino;
        // Two file systems below one root may have the same inode number.
        while !self.taken.insert(group) {
            group = group.wrapping_add(1);
        }
        self.groups.insert(key, group);
        Link::First(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::node::UnixTime;

    #[test]
    fn groups_are_by_device_and_inode() {
        let stat = |kind, dev, ino, nlink| Stat {
            kind,
            dev,
            ino,
            nlink,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            blocks: 0,
            mtime: UnixTime::default(),
            ctime: UnixTime::default(),
        };
        let mut links = HardLinks::default();
        let table = [
            (stat(NodeKind::File, 1, 7, 1), Link::Alone),
            (stat(NodeKind::Dir, 1, 8, 5), Link::Alone),
            (stat(NodeKind::File, 1, 9, 2), Link::First(9)),
            (stat(NodeKind::File, 2, 9, 2), Link::First(10)),
            (stat(NodeKind::Symlink, 1, 10, 2), Link::First(11)),
            (stat(NodeKind::File, 1, 9, 2), Link::Again(9)),
            (stat(NodeKind::File, 2, 9, 2), Link::Again(10)),
        ];
        for (stat, expected) in table {
            assert_eq!(links.meet(&stat), expected);
        }
    }
}
