//! Reading pack objects: single frames through a seeking age stream, footers, and whole packs.
//!
//! A frame is read by ranged requests that are aligned to the store's quantum and reach as far
//! ahead as the caller says it will read, so neither few frames nor all of them cost more than
//! their bytes, and no reader ever holds a whole pack. Every byte is authenticated by age as it is
//! decrypted; whoever uses a chunk compares its id besides.

use std::error::Error;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::compress::{CompressError, FrameDecoder};
use crate::crypto::recipient::Identity;
use crate::crypto::unseal::{OpenError, Opened, open_stream};
use crate::format::limits;
use crate::format::pack::{PackError, PackOwner, PackTable};
use crate::id::{ChunkId, ObjectId};
use crate::repo::pack_map::{PackMap, object_name};
use crate::store::{Store, StoreError};

/// Longest single request for parts of a pack.
const REQUEST_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Shortest single request, where the store has no larger quantum: a header fits.
const REQUEST_BYTES_MIN: u64 = 16 * 1024;
/// Packs that one reader keeps open: opening costs a key agreement.
const OPEN_PACKS_MAX: usize = 4;

/// Why (part of) a pack could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PackReadError {
    /// The store does not give it.
    #[error("pack {pack} cannot be fetched")]
    Store {
        /// Name of the object.
        pack: ObjectId,
        /// What the store said.
        source: StoreError,
    },
    /// It does not open, or what is read is not authentic.
    #[error("pack {pack} does not open")]
    Open {
        /// Name of the object.
        pack: ObjectId,
        /// Why.
        source: OpenError,
    },
    /// The object's bytes are not those that its name says.
    #[error("pack {pack} holds other bytes: their hash is {found}")]
    WrongName {
        /// Name of the object.
        pack: ObjectId,
        /// Name that its bytes have.
        found: ObjectId,
    },
    /// The footer is refused.
    #[error("the footer of pack {pack} is refused")]
    Footer {
        /// Name of the object.
        pack: ObjectId,
        /// Why.
        source: PackError,
    },
    /// The frames that the footer lists are longer than the pack.
    #[error("pack {pack} has {plain_bytes} bytes, too few for the frames that its footer lists")]
    FramesTooLong {
        /// Name of the object.
        pack: ObjectId,
        /// Length of its plaintext.
        plain_bytes: u64,
    },
    /// There is no such frame.
    #[error("pack {pack} has no frame {frame}")]
    NoFrame {
        /// Name of the object.
        pack: ObjectId,
        /// Number of the frame.
        frame: u32,
    },
    /// A frame does not decode.
    #[error("frame {frame} of pack {pack} is damaged")]
    Frame {
        /// Name of the object.
        pack: ObjectId,
        /// Number of the frame.
        frame: u32,
        /// What the decoder said.
        source: CompressError,
    },
    /// A chunk is not the one that the index says.
    #[error("chunk {ordinal} in frame {frame} of pack {pack} is not {expected}")]
    Chunk {
        /// Name of the object.
        pack: ObjectId,
        /// Number of the frame.
        frame: u32,
        /// Ordinal of the chunk in the pack.
        ordinal: u32,
        /// Id that it should have.
        expected: ChunkId,
    },
    /// The pack belongs to a domain whose keys this reader does not have.
    #[error("pack {pack} belongs to a domain whose keys are missing")]
    NoDomainKeys {
        /// Name of the object.
        pack: ObjectId,
    },
}

impl PackReadError {
    /// An error of opening or reading through [`ObjectReader`].
    pub(super) fn of_open(pack: ObjectId, error: OpenError) -> Self {
        match error {
            OpenError::Io(io)
                if io.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<StoreError>) =>
            {
                let inner = io.into_inner().map(<dyn Error + Send + Sync>::downcast::<StoreError>);
                match inner {
                    Some(Ok(source)) => Self::Store { pack, source: *source },
                    _ => Self::Open { pack, source: OpenError::Damaged { what: "unreadable" } },
                }
            }
            source => Self::Open { pack, source },
        }
    }

    fn of_read(pack: ObjectId, error: io::Error) -> Self {
        Self::of_open(pack, OpenError::of_read(error))
    }

    /// Whether the store said that there is no such object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Store { source: StoreError::NotFound { .. }, .. })
    }
}

/// What one thread has fetched last: the packs that it has open take turns, so that many open packs
/// take no more memory than one.
#[derive(Default)]
struct Fetched {
    /// Whose bytes they are.
    reader: u64,
    start: u64,
    bytes: Vec<u8>,
}

