//! Inode numbers. They are computed, not handed out: no table of them grows.
//!
//! An entry of a snapshot has the number of its tree and its place in the order of that tree, so
//! it has the same number for as long as the file system is mounted. The directories above the
//! snapshots have small numbers.

/// The number of an inode.
pub type Ino = u64;

/// The top directory.
pub const TOP: Ino = 1;

/// Bits of the place in a tree.
const PLACE_BITS: u32 = 40;

/// What an inode number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Meaning {
    /// A directory above the snapshots, or a link to one.
    Above(u64),
    /// A root of a snapshot.
    Root {
        /// The tree.
        tree: u32,
    },
    /// An entry below a root.
    Entry {
        /// The tree.
        tree: u32,
        /// How many entries of the tree come before it.
        ordinal: u64,
    },
}

/// Trees that there can be.
pub const TREES_MAX: u32 = (1 << (63 - PLACE_BITS)) - 1;
/// Entries that a tree can have.
pub const ENTRIES_MAX: u64 = (1 << PLACE_BITS) - 1;

impl Meaning {
    /// What a number means.
    #[must_use]
    pub fn of(ino: Ino) -> Self {
        let place = ino & ((1 << PLACE_BITS) - 1);
        match ((ino >> PLACE_BITS) as u32, place) {
            (0, _) => Self::Above(ino),
            (tree, 0) => Self::Root { tree: tree - 1 },
            (tree, place) => Self::Entry { tree: tree - 1, ordinal: place - 1 },
        }
    }

    /// The number; trees and ordinals are below [`TREES_MAX`] and [`ENTRIES_MAX`].
    #[must_use]
    pub fn ino(self) -> Ino {
        match self {
            Self::Above(number) => number,
            Self::Root { tree } => (u64::from(tree) + 1) << PLACE_BITS,
            Self::Entry { tree, ordinal } => ((u64::from(tree) + 1) << PLACE_BITS) | (ordinal + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let cases = [
            Meaning::Above(TOP),
            Meaning::Above(ENTRIES_MAX),
            Meaning::Root { tree: 0 },
            Meaning::Root { tree: TREES_MAX - 1 },
            Meaning::Entry { tree: 0, ordinal: 0 },
            Meaning::Entry { tree: TREES_MAX - 1, ordinal: ENTRIES_MAX - 1 },
        ];
        for meaning in cases {
            assert_eq!(Meaning::of(meaning.ino()), meaning);
            assert!(i64::try_from(meaning.ino()).is_ok(), "programs take inode numbers as signed");
        }
    }
}
