//! A dump of Redis or Valkey as a root: taken apart into records, which are sorted and compared with
//! those of the previous snapshot one by one.
//!
//! Files, in `format-spec/redis.md`: what lies between the records, records and columns part by
//! part, the order of the dump. Each atom was turned back into its bytes before it was taken, and
//! whatever is built of atoms is read back before it is given away. Memory: a fixed number of bytes
//! of spooled atoms, one part, and what is kept of its pieces.

use std::path::PathBuf;
use std::sync::Arc;

use crate::backup::dump_by_keys::ByKeys;
use crate::backup::dump_part::Part;
use crate::backup::dump_spool::{ORDER_LANE, SPOOL_LANE_BITS, Spooled, Spooler};
use crate::backup::error::BackupError;
use crate::backup::item::{Ended, Entry, Item, KnownContent, Step};
use crate::backup::ordered::Giver;
use crate::backup::pieces::{OldPieces, PieceWriter};
use crate::backup::previous_files::PreviousFiles;
use crate::backup::run::{RootSource, SnapshotLabel};
use crate::backup::stream::{OpenStream, Reading};
use crate::backup::successor::Successor;
use crate::chunker::{ChunkSizes, Chunker};
use crate::crypto::ids::{ChunkKind, DomainKeys};
use crate::format::node::{Node, NodeKind, UnixTime};
use crate::format::redis::bits::BitWriter;
use crate::format::redis::dump_end::Ending;
use crate::format::redis::facts::{
    DumpOrder, FRAME_FILE, PART_BITS_MAX, RecordFacts, TIES_FILE, column_file, dialect_word,
    order_file, records_file,
};
use crate::format::redis::order::{
    BLOCK_ATOMS_MAX, block, ends_block, prefix, prefix_bits, put_block,
};
use crate::format::redis::record::SALT_BYTES;
use crate::format::snapshot::Facts;
use crate::format::tree::EntryKey;
use crate::id::ContentHash;
use crate::repo::lanes::{LaneError, Lanes};
use crate::repo::session::WriteSession;
use crate::source::error::SourceError;

/// Spooled bytes of one part, about.
const PART_BYTES: u64 = 32 * 1024 * 1024;
/// Atoms of one part, at most.
const PART_ATOMS: u64 = 1 << 18;
/// Atoms whose order is one file, at least.
const ORDER_FILE_ATOMS: u64 = 1 << 20;

/// Why a dump was not saved.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The source failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The temporary file failed.
    #[error("the dump could not be sorted")]
    Lane(#[from] LaneError),
    /// The dump ends in the middle.
    #[error("the dump ends in the middle, after {bytes} bytes")]
    Truncated {
        /// Its length.
        bytes: u64,
    },
    /// The dump is damaged.
    #[error("the dump of {bytes} bytes is damaged: its checksum is another than it says")]
    WrongSum {
        /// Its length.
        bytes: u64,
    },
    /// What was built of the records does not give the dump back.
    #[error("{what} of the dump would not come back as it was")]
    Inverse {
        /// What.
        what: &'static str,
    },
}

/// What is known of a dump beside the dump itself; asked for when it was read.
pub type FactsOf = Box<dyn Fn() -> Facts + Send>;

/// A dump that comes as a stream.
pub struct RedisRecords {
    root: String,
    name: String,
    open: Option<OpenStream>,
    facts: FactsOf,
    previous: Option<PreviousFiles>,
    folder: PathBuf,
    order: DumpOrder,
    records: Option<RecordFacts>,
}

impl RedisRecords {
    /// The root of that name (`redis:cache`), whose file is called `name`.
    #[must_use]
    pub fn new(
        root: String,
        name: String,
        order: DumpOrder,
        open: OpenStream,
        facts: FactsOf,
    ) -> Self {
        let (previous, records) = (None, None);
        let folder = PathBuf::new();
        Self { root, name, open: Some(open), facts, previous, folder, order, records }
    }

