//! Which part of which old chunk a kept page is: walks the old references beside the new pages.

use std::sync::Arc;

use crate::backup::error::BackupError;
use crate::backup::pieces::PIECE_STATE_BYTES;
use crate::format::index_segment::IndexedPack;
use crate::format::node::ChunkRun;
use crate::index::lookup::ChunkLookup;

/// The old references of a file, read from front to back.
pub struct PageMap {
    runs: std::vec::IntoIter<ChunkRun>,
    run: Option<ChunkRun>,
    /// Plain bytes of the current chunk (or slice) that are passed already.
    passed: u32,
    pack: Option<Arc<IndexedPack>>,
}

impl PageMap {
    /// Begins at the first byte.
    #[must_use]
    pub fn new(runs: Vec<ChunkRun>) -> Self {
        let mut runs = runs.into_iter();
        let run = runs.next();
        Self { runs, run, passed: 0, pack: None }
    }

    /// Passes over `bytes`; gives the references that they have, as runs and slices.
    ///
    /// `None` when the old content ends before, or its pack is not to be seen any more.
    pub fn advance(
        &mut self,
        mut bytes: u64,
        lookup: &mut ChunkLookup,
    ) -> Result<Option<Vec<ChunkRun>>, BackupError> {
        let mut parts = Vec::new();
        while bytes > 0 {
            let Some(run) = self.run else { return Ok(None) };
            let Some(chunk_bytes) = self.chunk_bytes(&run, lookup)? else { return Ok(None) };
            let (offset, length) = run.slice.unwrap_or((0, chunk_bytes));
            let taken = u64::from(length - self.passed).min(bytes) as u32;
            let start = offset + self.passed;
            let is_whole = start == 0 && taken == chunk_bytes;
            let slice = (!is_whole).then_some((start, taken));
            parts.push(ChunkRun { pack: run.pack, first: run.first, count: 1, slice });
            bytes -= u64::from(taken);
            self.passed += taken;
            if self.passed == length {
                self.next_chunk();
            }
        }
        Ok(Some(parts))
    }

    fn next_chunk(&mut self) {
        self.passed = 0;
        self.run = match self.run {
            Some(run) if run.count > 1 => {
                Some(ChunkRun { first: run.first + 1, count: run.count - 1, ..run })
            }
            _ => self.runs.next(),
        };
    }

    fn chunk_bytes(
        &mut self,
        run: &ChunkRun,
        lookup: &mut ChunkLookup,
    ) -> Result<Option<u32>, BackupError> {
        if self.pack.as_ref().is_none_or(|pack| pack.table.handle != run.pack) {
            self.pack = lookup.pack(&run.pack)?;
        }
        let pack = self.pack.as_ref();
        Ok(pack.and_then(|pack| pack.table.chunk_bytes.get(run.first as usize).copied()))
    }
}

/// Marks pages whose chunk is referenced by less than half: they are stored anew the next time,
/// so that neither fragments nor waste grow without bound. A mark is a fingerprint of zeros.
pub fn mark_wasteful(
    fingerprints: &mut [u8],
    page_bytes: u32,
    runs: &[ChunkRun],
    lookup: &mut ChunkLookup,
) -> Result<(), BackupError> {
    for (start, end) in wasteful(runs, lookup)? {
        let first = (start / u64::from(page_bytes)) as usize * 16;
        let end = end.div_ceil(u64::from(page_bytes)) as usize * 16;
        if let Some(pages) = fingerprints.get_mut(first..end) {
            pages.fill(0);
        }
    }
    Ok(())
}

/// As [`mark_wasteful`], of pieces.
pub fn mark_wasteful_pieces(
    state: &mut [u8],
    runs: &[ChunkRun],
    lookup: &mut ChunkLookup,
) -> Result<(), BackupError> {
    let mut wasteful = wasteful(runs, lookup)?.into_iter().peekable();
    let mut at = 0;
    for piece in state.chunks_exact_mut(PIECE_STATE_BYTES) {
        let (fingerprint, length) = piece.split_at_mut(16);
        let end = at + u64::from(u32::from_le_bytes(length.try_into().unwrap_or_default()));
        while wasteful.next_if(|(_, wasteful_end)| *wasteful_end <= at).is_some() {}
        if wasteful.peek().is_some_and(|(start, _)| *start < end) {
            fingerprint.fill(0);
        }
        at = end;
    }
    Ok(())
}

/// Start and end of what refers to less than half of its chunk.
fn wasteful(runs: &[ChunkRun], lookup: &mut ChunkLookup) -> Result<Vec<(u64, u64)>, BackupError> {
    let mut used: std::collections::HashMap<_, u64> = std::collections::HashMap::new();
    for run in runs {
        if let Some((_, length)) = run.slice {
            *used.entry((run.pack, run.first)).or_default() += u64::from(length);
        }
    }
    let (mut found, mut at) = (Vec::new(), 0);
    for run in runs {
        let pack = lookup.pack(&run.pack)?;
        let length_of = |ordinal: u32| {
            pack.as_ref().and_then(|pack| pack.table.chunk_bytes.get(ordinal as usize).copied())
        };
        let length = match run.slice {
            Some((_, length)) => {
                let whole = u64::from(length_of(run.first).unwrap_or(0));
                if used[&(run.pack, run.first)] * 2 < whole {
                    found.push((at, at + u64::from(length)));
                }
                u64::from(length)
            }
            None => (run.first..run.first + run.count)
                .map(|ordinal| u64::from(length_of(ordinal).unwrap_or(0)))
                .sum(),
        };
        at += length;
    }
    Ok(found)
}
