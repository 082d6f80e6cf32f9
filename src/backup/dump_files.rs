//! The files that a dump is stored as, given to the run one after another.
//!
//! Parts and order keep their numbers from one snapshot to the next as far as they can, so that each
//! is compared with what it was.

use crate::backup::dump_records::DumpError;
use crate::backup::dump_spool::{ORDER_LANE, Spooled};
use crate::backup::error::BackupError;
use crate::backup::item::{Ended, Entry, Item};
use crate::backup::ordered::Giver;
use crate::backup::pieces::{ComparedFile, OldPieces, PieceWriter};
use crate::backup::previous_files::PreviousFiles;
use crate::backup::stream::Reading;
use crate::chunker::Chunker;
use crate::format::node::{Node, NodeKind};
use crate::format::redis::bits::BitWriter;
use crate::format::redis::facts::{PART_BITS_MAX, TIES_FILE, order_file, records_file};
use crate::format::redis::order::{BLOCK_ATOMS_MAX, block, ends_block, prefix, put_block};
use crate::format::tree::EntryKey;
use crate::id::ContentHash;
use crate::index::previous_tree::PreviousEntry;
use crate::repo::lanes::Lanes;
use crate::source::error::SourceError;
use std::sync::Arc;

/// Spooled bytes of one part, at most: the worker that sorts it reads here and there in so many.
const PART_BYTES: u64 = 8 * 1024 * 1024;
/// There are no more parts than that for it: a restore has all of them open.
const SMALL_PART_BITS_MAX: u32 = 6;
/// Spooled bytes of one part where more parts are needed.
const LARGE_PART_BYTES: u64 = 16 * 1024 * 1024;
/// Atoms of one part, at most.
const PART_ATOMS: u64 = 1 << 18;
/// Atoms whose order is one file, at least.
const ORDER_FILE_ATOMS: u64 = 1 << 20;

/// Where the first block ends, if that is certain.
fn end_of_block(hashes: &[u64], is_over: bool) -> Option<usize> {
    let ends = hashes.iter().take(BLOCK_ATOMS_MAX).position(|hash| ends_block(*hash));
    match ends {
        Some(last) => Some(last + 1),
        None if hashes.len() >= BLOCK_ATOMS_MAX => Some(BLOCK_ATOMS_MAX),
        None => (is_over && !hashes.is_empty()).then_some(hashes.len()),
    }
}

fn put_checked(hashes: &[u64], bits: u32, out: &mut Vec<u8>) -> Result<(), DumpError> {
    let start = out.len();
    put_block(hashes, bits, out);
    let mut prefixes = Vec::with_capacity(hashes.len());
    let length = block(&out[start..], bits, &mut prefixes);
    let expected = hashes.iter().map(|hash| prefix(*hash, bits));
    if length == Some(out.len() - start) && prefixes.iter().copied().eq(expected) {
        return Ok(());
    }
    Err(DumpError::Inverse { what: "the order" })
}

/// Gives the files of a root.
pub struct Files<'a> {
    /// The files of the snapshot before.
    pub previous: Option<PreviousFiles>,
    /// How the run reads.
    pub reading: &'a Reading,
    /// How content is cut.
    pub chunker: &'a Chunker,
}

