//! The order of a dump: for each atom, in the order of the dump, the first bits of its hash.
//!
//! Blocks end where hashes say so, so that what did not move gives the same blocks again. Atoms of
//! one part that share these bits are told apart by the file `ties`.

use crate::format::redis::bits::{BitReader, BitWriter, bits_for, bytes_of};

/// Atoms of one block, at most.
pub const BLOCK_ATOMS_MAX: usize = 255;
/// Fewest bits of a hash that are written.
const PREFIX_BITS_MIN: u32 = 16;
/// Most bits of a hash that are written.
pub const PREFIX_BITS_MAX: u32 = 48;

/// How many bits of a hash are written in a dump of so many atoms.
#[must_use]
pub fn prefix_bits(atoms: usize) -> u32 {
    (bits_for(atoms) + 1).clamp(PREFIX_BITS_MIN, PREFIX_BITS_MAX)
}

/// The first bits of a hash.
#[must_use]
pub fn prefix(hash: u64, bits: u32) -> u64 {
    hash.checked_shr(u64::BITS - bits).unwrap_or(0)
}

/// Whether a block of the order ends with the atom of that hash.
#[must_use]
pub fn ends_block(hash: u64) -> bool {
    hash.trailing_zeros() >= 4
}

/// Appends a block.
pub fn put_block(hashes: &[u64], bits: u32, out: &mut Vec<u8>) {
    debug_assert!((1..=BLOCK_ATOMS_MAX).contains(&hashes.len()));
    out.push(hashes.len() as u8);
    let mut writer = BitWriter::default();
    for hash in hashes {
        writer.put(prefix(*hash, bits), bits);
    }
    out.extend_from_slice(&writer.finish());
}

/// Takes the block at the front of `bytes` apart; its length. `None` where it is not whole.
pub fn block(bytes: &[u8], bits: u32, prefixes: &mut Vec<u64>) -> Option<usize> {
    let count = usize::from(*bytes.first()?);
    let end = 1 + bytes_of(count, bits);
    let mut reader = BitReader::new(bytes.get(1..end)?);
    for _ in 0..count {
        prefixes.push(reader.take(bits)?);
    }
    Some(end)
}

/// The atoms of one part by their hashes.
#[derive(Debug)]
pub struct ByHash {
    bits: u32,
    /// Hash and place among the stored atoms of the part, ascending.
    sorted: Vec<(u64, u32)>,
    /// For the first of each group how many of it were given.
    given: Vec<u32>,
    /// For each group the places within it, in the order of the dump; empty where no group has two.
    order: Vec<u32>,
}

impl ByHash {
    /// From the hashes of the stored atoms, in the order in which they are stored.
    #[must_use]
    pub fn new(hashes: impl Iterator<Item = u64>, bits: u32) -> Self {
        let mut sorted: Vec<(u64, u32)> = hashes.zip(0..).collect();
        sorted.sort_unstable();
        let given = vec![0; sorted.len()];
        let order = (0..sorted.len() as u32).collect();
        Self { bits, sorted, given, order }
    }

    /// First and end of each group of two or more, ascending.
    fn groups(&self) -> Vec<(usize, usize)> {
        let same =
            |a: &(u64, u32), b: &(u64, u32)| prefix(a.0, self.bits) == prefix(b.0, self.bits);
        let mut groups = Vec::new();
        let mut first = 0;
        for group in self.sorted.chunk_by(same) {
            if group.len() > 1 {
                groups.push((first, first + group.len()));
            }
            first += group.len();
        }
        groups
    }

    /// Reads how groups are ordered.
    pub fn read_ties(&mut self, ties: &mut BitReader<'_>) -> Option<()> {
        for (first, end) in self.groups() {
            let bits = bits_for(end - first);
            for place in first..end {
                let member = ties.take(bits)? as usize;
                if member >= end - first {
                    return None;
                }
                self.order[place] = (first + member) as u32;
            }
        }
        Some(())
    }

    /// How groups are ordered: numbers and their bits. `atoms` are the places of the stored atoms, in
    /// the order of the dump.
    #[must_use]
    pub fn ties(&self, atoms: impl Iterator<Item = u32>) -> Vec<(u64, u32)> {
        let groups = self.groups();
        let mut place_of = std::collections::HashMap::new();
        for (group, (first, end)) in groups.iter().enumerate() {
            for place in *first..*end {
                place_of.insert(self.sorted[place].1, (group, (place - first) as u64));
            }
        }
        let mut members = vec![Vec::new(); groups.len()];
        for atom in atoms {
            if let Some((group, member)) = place_of.get(&atom) {
                members[*group].push(*member);
            }
        }
        let groups = members.into_iter().zip(&groups);
        groups
            .flat_map(|(members, (first, end))| {
                let bits = bits_for(end - first);
                members.into_iter().map(move |member| (member, bits))
            })
            .collect()
    }

    /// The place of the stored atom that comes next with these bits; `None` where there is none.
    pub fn next(&mut self, bits: u64) -> Option<u32> {
        let first = self.sorted.partition_point(|(hash, _)| prefix(*hash, self.bits) < bits);
        let given = self.given.get_mut(first)?;
        let place = first + *given as usize;
        *given += 1;
        let (hash, _) = self.sorted.get(place)?;
        let member = *self.order.get(place)? as usize;
        (prefix(*hash, self.bits) == bits).then(|| self.sorted[member].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, proptest};

    #[test]
    fn a_block_has_count_and_bits() {
        let mut out = Vec::new();
        put_block(&[0xabc0_0000_0000_0000, 0x1230_0000_0000_0000], 12, &mut out);
        assert_eq!(out, [2, 0xbc, 0x3a, 0x12]);
        let mut prefixes = Vec::new();
        assert_eq!(block(&out, 12, &mut prefixes), Some(4));
        assert_eq!(prefixes, [0xabc, 0x123]);
        assert_eq!(block(&out[..3], 12, &mut Vec::new()), None);
    }

    proptest! {
        #[test]
        fn any_order_comes_back(
            hashes in prop::collection::vec(any::<u16>(), 1..200),
            shuffle in any::<u64>(),
        ) {
            // Few values, so that most share their bits, and some are the same.
            let hashes: Vec<u64> = hashes.iter().map(|hash| u64::from(hash % 64) << 50).collect();
            let mut dump: Vec<u32> = (0..hashes.len() as u32).collect();
            dump.sort_by_key(|atom| u64::from(*atom).wrapping_mul(shuffle | 1) >> 7);
            let bits = 18;
            let mut writer = BitWriter::default();
            for (member, bits) in ByHash::new(hashes.iter().copied(), bits).ties(dump.iter().copied()) {
                writer.put(member, bits);
            }
            let ties = writer.finish();
            let mut read = ByHash::new(hashes.iter().copied(), bits);
            read.read_ties(&mut BitReader::new(&ties)).unwrap();
            let again: Vec<u32> = dump
                .iter()
                .map(|atom| read.next(prefix(hashes[*atom as usize], bits)).unwrap())
                .collect();
            assert_eq!(again, dump);
        }

        #[test]
        fn hostile_ties_are_refused_or_give_some_order(
            hashes in prop::collection::vec(0_u64..4, 1..50),
            ties in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let mut read = ByHash::new(hashes.iter().map(|hash| hash << 62), 16);
            if read.read_ties(&mut BitReader::new(&ties)).is_some() {
                for hash in &hashes {
                    assert!(read.next(hash << 14).is_some());
                }
            }
        }
    }
}
