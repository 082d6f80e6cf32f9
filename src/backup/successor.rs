//! What the next run of a source will compare with, while this one writes it.

use crate::index::entry_file::EntryFileWriter;
use crate::index::previous_tree::{PreviousTreeError, PreviousTreeWriter};

/// The local copy of a tree, of which nothing counts before it is published.
pub enum Successor {
    /// Entries come in the order of the tree.
    InOrder(PreviousTreeWriter),
    /// Entries come as they come; the tree is built from here when all are there.
    AnyOrder(EntryFileWriter),
}

impl Successor {
    /// Puts it in its place: the run that it belongs to has been committed.
    pub fn publish(self) -> Result<(), PreviousTreeError> {
        match self {
            Self::InOrder(tree) => tree.publish(),
            Self::AnyOrder(entries) => entries.publish(),
        }
    }
}
