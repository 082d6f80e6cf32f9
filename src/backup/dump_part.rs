//! One part of a dump: the atoms whose hashes begin alike, in the order of their keys.
//!
//! A worker makes all that is stored of it, and reads it back: parts are made at the same time, and
//! taken one after another.

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::backup::dump_entry::{SpooledAtom, entry};
use crate::backup::dump_records::DumpError;
use crate::backup::dump_spool::{SPOOL_LANE_BITS, Spooled};
use crate::backup::pieces::{ComparedFile, OldPieces, PieceFile};
use crate::crypto::ids::DomainKeys;
use crate::format::bytes::Fields;
use crate::format::redis::bits::{BitReader, BitWriter};
use crate::format::redis::column::{BLOCK_ATOMS_MAX, ends_block, put_block, take_block};
use crate::format::redis::facts::DumpOrder;
use crate::format::redis::grammar::Dialect;
use crate::format::redis::order::{ByHash, prefix};
use crate::format::redis::record::{Atom, Details, Original};
use crate::format::redis::stored::{StoredReader, StoredWriter};
use crate::repo::lanes::LaneError;

/// Bytes of a key that most comparisons need not look behind.
const KEY_FRONT_BYTES: usize = 16;
/// Atoms that are touched at once.
const TOUCHED_ATOMS: usize = 16;

/// What the parts of a dump have in common.
#[derive(Debug, Clone, Copy)]
pub struct PartPlan {
    /// The order that the dump is stored in.
    pub order: DumpOrder,
    /// There are two to the power of that many parts.
    pub bits: u32,
    /// Bits of a hash that the order has.
    pub order_bits: u32,
    /// Second in which the dump was made.
    pub made: u32,
}

/// A part as it is stored.
pub struct MadePart {
    /// Its atoms.
    pub records: ComparedFile,
    /// What stands apart of them.
    pub column: ComparedFile,
    /// What the order leaves open: numbers, and bits of each; nothing by keys.
    pub ties: Vec<(u64, u32)>,
    /// The atoms as the dump by keys has them, and the databases they are of; nothing by the server's
    /// order.
    pub by_keys: (Vec<u8>, Vec<u64>),
}

impl MadePart {
    /// Makes a part; `old` are the pieces there were of its atoms, and of what stands apart.
    pub fn new(
        spooled: &Spooled,
        plan: PartPlan,
        number: u32,
        keys: &DomainKeys,
        old: (OldPieces, OldPieces),
    ) -> Result<Self, DumpError> {
        let lanes = 1_usize << (SPOOL_LANE_BITS - plan.bits);
        let lanes = number as usize * lanes..(number as usize + 1) * lanes;
        let blocks = lanes.map(|lane| spooled.lanes.blocks(lane));
        let blocks = blocks.collect::<Result<Vec<_>, LaneError>>()?;
        let part = Part::new(spooled.dialect, plan, &blocks);
        let (ties, by_keys) = match plan.order {
            DumpOrder::Server => (part.ties()?, Default::default()),
            DumpOrder::Keys => (Vec::new(), part.by_keys()?),
        };
        let mut records = PieceFile::new(keys.clone(), old.0);
        part.put_records(&mut records)?;
        let mut column = PieceFile::new(keys.clone(), old.1);
        part.put_column(&mut column)?;
        Ok(Self { records: records.finish(), column: column.finish(), ties, by_keys })
    }
}

/// The atoms of a part.
struct Part<'a> {
    dialect: Dialect,
    plan: PartPlan,
    /// In the order in which they are stored.
    sorted: Vec<SpooledAtom<'a>>,
    /// The place of each among those, in the order of the dump.
    stored_at: Vec<u32>,
    has_details: bool,
}

