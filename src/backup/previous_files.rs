//! The files of the previous snapshot of a source, found by their paths.

use std::collections::HashSet;

use crate::backup::error::BackupError;
use crate::backup::run::SnapshotLabel;
use crate::backup::successor::Successor;
use crate::format::tree::EntryKey;
use crate::id::PackHandle;
use crate::index::entry_file::{EntryFile, EntryFileWriter};
use crate::index::previous_tree::PreviousEntry;
use crate::repo::session::WriteSession;

/// What the previous run has kept.
pub struct PreviousFiles {
    files: EntryFile,
    visible: HashSet<PackHandle>,
}

impl PreviousFiles {
    /// Opens what the last run of that source and root has kept, and begins its successor.
    pub fn open(
        session: &mut WriteSession,
        label: &SnapshotLabel,
        root: &[u8],
    ) -> Result<(Option<Self>, Successor), BackupError> {
        let path = session.repository.state.tree_path(&label.source, root);
        let path = path.with_extension("entries");
        let visible = session.chunks.lookup().visible_handles();
        let previous = EntryFile::open(&path).map(|files| Self { files, visible });
        let successor = EntryFileWriter::create(&path, session.run())?;
        Ok((previous, Successor::AnyOrder(successor)))
    }

    /// Whether there was a file of that path.
    #[must_use]
    pub fn has(&self, key: &EntryKey) -> bool {
        self.files.has(key)
    }

    /// The file of that path, where all its chunks are still to be seen.
    pub fn find(&mut self, key: &EntryKey) -> Option<PreviousEntry> {
        let found = self.files.find(key)?;
        let mut last = None;
        let is_visible = found.node.content.runs.iter().all(|run| {
            let is_seen = last == Some(run.pack) || self.visible.contains(&run.pack);
            last = Some(run.pack);
            is_seen
        });
        is_visible.then_some(found)
    }
}