type FetchBuffer = Arc<Mutex<Fetched>>;

/// An object of a store as a seekable reader, by aligned requests.
struct ObjectReader {
    store: Arc<dyn Store>,
    name: String,
    size: u64,
    position: u64,
    /// Tells it from others that share the buffer.
    id: u64,
    buffer: FetchBuffer,
    /// Up to where the next reads will go, as far as is known.
    wanted_end: Arc<AtomicU64>,
}

impl ObjectReader {
    fn fill(&self, buffer: &mut Fetched) -> io::Result<()> {
        let quantum = self.store.read_quantum_bytes().max(1);
        let start = self.position - self.position % quantum;
        let ahead = self.wanted_end.load(Relaxed).saturating_sub(start);
        let length = ahead.clamp(REQUEST_BYTES_MIN, REQUEST_BYTES_MAX).next_multiple_of(quantum);
        let length = length.min(self.size - start);
        buffer.bytes.resize(length as usize, 0);
        (buffer.reader, buffer.start) = (self.id, start);
        let read = self.store.read_at(&self.name, start, &mut buffer.bytes);
        read.map_err(|error| {
            buffer.bytes.clear();
            io::Error::other(error)
        })
    }
}

impl Read for ObjectReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.size || out.is_empty() {
            return Ok(0);
        }
        let buffer = self.buffer.clone();
        let mut buffer = buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let fetched = buffer.start..buffer.start + buffer.bytes.len() as u64;
        if buffer.reader != self.id || !fetched.contains(&self.position) {
            self.fill(&mut buffer)?;
        }
        let available = &buffer.bytes[(self.position - buffer.start) as usize..];
        let length = available.len().min(out.len());
        out[..length].copy_from_slice(&available[..length]);
        self.position += length as u64;
        Ok(length)
    }
}

impl Seek for ObjectReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.size.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

struct OpenPack {
    name: ObjectId,
    /// Which of several copies is read.
    copy: usize,
    stream: Opened<ObjectReader>,
    position: u64,
    wanted_end: Arc<AtomicU64>,
}

/// Reads frames of packs; one for each thread.
pub struct FrameReader {
    store: Arc<dyn Store>,
    identities: Arc<[Identity]>,
    decoder: FrameDecoder,
    stored: Vec<u8>,
    open: Vec<OpenPack>,
    buffer: FetchBuffer,
    /// Packs opened so far.
    opened: u64,
}

impl FrameReader {
    /// A reader that has opened nothing yet.
    pub fn new(store: Arc<dyn Store>, identities: Arc<[Identity]>) -> Result<Self, CompressError> {
        let decoder = FrameDecoder::new()?;
        let buffer = FetchBuffer::default();
        let (stored, open) = (Vec::new(), Vec::new());
        Ok(Self { store, identities, decoder, stored, open, buffer, opened: 0 })
    }

    /// Replaces `raw` by the content of a frame. `last_frame` says up to which frame of the pack
    /// the caller is going to read on, in order: that much is fetched at once.
    ///
    /// Ids are not compared here. After an error the pack is opened anew the next time.
    pub fn read(
        &mut self,
        pack: &PackMap,
        frame: u32,
        last_frame: u32,
        raw: &mut Vec<u8>,
    ) -> Result<(), PackReadError> {
        let object = object_name(pack.name());
        loop {
            let copy = self.store.trusted_copy(&object);
            self.open.retain(|open| open.name != *pack.name() || open.copy == copy);
            match self.read_once(pack, copy, (frame, last_frame), raw) {
                // The store may have another copy of what is damaged.
                Err(error) if self.store.distrust(&object, copy) => {
                    tracing::warn!("another copy is tried: {error}");
                }
                done => return done,
            }
        }
    }

    fn read_once(
        &mut self,
        pack: &PackMap,
        copy: usize,
        (frame, last_frame): (u32, u32),
        raw: &mut Vec<u8>,
    ) -> Result<(), PackReadError> {
        let name = *pack.name();
        let range = pack.frame_range(frame).ok_or(PackReadError::NoFrame { pack: name, frame })?;
        let end = pack.frame_range(last_frame).map_or(range.end, |last| last.end.max(range.end));
        let mut open = self.take_open(pack, copy)?;
        open.wanted_end.store(object_offset_max(end), Relaxed);
        self.stored.resize((range.end - range.start) as usize, 0);
        open.read_at(range.start, &mut self.stored)
            .map_err(|error| PackReadError::of_read(name, error))?;
        self.open.push(open);
        let raw_bytes = pack.raw_bytes(frame) as usize;
        self.decoder.decode(&self.stored, raw_bytes, raw).map_err(|source| PackReadError::Frame {
            pack: name,
            frame,
            source,
        })
    }

