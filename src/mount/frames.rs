//! Decoded frames that all threads share, and the readers that fetch them.
//!
//! A frame is kept only when every chunk in it is the one that the index says. Of a frame that is
//! damaged, single chunks that are intact are still read.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, RwLock};

use crate::id::PackHandle;
use crate::mount::lru::Lru;
use crate::mount::sync::lock;
use crate::repo::chunk_reader::ChunkReader;
use crate::repo::pack_map::PackMap;
use crate::repo::read_access::{FrameSpan, ReadAccess, ReadError};

/// Buffers that are kept for use.
const SPARE_BUFFERS: usize = 8;
/// Capacities of buffers are multiples of this.
const BUFFER_UNIT_BYTES: usize = 64 * 1024;

type Key = (PackHandle, u32);
/// A frame being decoded, or decoded: nothing where it is not intact as a whole.
type Cell = Arc<OnceLock<Option<Buffer>>>;

/// Buffers given back, used again for the next frames: the allocator would keep them for each
/// thread.
#[derive(Default)]
struct Spare(Mutex<Vec<Vec<u8>>>);

/// A buffer that goes back when it is dropped.
struct Buffer {
    bytes: Vec<u8>,
    spare: Arc<Spare>,
}

impl Spare {
    fn copy_of(self: &Arc<Self>, content: &[u8]) -> Buffer {
        let mut spare = lock(&self.0);
        let fits = |bytes: &Vec<u8>| {
            (content.len()..=content.len() * 2 + BUFFER_UNIT_BYTES).contains(&bytes.capacity())
        };
        let found = spare.iter().position(fits).map(|index| spare.swap_remove(index));
        drop(spare);
        let size = content.len().next_multiple_of(BUFFER_UNIT_BYTES);
        let mut bytes = found.unwrap_or_else(|| Vec::with_capacity(size));
        bytes.extend_from_slice(content);
        Buffer { bytes, spare: self.clone() }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut spare = lock(&self.spare.0);
        if spare.len() >= SPARE_BUFFERS {
            spare.remove(0);
        }
        spare.push(bytes);
    }
}

#[derive(Default)]
struct Readers {
    idle: Vec<ChunkReader>,
    working: usize,
}

/// The frames.
pub struct Frames {
    access: RwLock<Arc<ReadAccess>>,
    readers: Mutex<Readers>,
    returned: Condvar,
    readers_max: usize,
    kept: Mutex<Lru<Key, Cell>>,
    spare: Arc<Spare>,
}

impl Frames {
    /// Keeps at most `bytes_max` of decoded frames; at most `readers_max` are decoded at a time.
    #[must_use]
    pub fn new(access: Arc<ReadAccess>, bytes_max: u64, readers_max: usize) -> Self {
        Self {
            access: RwLock::new(access),
            readers: Mutex::default(),
            returned: Condvar::new(),
            readers_max,
            kept: Mutex::new(Lru::new(bytes_max)),
            spare: Arc::default(),
        }
    }

