//! The head of a segment of the write-ahead log: whose it is, and where it belongs.
//!
//! Source: `access/xlog_internal.h`, `XLogLongPageHeaderData`; the byte order is the server's, and
//! every server that this program can talk to over a socket of this host has ours.

use crate::format::bytes::Fields;
use crate::format::postgres::lsn::{Lsn, Timeline};
use crate::format::postgres::segment::{Segment, SegmentBytes};

/// Bytes of a long header.
pub const LONG_HEADER_BYTES: usize = 40;
/// `XLP_LONG_HEADER`.
const LONG_HEADER: u16 = 0x0002;
/// First and last `XLOG_PAGE_MAGIC` of the versions whose header looks so.
const MAGICS: std::ops::RangeInclusive<u16> = 0xD100..=0xD1FF;

/// What the first page of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHead {
    /// System identifier of the cluster.
    pub system: u64,
    /// Timeline of the first page, which may be an ancestor of the segment's.
    pub timeline: Timeline,
    /// Position of the first byte.
    pub start: Lsn,
    /// Size of the segments of the cluster.
    pub size: SegmentBytes,
}

/// Why a file is not the segment that its name says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentHeadError {
    /// It does not begin as a segment does.
    #[error("it does not begin with the header of a segment")]
    NoHeader,
    /// It belongs elsewhere.
    #[error("it begins at {found}, by its name it would begin at {expected}")]
    Misplaced {
        /// By its name.
        expected: Lsn,
        /// By its header.
        found: Lsn,
    },
}

impl SegmentHead {
    /// Reads the head of a segment.
    ///
    /// # Errors
    /// [`SegmentHeadError::NoHeader`].
    pub fn parse(bytes: &[u8]) -> Result<Self, SegmentHeadError> {
        let mut fields = Fields::new(bytes.get(..LONG_HEADER_BYTES).unwrap_or_default());
        let mut read = || {
            let magic = fields.u16("magic").ok()?;
            let flags = fields.u16("flags").ok()?;
            let timeline = Timeline(fields.u32("timeline").ok()?);
            let start = Lsn(fields.u64("address").ok()?);
            fields.u64("rest of a record, padding").ok()?;
            let system = fields.u64("system identifier").ok()?;
            let size = SegmentBytes::new(fields.u32("segment size").ok()?.into())?;
            let is_one = MAGICS.contains(&magic) && flags & LONG_HEADER != 0;
            is_one.then_some(Self { system, timeline, start, size })
        };
        read().ok_or(SegmentHeadError::NoHeader)
    }

    /// Fails unless this is the head of that segment.
    pub fn require(&self, segment: Segment) -> Result<(), SegmentHeadError> {
        let expected = segment.start(self.size);
        if self.start == expected {
            return Ok(());
        }
        Err(SegmentHeadError::Misplaced { expected, found: self.start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(magic: u16, flags: u16, start: u64, size: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&magic.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&3_u32.to_le_bytes());
        bytes.extend_from_slice(&start.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&7_u64.to_le_bytes());
        bytes.extend_from_slice(&size.to_le_bytes());
        bytes.extend_from_slice(&8192_u32.to_le_bytes());
        bytes
    }

    #[test]
    fn heads_are_read_and_other_files_refused() {
        let found = SegmentHead::parse(&head(0xD116, 7, 0x300_0000, 16 << 20)).unwrap();
        assert_eq!((found.system, found.timeline, found.start), (7, Timeline(3), Lsn(0x300_0000)));
        let segment = |number| Segment { timeline: Timeline(3), number };
        assert_eq!(found.require(segment(3)), Ok(()));
        assert!(found.require(segment(4)).is_err());
        for wrong in [
            head(0xD016, 7, 0, 16 << 20),
            head(0xD116, 1, 0, 16 << 20),
            head(0xD116, 2, 0, 5),
            head(0xD116, 2, 0, 16 << 20)[..39].to_vec(),
            Vec::new(),
        ] {
            assert_eq!(SegmentHead::parse(&wrong), Err(SegmentHeadError::NoHeader));
        }
    }
}
