//! Cuts a byte stream into chunks at places that its content decides (`FastCDC`, keyed).
//!
//! The cut points of a stream depend on its bytes, the parameters and the gear table only, never
//! on how the bytes arrive. They are part of the format: golden vectors pin them. Xia et al.,
//! "`FastCDC`: a Fast and Efficient Content-Defined Chunking Approach", USENIX ATC 2016; the 2020
//! variant (two bytes a step) of the `fastcdc` crate with a table of our own.
//! Nothing is claimed for the key: what hides lengths is sealing and padding.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use fastcdc::v2020::cut_gear;

/// Bits by which the mask before the average size is stricter and the one after it laxer.
const NORMALIZATION_BITS: u32 = 2;
/// Highest bit a mask uses: the table shifted left by one must not lose it.
const MASK_BIT_TOP: u32 = 62;

/// How long chunks are, in bytes; all even, `min < average < max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSizes {
    /// No chunk but the last of a stream is shorter.
    pub min: u32,
    /// The aim; a power of two.
    pub average: u32,
    /// No chunk is longer.
    pub max: u32,
}

impl ChunkSizes {
    /// Dumps and anything else that comes as a stream.
    pub const STREAM: Self = Self { min: 4 * 1024, average: 16 * 1024, max: 64 * 1024 };
    /// Files of a tree.
    pub const FILES: Self = Self { min: 16 * 1024, average: 64 * 1024, max: 256 * 1024 };
}

impl fmt::Display for ChunkSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fastcdc-k1 {} {} {}", self.min, self.average, self.max)
    }
}

/// A text that names no chunker this program knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a chunker of the form `fastcdc-k1 MIN AVERAGE MAX`")]
pub struct ChunkSizesError(String);

impl FromStr for ChunkSizes {
    type Err = ChunkSizesError;

    fn from_str(text: &str) -> Result<Self, ChunkSizesError> {
        let wrong = || ChunkSizesError(text.chars().take(80).collect());
        let mut words = text.split(' ');
        if words.next() != Some("fastcdc-k1") {
            return Err(wrong());
        }
        let mut next = || words.next().and_then(|word| word.parse::<u32>().ok()).ok_or_else(wrong);
        let sizes = Self { min: next()?, average: next()?, max: next()? };
        let even = [sizes.min, sizes.average, sizes.max].iter().all(|size| size % 2 == 0);
        let ordered = 64 <= sizes.min && sizes.min < sizes.average && sizes.average < sizes.max;
        if words.next().is_some() || !even || !ordered || !sizes.average.is_power_of_two() {
            return Err(wrong());
        }
        Ok(sizes)
    }
}

/// The 256 secret words of the rolling hash, and the same shifted left by one.
#[derive(Clone)]
pub struct GearTable(Arc<[[u64; 256]; 2]>);

impl GearTable {
    /// A table from words that a keyed generator filled.
    #[must_use]
    pub fn new(words: &[u64; 256]) -> Self {
        Self(Arc::new([*words, words.map(|word| word << 1)]))
    }
}

/// Cuts streams of one kind.
#[derive(Clone)]
pub struct Chunker {
    gear: GearTable,
    sizes: ChunkSizes,
    mask_strict: u64,
    mask_lax: u64,
}

impl Chunker {
    /// A chunker for chunks of `sizes`.
    #[must_use]
    pub fn new(gear: GearTable, sizes: ChunkSizes) -> Self {
        let bits = sizes.average.ilog2();
        Self {
            gear,
            sizes,
            mask_strict: mask(bits + NORMALIZATION_BITS),
            mask_lax: mask(bits - NORMALIZATION_BITS),
        }
    }

    /// The lengths it cuts to.
    #[must_use]
    pub fn sizes(&self) -> ChunkSizes {
        self.sizes
    }

