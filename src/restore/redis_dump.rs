//! A dump of Redis or Valkey, put together from its records: the very bytes that the server sent,
//! unless their order was not kept.
//!
//! Three passes: the order is read once, to know what each part is to give and when; then part by
//! part the atoms turn into their bytes; then order and frame say what comes next. Memory: one part,
//! and a fixed number of bytes of what waits; the rest waits in a file that nobody can read.

use std::sync::Arc;

use crate::crypto::ids::content_hasher;
use crate::format::bytes::Fields;
use crate::format::redis::bits::BitReader;
use crate::format::redis::column::take_block;
use crate::format::redis::facts::{
    DumpOrder, FRAME_FILE, RecordFacts, TIES_FILE, column_file, order_file, records_file,
};
use crate::format::redis::frame::head;
use crate::format::redis::grammar::Dialect;
use crate::format::redis::order::{ByHash, block};
use crate::format::redis::record::{Atom, Details, Original, SALT_BYTES};
use crate::format::redis::stored::StoredReader;
use crate::format::redis::text::Front;
use crate::format::snapshot::Root;
use crate::repo::content_bytes::ContentBytes;
use crate::repo::lanes::{LaneReader, Lanes};
use crate::repo::read_access::ReadAccess;
use crate::repo::tree_reader::TreeReader;
use crate::restore::error::RestoreError;
use crate::restore::redis_by_keys::put_by_keys;

/// Takes an atom, and its bytes in the dump.
type TakeAtom<'a> = dyn FnMut(&Atom<'_>, &[u8]) -> Result<(), RestoreError> + 'a;

/// Bytes that wait in memory, for each of two kinds.
const OPEN_BYTES_MAX: usize = 64 * 1024 * 1024;
/// No part of ours is longer, whatever a writer says.
pub(super) const PART_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Bytes that are put out at once.
pub(super) const OUT_BYTES: usize = 256 * 1024;

/// Gives the bytes of a dump to `take`, in order.
///
/// # Errors
/// [`RestoreError::Dump`] where its parts do not fit together, or have another length or hash than
/// the facts say; that may be after all bytes were given.
pub fn read_dump(
    access: &Arc<ReadAccess>,
    root: &Root,
    facts: &RecordFacts,
    take: &mut dyn FnMut(&[u8]) -> Result<(), RestoreError>,
) -> Result<(), RestoreError> {
    let (Some(dialect), Some(salt)) = (facts.dialect(), facts.salt()) else {
        return Err(broken("facts"));
    };
    let dump = Dump { access, root, facts, dialect, salt };
    let mut left = facts.bytes;
    let mut counted = |bytes: &[u8]| {
        left = left.checked_sub(bytes.len() as u64).ok_or_else(|| broken("bytes"))?;
        take(bytes)
    };
    match facts.order {
        DumpOrder::Keys => put_by_keys(&dump, &mut counted)?,
        DumpOrder::Server => dump.put_as_sent(&mut counted)?,
    }
    if left == 0 { Ok(()) } else { Err(broken("bytes")) }
}

/// How a root that is a dump stored as records is put together; nothing of any other root.
///
/// # Errors
/// It is of a form that this program does not know.
pub fn dump_facts(root: &Root) -> Result<Option<RecordFacts>, RestoreError> {
    Ok(RecordFacts::of(root.facts.as_ref())?)
}

pub(super) fn broken(what: &'static str) -> RestoreError {
    RestoreError::Dump { what }
}

/// Atoms as the server wrote them.
#[derive(Default)]
struct Atoms {
    /// One after another.
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
    hashes: Vec<u64>,
}

/// A dump that is put together.
pub(super) struct Dump<'a> {
    access: &'a Arc<ReadAccess>,
    root: &'a Root,
    /// What it says about itself.
    pub(super) facts: &'a RecordFacts,
    dialect: Dialect,
    salt: [u8; SALT_BYTES],
}

