//! A dump whose order was not kept: the same records, sorted by database and key, with a sum of its own.
//!
//! Atoms are compared with the hash of the facts before the first byte is given. Memory: one part, and
//! one block of each part that waits.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::crypto::ids::content_hasher;
use crate::format::redis::crc64::Crc64;
use crate::format::redis::dump_end::END_BYTES;
use crate::format::redis::dump_parts::put_select;
use crate::format::redis::facts::FRAME_FILE;
use crate::format::redis::opcode::END;
use crate::format::redis::record::{Atom, AtomKind};
use crate::repo::lanes::{LaneReader, Lanes};
use crate::restore::error::RestoreError;
use crate::restore::redis_dump::{Dump, FrameReader, OUT_BYTES, PART_BYTES_MAX, broken};

const DATABASE_BYTES: usize = 8;

/// Gives the bytes of the dump.
///
/// # Errors
/// [`RestoreError::Dump`] where its parts do not fit together or are not those of the facts.
pub(super) fn put_by_keys(
    dump: &Dump<'_>,
    take: &mut dyn FnMut(&[u8]) -> Result<(), RestoreError>,
) -> Result<(), RestoreError> {
    let atoms = read_parts(dump)?;
    let mut out = Out { take, bytes: Vec::with_capacity(OUT_BYTES * 2), sum: Crc64::default() };
    // The end mark stands behind all atoms.
    let mut end = Vec::new();
    let mut frame = FrameReader::open(dump)?;
    while let Some((_, length)) = frame.head()? {
        frame.pass(length, &mut |bytes| {
            end.extend_from_slice(bytes);
            let over = end.len().saturating_sub(END_BYTES);
            out.put(&end[..over])?;
            end.drain(..over);
            Ok(())
        })?;
    }
    let [END, stated @ ..] = &end[..] else { return Err(broken("frame")) };
    merge(dump, &atoms, &mut out)?;
    out.put(&[END])?;
    // A server that computes no sum says 0.
    let sum = if stated == [0; 8] { 0 } else { out.sum.value() };
    out.put(&sum.to_le_bytes())?;
    (out.take)(&out.bytes)
}

struct Out<'a> {
    take: &'a mut dyn FnMut(&[u8]) -> Result<(), RestoreError>,
    bytes: Vec<u8>,
    sum: Crc64,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        self.sum.update(bytes);
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= OUT_BYTES {
            (self.take)(&self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }
}

/// For each part its atoms as the dump has them, sorted, each with what it is sorted by before it.
fn read_parts(dump: &Dump<'_>) -> Result<Lanes, RestoreError> {
    let mut hasher = content_hasher();
    let mut frame = dump.open(FRAME_FILE)?;
    while let Some(bytes) = frame.next_bytes()? {
        hasher.update(bytes);
    }
    let (mut lanes, mut count) = (dump.lanes(), 0);
    for part in 0..1 << dump.facts.part_bits {
        let (mut bytes, mut entries) = (Vec::new(), Vec::new());
        dump.each_atom(part, &mut |atom, plain| {
            hasher.update(plain);
            let start = bytes.len();
            put_sort_key(atom, &mut bytes);
            let split = bytes.len() - start;
            bytes.extend_from_slice(plain);
            entries.push((start, split as u32, bytes.len()));
            if bytes.len() as u64 > PART_BYTES_MAX { Err(broken("records")) } else { Ok(()) }
        })?;
        entries.sort_unstable_by(|a, b| bytes[a.0..a.2].cmp(&bytes[b.0..b.2]));
        count += entries.len() as u64;
        let mut entry = Vec::new();
        for (start, split, end) in entries {
            entry.clear();
            entry.extend_from_slice(&((end - start) as u32).to_le_bytes());
            entry.extend_from_slice(&split.to_le_bytes());
            entry.extend_from_slice(&bytes[start..end]);
            lanes.push(part as usize, &entry)?;
        }
    }
    lanes.settle()?;
    if hasher.content_hash() == dump.facts.hash && count == dump.facts.atoms {
        Ok(lanes)
    } else {
        Err(broken("records"))
    }
}

/// Database, key (of which none is the beginning of another), and kind.
fn put_sort_key(atom: &Atom<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&atom.database.to_be_bytes());
    out.extend_from_slice(atom.key);
    out.push(match atom.kind {
        AtomKind::Record => 0,
        AtomKind::Head => 1,
        AtomKind::Element => 2,
    });
}

fn merge(dump: &Dump<'_>, atoms: &Lanes, out: &mut Out<'_>) -> Result<(), RestoreError> {
    let mut parts: Vec<Sorted<'_>> = (0..1 << dump.facts.part_bits)
        .map(|part| Sorted { reader: atoms.reader(part), at: 0 })
        .collect();
    let mut first = BinaryHeap::new();
    for (part, sorted) in parts.iter_mut().enumerate() {
        if let Some((entry, split)) = sorted.next()? {
            first.push(Reverse((entry, split, part)));
        }
    }
    let mut database = None;
    while let Some(Reverse((entry, split, part))) = first.pop() {
        let of = entry.first_chunk::<DATABASE_BYTES>().copied();
        if of != database {
            database = of;
            let mut select = Vec::new();
            put_select(&mut select, of.map_or(0, u64::from_be_bytes));
            out.put(&select)?;
        }
        out.put(&entry[split..])?;
        if let Some((entry, split)) = parts[part].next()? {
            first.push(Reverse((entry, split, part)));
        }
    }
    Ok(())
}

/// The atoms of one part.
struct Sorted<'a> {
    reader: LaneReader<'a>,
    at: usize,
}

impl Sorted<'_> {
    /// The next one, and where what it is sorted by ends.
    fn next(&mut self) -> Result<Option<(Vec<u8>, usize)>, RestoreError> {
        if self.at == self.reader.block().len() {
            self.at = 0;
            if self.reader.next_block()?.is_none() {
                return Ok(None);
            }
        }
        let held = self.reader.block();
        let number = |at: usize| {
            let bytes = held.get(at..).and_then(|bytes| bytes.first_chunk().copied());
            bytes.map(u32::from_le_bytes).ok_or_else(|| broken("records"))
        };
        let (length, split) = (number(self.at)? as usize, number(self.at + 4)? as usize);
        let start = self.at + 8;
        let entry = held[start..start + length].to_vec();
        self.at = start + length;
        Ok(Some((entry, split)))
    }
}
