//! The table of a pack: its frames and the lengths of its chunks, as the footer has them.
//!
//! A table that decodes is consistent: every frame holds whole chunks, every count and length is
//! within the limits, and the sums agree. `format-spec/README.md`, section "Pack".

use crate::format::bytes::{Fields, Truncated, put_integer};
use crate::format::limits;
use crate::id::{ActorId, DomainId, PackHandle, RepositoryId};

const MAGIC: &[u8; 8] = b"HFPACK01";
const END_MAGIC: &[u8; 4] = b"HFPE";
/// Length field and end magic behind the tables.
const TRAILER_BYTES: usize = 8;
const FIXED_BYTES: usize = 8 + 4 + 32 + 8 + 8 + 16 + 4 + 4;
const FRAME_WIDTH: usize = 3;

/// Magic number of the skippable frame that pads an object.
pub const PADDING_MAGIC: u32 = 0x184D_2A50;
/// Magic number of the skippable frame that holds a footer.
pub const FOOTER_MAGIC: u32 = 0x184D_2A5F;
/// Bytes that a skippable frame needs before its content.
pub const SKIPPABLE_HEADER_BYTES: usize = 8;

/// What a pack holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PackKind {
    /// Chunks of files and streams.
    Data,
    /// Tree leaves, index nodes and reference lists.
    Tree,
}

impl PackKind {
    /// Its number in the format.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Tree => 2,
        }
    }

    /// The kind of that number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Data),
            2 => Some(Self::Tree),
            _ => None,
        }
    }
}

/// One frame of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameEntry {
    /// Length as stored (compressed).
    pub stored_bytes: u32,
    /// Length of its content.
    pub raw_bytes: u32,
    /// Chunks in it.
    pub chunks: u32,
}

/// Why a footer or a table is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// It ends too early.
    #[error("the table of the pack is cut off")]
    Truncated(#[from] Truncated),
    /// It does not begin or end as it must.
    #[error("the footer of the pack has no {0} mark")]
    Magic(&'static str),
    /// The kind is none that is known.
    #[error("pack kind {0} is not known to this program")]
    Kind(u8),
    /// A count or a length is beyond its limit.
    #[error("{what} is {value}, the limit is {limit}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// What is there.
        value: u64,
        /// What may be.
        limit: u64,
    },
    /// The chunks do not fill the frames.
    #[error("the chunks of frame {frame} do not add up to its length")]
    Sums {
        /// Number of the frame.
        frame: usize,
    },
    /// Bytes are left over.
    #[error("{0} bytes follow the table of the pack")]
    Trailing(usize),
}

/// Who a pack belongs to, as its footer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackOwner {
    /// The repository.
    pub repository: RepositoryId,
    /// Its writer.
    pub writer: ActorId,
    /// The writer's domain.
    pub domain: DomainId,
}

/// Frames and chunk lengths of one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackTable {
    /// Its random name, which references carry.
    pub handle: PackHandle,
    /// What it holds.
    pub kind: PackKind,
    /// The frames in order; the first begins at offset 0 of the plaintext.
    pub frames: Vec<FrameEntry>,
    /// Lengths of all chunks in order.
    pub chunk_bytes: Vec<u32>,
}

impl PackTable {
    /// A table without frames.
    #[must_use]
    pub fn new(handle: PackHandle, kind: PackKind) -> Self {
        Self { handle, kind, frames: Vec::new(), chunk_bytes: Vec::new() }
    }

    /// Length of the skippable frame that a footer for this table takes.
    #[must_use]
    pub fn footer_frame_bytes(&self) -> usize {
        footer_frame_bytes(self.frames.len(), self.chunk_bytes.len())
    }