    fn receive(
        &mut self,
        reading: &Reading,
        chunker: &Chunker,
        items: &mut Giver<Item>,
    ) -> Result<Option<()>, DumpError> {
        let unfinished = || SourceError::Unfinished { name: self.name.clone() };
        let stream = self.open.take().ok_or_else(unfinished)?()?;
        if !give_root(items) {
            return Ok(None);
        }
        let salt = salt(&reading.keys);
        let mut spooler = Spooler::new(stream, &self.folder, salt, reading);
        let mut files = Files { previous: self.previous.take(), reading, chunker };
        let mut frame = |buffer: &mut [u8]| spooler.read_frame(buffer);
        let given = files.give_cut(FRAME_FILE, items, &mut frame);
        if let Some(error) = spooler.take_failure() {
            return Err(error);
        }
        if given?.is_none() {
            return Ok(None);
        }
        let spooled = spooler.finish()?;
        match spooled.ending {
            Ending::Truncated => return Err(DumpError::Truncated { bytes: spooled.bytes }),
            Ending::WrongSum => return Err(DumpError::WrongSum { bytes: spooled.bytes }),
            Ending::Whole | Ending::Unknown => {}
        }
        self.store(&mut files, items, &spooled, salt)
    }

    /// The order that the dump is stored in.
    fn order_of(&self, spooled: &Spooled, reading: &Reading) -> DumpOrder {
        if self.order == DumpOrder::Server {
            return DumpOrder::Server;
        }
        let is_understood = spooled.ending == Ending::Whole && spooled.unknown_bytes == 0;
        if is_understood && !spooled.is_bound {
            return DumpOrder::Keys;
        }
        let name = &self.name;
        let what = "holds something that depends on its order, which is kept";
        reading.progress.warn(format!("{name}: the dump {what}"));
        DumpOrder::Server
    }

    /// Gives the files of a dump that was read.
    fn store(
        &mut self,
        files: &mut Files<'_>,
        items: &mut Giver<Item>,
        spooled: &Spooled,
        salt: [u8; SALT_BYTES],
    ) -> Result<Option<()>, DumpError> {
        let part_bits = files.part_bits(spooled);
        let order = self.order_of(spooled, files.reading);
        let mut by_keys = ByKeys::new(spooled);
        let order_bits = prefix_bits(spooled.atoms as usize);
        let made = spooled.created.unwrap_or(0) as u32;
        let mut ties = BitWriter::default();
        let mut spare = Vec::new();
        for number in 0..1 << part_bits {
            let part = Part::load(spooled, order, part_bits, number, spare)?;
            match order {
                DumpOrder::Server => part.put_ties(order_bits, &mut ties)?,
                DumpOrder::Keys => by_keys.add(&part)?,
            }
            let old = files.old_part(records_file, part_bits, number);
            let name = records_file(part_bits, number);
            let given = files.give_pieces(&name, items, old, |out| part.give_records(out));
            if given?.is_none() {
                return Ok(None);
            }
            let old = files.old_part(column_file, part_bits, number);
            let name = column_file(part_bits, number);
            let given = files.give_pieces(&name, items, old, |out| part.give_column(made, out));
            if given?.is_none() {
                return Ok(None);
            }
            spare = part.into_spare();
        }
        let (bytes, hash, order_files) = match order {
            DumpOrder::Keys => by_keys.finish(spooled)?,
            DumpOrder::Server => {
                let given = files.give_order(items, &spooled.lanes, order_bits)?;
                let Some(order_files) = given else { return Ok(None) };
                if files.give_ties(ties, items)?.is_none() {
                    return Ok(None);
                }
                (spooled.bytes, spooled.hash, order_files)
            }
        };
        if spooled.unknown_bytes > 0 {
            files.reading.progress.warn(format!(
                "{}: {} of {} bytes are of a form that is not known, and are kept as they are",
                self.name, spooled.unknown_bytes, spooled.bytes
            ));
        }
        self.records = Some(RecordFacts {
            form: 1,
            dialect: dialect_word(spooled.dialect).into(),
            bytes,
            hash,
            order,
            salt: data_encoding::HEXLOWER.encode(&salt),
            atoms: spooled.atoms,
            order_bits,
            order_files,
            part_bits,
            made,
            unknown_bytes: spooled.unknown_bytes,
        });
        Ok(Some(()))
    }
}

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

impl RootSource for RedisRecords {
    fn name(&self) -> String {
        self.root.clone()
    }

    fn path(&self) -> Vec<u8> {
        self.name.clone().into_bytes()
    }

