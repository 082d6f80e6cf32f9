//! The files of the previous snapshot of a source, found by their paths.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::backup::error::BackupError;
use crate::backup::run::SnapshotLabel;
use crate::backup::successor::Successor;
use crate::format::tree::EntryKey;
use crate::id::PackHandle;
use crate::index::entry_file::{EntryFile, EntryFileWriter};
use crate::index::previous_tree::PreviousEntry;
use crate::repo::session::WriteSession;

/// Extension of the list of files of a cluster, beside what is kept of the files.
const MANIFEST: &str = "manifest";

/// What the previous run has kept.
pub struct PreviousFiles {
    files: EntryFile,
    visible: HashSet<PackHandle>,
}

/// Lists of the files of a cluster, `backup_manifest`.
pub struct Manifests {
    /// The last one, where it was kept.
    pub last: PathBuf,
    /// The next one, empty so far.
    pub next: File,
}

fn entries_path(session: &WriteSession, label: &SnapshotLabel, root: &[u8]) -> PathBuf {
    session.repository.state.tree_path(&label.source, root).with_extension("entries")
}

impl PreviousFiles {
    /// Opens what the last run of that source and root has kept, and begins its successor.
    pub fn open(
        session: &mut WriteSession,
        label: &SnapshotLabel,
        root: &[u8],
    ) -> Result<(Option<Self>, Successor), BackupError> {
        let (previous, successor) = Self::begin(session, &entries_path(session, label, root))?;
        Ok((previous, Successor::AnyOrder(successor)))
    }

    /// As [`PreviousFiles::open`], of a cluster: with the list of its files that came with the last
    /// base backup, and the one that takes its place.
    pub fn open_cluster(
        session: &mut WriteSession,
        label: &SnapshotLabel,
        root: &[u8],
    ) -> Result<(Option<Self>, Successor, Manifests), BackupError> {
        let path = entries_path(session, label, root);
        let (previous, mut successor) = Self::begin(session, &path)?;
        let manifests =
            Manifests { last: path.with_extension(MANIFEST), next: successor.companion(MANIFEST)? };
        Ok((previous, Successor::AnyOrder(successor), manifests))
    }

    fn begin(
        session: &mut WriteSession,
        path: &Path,
    ) -> Result<(Option<Self>, EntryFileWriter), BackupError> {
        let visible = session.chunks.lookup().visible_handles();
        let previous = EntryFile::open(path).map(|files| Self { files, visible });
        Ok((previous, EntryFileWriter::create(path, session.run())?))
    }

    /// Whether all chunks of all files are still to be seen.
    pub fn is_whole(&mut self) -> bool {
        let packs = self.files.packs();
        packs.is_some_and(|packs| packs.iter().all(|pack| self.visible.contains(pack)))
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
