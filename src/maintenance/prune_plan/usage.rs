//! Which chunks of which packs the needed snapshots use: refs, one snapshot after the other, added
//! up to one bitmap per pack.
//!
//! Memory grows with the packs of the repository, not with its snapshots. Refs are written by
//! writers and may lie; whatever is inconsistent counts as used.

use std::collections::{HashMap, HashSet};

/// What one snapshot uses of one pack: a line of a refs object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackUse {
    /// Full name of the pack (`data/…`).
    pub pack: String,
    /// Chunks that the pack has.
    pub chunks: u32,
    /// Those that are used.
    pub used: UsedChunks,
}

/// A set of chunks of one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UsedChunks {
    /// All of them.
    All,
    /// Bit i of byte i/8 (from the lowest) is the chunk with ordinal i.
    Bitmap(Vec<u8>),
}

/// The sum over all needed snapshots.
#[derive(Debug, Default)]
pub struct PackUsage {
    packs: HashMap<String, (u32, UsedChunks)>,
    addressed: HashSet<String>,
    snapshots: HashSet<String>,
}

impl PackUsage {
    /// Adds what a snapshot uses.
    ///
    /// `used` comes from its newest refs. `addressed` are the packs of its first refs: the handles
    /// in its references are theirs, also after a repack has moved the chunks elsewhere. Adding a
    /// snapshot twice changes nothing; adding one that is no longer needed only keeps more.
    pub fn add_snapshot(
        &mut self,
        snapshot: &str,
        used: impl IntoIterator<Item = PackUse>,
        addressed: impl IntoIterator<Item = String>,
    ) {
        self.snapshots.insert(snapshot.to_owned());
        self.addressed.extend(addressed);
        for line in used {
            let used = consistent(line.chunks, line.used);
            match self.packs.get_mut(&line.pack) {
                Some((chunks, sum)) => unite(sum, *chunks, line.chunks, used),
                None => {
                    self.packs.insert(line.pack, (line.chunks, used));
                }
            }
        }
    }

    /// Whether the snapshot has been added.
    #[must_use]
    pub fn has_counted(&self, snapshot: &str) -> bool {
        self.snapshots.contains(snapshot)
    }

    /// Whether any snapshot names the pack in its newest refs.
    #[must_use]
    pub fn uses(&self, pack: &str) -> bool {
        self.packs.contains_key(pack)
    }

    /// Whether references of any snapshot carry the pack's handle.
    #[must_use]
    pub fn addresses(&self, pack: &str) -> bool {
        self.addressed.contains(pack) || self.uses(pack)
    }

    /// All packs that any snapshot names in its newest refs, in no certain order.
    pub fn used_packs(&self) -> impl Iterator<Item = &str> {
        self.packs.keys().map(String::as_str)
    }

    /// Chunks of a used pack, and how many of them are used; the second is at most the first.
    #[must_use]
    pub fn counts(&self, pack: &str) -> Option<(u32, u32)> {
        self.packs.get(pack).map(|(chunks, used)| match used {
            UsedChunks::All => (*chunks, *chunks),
            UsedChunks::Bitmap(bits) => (*chunks, bits.iter().map(|byte| byte.count_ones()).sum()),
        })
    }
}

/// The set, or all chunks where the bitmap does not fit the number of chunks.
fn consistent(chunks: u32, used: UsedChunks) -> UsedChunks {
    match used {
        UsedChunks::Bitmap(bits) if fits(chunks, &bits) => UsedChunks::Bitmap(bits),
        _ => UsedChunks::All,
    }
}

/// Whether the bitmap has one bit per chunk, and only zeros after the last.
fn fits(chunks: u32, bits: &[u8]) -> bool {
    let bits_in_last = chunks % 8;
    bits.len() == chunks.div_ceil(8) as usize
        && (bits_in_last == 0 || bits.last().is_none_or(|last| last >> bits_in_last == 0))
}

fn unite(sum: &mut UsedChunks, sum_chunks: u32, chunks: u32, used: UsedChunks) {
    match (&mut *sum, used) {
        (UsedChunks::Bitmap(bits), UsedChunks::Bitmap(more)) if sum_chunks == chunks => {
            for (byte, more) in bits.iter_mut().zip(more) {
                *byte |= more;
            }
        }
        _ => *sum = UsedChunks::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bitmap(chunks: u32, bits: &[u8]) -> PackUse {
        PackUse { pack: "data/p".into(), chunks, used: UsedChunks::Bitmap(bits.to_vec()) }
    }

    fn all(chunks: u32) -> PackUse {
        PackUse { pack: "data/p".into(), chunks, used: UsedChunks::All }
    }

    #[test]
    fn uses_of_several_snapshots_are_united_and_doubt_counts_as_used() {
        for (lines, counts, why) in [
            (vec![bitmap(10, &[0b101, 0b10])], (10, 3), "one"),
            (vec![bitmap(10, &[1, 0]), bitmap(10, &[2, 1])], (10, 3), "two"),
            (vec![bitmap(10, &[1, 0]), bitmap(10, &[1, 0])], (10, 1), "the same"),
            (vec![bitmap(10, &[1, 0]), all(10)], (10, 10), "all"),
            (vec![all(10), bitmap(10, &[1, 0])], (10, 10), "all before"),
            (vec![bitmap(10, &[1])], (10, 10), "bitmap too short"),
            (vec![bitmap(10, &[1, 0, 0])], (10, 10), "bitmap too long"),
            (vec![bitmap(10, &[1, 0b100])], (10, 10), "a bit after the last chunk"),
            (vec![bitmap(10, &[1, 0]), bitmap(9, &[1, 0])], (10, 10), "another count"),
            (vec![bitmap(16, &[0, 0x80])], (16, 1), "whole bytes"),
        ] {
            let mut usage = PackUsage::default();
            for (number, line) in lines.into_iter().enumerate() {
                usage.add_snapshot(&format!("snap/{number}"), [line], []);
            }
            assert_eq!(usage.counts("data/p"), Some(counts), "{why}");
        }
    }

    #[test]
    fn addressed_packs_are_not_used_ones() {
        let mut usage = PackUsage::default();
        usage.add_snapshot("snap/1", [all(3)], ["data/old".to_owned()]);
        assert!(usage.uses("data/p") && usage.addresses("data/p"));
        assert!(!usage.uses("data/old") && usage.addresses("data/old"));
        assert!(usage.has_counted("snap/1") && !usage.has_counted("snap/2"));
    }
}
