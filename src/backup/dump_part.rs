//! One part of a dump: the atoms whose hashes begin alike, in the order of their keys.

use crate::backup::dump_entry::{SpooledAtom, entry};
use crate::backup::dump_records::DumpError;
use crate::backup::dump_spool::{SPOOL_LANE_BITS, Spooled};
use crate::backup::pieces::PieceWriter;
use crate::format::bytes::Fields;
use crate::format::redis::bits::{BitReader, BitWriter};
use crate::format::redis::column::{BLOCK_ATOMS_MAX, ends_block, put_block, take_block};
use crate::format::redis::facts::DumpOrder;
use crate::format::redis::grammar::Dialect;
use crate::format::redis::order::{ByHash, prefix};
use crate::format::redis::record::{Atom, AtomKind, Details, Original};
use crate::format::redis::stored::{StoredReader, StoredWriter};

/// The atoms of a part.
pub struct Part {
    dialect: Dialect,
    bytes: Vec<u8>,
    /// Where each begins, in the order of the dump.
    places: Vec<usize>,
    /// Their hashes.
    hashes: Vec<u64>,
    has_details: bool,
    order: DumpOrder,
    /// Numbers in `places`, in the order in which they are stored.
    sorted: Vec<u32>,
}

impl Part {
    /// Reads the atoms from their lanes, and sorts them; `spare` is the memory of a part before.
    pub fn load(
        spooled: &Spooled,
        order: DumpOrder,
        bits: u32,
        number: u32,
        spare: Vec<u8>,
    ) -> Result<Self, DumpError> {
        let lanes = 1_usize << (SPOOL_LANE_BITS - bits);
        let lanes = number as usize * lanes..(number as usize + 1) * lanes;
        let length: u64 = lanes.clone().map(|lane| spooled.lanes.bytes(lane)).sum();
        let mut bytes = spare;
        bytes.clear();
        bytes.reserve_exact(length as usize);
        for lane in lanes {
            spooled.lanes.each_block(lane, &mut |block| {
                bytes.extend_from_slice(block);
                Ok(())
            })?;
        }
        let (mut places, mut hashes, mut keyed) = (Vec::new(), Vec::new(), Vec::new());
        let mut has_details = false;
        let mut rest = &bytes[..];
        while let Some((spooled, behind)) = entry(rest) {
            keyed.push((key(&spooled), places.len() as u32));
            places.push(bytes.len() - rest.len());
            hashes.push(spooled.hash);
            has_details |= spooled.has_details();
            rest = behind;
        }
        keyed.sort_unstable();
        let sorted = keyed.into_iter().map(|(_, number)| number).collect();
        let dialect = spooled.dialect;
        Ok(Self { dialect, bytes, places, hashes, has_details, order, sorted })
    }

    /// The memory of its bytes.
    #[must_use]
    pub fn into_spare(self) -> Vec<u8> {
        self.bytes
    }

    fn at(&self, number: u32) -> SpooledAtom<'_> {
        let bytes = &self.bytes[self.places[number as usize]..];
        entry(bytes).expect("an entry begins at each place").0
    }

    fn sorted(&self) -> impl Iterator<Item = SpooledAtom<'_>> {
        self.sorted.iter().map(|number| self.at(*number))
    }

    /// Writes which of the atoms whose hashes begin alike comes first, and looks whether the order
    /// of the dump comes back by it.
    pub fn put_ties(&self, bits: u32, ties: &mut BitWriter) -> Result<(), DumpError> {
        let mut stored_at = vec![0; self.sorted.len()];
        for (number, place) in self.sorted.iter().zip(0..) {
            stored_at[*number as usize] = place;
        }
        let hashes = self.sorted.iter().map(|number| self.hashes[*number as usize]);
        let mut by_hash = ByHash::new(hashes, bits);
        let mut own = BitWriter::default();
        for (member, bits) in by_hash.ties(stored_at.iter().copied()) {
            own.put(member, bits);
            ties.put(member, bits);
        }
        let own = own.finish();
        let is_read = by_hash.read_ties(&mut BitReader::new(&own)).is_some();
        let mut in_order = stored_at.iter().zip(&self.hashes);
        let is_same =
            in_order.all(|(place, hash)| by_hash.next(prefix(*hash, bits)) == Some(*place));
        if is_read && is_same { Ok(()) } else { Err(DumpError::Inverse { what: "the order" }) }
    }

    /// What stands apart of an atom, as it is stored.
    fn details(&self, spooled: &SpooledAtom<'_>) -> Details {
        let mut details = spooled.details();
        if self.order == DumpOrder::Keys {
            details.order.clear();
        }
        details
    }

    /// Gives the atoms as the dump by keys has them, and their databases.
    pub fn put_by_keys(&self, put: &mut dyn FnMut(u64, &[u8])) -> Result<(), DumpError> {
        let mut original = Original::new(self.dialect);
        let mut bytes = Vec::new();
        for spooled in self.sorted() {
            bytes.clear();
            let details = self.details(&spooled);
            let made = original.put(&spooled.atom, &details, &mut bytes);
            made.ok_or(DumpError::Inverse { what: "a record" })?;
            put(spooled.atom.database, &bytes);
        }
        Ok(())
    }

    /// Gives the atoms, each a piece, and looks whether each can be read again.
    pub fn give_records(&self, out: &mut PieceWriter<'_>) -> Result<Option<()>, DumpError> {
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
            if out.end_piece().is_none() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    /// Gives the column, each block a piece; nothing where no atom has details.
    pub fn give_column(
        &self,
        made: u32,
        out: &mut PieceWriter<'_>,
    ) -> Result<Option<()>, DumpError> {
        if !self.has_details {
            return Ok(Some(()));
        }
        let mut block: Vec<Details> = Vec::new();
        let mut left = self.sorted.len();
        for spooled in self.sorted() {
            block.push(self.details(&spooled));
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
            if out.end_piece().is_none() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }
}

/// What atoms are sorted by.
fn key<'a>(spooled: &SpooledAtom<'a>) -> (u64, &'a [u8], AtomKind, &'a [u8]) {
    let Atom { kind, database, key, body, .. } = spooled.atom;
    (database, key, kind, body)
}