impl Dump<'_> {
    /// Bit for bit.
    fn put_as_sent(
        &self,
        take: &mut dyn FnMut(&[u8]) -> Result<(), RestoreError>,
    ) -> Result<(), RestoreError> {
        let waiting = self.read_order()?;
        let atoms = self.read_parts(&waiting)?;
        drop(waiting);
        let mut hasher = content_hasher();
        self.put_out(&atoms, &mut |bytes| {
            hasher.update(bytes);
            take(bytes)
        })?;
        if hasher.content_hash() == self.facts.hash { Ok(()) } else { Err(broken("bytes")) }
    }

    /// Reads one of its files.
    pub(super) fn open(&self, name: &str) -> Result<ContentBytes, RestoreError> {
        let node = TreeReader::find(self.access, self.root, name.as_bytes())?;
        let node = node.ok_or_else(|| broken("files"))?;
        Ok(ContentBytes::open(self.access, &node.content)?)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, RestoreError> {
        let node = TreeReader::find(self.access, self.root, name.as_bytes())?;
        let node = node.ok_or_else(|| broken("files"))?;
        Ok(ContentBytes::read_all(self.access, &node.content, PART_BYTES_MAX)?)
    }

    /// A lane for each part.
    pub(super) fn lanes(&self) -> Lanes {
        Lanes::new(1 << self.facts.part_bits, self.access.spool_folder(), OPEN_BYTES_MAX)
    }

    fn part_of(&self, prefix: u64) -> usize {
        (prefix >> (self.facts.order_bits - self.facts.part_bits)) as usize
    }

    fn order(&self) -> Order<'_> {
        Order {
            dump: self,
            file: 0,
            content: None,
            bytes: Vec::new(),
            prefixes: Vec::new().into_iter(),
        }
    }

    /// For each part the beginnings of the hashes of its atoms, in the order of the dump.
    fn read_order(&self) -> Result<Lanes, RestoreError> {
        let mut lanes = self.lanes();
        let mut order = self.order();
        while let Some(prefix) = order.next()? {
            lanes.push(self.part_of(prefix), &prefix.to_le_bytes())?;
        }
        lanes.settle()?;
        Ok(lanes)
    }

    /// For each part the bytes of its atoms, in the order of the dump, each after its length.
    fn read_parts(&self, waiting: &Lanes) -> Result<Lanes, RestoreError> {
        let ties = self.read(TIES_FILE)?;
        let mut ties = BitReader::new(&ties);
        let mut lanes = self.lanes();
        for part in 0..1 << self.facts.part_bits {
            let Atoms { bytes, ends, hashes } = self.atoms_of(part)?;
            let mut by_hash = ByHash::new(hashes.into_iter(), self.facts.order_bits);
            by_hash.read_ties(&mut ties).ok_or_else(|| broken("ties"))?;
            let lane = part as usize;
            let mut prefixes = waiting.reader(lane);
            let mut entry = Vec::new();
            while let Some(block) = prefixes.next_block()? {
                for prefix in block.as_chunks().0 {
                    let atom = by_hash.next(u64::from_le_bytes(*prefix));
                    let atom = atom.ok_or_else(|| broken("order"))? as usize;
                    let start = atom.checked_sub(1).map_or(0, |before| ends[before]);
                    let bytes = &bytes[start..ends[atom]];
                    entry.clear();
                    entry.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                    entry.extend_from_slice(bytes);
                    lanes.push(lane, &entry)?;
                }
            }
        }
        lanes.settle()?;
        Ok(lanes)
    }

    /// The atoms of a part as they are stored.
    fn atoms_of(&self, part: u32) -> Result<Atoms, RestoreError> {
        let Atoms { mut bytes, mut ends, mut hashes } = Atoms::default();
        self.each_atom(part, &mut |atom, plain| {
            bytes.extend_from_slice(plain);
            if bytes.len() as u64 > PART_BYTES_MAX {
                return Err(broken("records"));
            }
            ends.push(bytes.len());
            hashes.push(atom.hash(&self.salt, self.dialect));
            Ok(())
        })?;
        Ok(Atoms { bytes, ends, hashes })
    }

    /// Gives each atom of a part, and its bytes in the dump.
    pub(super) fn each_atom(&self, part: u32, take: &mut TakeAtom<'_>) -> Result<(), RestoreError> {
        let stored = self.read(&records_file(self.facts.part_bits, part))?;
        let column = self.read(&column_file(self.facts.part_bits, part))?;
        let mut column = Fields::new(&column);
        let mut details: std::vec::IntoIter<Details> = Vec::new().into_iter();
        let none = Details::default();
        let mut reader = StoredReader::new(self.dialect);
        let mut original = Original::new(self.dialect);
        let mut bytes = Vec::new();
        let mut rest = &stored[..];
        while !rest.is_empty() {
            if details.len() == 0 && column.left() > 0 {
                let block = take_block(&mut column, self.facts.made);
                details = block.map_err(|_| broken("column"))?.into_iter();
            }
            let next = details.next();
            let (atom, length) = reader.next(rest).ok_or_else(|| broken("records"))?;
            bytes.clear();
            let put = original.put(&atom, next.as_ref().unwrap_or(&none), &mut bytes);
            put.ok_or_else(|| broken("records"))?;
            take(&atom, &bytes)?;
            rest = &rest[length..];
        }
        Ok(())
    }

    fn put_out(
        &self,
        atoms: &Lanes,
        take: &mut dyn FnMut(&[u8]) -> Result<(), RestoreError>,
    ) -> Result<(), RestoreError> {
        let mut parts: Vec<Waiting<'_>> =
            (0..1 << self.facts.part_bits).map(|part| Waiting::new(atoms, part)).collect();
        let mut order = self.order();
        let mut frame = FrameReader::open(self)?;
        let mut out = Vec::with_capacity(OUT_BYTES * 2);
        while let Some((before, length)) = frame.head()? {
            for _ in 0..before {
                let prefix = order.next()?.ok_or_else(|| broken("order"))?;
                let part = &mut parts[self.part_of(prefix)];
                part.put_next(&mut out)?;
                if out.len() >= OUT_BYTES {
                    take(&out)?;
                    out.clear();
                }
            }
            take(&out)?;
            out.clear();
            frame.pass(length, take)?;
        }
        take(&out)
    }
}