impl<'a> Part<'a> {
    /// Sorts the atoms in these blocks of lanes.
    fn new(dialect: Dialect, plan: PartPlan, blocks: &'a [Vec<Cow<'_, [u8]>>]) -> Self {
        let mut atoms = Vec::new();
        for block in blocks.iter().flatten() {
            let mut rest = &block[..];
            while let Some((atom, behind)) = entry(rest) {
                atoms.push(atom);
                rest = behind;
            }
        }
        let has_details = atoms.iter().any(SpooledAtom::has_details);
        let numbers = sorted(&atoms);
        let mut stored_at = vec![0; atoms.len()];
        for (number, place) in numbers.iter().zip(0..) {
            stored_at[*number as usize] = place;
        }
        let sorted = numbers.iter().map(|number| atoms[*number as usize]).collect();
        Self { dialect, plan, sorted, stored_at, has_details }
    }

    /// The atoms in the order in which they are stored. They lie far apart: some are touched at once,
    /// so that their memory comes while those before them are worked on.
    fn sorted(&self) -> impl Iterator<Item = &SpooledAtom<'a>> {
        self.sorted.chunks(TOUCHED_ATOMS).flat_map(|atoms| {
            for atom in atoms {
                std::hint::black_box(atom.touch());
            }
            atoms
        })
    }

    /// Which of the atoms whose hashes begin alike comes first; looks whether the order of the dump
    /// comes back by it.
    fn ties(&self) -> Result<Vec<(u64, u32)>, DumpError> {
        let bits = self.plan.order_bits;
        let mut by_hash = ByHash::new(self.sorted.iter().map(|atom| atom.hash), bits);
        let ties = by_hash.ties(self.stored_at.iter().copied());
        let mut own = BitWriter::default();
        for (member, bits) in &ties {
            own.put(*member, *bits);
        }
        let own = own.finish();
        let is_read = by_hash.read_ties(&mut BitReader::new(&own)).is_some();
        let is_same = self.stored_at.iter().all(|place| {
            let hash = self.sorted[*place as usize].hash;
            by_hash.next(prefix(hash, bits)) == Some(*place)
        });
        if is_read && is_same { Ok(ties) } else { Err(DumpError::Inverse { what: "the order" }) }
    }

    /// What stands apart of an atom, as it is stored.
    fn details(&self, spooled: &SpooledAtom<'_>) -> Details {
        let mut details = spooled.details();
        if self.plan.order == DumpOrder::Keys {
            details.order.clear();
        }
        details
    }

    /// The atoms as the dump by keys has them, and their databases.
    fn by_keys(&self) -> Result<(Vec<u8>, Vec<u64>), DumpError> {
        let mut original = Original::new(self.dialect);
        let (mut bytes, mut databases) = (Vec::new(), Vec::new());
        for spooled in self.sorted() {
            let details = self.details(spooled);
            let made = original.put(&spooled.atom, &details, &mut bytes);
            made.ok_or(DumpError::Inverse { what: "a record" })?;
            if databases.last() != Some(&spooled.atom.database) {
                databases.push(spooled.atom.database);
            }
        }
        Ok((bytes, databases))
    }

    /// Writes the atoms, each a piece, and looks whether each can be read again.
    fn put_records(&self, out: &mut PieceFile) -> Result<(), DumpError> {
        let mut writer = StoredWriter::default();
        let mut reader = StoredReader::new(self.dialect);
        for spooled in self.sorted() {
            let bytes = out.bytes();
            let start = bytes.len();
            writer.put(&spooled.atom, bytes);
            let read = reader.next(&bytes[start..]);
            if read
                .is_none_or(|(atom, length)| atom != spooled.atom || length != bytes.len() - start)
            {
                return Err(DumpError::Inverse { what: "a record" });
            }
            out.end_piece();
        }
        Ok(())
    }

    /// Writes the column, each block a piece; nothing where no atom has details.
    fn put_column(&self, out: &mut PieceFile) -> Result<(), DumpError> {
        if !self.has_details {
            return Ok(());
        }
        let made = self.plan.made;
        let mut block: Vec<Details> = Vec::new();
        let mut left = self.sorted.len();
        for spooled in self.sorted() {
            block.push(self.details(spooled));
            left -= 1;
            if !ends_block(spooled.hash) && block.len() < BLOCK_ATOMS_MAX && left > 0 {
                continue;
            }
            let bytes = out.bytes();
            let start = bytes.len();
            put_block(&block, made, bytes);
            let mut fields = Fields::new(&bytes[start..]);
            let read = take_block(&mut fields, made);
            if read.is_err() || read.is_ok_and(|again| again != block) || fields.left() > 0 {
                return Err(DumpError::Inverse { what: "the times of keys" });
            }
            block.clear();
            out.end_piece();
        }
        Ok(())
    }
}

/// What atoms are sorted by, as far as their databases and the fronts of their keys tell.
#[derive(Clone, Copy)]
struct Front {
    database: u64,
    key: [u64; KEY_FRONT_BYTES / 8],
    number: u32,
}

impl Front {
    fn new(atom: &Atom<'_>, number: u32) -> Self {
        let mut front = [[0; 8]; KEY_FRONT_BYTES / 8];
        let length = atom.key.len().min(KEY_FRONT_BYTES);
        front.as_flattened_mut()[..length].copy_from_slice(&atom.key[..length]);
        Self { database: atom.database, key: front.map(u64::from_be_bytes), number }
    }
}

/// The numbers of the atoms by database, key, kind, body, and the order of the dump.
fn sorted(atoms: &[SpooledAtom<'_>]) -> Vec<u32> {
    let whole = |front: &Front| {
        let Atom { kind, key, body, .. } = atoms[front.number as usize].atom;
        (key, kind, body, front.number)
    };
    let mut fronts: Vec<Front> =
        atoms.iter().zip(0..).map(|(spooled, number)| Front::new(&spooled.atom, number)).collect();
    fronts.sort_unstable_by(|a, b| match (a.database, a.key).cmp(&(b.database, b.key)) {
        Ordering::Equal => whole(a).cmp(&whole(b)),
        different => different,
    });
    fronts.into_iter().map(|front| front.number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::dump_entry::put_entry;
    use crate::format::redis::record::AtomKind;

    #[test]
    fn atoms_are_sorted_by_all_that_names_them() {
        let long = |end: &str| format!("\x14a long key that ends {end}").into_bytes();
        let keys =
            [b"\x01b".to_vec(), b"\x01a".to_vec(), b"\x02a\0".to_vec(), long("b"), long("a")];
        let mut bytes = Vec::new();
        for database in [256, 1, 0] {
            for key in &keys {
                for (kind, body) in
                    [(AtomKind::Element, b"2"), (AtomKind::Element, b"1"), (AtomKind::Head, b"3")]
                {
                    let atom = Atom { kind, database, record_type: 4, key, body };
                    put_entry(&mut bytes, 0, &atom, &Details::default());
                }
            }
        }
        let (mut atoms, mut rest) = (Vec::new(), &bytes[..]);
        while let Some((atom, behind)) = entry(rest) {
            atoms.push(atom);
            rest = behind;
        }
        let found = sorted(&atoms);
        let mut expected: Vec<u32> = (0..atoms.len() as u32).collect();
        expected.sort_by_key(|number| {
            let Atom { database, key, kind, body, .. } = atoms[*number as usize].atom;
            (database, key, kind, body)
        });
        assert_eq!(found, expected);
        assert_eq!(found.len(), 45);
    }
}