    fn chunk_sizes(&self) -> ChunkSizes {
        ChunkSizes::STREAM
    }

    fn previous(
        &mut self,
        session: &mut WriteSession,
        label: &SnapshotLabel,
    ) -> Result<Option<Successor>, BackupError> {
        session.repository.state.path().clone_into(&mut self.folder);
        let (previous, successor) = PreviousFiles::open(session, label, &self.path())?;
        self.previous = previous;
        Ok(Some(successor))
    }

    fn facts(&self) -> Option<Facts> {
        let mut facts = (self.facts)();
        self.records.as_ref()?.put(&mut facts);
        Some(facts)
    }

    fn read(&mut self, reading: &Reading, chunker: &Chunker, items: &mut Giver<Item>) {
        let name = self.name.clone();
        match self.receive(reading, chunker, items) {
            Ok(_) => {}
            Err(DumpError::Source(source)) => {
                items.give(Item::Failed(BackupError::Source { name, source }));
            }
            Err(source) => {
                items.give(Item::Failed(BackupError::Dump { name, source }));
            }
        }
    }
}

/// Gives the files of a root.
struct Files<'a> {
    previous: Option<PreviousFiles>,
    reading: &'a Reading,
    chunker: &'a Chunker,
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
    fn part_bits(&self, spooled: &Spooled) -> u32 {
        let (bytes, atoms) = (spooled.atom_bytes, spooled.atoms);
        let wanted = (0..PART_BITS_MAX)
            .find(|bits| bytes >> bits <= PART_BYTES && atoms >> bits <= PART_ATOMS);
        let wanted = wanted.unwrap_or(PART_BITS_MAX);
        let has = |bits: &u32| self.has(&records_file(*bits, 0));
        let before = (0..=PART_BITS_MAX).find(has);
        before.filter(|before| before.abs_diff(wanted) <= 1).unwrap_or(wanted)
    }

    fn has(&self, name: &str) -> bool {
        let key = EntryKey { dir: Vec::new(), name: name.as_bytes().to_vec() };
        self.previous.as_ref().is_some_and(|previous| previous.has(&key))
    }

    fn old(&mut self, names: impl Iterator<Item = String>) -> OldPieces {
        let mut old = OldPieces::default();
        for name in names {
            let key = EntryKey { dir: Vec::new(), name: name.into_bytes() };
            let found = self.previous.as_mut().and_then(|previous| previous.find(&key));
            if let Some(entry) = found {
                old.add(&entry);
            }
        }
        old
    }

    /// The old pieces of what is now a part, however many parts there were.
    fn old_part(&mut self, name: fn(u32, u32) -> String, bits: u32, part: u32) -> OldPieces {
        let before = (0..=PART_BITS_MAX).find(|bits| self.has(&name(*bits, 0)));
        let Some(before) = before else { return OldPieces::default() };
        if before <= bits {
            return self.old(std::iter::once(name(before, part >> (bits - before))));
        }
        let more = before - bits;
        self.old((part << more..(part + 1) << more).map(|part| name(before, part)))
    }

    fn give_order(
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
            let old = self.old(std::iter::once(name.clone()));
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

    fn give_ties(
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
    fn give_cut(
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

    /// A file of pieces; nothing when nobody takes any more.
    fn give_pieces(
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

/// Hashes must be the same from one snapshot to the next, and not to be foreseen.
fn salt(keys: &DomainKeys) -> [u8; SALT_BYTES] {
    let id = keys.chunk_id(ChunkKind::Tree, b"salt of the order of a dump");
    id.as_bytes().first_chunk().copied().unwrap_or_default()
}

fn give_root(items: &mut Giver<Item>) -> bool {
    let mut node = Node::new(NodeKind::Dir, Vec::new());
    node.mode = 0o700;
    node.mtime = UnixTime::default();
    let entry = Entry { dir: Arc::from([]), node, device: 0, inode: 0, link_group: None };
    items.give(Item::Batch(vec![Step::Known(entry, KnownContent::None)]))
}

/// Lane of the atoms of that hash.
#[must_use]
pub fn lane_of(hash: u64) -> usize {
    (hash >> (u64::BITS - SPOOL_LANE_BITS)) as usize
}
