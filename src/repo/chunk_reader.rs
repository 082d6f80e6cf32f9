//! One thread's reader of chunks: decoded frames at hand, ids compared, copies tried.

use std::sync::Arc;

use crate::id::PackHandle;
use crate::repo::pack_map::PackMap;
use crate::repo::pack_reader::{FrameReader, PackReadError};
use crate::repo::read_access::{FrameSpan, ReadAccess, ReadError};

/// Decoded frames that a reader keeps (half a mebibyte each, as a rule).
const KEPT_FRAMES: usize = 6;

struct DecodedFrame {
    pack: PackHandle,
    frame: u32,
    raw: Vec<u8>,
    /// Ordinal of its first chunk.
    first: u32,
    is_verified: Vec<bool>,
}

/// Reads chunks, one thread at a time.
pub struct ChunkReader {
    access: Arc<ReadAccess>,
    frames: FrameReader,
    /// The one used last is at the end.
    kept: Vec<DecodedFrame>,
    kept_max: usize,
    healed: Vec<u8>,
    damage: u64,
}

impl ReadAccess {
    /// A reader for one thread.
    pub fn reader(self: &Arc<Self>) -> Result<ChunkReader, ReadError> {
        let frames = FrameReader::new(self.store().clone(), self.identities().clone())?;
        let access = self.clone();
        let (kept, kept_max) = (Vec::new(), KEPT_FRAMES);
        Ok(ChunkReader { access, frames, kept, kept_max, healed: Vec::new(), damage: 0 })
    }
}

impl ChunkReader {
    /// What it reads from.
    #[must_use]
    pub fn access(&self) -> &Arc<ReadAccess> {
        &self.access
    }

    /// Keeps that many decoded frames, at least 1, for one who keeps them elsewhere.
    #[must_use]
    pub fn keeping(mut self, frames: usize) -> Self {
        self.kept_max = frames.max(1);
        self
    }

    /// Chunks so far whose pack was damaged or missing, but which another pack had.
    #[must_use]
    pub fn healed_chunks(&self) -> u64 {
        self.damage
    }

    /// A chunk's plaintext.
    pub fn chunk(&mut self, pack: &PackHandle, ordinal: u32) -> Result<&[u8], ReadError> {
        let map = self.access.pack(pack)?;
        let out_of_range = ReadError::OutOfRange { pack: *pack, ordinal };
        let (Some(frame), Some(bytes)) = (map.frame_of(ordinal), map.chunk_bytes(ordinal)) else {
            return Err(out_of_range);
        };
        let span = FrameSpan { pack: *pack, frame, first: ordinal, count: 1, slice: None, bytes };
        self.span(&span, frame)
    }

    /// The bytes of a span. `last_frame` says up to which frame of the pack the caller will read
    /// on, in order.
    ///
    /// # Errors
    /// [`ReadError::Lost`] when a chunk is nowhere to be had.
    pub fn span(&mut self, span: &FrameSpan, last_frame: u32) -> Result<&[u8], ReadError> {
        let map = self.access.pack(&span.pack)?;
        match self.verify(&map, span, last_frame) {
            Ok(index) => Ok(part(&self.kept[index].raw, &map, span)?),
            Err(_) => self.heal(&map, span),
        }
    }

    /// Makes sure that the frame is decoded and the span's chunks are those of the index.
    fn verify(
        &mut self,
        map: &PackMap,
        span: &FrameSpan,
        last_frame: u32,
    ) -> Result<usize, PackReadError> {
        let index = self.decoded(map, span.frame, last_frame)?;
        let kept = &mut self.kept[index];
        for ordinal in span.first..span.first + span.count {
            verify_chunk(map, kept, ordinal)?;
        }
        Ok(index)
    }

