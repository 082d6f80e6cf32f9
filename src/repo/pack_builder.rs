//! One pack while it is filled: frames go in, a sealed object comes out.
//!
//! The object is sealed as frames arrive, so a pack costs its own size in memory and no more.
//! A full pack has exactly the roster's size; the last of a run has a Padmé size.

use crate::crypto::ids::object_id;
use crate::crypto::recipient::Recipient;
use crate::crypto::seal::{ObjectSize, SealError, Sealer};
use crate::crypto::secret::{RandomnessError, random_bytes};
use crate::format::index_segment::IndexedPack;
use crate::format::limits;
use crate::format::pack::{
    FrameEntry, PackKind, PackOwner, PackTable, SKIPPABLE_HEADER_BYTES, encode_padding,
    footer_frame_bytes,
};
use crate::id::{ChunkId, PackHandle};

/// Why a pack could not be built.
#[derive(Debug, thiserror::Error)]
pub enum PackBuildError {
    /// The system has no randomness.
    #[error("a pack needs a random name")]
    Randomness(#[from] RandomnessError),
    /// Sealing failed.
    #[error("a pack could not be sealed")]
    Seal(#[from] SealError),
    /// One frame is larger than a whole pack.
    #[error("a frame of {stored_bytes} bytes does not fit into an empty pack")]
    FrameTooLarge {
        /// Its compressed length.
        stored_bytes: usize,
    },
}

/// What all packs of a run have in common.
#[derive(Clone)]
pub struct PackSettings {
    /// Who they belong to.
    pub owner: PackOwner,
    /// To whom they are sealed.
    pub recipient: Recipient,
    /// Size of a full pack object in bytes.
    pub pack_bytes: u64,
}

/// A sealed pack, ready to be stored.
pub struct SealedPack {
    /// Its bytes.
    pub object: Vec<u8>,
    /// Its name, table and chunk ids.
    pub entry: IndexedPack,
}

/// One frame, compressed, with the chunks in it.
pub struct Frame {
    /// The zstd frame.
    pub stored: Vec<u8>,
    /// Length of its content.
    pub raw_bytes: u32,
    /// Ids and lengths of its chunks in order.
    pub chunks: Vec<(ChunkId, u32)>,
}

/// A pack that is being filled.
pub struct PackBuilder {
    owner: PackOwner,
    sealer: Sealer,
    table: PackTable,
    ids: Vec<ChunkId>,
}

impl PackBuilder {
    /// An empty pack in `buffer`, whose allocation is used.
    pub fn begin(
        settings: &PackSettings,
        kind: PackKind,
        buffer: Vec<u8>,
    ) -> Result<Self, PackBuildError> {
        let size = ObjectSize::Exactly(settings.pack_bytes);
        let sealer = Sealer::begin(&[&settings.recipient], buffer, size)?;
        let handle = PackHandle(random_bytes()?);
        let table = PackTable::new(handle, kind);
        Ok(Self { owner: settings.owner, sealer, table, ids: Vec::new() })
    }

    /// Its random name.
    #[must_use]
    pub fn handle(&self) -> PackHandle {
        self.table.handle
    }

    /// Chunks in it so far: the ordinal of the next one.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        self.ids.len() as u32
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Whether another frame of that length with that many chunks has room.
    #[must_use]
    pub fn fits(&self, stored_bytes: usize, chunks: usize) -> bool {
        let (frames, chunks) = (self.table.frames.len() + 1, self.ids.len() + chunks);
        let needed = stored_bytes + SKIPPABLE_HEADER_BYTES + footer_frame_bytes(frames, chunks);
        self.sealer.written() + needed as u64 <= self.sealer.plain_capacity()
            && frames as u64 <= limits::FRAMES_PER_PACK_MAX
            && chunks as u64 <= limits::CHUNKS_PER_PACK_MAX
    }

    /// Appends a frame; gives the ordinal of its first chunk.
    ///
    /// # Errors
    /// [`PackBuildError::FrameTooLarge`] when it does not fit; ask [`PackBuilder::fits`] first.
    pub fn push(&mut self, frame: &Frame) -> Result<u32, PackBuildError> {
        if !self.fits(frame.stored.len(), frame.chunks.len()) {
            return Err(PackBuildError::FrameTooLarge { stored_bytes: frame.stored.len() });
        }
        let first = self.chunks();
        self.sealer.write(&frame.stored)?;
        self.table.frames.push(FrameEntry {
            stored_bytes: frame.stored.len() as u32,
            raw_bytes: frame.raw_bytes,
            chunks: frame.chunks.len() as u32,
        });
        self.table.chunk_bytes.extend(frame.chunks.iter().map(|(_, length)| length));
        self.ids.extend(frame.chunks.iter().map(|(id, _)| id));
        Ok(first)
    }

    /// Seals the pack as a full one, of exactly the size of all full packs.
    pub fn finish_full(self) -> Result<SealedPack, PackBuildError> {
        let plain = self.sealer.plain_capacity();
        self.finish(plain)
    }

    /// Seals the pack as the last one of a run, of a Padmé size.
    pub fn finish_tail(self) -> Result<SealedPack, PackBuildError> {
        let used = SKIPPABLE_HEADER_BYTES + self.table.footer_frame_bytes();
        let plain = self.sealer.tail_plain_bytes(self.sealer.written() + used as u64);
        self.finish(plain)
    }

    fn finish(mut self, plain_bytes: u64) -> Result<SealedPack, PackBuildError> {
        let footer_bytes = self.table.footer_frame_bytes() as u64;
        let padding = plain_bytes - self.sealer.written() - footer_bytes;
        let mut end = Vec::with_capacity((padding + footer_bytes) as usize);
        encode_padding(padding as usize, &mut end);
        self.table.encode_footer(&self.owner, &mut end);
        self.sealer.write(&end)?;
        debug_assert_eq!(self.sealer.written(), plain_bytes);
        let object = self.sealer.finish();
        let entry = IndexedPack {
            name: object_id(&object),
            size: object.len() as u64,
            table: self.table,
            ids: self.ids,
        };
        Ok(SealedPack { object, entry })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::{FrameEncoder, Level};
    use crate::crypto::recipient::ReadIdentity;
    use crate::crypto::sealed_size::padme;
    use crate::crypto::unseal::open_whole;
    use crate::id::{ActorId, DomainId, RepositoryId};

    fn settings(identity: &ReadIdentity) -> PackSettings {
        PackSettings {
            owner: PackOwner {
                repository: RepositoryId([1; 32]),
                writer: ActorId([2; 8]),
                domain: DomainId([3; 8]),
            },
            recipient: identity.recipient().into(),
            pack_bytes: 1 << 20,
        }
    }

    fn frame(content: &[u8]) -> Frame {
        let mut stored = Vec::new();
        FrameEncoder::new(Level(3)).unwrap().encode(content, &mut stored).unwrap();
        let raw_bytes = content.len() as u32;
        Frame { stored, raw_bytes, chunks: vec![(ChunkId([7; 32]), raw_bytes)] }
    }

    #[test]
    fn full_packs_have_one_size_and_tails_a_padme_size() {
        let identity = ReadIdentity::generate().unwrap();
        let settings = settings(&identity);
        for content in [&b"x"[..], &vec![0; 100_000]] {
            let mut builder = PackBuilder::begin(&settings, PackKind::Data, Vec::new()).unwrap();
            assert_eq!(builder.push(&frame(content)).unwrap(), 0);
            let full = builder.finish_full().unwrap();
            assert_eq!(full.object.len(), 1 << 20);
            let mut builder = PackBuilder::begin(&settings, PackKind::Tree, Vec::new()).unwrap();
            builder.push(&frame(content)).unwrap();
            let tail = builder.finish_tail().unwrap();
            assert_eq!(padme(tail.entry.size), tail.entry.size);
            assert!(tail.entry.size < 1 << 20);
        }
    }

    #[test]
    fn the_plaintext_is_zstd_frames_and_a_footer() {
        let identity = ReadIdentity::generate().unwrap();
        let settings = settings(&identity);
        let mut builder = PackBuilder::begin(&settings, PackKind::Data, Vec::new()).unwrap();
        builder.push(&frame(b"first")).unwrap();
        assert_eq!(builder.push(&frame(b"second")).unwrap(), 1);
        let pack = builder.finish_full().unwrap();
        let mut plain = Vec::new();
        open_whole(&[&identity.to_identity()], &pack.object, &mut plain).unwrap();
        assert_eq!(zstd::stream::decode_all(&plain[..]).unwrap(), b"firstsecond");
        let end: [u8; 8] = plain[plain.len() - 8..].try_into().unwrap();
        let length = PackTable::footer_frame_length(end).unwrap();
        let (owner, table) = PackTable::decode_footer(&plain[plain.len() - length..]).unwrap();
        assert_eq!((owner, table), (settings.owner, pack.entry.table));
    }

    #[test]
    fn a_frame_that_does_not_fit_is_refused() {
        let identity = ReadIdentity::generate().unwrap();
        let mut builder =
            PackBuilder::begin(&settings(&identity), PackKind::Data, Vec::new()).unwrap();
        let mut large = frame(b"x");
        large.stored = vec![0; 1 << 20];
        assert!(!builder.fits(large.stored.len(), 1));
        assert!(matches!(builder.push(&large), Err(PackBuildError::FrameTooLarge { .. })));
        assert!(builder.is_empty());
    }
}
