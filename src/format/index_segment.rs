//! An index segment: for each pack of one commit its name, table and chunk ids.
//!
//! A segment that decodes holds consistent tables only, and as many ids as chunks.
//! `format-spec/README.md`, section "Index segment".

use crate::format::bytes::{Fields, Truncated, put_integer};
use crate::format::limits;
use crate::format::pack::{PackError, PackKind, PackOwner, PackTable, check, check_zero};
use crate::id::{ActorId, ChunkId, DomainId, ObjectId, PackHandle, RepositoryId};

const MAGIC: &[u8; 8] = b"HFINDEX1";
const WIDTH: usize = 4;

/// Why a segment is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// It ends too early.
    #[error("the index segment is cut off")]
    Truncated(#[from] Truncated),
    /// It does not begin as a segment does.
    #[error("not an index segment of a kind known to this program")]
    Magic,
    /// A pack in it is refused.
    #[error("pack {number} of the index segment is refused")]
    Pack {
        /// Its place in the segment.
        number: u32,
        /// Why.
        source: PackError,
    },
    /// Bytes are left over.
    #[error("{0} bytes follow the last pack of the index segment")]
    Trailing(usize),
}

/// One pack of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedPack {
    /// Name of the pack object.
    pub name: ObjectId,
    /// Its stored length in bytes.
    pub size: u64,
    /// Its frames and chunk lengths.
    pub table: PackTable,
    /// Ids of its chunks in order.
    pub ids: Vec<ChunkId>,
}

/// The packs of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexSegment {
    /// Repository, writer, domain.
    pub owner: PackOwner,
    /// Its packs, in the order in which they were stored.
    pub packs: Vec<IndexedPack>,
}

impl IndexSegment {
    /// The segment as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let ids: usize = self.packs.iter().map(|pack| pack.ids.len()).sum();
        let mut out = Vec::with_capacity(64 + self.packs.len() * 128 + ids * 40);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.owner.repository.0);
        out.extend_from_slice(&self.owner.writer.0);
        out.extend_from_slice(&self.owner.domain.0);
        put_integer(&mut out, self.packs.len() as u32, 4);
        for pack in &self.packs {
            encode_pack(pack, &mut out);
        }
        out
    }

    /// Takes a segment apart.
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentError> {
        let mut fields = Fields::new(bytes);
        if &fields.array::<8>("magic")? != MAGIC {
            return Err(SegmentError::Magic);
        }
        let owner = PackOwner {
            repository: RepositoryId(fields.array("repository")?),
            writer: ActorId(fields.array("writer")?),
            domain: DomainId(fields.array("domain")?),
        };
        let count = fields.u32("number of packs")?;
        check("number of packs", count.into(), limits::PACKS_PER_INDEX_MAX)
            .map_err(|source| SegmentError::Pack { number: 0, source })?;
        let packs = (0..count)
            .map(|number| {
                decode_pack(&mut fields).map_err(|source| SegmentError::Pack { number, source })
            })
            .collect::<Result<_, _>>()?;
        if fields.left() > 0 {
            return Err(SegmentError::Trailing(fields.left()));
        }
        Ok(Self { owner, packs })
    }
}

/// Bytes that a pack of that many frames and chunks takes in a segment.
#[must_use]
pub fn encoded_pack_bytes(frames: usize, chunks: usize) -> usize {
    32 + 16 + 8 + 4 + 8 + frames * 3 * WIDTH + chunks * (WIDTH + ChunkId::BYTES)
}

fn encode_pack(pack: &IndexedPack, out: &mut Vec<u8>) {
    assert_eq!(pack.ids.len(), pack.table.chunk_bytes.len(), "one id for each chunk");
    out.extend_from_slice(&pack.name.0);
    out.extend_from_slice(&pack.table.handle.0);
    out.extend_from_slice(&pack.size.to_le_bytes());
    out.extend_from_slice(&[pack.table.kind.number(), 0, 0, 0]);
    put_integer(out, pack.table.frames.len() as u32, 4);
    put_integer(out, pack.table.chunk_bytes.len() as u32, 4);
    for frame in &pack.table.frames {
        for value in [frame.stored_bytes, frame.raw_bytes, frame.chunks] {
            put_integer(out, value, WIDTH);
        }
    }
    for length in &pack.table.chunk_bytes {
        put_integer(out, *length, WIDTH);
    }
    for id in &pack.ids {
        out.extend_from_slice(&id.0);
    }
}

fn decode_pack(fields: &mut Fields<'_>) -> Result<IndexedPack, PackError> {
    let name = ObjectId(fields.array("pack name")?);
    let handle = PackHandle(fields.array("pack handle")?);
    let size = fields.u64("pack size")?;
    check("pack size", size, limits::PACK_BYTES_MAX)?;
    let kind = fields.u8("pack kind")?;
    let kind = PackKind::from_number(kind).ok_or(PackError::Kind(kind))?;
    check_zero(fields)?;
    let table = PackTable::decode_tables(fields, handle, kind, WIDTH)?;
    let ids = fields.take(table.chunk_bytes.len() * ChunkId::BYTES, "chunk ids")?;
    let ids = ids
        .chunks_exact(ChunkId::BYTES)
        .map(|id| ChunkId(id.try_into().expect("chunks_exact gives 32 bytes")))
        .collect();
    Ok(IndexedPack { name, size, table, ids })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::pack::FrameEntry;

    fn sample() -> IndexSegment {
        let table = PackTable {
            handle: PackHandle([4; 16]),
            kind: PackKind::Tree,
            frames: vec![FrameEntry { stored_bytes: 50, raw_bytes: 300, chunks: 2 }],
            chunk_bytes: vec![100, 200],
        };
        let ids = vec![ChunkId([7; 32]), ChunkId([8; 32])];
        let pack = IndexedPack { name: ObjectId([9; 32]), size: 16_384, table, ids };
        let owner = PackOwner {
            repository: RepositoryId([1; 32]),
            writer: ActorId([2; 8]),
            domain: DomainId([3; 8]),
        };
        IndexSegment { owner, packs: vec![pack.clone(), pack] }
    }

    #[test]
    fn segment_comes_back() {
        let segment = sample();
        let bytes = segment.encode();
        assert_eq!(IndexSegment::decode(&bytes), Ok(segment));
        assert_eq!(bytes.len(), 60 + 2 * encoded_pack_bytes(1, 2));
    }

    #[test]
    fn damage_is_refused_or_seen() {
        let segment = sample();
        let bytes = segment.encode();
        for length in 0..bytes.len() {
            assert!(IndexSegment::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(IndexSegment::decode(&longer), Err(SegmentError::Trailing(1)));
        let mut many = bytes.clone();
        many[56..60].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(IndexSegment::decode(&many), Err(SegmentError::Pack { .. })));
    }
}