    fn decoded(
        &mut self,
        map: &PackMap,
        frame: u32,
        last_frame: u32,
    ) -> Result<usize, PackReadError> {
        let handle = map.handle();
        let found = self.kept.iter().position(|kept| kept.pack == handle && kept.frame == frame);
        let kept = if let Some(index) = found {
            self.kept.remove(index)
        } else {
            let full = self.kept.len() >= self.kept_max;
            let mut raw = if full { self.kept.remove(0).raw } else { Vec::new() };
            self.frames.read(map, frame, last_frame, &mut raw)?;
            let chunks = map.chunks_of(frame);
            let is_verified = vec![false; chunks.len()];
            DecodedFrame { pack: handle, frame, raw, first: chunks.start, is_verified }
        };
        self.kept.push(kept);
        Ok(self.kept.len() - 1)
    }

    /// Gathers a span chunk by chunk from wherever each is intact.
    fn heal(&mut self, map: &Arc<PackMap>, span: &FrameSpan) -> Result<&[u8], ReadError> {
        let mut healed = std::mem::take(&mut self.healed);
        healed.clear();
        for ordinal in span.first..span.first + span.count {
            self.intact_chunk(map, ordinal, &mut healed)?;
        }
        self.healed = healed;
        let (offset, length) = span.slice.unwrap_or((0, self.healed.len() as u32));
        self.healed
            .get(offset as usize..offset as usize + length as usize)
            .ok_or(ReadError::OutOfRange { pack: span.pack, ordinal: span.first })
    }

    fn intact_chunk(
        &mut self,
        map: &Arc<PackMap>,
        ordinal: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let pack = map.handle();
        let source = match self.append_chunk(map, ordinal, out) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let copies = self.access.copies(map, ordinal)?;
        for (other, other_ordinal) in &copies {
            if self.append_chunk(other, *other_ordinal, out).is_ok() {
                self.damage += 1;
                return Ok(());
            }
        }
        Err(ReadError::Lost { pack, ordinal, copies: copies.len(), source })
    }

    fn append_chunk(
        &mut self,
        map: &PackMap,
        ordinal: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), PackReadError> {
        let no_frame = PackReadError::NoFrame { pack: *map.name(), frame: u32::MAX };
        let (Some(frame), Some(range)) = (map.frame_of(ordinal), map.chunk_range(ordinal)) else {
            return Err(no_frame);
        };
        let index = self.decoded(map, frame, frame)?;
        let kept = &mut self.kept[index];
        verify_chunk(map, kept, ordinal)?;
        out.extend_from_slice(&kept.raw[range]);
        Ok(())
    }
}

fn verify_chunk(map: &PackMap, kept: &mut DecodedFrame, ordinal: u32) -> Result<(), PackReadError> {
    let index = ordinal.checked_sub(kept.first);
    let Some(known) = index.and_then(|index| kept.is_verified.get_mut(index as usize)) else {
        return Err(PackReadError::NoFrame { pack: *map.name(), frame: kept.frame });
    };
    if *known {
        return Ok(());
    }
    let (Some(range), Some(expected)) = (map.chunk_range(ordinal), map.id(ordinal)) else {
        return Err(PackReadError::NoFrame { pack: *map.name(), frame: kept.frame });
    };
    if map.id_of(&kept.raw[range]) != *expected {
        let (pack, frame, expected) = (*map.name(), kept.frame, *expected);
        return Err(PackReadError::Chunk { pack, frame, ordinal, expected });
    }
    *known = true;
    Ok(())
}

fn part<'a>(raw: &'a [u8], map: &PackMap, span: &FrameSpan) -> Result<&'a [u8], ReadError> {
    let last = span.first + span.count - 1;
    let out_of_range = || ReadError::OutOfRange { pack: span.pack, ordinal: last };
    let first_range = map.chunk_range(span.first).ok_or_else(out_of_range)?;
    let last_range = map.chunk_range(last).ok_or_else(out_of_range)?;
    let whole = raw.get(first_range.start..last_range.end).ok_or_else(out_of_range)?;
    match span.slice {
        Some((offset, length)) => {
            whole.get(offset as usize..offset as usize + length as usize).ok_or_else(out_of_range)
        }
        None => Ok(whole),
    }
}
