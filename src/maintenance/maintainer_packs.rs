//! Packs and index segments that a maintainer writes, for one domain.
//!
//! Order of writing: packs → index; the commit that names both is the caller's. A frame counts only
//! after it was decoded and compared.

use crate::compress::{FrameDecoder, FrameEncoder, Level};
use crate::crypto::ids::DomainKeys;
use crate::crypto::recipient::Recipient;
use crate::crypto::small::seal_small;
use crate::format::commit::{ObjectName, PutEntry};
use crate::format::index_segment::{IndexSegment, IndexedPack, encoded_pack_bytes};
use crate::format::limits;
use crate::format::pack::{PackKind, PackOwner};
use crate::id::{ChunkId, ObjectId};
use crate::maintenance::error::MaintenanceError;
use crate::maintenance::tombs::Maintainer;
use crate::progress::Progress;
use crate::repo::chunk_writer::frame_bytes;
use crate::repo::objects::put_named;
use crate::repo::pack_builder::{Frame, PackBuilder, PackSettings, SealedPack};

/// zstd level of what is written anew: once, and read for years.
const LEVEL: i32 = 6;
/// Level of index segments: ids do not compress.
const SEGMENT_LEVEL: i32 = 1;
/// Encoded packs that one segment takes.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// Where a chunk went: the number of the pack among those written, and its ordinal there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NewPlace {
    /// Index into [`PackWriter::packs`].
    pub pack: u32,
    /// Ordinal.
    pub ordinal: u32,
}

/// Writes packs of one kind and domain.
pub struct PackWriter<'a> {
    maintainer: &'a Maintainer<'a>,
    settings: PackSettings,
    kind: PackKind,
    progress: &'a Progress,
    encoder: FrameEncoder,
    decoder: FrameDecoder,
    scratch: Vec<u8>,
    raw: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
    builder: Option<PackBuilder>,
    /// Places of the chunks in the open frame are told when it is closed.
    open: Vec<usize>,
    places: Vec<NewPlace>,
    /// What was stored.
    pub packs: Vec<IndexedPack>,
}

impl<'a> PackWriter<'a> {
    /// A writer of packs that are sealed to `recipient`.
    pub fn new(
        maintainer: &'a Maintainer<'a>,
        owner: PackOwner,
        recipient: Recipient,
        kind: PackKind,
        progress: &'a Progress,
    ) -> Result<Self, MaintenanceError> {
        let pack_bytes = maintainer.repository.roster.pack_bytes;
        Ok(Self {
            maintainer,
            settings: PackSettings { owner, recipient, pack_bytes },
            kind,
            progress,
            encoder: FrameEncoder::new(Level(LEVEL))?,
            decoder: FrameDecoder::new()?,
            scratch: Vec::new(),
            raw: Vec::new(),
            chunks: Vec::new(),
            builder: None,
            open: Vec::new(),
            places: Vec::new(),
            packs: Vec::new(),
        })
    }

    /// Adds a chunk; gives its number, by which [`Self::finish`] tells its place.
    pub fn add(&mut self, id: ChunkId, bytes: &[u8]) -> Result<usize, MaintenanceError> {
        if self.raw.len() + bytes.len() > frame_bytes(self.settings.pack_bytes)
            && !self.raw.is_empty()
        {
            self.close_frame()?;
        }
        self.raw.extend_from_slice(bytes);
        self.chunks.push((id, bytes.len() as u32));
        let number = self.places.len();
        self.places.push(NewPlace { pack: 0, ordinal: 0 });
        self.open.push(number);
        Ok(number)
    }

    fn close_frame(&mut self) -> Result<(), MaintenanceError> {
        if self.chunks.is_empty() {
            return Ok(());
        }
        let mut stored = Vec::new();
        self.encoder.encode(&self.raw, &mut stored)?;
        self.decoder.decode(&stored, self.raw.len(), &mut self.scratch)?;
        let raw_bytes = self.raw.len();
        if self.scratch != self.raw {
            return Err(MaintenanceError::FrameMismatch { raw_bytes });
        }
        let chunks = std::mem::take(&mut self.chunks);
        let frame = Frame { stored, raw_bytes: raw_bytes as u32, chunks };
        self.raw.clear();
        let fits = |builder: &PackBuilder| builder.fits(frame.stored.len(), frame.chunks.len());
        if let Some(full) = self.builder.take_if(|builder| !fits(builder)) {
            self.store(full.finish_full()?)?;
        }
        let builder = match &mut self.builder {
            Some(builder) => builder,
            none => none.insert(PackBuilder::begin(&self.settings, self.kind, Vec::new())?),
        };
        let first = builder.push(&frame)?;
        let pack = self.packs.len() as u32;
        for (number, ordinal) in self.open.drain(..).zip(first..) {
            self.places[number] = NewPlace { pack, ordinal };
        }
        Ok(())
    }

    fn store(&mut self, pack: SealedPack) -> Result<(), MaintenanceError> {
        self.maintainer.put(&ObjectName::Data(pack.entry.name).to_string(), &pack.object)?;
        Progress::add(&self.progress.stored_bytes, pack.entry.size);
        self.packs.push(pack.entry);
        Ok(())
    }

    /// Stores what is open. Gives the packs, and the places of all chunks by their numbers.
    pub fn finish(mut self) -> Result<(Vec<IndexedPack>, Vec<NewPlace>), MaintenanceError> {
        self.close_frame()?;
        if let Some(builder) = self.builder.take() {
            self.store(builder.finish_tail()?)?;
        }
        Ok((self.packs, self.places))
    }
}

/// Stores index segments for packs of one domain; gives what the commit has to name, the packs
/// among it.
pub fn put_segments(
    maintainer: &Maintainer<'_>,
    owner: PackOwner,
    keys: &DomainKeys,
    packs: Vec<IndexedPack>,
) -> Result<Vec<PutEntry>, MaintenanceError> {
    let mut puts = Vec::new();
    let mut part = Vec::new();
    let mut bytes = 0;
    for pack in packs {
        puts.push(PutEntry { name: ObjectName::Data(pack.name), bytes: pack.size });
        bytes += encoded_pack_bytes(pack.table.frames.len(), pack.ids.len());
        part.push(pack);
        if bytes >= SEGMENT_BYTES || part.len() as u64 >= limits::PACKS_PER_INDEX_MAX {
            puts.push(put_segment(maintainer, owner, keys, std::mem::take(&mut part))?);
            bytes = 0;
        }
    }
    if !part.is_empty() {
        puts.push(put_segment(maintainer, owner, keys, part)?);
    }
    Ok(puts)
}

fn put_segment(
    maintainer: &Maintainer<'_>,
    owner: PackOwner,
    keys: &DomainKeys,
    packs: Vec<IndexedPack>,
) -> Result<PutEntry, MaintenanceError> {
    let content = IndexSegment { owner, packs }.encode();
    let recipient: Recipient = keys.index_recipient().into();
    let sealed = seal_small(&[&recipient], &content, SEGMENT_LEVEL)?;
    let store = &*maintainer.repository.store;
    let name = put_named(store, |id: ObjectId| ObjectName::Index(owner.domain, id), &sealed)?;
    Ok(PutEntry { name, bytes: sealed.len() as u64 })
}