impl Files<'_> {
    fn begin(name: &str, items: &mut Giver<Item>) -> Option<Entry> {
        let mut node = Node::new(NodeKind::File, name.as_bytes());
        node.mode = 0o600;
        let entry = Entry { dir: Arc::from([]), node, device: 0, inode: 0, link_group: None };
        items.give(Item::Begin(Box::new(entry.clone()))).then_some(entry)
    }

    fn end(
        &self,
        mut entry: Entry,
        size: u64,
        hash: Option<ContentHash>,
        items: &mut Giver<Item>,
    ) -> Option<()> {
        entry.node.size = size;
        let key = EntryKey { dir: Vec::new(), name: entry.node.name.clone() };
        let is_known = self.previous.as_ref().is_some_and(|previous| previous.has(&key));
        let ended = Ended { entry, hash, is_known, discard: None };
        items.give(Item::End(Box::new(ended))).then_some(())
    }

    /// As many parts as before, unless they would be far too large or too small.
    #[must_use]
    pub fn part_bits(&self, spooled: &Spooled) -> u32 {
        let (bytes, atoms) = (spooled.atom_bytes, spooled.atoms);
        let wanted = (0..PART_BITS_MAX).find(|bits| {
            let is_many = *bits >= SMALL_PART_BITS_MAX;
            let bytes_max = if is_many { LARGE_PART_BYTES } else { PART_BYTES };
            bytes >> bits <= bytes_max && atoms >> bits <= PART_ATOMS
        });
        let wanted = wanted.unwrap_or(PART_BITS_MAX);
        let has = |bits: &u32| self.has(&records_file(*bits, 0));
        let before = (0..=PART_BITS_MAX).find(has);
        before.filter(|before| before.abs_diff(wanted) <= 1).unwrap_or(wanted)
    }

    fn has(&self, name: &str) -> bool {
        let key = EntryKey { dir: Vec::new(), name: name.as_bytes().to_vec() };
        self.previous.as_ref().is_some_and(|previous| previous.has(&key))
    }

    fn old(&mut self, names: impl Iterator<Item = String>) -> Vec<PreviousEntry> {
        let Some(previous) = &mut self.previous else { return Vec::new() };
        let key = |name: String| EntryKey { dir: Vec::new(), name: name.into_bytes() };
        names.filter_map(|name| previous.find(&key(name))).collect()
    }

    /// The old files of what is now a part, however many parts there were.
    pub fn old_part(
        &mut self,
        name: fn(u32, u32) -> String,
        bits: u32,
        part: u32,
    ) -> Vec<PreviousEntry> {
        let before = (0..=PART_BITS_MAX).find(|bits| self.has(&name(*bits, 0)));
        let Some(before) = before else { return Vec::new() };
        if before <= bits {
            return self.old(std::iter::once(name(before, part >> (bits - before))));
        }
        let more = before - bits;
        self.old((part << more..(part + 1) << more).map(|part| name(before, part)))
    }

    /// Gives the files of the order; their number, nothing when nobody takes any more.
    pub fn give_order(
        &mut self,
        items: &mut Giver<Item>,
        lanes: &Lanes,
        bits: u32,
    ) -> Result<Option<u32>, DumpError> {
        let mut hashes = lanes.reader(ORDER_LANE);
        let mut rest: Vec<u64> = Vec::new();
        let mut number = 0;
        loop {
            let name = order_file(number);
            let old = OldPieces::of(&self.old(std::iter::once(name.clone())));
            let mut is_over = false;
            let given = self.give_pieces(&name, items, old, |out| {
                let mut atoms = 0;
                loop {
                    let mut at = 0;
                    while let Some(length) = end_of_block(&rest[at..], is_over) {
                        let block = &rest[at..at + length];
                        put_checked(block, bits, out.bytes())?;
                        let is_last = block[length - 1] >> 8 & (ORDER_FILE_ATOMS - 1) == 0;
                        at += length;
                        atoms += length as u64;
                        if out.end_piece().is_none() {
                            return Ok(None);
                        }
                        if is_last || atoms >= 4 * ORDER_FILE_ATOMS {
                            rest.drain(..at);
                            return Ok(Some(()));
                        }
                    }
                    rest.drain(..at);
                    if is_over {
                        return Ok(Some(()));
                    }
                    match hashes.next_block()? {
                        Some(block) => rest.extend(
                            block.as_chunks().0.iter().map(|hash| u64::from_le_bytes(*hash)),
                        ),
                        None => is_over = true,
                    }
                }
            });
            if given?.is_none() {
                return Ok(None);
            }
            number += 1;
            if is_over {
                return Ok(Some(number));
            }
        }
    }

    /// Gives what the order leaves open; nothing when nobody takes any more.
    pub fn give_ties(
        &self,
        ties: BitWriter,
        items: &mut Giver<Item>,
    ) -> Result<Option<()>, SourceError> {
        let mut ties = std::io::Cursor::new(ties.finish());
        let mut read = |buffer: &mut [u8]| {
            std::io::Read::read(&mut ties, buffer)
                .map_err(|_| SourceError::Unfinished { name: TIES_FILE.into() })
        };
        self.give_cut(TIES_FILE, items, &mut read)
    }

    /// A file that is cut by its content; nothing when nobody takes any more.
    pub fn give_cut(
        &self,
        name: &str,
        items: &mut Giver<Item>,
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize, SourceError>,
    ) -> Result<Option<()>, SourceError> {
        let Some(entry) = Self::begin(name, items) else { return Ok(None) };
        let mut size = 0;
        let mut counted = |buffer: &mut [u8]| {
            let length = read(buffer)?;
            size += length as u64;
            Ok(length)
        };
        if !self.reading.cut_all(&mut counted, self.chunker, items)? {
            return Ok(None);
        }
        Ok(self.end(entry, size, None, items))
    }

    /// A file that was compared; nothing when nobody takes any more.
    pub fn give_compared(
        &self,
        name: &str,
        items: &mut Giver<Item>,
        file: ComparedFile,
    ) -> Option<()> {
        let entry = Self::begin(name, items)?;
        let old = file.old.map(Item::PreviousPieces);
        let pieces = file.pieces.into_iter().map(Item::Pieces);
        old.into_iter().chain(pieces).all(|item| items.give(item)).then_some(())?;
        if self.reading.progress.is_cancelled() {
            items.give(Item::Failed(BackupError::Cancelled));
            return None;
        }
        self.end(entry, file.bytes, Some(file.hash), items)
    }

    /// A file of pieces; nothing when nobody takes any more.
    pub fn give_pieces(
        &self,
        name: &str,
        items: &mut Giver<Item>,
        old: OldPieces,
        give: impl FnOnce(&mut PieceWriter<'_>) -> Result<Option<()>, DumpError>,
    ) -> Result<Option<()>, DumpError> {
        let Some(entry) = Self::begin(name, items) else { return Ok(None) };
        let Some(mut out) = PieceWriter::begin(self.reading, items, old) else { return Ok(None) };
        if give(&mut out)?.is_none() {
            return Ok(None);
        }
        let Some((size, hash)) = out.finish() else { return Ok(None) };
        if self.reading.progress.is_cancelled() {
            items.give(Item::Failed(BackupError::Cancelled));
            return Ok(None);
        }
        Ok(self.end(entry, size, Some(hash), items))
    }
}
