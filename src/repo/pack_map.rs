//! One pack of the index with the places of its frames and chunks worked out.
//!
//! A map that exists is consistent: every frame holds whole chunks, within the limits, and there
//! are as many ids as chunks. A damaged local index therefore never leads to a wrong slice.

use std::ops::Range;
use std::sync::OnceLock;

use crate::crypto::ids::{ChunkKind, DomainKeys};
use crate::format::index_segment::IndexedPack;
use crate::format::limits;
use crate::format::pack::PackKind;
use crate::id::{ChunkId, ObjectId, PackHandle};

/// A pack, ready to be read from.
#[derive(Debug)]
pub struct PackMap {
    entry: IndexedPack,
    keys: DomainKeys,
    /// Which of the reader's domains it belongs to.
    pub(super) domain: usize,
    /// Whether the store has the object, once that was asked.
    pub(super) is_present: OnceLock<bool>,
    frame_offsets: Vec<u64>,
    frame_chunks: Vec<u32>,
    chunk_offsets: Vec<u32>,
}

/// Name of a pack object.
#[must_use]
pub fn object_name(pack: &ObjectId) -> String {
    let text = pack.to_string();
    format!("data/{}/{text}", &text[..2])
}

impl PackMap {
    /// Works the places out; `None` where the table contradicts itself or the limits.
    #[must_use]
    pub fn new(entry: IndexedPack, keys: DomainKeys, domain: usize) -> Option<Self> {
        let mut map = Self {
            frame_offsets: Vec::with_capacity(entry.table.frames.len()),
            frame_chunks: Vec::with_capacity(entry.table.frames.len() + 1),
            chunk_offsets: Vec::with_capacity(entry.ids.len()),
            is_present: OnceLock::new(),
            entry,
            keys,
            domain,
        };
        let is_consistent = map.measure() && map.entry.ids.len() == map.chunk_offsets.len();
        is_consistent.then_some(map)
    }

    fn measure(&mut self) -> bool {
        let table = &self.entry.table;
        let mut offset = 0_u64;
        for frame in &table.frames {
            let first = self.chunk_offsets.len();
            let Some(chunks) = table.chunk_bytes.get(first..first + frame.chunks as usize) else {
                return false;
            };
            self.frame_offsets.push(offset);
            self.frame_chunks.push(first as u32);
            let mut raw = 0_u64;
            for length in chunks {
                self.chunk_offsets.push(raw as u32);
                raw += u64::from(*length);
                if raw > limits::FRAME_BYTES_MAX {
                    return false;
                }
            }
            offset += u64::from(frame.stored_bytes);
            if raw != u64::from(frame.raw_bytes) || offset > limits::PACK_BYTES_MAX {
                return false;
            }
        }
        self.frame_chunks.push(self.chunk_offsets.len() as u32);
        table.chunk_bytes.len() == self.chunk_offsets.len()
    }

    /// Its entry in the index.
    #[must_use]
    pub fn entry(&self) -> &IndexedPack {
        &self.entry
    }

    /// Name of the object.
    #[must_use]
    pub fn name(&self) -> &ObjectId {
        &self.entry.name
    }

    /// Its random name, which references carry.
    #[must_use]
    pub fn handle(&self) -> PackHandle {
        self.entry.table.handle
    }

    /// Number of its chunks.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        self.chunk_offsets.len() as u32
    }

    /// Id of a chunk.
    #[must_use]
    pub fn id(&self, ordinal: u32) -> Option<&ChunkId> {
        self.entry.ids.get(ordinal as usize)
    }

    /// The id that these bytes have as a chunk of this pack.
    #[must_use]
    pub fn id_of(&self, bytes: &[u8]) -> ChunkId {
        let kind = match self.entry.table.kind {
            PackKind::Data => ChunkKind::Data,
            PackKind::Tree => ChunkKind::Tree,
        };
        self.keys.chunk_id(kind, bytes)
    }

    /// Length of a chunk's plaintext in bytes.
    #[must_use]
    pub fn chunk_bytes(&self, ordinal: u32) -> Option<u32> {
        self.entry.table.chunk_bytes.get(ordinal as usize).copied()
    }

    /// The frame that a chunk lies in.
    #[must_use]
    pub fn frame_of(&self, ordinal: u32) -> Option<u32> {
        if ordinal >= self.chunks() {
            return None;
        }
        Some(self.frame_chunks.partition_point(|first| *first <= ordinal) as u32 - 1)
    }

    /// Ordinals of the chunks in a frame; empty for a frame that there is not.
    #[must_use]
    pub fn chunks_of(&self, frame: u32) -> Range<u32> {
        let bound = |index: usize| self.frame_chunks.get(index).copied();
        match (bound(frame as usize), bound(frame as usize + 1)) {
            (Some(first), Some(end)) => first..end,
            _ => 0..0,
        }
    }

    /// Where a chunk lies in the content of its frame.
    #[must_use]
    pub fn chunk_range(&self, ordinal: u32) -> Option<Range<usize>> {
        let start = *self.chunk_offsets.get(ordinal as usize)? as usize;
        Some(start..start + self.chunk_bytes(ordinal)? as usize)
    }

    /// Where a frame lies in the plaintext of the object.
    #[must_use]
    pub fn frame_range(&self, frame: u32) -> Option<Range<u64>> {
        let start = *self.frame_offsets.get(frame as usize)?;
        let stored = self.entry.table.frames.get(frame as usize)?.stored_bytes;
        Some(start..start + u64::from(stored))
    }

    /// Length of a frame's content in bytes; 0 for a frame that there is not.
    #[must_use]
    pub fn raw_bytes(&self, frame: u32) -> u32 {
        self.entry.table.frames.get(frame as usize).map_or(0, |entry| entry.raw_bytes)
    }
}