    /// Appends the footer as a skippable frame.
    pub fn encode_footer(&self, owner: &PackOwner, out: &mut Vec<u8>) {
        let content = self.footer_frame_bytes() - SKIPPABLE_HEADER_BYTES;
        out.extend_from_slice(&FOOTER_MAGIC.to_le_bytes());
        put_integer(out, content as u32, 4);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[self.kind.number(), 0, 0, 0]);
        out.extend_from_slice(&owner.repository.0);
        out.extend_from_slice(&owner.writer.0);
        out.extend_from_slice(&owner.domain.0);
        out.extend_from_slice(&self.handle.0);
        put_integer(out, self.frames.len() as u32, 4);
        put_integer(out, self.chunk_bytes.len() as u32, 4);
        for frame in &self.frames {
            put_integer(out, frame.stored_bytes, FRAME_WIDTH);
            put_integer(out, frame.raw_bytes, FRAME_WIDTH);
            put_integer(out, frame.chunks, FRAME_WIDTH);
        }
        for length in &self.chunk_bytes {
            put_integer(out, *length, FRAME_WIDTH);
        }
        put_integer(out, (content - TRAILER_BYTES) as u32, 4);
        out.extend_from_slice(END_MAGIC);
    }

    /// How long the footer's skippable frame is, told by the last eight bytes of the plaintext.
    pub fn footer_frame_length(end: [u8; 8]) -> Result<usize, PackError> {
        let [a, b, c, d, magic @ ..] = end;
        if &magic != END_MAGIC {
            return Err(PackError::Magic("end"));
        }
        let content = u32::from_le_bytes([a, b, c, d]) as usize;
        let most = footer_frame_bytes(
            limits::FRAMES_PER_PACK_MAX as usize,
            limits::CHUNKS_PER_PACK_MAX as usize,
        );
        check("footer length", content as u64, most as u64)?;
        Ok(SKIPPABLE_HEADER_BYTES + content + TRAILER_BYTES)
    }

    /// Takes a footer apart, from the first byte of its skippable frame to the last.
    pub fn decode_footer(frame: &[u8]) -> Result<(PackOwner, Self), PackError> {
        let mut fields = Fields::new(frame);
        let magic = fields.u32("skippable frame magic")?;
        let content = fields.u32("skippable frame length")? as usize;
        if magic != FOOTER_MAGIC || content != fields.left() {
            return Err(PackError::Magic("skippable frame"));
        }
        if &fields.array::<8>("magic")? != MAGIC {
            return Err(PackError::Magic("start"));
        }
        let kind = fields.u8("kind")?;
        let kind = PackKind::from_number(kind).ok_or(PackError::Kind(kind))?;
        check_zero(&mut fields)?;
        let owner = PackOwner {
            repository: RepositoryId(fields.array("repository")?),
            writer: ActorId(fields.array("writer")?),
            domain: DomainId(fields.array("domain")?),
        };
        let handle = PackHandle(fields.array("handle")?);
        let table = Self::decode_tables(&mut fields, handle, kind, FRAME_WIDTH)?;
        if fields.left() != TRAILER_BYTES {
            return Err(PackError::Trailing(fields.left()));
        }
        let length = fields.u32("footer length")? as usize;
        if length + TRAILER_BYTES != content || &fields.array("end magic")? != END_MAGIC {
            return Err(PackError::Magic("end"));
        }
        Ok((owner, table))
    }

    /// Reads counts and tables whose integers are `width` bytes long, and checks them.
    pub(super) fn decode_tables(
        fields: &mut Fields<'_>,
        handle: PackHandle,
        kind: PackKind,
        width: usize,
    ) -> Result<Self, PackError> {
        let frame_count = u64::from(fields.u32("number of frames")?);
        let chunk_count = u64::from(fields.u32("number of chunks")?);
        check("number of frames", frame_count, limits::FRAMES_PER_PACK_MAX)?;
        check("number of chunks", chunk_count, limits::CHUNKS_PER_PACK_MAX)?;
        let numbers: Vec<u32> =
            fields.integers(3 * frame_count as usize, width, "frame table")?.collect();
        let frames = numbers
            .chunks_exact(3)
            .map(|n| FrameEntry { stored_bytes: n[0], raw_bytes: n[1], chunks: n[2] })
            .collect();
        let chunk_bytes = fields.integers(chunk_count as usize, width, "chunk table")?.collect();
        let table = Self { handle, kind, frames, chunk_bytes };
        table.check_sums()?;
        Ok(table)
    }

    fn check_sums(&self) -> Result<(), PackError> {
        let mut chunks = self.chunk_bytes.iter();
        for (number, frame) in self.frames.iter().enumerate() {
            check("frame length", frame.raw_bytes.into(), limits::FRAME_BYTES_MAX)?;
            check("stored frame length", frame.stored_bytes.into(), 2 * limits::FRAME_BYTES_MAX)?;
            let mut sum = 0_u64;
            for _ in 0..frame.chunks {
                let length = *chunks.next().ok_or(PackError::Sums { frame: number })?;
                check("chunk length", length.into(), limits::CHUNK_BYTES_MAX)?;
                sum += u64::from(length);
            }
            if sum != u64::from(frame.raw_bytes) || frame.chunks == 0 {
                return Err(PackError::Sums { frame: number });
            }
        }
        if chunks.next().is_some() {
            return Err(PackError::Sums { frame: self.frames.len() });
        }
        Ok(())
    }

    /// Bytes of the plaintext that its frames take.
    #[must_use]
    pub fn frames_bytes(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.stored_bytes)).sum()
    }
}

