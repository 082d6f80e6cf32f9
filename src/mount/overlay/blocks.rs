//! Which blocks of a file are there, and where the others come from.

use std::ops::Range;

/// Blocks are at least so long: 64 KiB.
const SHIFT_MIN: u8 = 16;
/// Most blocks of a file, so that a bit of each fits into an extended attribute everywhere.
const BLOCKS_MAX: u64 = 16 * 1024;
/// First byte of an encoded value.
const VERSION: u8 = 1;
/// Bytes before the path: version, shift, length, number of the snapshot, length of the path.
const HEAD_BYTES: usize = 1 + 1 + 8 + 2 + 2;

/// Where the content of a file comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OriginName {
    /// Number of the snapshot, in an order that is kept elsewhere.
    pub snapshot: u16,
    /// Path in it.
    pub path: Vec<u8>,
}

/// The blocks of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocks {
    shift: u8,
    /// Bytes from the beginning that come from the origin; there is nothing of it behind them.
    bytes: u64,
    /// Blocks that are not there.
    missing: u64,
    /// A bit for each block: it is there.
    local: Vec<u8>,
}

impl Blocks {
    /// Of a file whose first `bytes` come from its origin; nothing is there yet.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let mut shift = SHIFT_MIN;
        while bytes.div_ceil(1 << shift) > BLOCKS_MAX {
            shift += 1;
        }
        let count = bytes.div_ceil(1 << shift);
        Self { shift, bytes, missing: count, local: vec![0; count.div_ceil(8) as usize] }
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.missing == 0
    }

    /// Bytes that come from the origin.
    #[must_use]
    pub fn origin_bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that are missing at most.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        (self.missing << self.shift).min(self.bytes)
    }

    /// The next part between `from` and `to` that is missing: whole blocks, cut at the end of what
    /// the origin has, and at most `most` bytes or one block.
    #[must_use]
    pub fn next_missing(&self, from: u64, to: u64, most: u64) -> Option<Range<u64>> {
        let end = to.min(self.bytes).div_ceil(1 << self.shift);
        let first = (from >> self.shift..end).find(|block| !self.is_local(*block))?;
        let most = (most >> self.shift).max(1);
        let last = (first + 1..end.min(first + most)).find(|block| self.is_local(*block));
        let last = last.unwrap_or(end.min(first + most));
        Some(first << self.shift..(last << self.shift).min(self.bytes))
    }

    /// The blocks that begin in that part, each as the part of the origin that it stands for.
    pub fn of(&self, part: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let (shift, bytes) = (self.shift, self.bytes);
        (part.start.div_ceil(1 << shift)..part.end.min(bytes).div_ceil(1 << shift))
            .map(move |block| block << shift..((block + 1) << shift).min(bytes))
    }

    /// Whether the block in which an offset lies is missing.
    #[must_use]
    pub fn is_missing_at(&self, offset: u64) -> bool {
        offset < self.bytes && !self.is_local(offset >> self.shift)
    }

    /// A block that is missing and that the part covers, but not all of it.
    #[must_use]
    pub fn missing_edge(&self, part: &Range<u64>) -> Option<Range<u64>> {
        let block_of = |offset: u64| {
            let start = (offset >> self.shift) << self.shift;
            start..(start + (1 << self.shift)).min(self.bytes)
        };
        let edges = [part.start, part.end.saturating_sub(1)].into_iter().map(|offset| {
            let is_covered =
                |block: &Range<u64>| part.start <= block.start && part.end >= block.end;
            Some(block_of(offset)).filter(|block| self.is_missing_at(offset) && !is_covered(block))
        });
        edges.flatten().next()
    }

    /// All blocks that lie in that part, or reach from it to the end of the origin, are there now.
    /// Whether any was not before.
    pub fn set_local(&mut self, part: Range<u64>) -> bool {
        let before = self.missing;
        let begin = part.start.div_ceil(1 << self.shift);
        let end = if part.end >= self.bytes {
            self.bytes.div_ceil(1 << self.shift)
        } else {
            part.end >> self.shift
        };
        for block in begin..end {
            if !self.is_local(block) {
                self.local[(block / 8) as usize] |= 1 << (block % 8);
                self.missing -= 1;
            }
        }
        self.missing < before
    }

    /// From `length` on the origin has nothing to say any more.
    pub fn cut(&mut self, length: u64) {
        if length >= self.bytes {
            return;
        }
        let (before, after) =
            (self.bytes.div_ceil(1 << self.shift), length.div_ceil(1 << self.shift));
        self.missing -= (after..before).filter(|block| !self.is_local(*block)).count() as u64;
        self.bytes = length;
        for block in after..before {
            if let Some(byte) = self.local.get_mut((block / 8) as usize) {
                *byte &= !(1 << (block % 8));
            }
        }
        self.local.truncate(after.div_ceil(8) as usize);
    }

    fn is_local(&self, block: u64) -> bool {
        let byte = self.local.get((block / 8) as usize);
        byte.is_some_and(|byte| byte & (1 << (block % 8)) != 0)
    }

    /// As it is kept with the file: integers least significant byte first.
    #[must_use]
    pub fn encode(&self, name: &OriginName) -> Vec<u8> {
        let path_bytes = u16::try_from(name.path.len()).unwrap_or(u16::MAX);
        let mut value = Vec::with_capacity(HEAD_BYTES + name.path.len() + self.local.len());
        value.extend([VERSION, self.shift]);
        value.extend(self.bytes.to_le_bytes());
        value.extend(name.snapshot.to_le_bytes());
        value.extend(path_bytes.to_le_bytes());
        value.extend(&name.path);
        if self.local.iter().any(|byte| *byte != 0) {
            value.extend(&self.local);
        }
        value
    }

    /// What [`Self::encode`] has made; nothing of anything else.
    #[must_use]
    pub fn decode(value: &[u8]) -> Option<(Self, OriginName)> {
        let (head, rest) = value.split_first_chunk::<HEAD_BYTES>()?;
        let [VERSION, shift, head @ ..] = head else { return None };
        let (bytes, head) = head.split_first_chunk::<8>()?;
        let (snapshot, path_bytes) = head.split_first_chunk::<2>()?;
        let path_bytes = u16::from_le_bytes(path_bytes.try_into().ok()?);
        let (path, local) = rest.split_at_checked(path_bytes.into())?;
        let bytes = u64::from_le_bytes(*bytes);
        if !(SHIFT_MIN..48).contains(shift) || bytes.div_ceil(1 << shift) > BLOCKS_MAX {
            return None;
        }
        let count = bytes.div_ceil(1 << shift);
        let mut this = Self {
            shift: *shift,
            bytes,
            missing: count,
            local: vec![0; count.div_ceil(8) as usize],
        };
        if !local.is_empty() && local.len() != this.local.len() {
            return None;
        }
        for block in 0..count {
            if local.get((block / 8) as usize).is_some_and(|byte| byte & (1 << (block % 8)) != 0) {
                let start = block << shift;
                this.set_local(start..start + (1 << shift));
            }
        }
        let name = OriginName { snapshot: u16::from_le_bytes(*snapshot), path: path.to_vec() };
        Some((this, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 64 * 1024;

    #[test]
    fn parts_are_missing_until_they_are_there() {
        let mut blocks = Blocks::new(4 * BLOCK + 100);
        assert_eq!(blocks.next_missing(0, 1, BLOCK), Some(0..BLOCK));
        assert_eq!(blocks.next_missing(10, 3 * BLOCK, 2 * BLOCK), Some(0..2 * BLOCK));
        blocks.set_local(10..2 * BLOCK + 5);
        // Only whole blocks count.
        assert_eq!(blocks.next_missing(0, u64::MAX, u64::MAX), Some(0..BLOCK));
        assert_eq!(
            blocks.next_missing(BLOCK, u64::MAX, u64::MAX),
            Some(2 * BLOCK..4 * BLOCK + 100)
        );
        assert!(blocks.is_missing_at(0) && !blocks.is_missing_at(BLOCK));
        blocks.set_local(4 * BLOCK..4 * BLOCK + 100);
        assert_eq!(blocks.next_missing(4 * BLOCK, u64::MAX, 1), None);
        assert!(!blocks.is_missing_at(4 * BLOCK + 100));
        blocks.set_local(0..u64::MAX);
        assert!(blocks.is_whole());
        assert_eq!(Blocks::new(0).next_missing(0, 10, 10), None);
    }

    #[test]
    fn what_is_written_in_part_is_needed_first() {
        let mut blocks = Blocks::new(3 * BLOCK + 100);
        let last = 3 * BLOCK..3 * BLOCK + 100;
        let cases = [
            (0..8192, Some(0..BLOCK)),
            (0..BLOCK, None),
            (0..BLOCK + 1, Some(BLOCK..2 * BLOCK)),
            (100..2 * BLOCK, Some(0..BLOCK)),
            (3 * BLOCK..3 * BLOCK + 99, Some(last.clone())),
            (3 * BLOCK..3 * BLOCK + 100, None),
            (2 * BLOCK..4 * BLOCK, None),
            (3 * BLOCK + 50..4 * BLOCK, Some(last)),
            (3 * BLOCK + 100..4 * BLOCK, None),
            (9 * BLOCK..9 * BLOCK + 5, None),
        ];
        for (part, edge) in cases {
            assert_eq!(blocks.missing_edge(&part), edge, "{part:?}");
        }
        assert!(blocks.set_local(0..BLOCK) && !blocks.set_local(0..BLOCK));
        assert_eq!(blocks.missing_edge(&(0..8192)), None);
    }

    #[test]
    fn what_is_cut_off_never_comes_back() {
        let mut blocks = Blocks::new(10 * BLOCK);
        blocks.set_local(2 * BLOCK..3 * BLOCK);
        blocks.cut(2 * BLOCK + 10);
        assert_eq!(blocks.next_missing(0, u64::MAX, u64::MAX), Some(0..2 * BLOCK));
        assert_eq!(blocks.next_missing(2 * BLOCK, u64::MAX, u64::MAX), None);
        blocks.cut(BLOCK + 10);
        assert_eq!(blocks.next_missing(BLOCK, u64::MAX, u64::MAX), Some(BLOCK..BLOCK + 10));
        blocks.cut(5 * BLOCK);
        assert_eq!(blocks.origin_bytes(), BLOCK + 10);
        assert_eq!(blocks.of(&(0..BLOCK + 1)).collect::<Vec<_>>(), [0..BLOCK, BLOCK..BLOCK + 10]);
        blocks.cut(0);
        assert!(blocks.is_whole());
    }

    #[test]
    fn it_is_kept_with_the_file() {
        let name = OriginName { snapshot: 3, path: b"shop/base/5/1259".to_vec() };
        let mut large = Blocks::new(1 << 40);
        for blocks in [Blocks::new(0), Blocks::new(1), Blocks::new(20 * BLOCK + 1), large.clone()] {
            assert_eq!(Blocks::decode(&blocks.encode(&name)), Some((blocks, name.clone())));
        }
        large.set_local(1 << 30..1 << 31);
        large.set_local((1 << 40) - 1..u64::MAX);
        let value = large.encode(&name);
        assert!(value.len() < 2200, "{}", value.len());
        assert_eq!(Blocks::decode(&value), Some((large, name)));
        for wrong in [&value[..5], &value[..value.len() - 1], &[2; 40], &[]] {
            assert_eq!(Blocks::decode(wrong), None);
        }
    }
}
