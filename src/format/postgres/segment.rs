//! Names of the files in `pg_wal`: segments, partial ones, histories of timelines.
//!
//! Source: `access/xlog_internal.h`. A segment's name is timeline, high and low part of its number
//! in eight hexadecimal digits each; how positions map to it depends on the segment size.

use std::fmt;

use crate::format::postgres::lsn::{Lsn, Timeline};

/// Size of the segments of one cluster, a power of two from 1 MiB to 1 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SegmentBytes(u64);

impl SegmentBytes {
    /// What `initdb` takes unless told otherwise.
    pub const DEFAULT: Self = Self(16 << 20);

    /// That size; `None` where no cluster can have it.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        let is_one = bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes);
        is_one.then_some(Self(bytes))
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }

    fn per_high_part(self) -> u64 {
        (1 << 32) / self.0
    }

    /// Start of the segment that a position lies in.
    #[must_use]
    pub fn start(self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0 & !(self.0 - 1))
    }

    /// The first start of a segment at or after a position.
    #[must_use]
    pub fn end(self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0.div_ceil(self.0).saturating_mul(self.0))
    }
}

/// One segment of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// Its timeline.
    pub timeline: Timeline,
    /// Its number: position divided by the segment size.
    pub number: u64,
}

impl Segment {
    /// The segment that a position lies in.
    #[must_use]
    pub fn of(timeline: Timeline, lsn: Lsn, size: SegmentBytes) -> Self {
        Self { timeline, number: lsn.0 / size.0 }
    }

    /// Position of its first byte.
    #[must_use]
    pub fn start(self, size: SegmentBytes) -> Lsn {
        Lsn(self.number.saturating_mul(size.0))
    }

    /// Position after its last byte.
    #[must_use]
    pub fn end(self, size: SegmentBytes) -> Lsn {
        Lsn(self.number.saturating_add(1).saturating_mul(size.0))
    }

    /// Its file name.
    #[must_use]
    pub fn name(self, size: SegmentBytes) -> String {
        let per_high = size.per_high_part();
        let (high, low) = (self.number / per_high, self.number % per_high);
        format!("{:08X}{high:08X}{low:08X}", self.timeline.0)
    }
}

/// What a file in `pg_wal` is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalFile {
    /// A whole segment.
    Segment(Segment),
    /// The front of a segment that was never filled, `….partial`.
    Partial(Segment),
    /// The history of a timeline, `00000002.history`.
    History(Timeline),
    /// The note that a base backup leaves, `….00000028.backup`.
    BackupLabel(Segment),
}

impl WalFile {
    /// Reads a name; `None` for any other.
    #[must_use]
    pub fn parse(name: &str, size: SegmentBytes) -> Option<Self> {
        if let Some(timeline) = name.strip_suffix(".history") {
            let timeline = hex(timeline).filter(|_| timeline.len() == 8)?;
            return Some(Self::History(Timeline(timeline)));
        }
        if let Some(front) = name.strip_suffix(".partial") {
            return segment(front, size).map(Self::Partial);
        }
        if let Some((front, offset)) =
            name.strip_suffix(".backup").and_then(|name| name.split_once('.'))
        {
            hex(offset).filter(|_| offset.len() == 8)?;
            return segment(front, size).map(Self::BackupLabel);
        }
        segment(name, size).map(Self::Segment)
    }
}

impl fmt::Display for WalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(segment) => write!(f, "a segment of timeline {}", segment.timeline),
            Self::Partial(segment) => write!(f, "a partial segment of {}", segment.timeline),
            Self::History(timeline) => write!(f, "the history of timeline {timeline}"),
            Self::BackupLabel(_) => f.write_str("the note of a base backup"),
        }
    }
}

fn segment(name: &str, size: SegmentBytes) -> Option<Segment> {
    if name.len() != 24 || !name.is_ascii() {
        return None;
    }
    let (timeline, high, low) = (hex(&name[..8])?, hex(&name[8..16])?, hex(&name[16..])?);
    let per_high = size.per_high_part();
    let is_one = timeline != 0 && u64::from(low) < per_high;
    let number = u64::from(high) * per_high + u64::from(low);
    is_one.then_some(Segment { timeline: Timeline(timeline), number })
}

/// Upper-case digits only, as the server writes them.
fn hex(text: &str) -> Option<u32> {
    let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    is_hex.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_server() {
        let size = SegmentBytes::DEFAULT;
        let of = |timeline, lsn: &str| Segment::of(Timeline(timeline), lsn.parse().unwrap(), size);
        // As `pg_walfile_name` says.
        let table = [
            (of(1, "0/1000000"), "000000010000000000000001"),
            (of(1, "0/1FFFFFF"), "000000010000000000000001"),
            (of(10, "16/B374D848"), "0000000A00000016000000B3"),
            (of(1, "1/0"), "000000010000000100000000"),
        ];
        for (segment, name) in table {
            assert_eq!(segment.name(size), name);
            assert_eq!(WalFile::parse(name, size), Some(WalFile::Segment(segment)));
        }
        let large = SegmentBytes::new(1 << 30).unwrap();
        let segment = Segment::of(Timeline(1), "1/40000000".parse().unwrap(), large);
        assert_eq!(segment.name(large), "000000010000000100000001");
        assert_eq!(segment.start(large).to_string(), "1/40000000");
        assert_eq!(segment.end(large).to_string(), "1/80000000");
        assert!(WalFile::parse("000000010000000100000004", large).is_none());
    }

    #[test]
    fn other_names_are_told_apart() {
        let size = SegmentBytes::DEFAULT;
        let first = Segment { timeline: Timeline(1), number: 1 };
        let table = [
            ("00000002.history", Some(WalFile::History(Timeline(2)))),
            ("000000010000000000000001.partial", Some(WalFile::Partial(first))),
            ("000000010000000000000001.00000028.backup", Some(WalFile::BackupLabel(first))),
            ("000000010000000000000001.0000028.backup", None),
            ("000000010000000000000001.backup", None),
            ("0000000100000000000000FF1", None),
            ("00000001000000000000000a", None),
            ("000000000000000000000001", None),
            ("2.history", None),
            ("../000000010000000000000001", None),
            ("", None),
        ];
        for (name, expected) in table {
            assert_eq!(WalFile::parse(name, size), expected, "{name}");
        }
    }

    #[test]
    fn sizes_are_powers_of_two_in_the_servers_range() {
        for (bytes, is_one) in
            [(1 << 20, true), (1 << 30, true), (16 << 20, true), (1 << 19, false), (3 << 20, false)]
        {
            assert_eq!(SegmentBytes::new(bytes).is_some(), is_one, "{bytes}");
        }
        let size = SegmentBytes::DEFAULT;
        assert_eq!(size.start(Lsn(0x1FF_FFFF)), Lsn(0x100_0000));
        assert_eq!(size.end(Lsn(0x100_0000)), Lsn(0x100_0000));
        assert_eq!(size.end(Lsn(0x100_0001)), Lsn(0x200_0000));
    }
}
