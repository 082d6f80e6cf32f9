//! How much snapshots hold: to restore, after deduplication, and as stored.
//!
//! Memory: one bit for each chunk of the packs that the snapshots refer to.

use std::collections::HashMap;
use std::sync::Arc;

use crate::format::node::{ChunkRun, NodeKind};
use crate::format::snapshot::{Root, Snapshot};
use crate::id::PackHandle;
use crate::progress::Progress;
use crate::repo::chunk_reader::ChunkReader;
use crate::repo::content_reader::ContentRuns;
use crate::repo::pack_map::PackMap;
use crate::repo::read_access::{ReadAccess, ReadError};
use crate::repo::tree_reader::{TreeReadError, TreeReader};
use crate::restore::error::with_causes;

/// Sizes of some snapshots together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Files and streams.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Everything else.
    pub others: u64,
    /// Plain bytes of all content, as a restore of every snapshot would write it, holes left out.
    pub restore_bytes: u64,
    /// Plain bytes of the different data chunks.
    pub unique_bytes: u64,
    /// Different data chunks.
    pub unique_chunks: u64,
    /// Their part of the compressed frames, in bytes.
    pub stored_bytes: u64,
    /// Parts that could not be read, and are missing in all of these.
    pub lost_parts: u64,
}

/// Measures snapshots by walking all of their entries.
pub fn sizes<'a>(
    access: &Arc<ReadAccess>,
    snapshots: impl IntoIterator<Item = &'a Snapshot>,
    progress: &Progress,
) -> Result<Sizes, TreeReadError> {
    let mut measure = Measure {
        chunks: access.reader()?,
        used: HashMap::new(),
        sizes: Sizes::default(),
        progress,
    };
    for root in snapshots.into_iter().flat_map(|snapshot| &snapshot.roots) {
        measure.root(access, root)?;
    }
    let Measure { used, mut sizes, .. } = measure;
    for (handle, words) in used {
        add_pack(&*access.pack(&handle)?, &words, &mut sizes);
    }
    Ok(sizes)
}

struct Measure<'a> {
    chunks: ChunkReader,
    used: HashMap<PackHandle, Vec<u64>>,
    sizes: Sizes,
    progress: &'a Progress,
}

impl Measure<'_> {
    fn root(&mut self, access: &Arc<ReadAccess>, root: &Root) -> Result<(), TreeReadError> {
        self.node(&root.node);
        for entry in TreeReader::open(access, root)? {
            if self.progress.is_cancelled() {
                break;
            }
            match entry {
                Ok((_, node)) => self.node(&node),
                Err(error) => self.lost(&error),
            }
        }
        Ok(())
    }

    fn lost(&mut self, error: &TreeReadError) {
        self.sizes.lost_parts += 1;
        self.progress.warn(with_causes(error));
    }

    fn node(&mut self, node: &crate::format::node::Node) {
        match node.kind {
            NodeKind::File | NodeKind::Stream => {
                self.sizes.files += 1;
                let is_further_name = node.content.runs.is_empty();
                let bytes = if is_further_name { 0 } else { node.stored_bytes() };
                self.sizes.restore_bytes = self.sizes.restore_bytes.saturating_add(bytes);
            }
            NodeKind::Dir => self.sizes.directories += 1,
            _ => self.sizes.others += 1,
        }
        let marked = ContentRuns::new(&node.content).and_then(|mut runs| {
            while let Some(run) = runs.next(&mut self.chunks)? {
                self.mark(&run)?;
            }
            Ok(())
        });
        if let Err(error) = marked {
            self.lost(&error);
        }
    }

    fn mark(&mut self, run: &ChunkRun) -> Result<(), ReadError> {
        let words = match self.used.entry(run.pack) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                let chunks = self.chunks.access().pack(&run.pack)?.chunks();
                new.insert(vec![0; chunks.div_ceil(64) as usize])
            }
        };
        let end = run.first.saturating_add(run.count);
        if end.div_ceil(64) as usize > words.len() {
            return Err(ReadError::OutOfRange { pack: run.pack, ordinal: end });
        }
        for ordinal in run.first..end {
            words[ordinal as usize / 64] |= 1 << (ordinal % 64);
        }
        Ok(())
    }
}

fn add_pack(pack: &PackMap, words: &[u64], sizes: &mut Sizes) {
    for (frame, entry) in (0_u32..).zip(&pack.entry().table.frames) {
        let is_used = |ordinal: &u32| words[*ordinal as usize / 64] >> (ordinal % 64) & 1 == 1;
        let used = pack.chunks_of(frame).filter(is_used);
        let (mut chunks, mut bytes) = (0, 0);
        for ordinal in used {
            chunks += 1;
            bytes += u64::from(pack.chunk_bytes(ordinal).unwrap_or(0));
        }
        sizes.unique_chunks += chunks;
        sizes.unique_bytes += bytes;
        let raw_bytes = u64::from(entry.raw_bytes).max(1);
        sizes.stored_bytes += u64::from(entry.stored_bytes) * bytes / raw_bytes;
    }
}