/// Takes three bytes that have no meaning yet, and so must be zero.
pub(super) fn check_zero(fields: &mut Fields<'_>) -> Result<(), PackError> {
    if fields.array::<3>("zero")? == [0; 3] { Ok(()) } else { Err(PackError::Magic("zero")) }
}

/// Length of the footer's skippable frame for that many frames and chunks.
#[must_use]
pub fn footer_frame_bytes(frames: usize, chunks: usize) -> usize {
    SKIPPABLE_HEADER_BYTES
        + FIXED_BYTES
        + frames * 3 * FRAME_WIDTH
        + chunks * FRAME_WIDTH
        + TRAILER_BYTES
}

/// Appends a skippable frame of zeros that is `total` bytes long, its header included.
pub fn encode_padding(total: usize, out: &mut Vec<u8>) {
    assert!(total >= SKIPPABLE_HEADER_BYTES, "padding of {total} bytes has no room for its header");
    out.extend_from_slice(&PADDING_MAGIC.to_le_bytes());
    put_integer(out, (total - SKIPPABLE_HEADER_BYTES) as u32, 4);
    out.resize(out.len() + total - SKIPPABLE_HEADER_BYTES, 0);
}

/// Refuses a value beyond its limit.
pub(super) fn check(what: &'static str, value: u64, limit: u64) -> Result<(), PackError> {
    if value > limit { Err(PackError::Limit { what, value, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn sample() -> (PackOwner, PackTable) {
        let owner = PackOwner {
            repository: RepositoryId([1; 32]),
            writer: ActorId([2; 8]),
            domain: DomainId([3; 8]),
        };
        let table = PackTable {
            handle: PackHandle([4; 16]),
            kind: PackKind::Data,
            frames: vec![
                FrameEntry { stored_bytes: 50, raw_bytes: 300, chunks: 2 },
                FrameEntry { stored_bytes: 70_000, raw_bytes: 70_001, chunks: 1 },
            ],
            chunk_bytes: vec![100, 200, 70_001],
        };
        (owner, table)
    }

    #[test]
    fn footer_comes_back() {
        let (owner, table) = sample();
        let mut bytes = Vec::new();
        table.encode_footer(&owner, &mut bytes);
        assert_eq!(bytes.len(), table.footer_frame_bytes());
        let end = bytes[bytes.len() - 8..].try_into().unwrap();
        assert_eq!(PackTable::footer_frame_length(end), Ok(bytes.len()));
        assert_eq!(PackTable::decode_footer(&bytes), Ok((owner, table)));
    }

    #[test]
    fn damaged_footers_are_refused() {
        let (owner, table) = sample();
        let mut bytes = Vec::new();
        table.encode_footer(&owner, &mut bytes);
        for length in 0..bytes.len() {
            assert!(PackTable::decode_footer(&bytes[..length]).is_err(), "cut at {length}");
        }
        // Magic, kind, counts, tables: a change is an error, never another reading of them.
        for at in (0..17).chain(88..bytes.len() - 8) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x80;
            assert_ne!(
                PackTable::decode_footer(&flipped),
                Ok((owner, table.clone())),
                "flip at {at}"
            );
        }
    }

    #[test]
    fn counts_are_checked_before_anything_is_allocated() {
        let (owner, table) = sample();
        let mut bytes = Vec::new();
        table.encode_footer(&owner, &mut bytes);
        let frames_at = SKIPPABLE_HEADER_BYTES + FIXED_BYTES - 8;
        bytes[frames_at..frames_at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = PackTable::decode_footer(&bytes).unwrap_err();
        assert!(matches!(error, PackError::Limit { what: "number of frames", .. }), "{error}");
        let mut end = *b"\xff\xff\xff\xffHFPE";
        assert!(PackTable::footer_frame_length(end).is_err());
        end[7] = b'X';
        assert_eq!(PackTable::footer_frame_length(end), Err(PackError::Magic("end")));
    }
}