    /// Length of the first chunk of `bytes`; `None` when more bytes are needed to tell.
    ///
    /// `at_end` says that the stream ends with `bytes`; then the answer is `None` only for no
    /// bytes at all. With at least `max` bytes the answer is never `None`.
    #[must_use]
    pub fn cut(&self, bytes: &[u8], at_end: bool) -> Option<usize> {
        if bytes.is_empty() || (!at_end && bytes.len() < self.sizes.max as usize) {
            return None;
        }
        let [gear, gear_shifted] = &*self.gear.0;
        let (_, length) = cut_gear(
            bytes,
            self.sizes.min as usize,
            self.sizes.average as usize,
            self.sizes.max as usize,
            self.mask_strict,
            self.mask_lax,
            self.mask_strict << 1,
            self.mask_lax << 1,
            gear,
            gear_shifted,
        );
        Some(length)
    }
}

/// A mask of `bits` ones, from the top bit that is usable downwards: high bits depend on most bytes.
fn mask(bits: u32) -> u64 {
    ((1 << bits) - 1) << (MASK_BIT_TOP + 1 - bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(seed: u8) -> GearTable {
        let mut bytes = [0_u8; 2048];
        blake3::Hasher::new_derive_key("holdfast test gear")
            .update(&[seed])
            .finalize_xof()
            .fill(&mut bytes);
        let words =
            std::array::from_fn(|i| u64::from_le_bytes(std::array::from_fn(|j| bytes[8 * i + j])));
        GearTable::new(&words)
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn lengths(chunker: &Chunker, mut bytes: &[u8]) -> Vec<usize> {
        let mut all = Vec::new();
        while let Some(length) = chunker.cut(bytes, true) {
            all.push(length);
            bytes = &bytes[length..];
        }
        all
    }

    #[test]
    fn cut_points_are_pinned() {
        let chunker = Chunker::new(table(0), ChunkSizes::STREAM);
        let found = lengths(&chunker, &noise(200_000));
        assert_eq!(found.iter().sum::<usize>(), 200_000);
        assert_eq!(
            found,
            [16492, 23477, 15102, 18737, 21945, 22949, 16634, 6100, 17802, 27902, 12860]
        );
    }

    #[test]
    fn sizes_hold_and_tables_differ() {
        let data = noise(3_000_000);
        let (a, b) =
            (Chunker::new(table(0), ChunkSizes::FILES), Chunker::new(table(1), ChunkSizes::FILES));
        let found = lengths(&a, &data);
        let (last, rest) = found.split_last().unwrap();
        assert!(rest.iter().all(|length| (16_384..=262_144).contains(length)));
        assert!(*last <= 262_144);
        assert_ne!(found, lengths(&b, &data));
    }

    #[test]
    fn a_change_moves_cut_points_only_nearby() {
        let chunker = Chunker::new(table(0), ChunkSizes::STREAM);
        let data = noise(2_000_000);
        let mut changed = data.clone();
        changed.splice(1_000_000..1_000_000, *b"inserted");
        let ends = |bytes: &[u8]| {
            let mut at = 0;
            lengths(&chunker, bytes)
                .iter()
                .map(|length| {
                    at += length;
                    bytes.len() - at
                })
                .collect::<std::collections::BTreeSet<_>>()
        };
        let (before, after) = (ends(&data), ends(&changed));
        assert!(before.iter().filter(|end| **end < 900_000).all(|end| after.contains(end)));
    }

    #[test]
    fn more_bytes_are_asked_for_until_the_answer_is_certain() {
        let chunker = Chunker::new(table(0), ChunkSizes::STREAM);
        let data = noise(70_000);
        assert_eq!(chunker.cut(&[], true), None);
        assert_eq!(chunker.cut(&data[..65_535], false), None);
        assert_eq!(chunker.cut(&data[..65_536], false), chunker.cut(&data, true));
    }

    #[test]
    fn chunker_names_are_read_strictly() {
        for sizes in [ChunkSizes::STREAM, ChunkSizes::FILES] {
            assert_eq!(sizes.to_string().parse(), Ok(sizes));
        }
        for wrong in [
            "",
            "fastcdc-k1",
            "fastcdc-k1 4096 16384",
            "fastcdc-k1 4096 16384 65536 1",
            "fastcdc-k2 4096 16384 65536",
            "fastcdc-k1 4097 16384 65536",
            "fastcdc-k1 16384 4096 65536",
            "fastcdc-k1 4096 16000 65536",
        ] {
            assert!(wrong.parse::<ChunkSizes>().is_err(), "{wrong}");
        }
    }
}