    /// What is read from.
    #[must_use]
    pub fn access(&self) -> Arc<ReadAccess> {
        self.access.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads from `access` from now on: it knows packs that the one before did not.
    pub fn set_access(&self, access: Arc<ReadAccess>) {
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = access;
        lock(&self.readers).idle.clear();
    }

    /// Appends a part of a span's bytes. `last_frame` says how far the caller will read on.
    pub fn append(
        &self,
        span: &FrameSpan,
        part: Range<u32>,
        last_frame: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let map = self.access().pack(&span.pack)?;
        let Some(frame) = self.whole(&map, span.frame, last_frame) else {
            return self.append_intact(&map, span, part, out);
        };
        let out_of_range = ReadError::OutOfRange { pack: span.pack, ordinal: span.first };
        let Some(chunk) = map.chunk_range(span.first) else { return Err(out_of_range) };
        let start = chunk.start + span.slice.map_or(0, |(offset, _)| offset as usize);
        let (from, to) = (start + part.start as usize, start + part.end as usize);
        let bytes =
            frame.get().and_then(Option::as_ref).and_then(|frame| frame.bytes.get(from..to));
        out.extend_from_slice(bytes.ok_or(out_of_range)?);
        Ok(())
    }

    /// The bytes of a chunk.
    pub fn chunk(&self, pack: &PackHandle, ordinal: u32) -> Result<Vec<u8>, ReadError> {
        let map = self.access().pack(pack)?;
        let out_of_range = ReadError::OutOfRange { pack: *pack, ordinal };
        let (Some(frame), Some(bytes)) = (map.frame_of(ordinal), map.chunk_bytes(ordinal)) else {
            return Err(out_of_range);
        };
        let span = FrameSpan { pack: *pack, frame, first: ordinal, count: 1, slice: None, bytes };
        let mut out = Vec::with_capacity(bytes as usize);
        self.append(&span, 0..bytes, frame, &mut out)?;
        Ok(out)
    }

    /// Decodes a frame ahead of its use.
    pub fn prefetch(&self, pack: &PackHandle, frame: u32, last_frame: u32) {
        // What is wrong with it is told to whoever reads it.
        if let Ok(map) = self.access().pack(pack) {
            self.whole(&map, frame, last_frame);
        }
    }

    /// Whether a frame is there or on its way.
    #[must_use]
    pub fn has(&self, pack: PackHandle, frame: u32) -> bool {
        lock(&self.kept).has(&(pack, frame))
    }

    /// A frame all of whose chunks are intact; whoever comes second waits for the first.
    fn whole(&self, map: &PackMap, frame: u32, last_frame: u32) -> Option<Cell> {
        let key = (map.handle(), frame);
        let cell = {
            let mut kept = lock(&self.kept);
            kept.find(&key).unwrap_or_else(|| {
                let cell = Cell::default();
                kept.keep(key, cell.clone(), u64::from(map.raw_bytes(frame)));
                cell
            })
        };
        if cell.get_or_init(|| self.decode(map, frame, last_frame)).is_some() {
            return Some(cell);
        }
        lock(&self.kept).remove(&key);
        None
    }

    fn decode(&self, map: &PackMap, frame: u32, last_frame: u32) -> Option<Buffer> {
        let chunks = map.chunks_of(frame);
        let span = FrameSpan {
            pack: map.handle(),
            frame,
            first: chunks.start,
            count: chunks.len() as u32,
            slice: None,
            bytes: map.raw_bytes(frame),
        };
        let decoded = self.with_reader(|reader| {
            reader.span(&span, last_frame).map(|bytes| self.spare.copy_of(bytes))
        });
        decoded.ok().filter(|frame| frame.bytes.len() == span.bytes as usize)
    }

    /// Only those chunks are read that the part lies in: others may be lost.
    fn append_intact(
        &self,
        map: &PackMap,
        span: &FrameSpan,
        part: Range<u32>,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let skipped = span.slice.map_or(0, |(offset, _)| offset);
        let (from, to) = (skipped + part.start, skipped + part.end);
        let mut start = 0;
        for ordinal in span.first..span.first + span.count {
            let out_of_range = ReadError::OutOfRange { pack: span.pack, ordinal };
            let bytes = map.chunk_bytes(ordinal).ok_or(out_of_range)?;
            let (first, last) = (from.max(start), to.min(start + bytes));
            if first < last {
                let one = FrameSpan { first: ordinal, count: 1, slice: None, bytes, ..*span };
                let range = (first - start) as usize..(last - start) as usize;
                self.with_reader(|reader| {
                    let whole = reader.span(&one, span.frame)?;
                    out.extend_from_slice(whole.get(range).unwrap_or_default());
                    Ok(())
                })?;
            }
            start += bytes;
        }
        Ok(())
    }

    fn with_reader<T>(
        &self,
        work: impl FnOnce(&mut ChunkReader) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let access = self.access();
        let mut reader = self.take_reader(&access)?;
        let result = work(&mut reader);
        let mut readers = lock(&self.readers);
        readers.working -= 1;
        if Arc::ptr_eq(reader.access(), &self.access()) {
            readers.idle.push(reader);
        }
        drop(readers);
        self.returned.notify_one();
        result
    }

    fn take_reader(&self, access: &Arc<ReadAccess>) -> Result<ChunkReader, ReadError> {
        let mut readers = lock(&self.readers);
        while readers.working >= self.readers_max {
            readers = self.returned.wait(readers).unwrap_or_else(PoisonError::into_inner);
        }
        let idle = readers.idle.pop();
        let reader = match idle {
            Some(reader) if Arc::ptr_eq(reader.access(), access) => reader,
            _ => access.reader()?.keeping(1),
        };
        readers.working += 1;
        Ok(reader)
    }
}