/// Reads what lies between the atoms.
pub(super) struct FrameReader {
    content: ContentBytes,
    held: Vec<u8>,
}

impl FrameReader {
    /// From its beginning.
    pub(super) fn open(dump: &Dump<'_>) -> Result<Self, RestoreError> {
        Ok(Self { content: dump.open(FRAME_FILE)?, held: Vec::new() })
    }

    /// Atoms before the next bytes, and how many these are; nothing at the end.
    pub(super) fn head(&mut self) -> Result<Option<(u64, u64)>, RestoreError> {
        loop {
            match head(&self.held) {
                Front::Is(found, bytes) => {
                    self.held.drain(..bytes as usize);
                    return Ok(Some(found));
                }
                Front::No => return Err(broken("frame")),
                Front::More => match self.content.next_bytes()? {
                    Some(bytes) => self.held.extend_from_slice(bytes),
                    None if self.held.is_empty() => return Ok(None),
                    None => return Err(broken("frame")),
                },
            }
        }
    }

    /// Gives the bytes behind a head.
    pub(super) fn pass(
        &mut self,
        mut length: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<(), RestoreError>,
    ) -> Result<(), RestoreError> {
        while length > 0 {
            if self.held.is_empty() {
                let bytes = self.content.next_bytes()?.ok_or_else(|| broken("frame"))?;
                self.held.extend_from_slice(bytes);
            }
            let now = length.min(self.held.len() as u64) as usize;
            take(&self.held[..now])?;
            self.held.drain(..now);
            length -= now as u64;
        }
        Ok(())
    }
}

/// The beginnings of the hashes of all atoms, in the order of the dump.
struct Order<'a> {
    dump: &'a Dump<'a>,
    file: u32,
    content: Option<ContentBytes>,
    bytes: Vec<u8>,
    prefixes: std::vec::IntoIter<u64>,
}

impl Order<'_> {
    fn next(&mut self) -> Result<Option<u64>, RestoreError> {
        loop {
            if let Some(prefix) = self.prefixes.next() {
                return Ok(Some(prefix));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    fn fill(&mut self) -> Result<bool, RestoreError> {
        let bits = self.dump.facts.order_bits;
        if self.content.is_none() {
            if self.file == self.dump.facts.order_files {
                return Ok(false);
            }
            self.content = Some(self.dump.open(&order_file(self.file))?);
            self.file += 1;
        }
        let Some(content) = &mut self.content else { return Ok(false) };
        match content.next_bytes()? {
            Some(bytes) => self.bytes.extend_from_slice(bytes),
            None if self.bytes.is_empty() => self.content = None,
            None => return Err(broken("order")),
        }
        let (mut prefixes, mut at) = (Vec::new(), 0);
        while let Some(length) = block(&self.bytes[at..], bits, &mut prefixes) {
            at += length;
        }
        self.bytes.drain(..at);
        self.prefixes = prefixes.into_iter();
        Ok(true)
    }
}

/// The atoms of one part that wait for their turn.
struct Waiting<'a> {
    reader: LaneReader<'a>,
    at: usize,
}

impl<'a> Waiting<'a> {
    fn new(atoms: &'a Lanes, part: usize) -> Self {
        Self { reader: atoms.reader(part), at: 0 }
    }

    fn put_next(&mut self, out: &mut Vec<u8>) -> Result<(), RestoreError> {
        if self.at == self.reader.block().len() {
            self.at = 0;
            self.reader.next_block()?.ok_or_else(|| broken("order"))?;
        }
        let rest = &self.reader.block()[self.at..];
        let (length, bytes) = rest.split_first_chunk().ok_or_else(|| broken("order"))?;
        let length = u32::from_le_bytes(*length) as usize;
        out.extend_from_slice(bytes.get(..length).ok_or_else(|| broken("order"))?);
        self.at += 4 + length;
        Ok(())
    }
}