    fn take_open(&mut self, pack: &PackMap, copy: usize) -> Result<OpenPack, PackReadError> {
        if let Some(index) = self.open.iter().position(|open| open.name == *pack.name()) {
            return Ok(self.open.remove(index));
        }
        if self.open.len() >= OPEN_PACKS_MAX {
            self.open.remove(0);
        }
        self.opened += 1;
        let reader = ObjectReader {
            store: self.store.clone(),
            name: object_name(pack.name()),
            size: pack.entry().size,
            position: 0,
            id: self.opened,
            buffer: self.buffer.clone(),
            wanted_end: Arc::default(),
        };
        let opened = open_pack(&self.identities, pack.name(), reader)?;
        Ok(OpenPack { copy, ..opened })
    }
}

/// No offset in the object of the plaintext that ends at `plain_end` is beyond this.
fn object_offset_max(plain_end: u64) -> u64 {
    plain_end + plain_end / 4096 + 64 * 1024 + 1024
}

fn open_pack(
    identities: &[Identity],
    name: &ObjectId,
    reader: ObjectReader,
) -> Result<OpenPack, PackReadError> {
    let wanted_end = reader.wanted_end.clone();
    let identities: Vec<&Identity> = identities.iter().collect();
    let stream =
        open_stream(&identities, reader).map_err(|error| PackReadError::of_open(*name, error))?;
    Ok(OpenPack { name: *name, copy: 0, stream, position: 0, wanted_end })
}

impl OpenPack {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.position != offset {
            self.stream.seek(SeekFrom::Start(offset))?;
        }
        self.stream.read_exact(buffer)?;
        self.position = offset + buffer.len() as u64;
        Ok(())
    }
}

/// Reads owner and table of a pack from its footer, by a few requests at its end.
///
/// The end is authenticated, so it is the true footer of the object that this name has; its bytes
/// are not compared with the name.
pub fn read_footer(
    store: &Arc<dyn Store>,
    identities: &[Identity],
    name: &ObjectId,
    size: u64,
) -> Result<(PackOwner, PackTable), PackReadError> {
    let reader = ObjectReader {
        store: store.clone(),
        name: object_name(name),
        size,
        position: 0,
        id: 1,
        buffer: FetchBuffer::default(),
        wanted_end: Arc::default(),
    };
    let mut open = open_pack(identities, name, reader)?;
    let failed = |error| PackReadError::of_read(*name, error);
    let plain_bytes = open.stream.seek(SeekFrom::End(0)).map_err(failed)?;
    let too_short = PackReadError::FramesTooLong { pack: *name, plain_bytes };
    let Some(end_offset) = plain_bytes.checked_sub(8) else { return Err(too_short) };
    let mut end = [0; 8];
    open.position = plain_bytes;
    open.read_at(end_offset, &mut end).map_err(failed)?;
    let length = footer_length(name, end, plain_bytes)?;
    let mut footer = vec![0; length as usize];
    open.read_at(plain_bytes - length, &mut footer).map_err(failed)?;
    decode_footer(name, &footer, plain_bytes)
}

pub(super) fn footer_length(
    name: &ObjectId,
    end: [u8; 8],
    plain_bytes: u64,
) -> Result<u64, PackReadError> {
    let length = PackTable::footer_frame_length(end)
        .map_err(|source| PackReadError::Footer { pack: *name, source })? as u64;
    if length > plain_bytes {
        return Err(PackReadError::FramesTooLong { pack: *name, plain_bytes });
    }
    Ok(length)
}

pub(super) fn decode_footer(
    name: &ObjectId,
    footer: &[u8],
    plain_bytes: u64,
) -> Result<(PackOwner, PackTable), PackReadError> {
    let (owner, table) = PackTable::decode_footer(footer)
        .map_err(|source| PackReadError::Footer { pack: *name, source })?;
    if table.frames_bytes() + footer.len() as u64 > plain_bytes.min(limits::PACK_BYTES_MAX) {
        return Err(PackReadError::FramesTooLong { pack: *name, plain_bytes });
    }
    Ok((owner, table))
}
