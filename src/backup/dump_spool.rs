//! Reads a dump once: atoms go into lanes by their hashes, what lies between them comes out.

use std::path::Path;
use std::sync::Arc;

use crate::backup::dump_batch::{Batch, Sorted, SortedBatch, Sorter, Table};
use crate::backup::dump_records::{DumpError, lane_of};
use crate::backup::ordered::{Giver, Taker, ordered};
use crate::backup::stream::Reading;
use crate::crypto::ids::{ContentHasher, content_hasher};
use crate::format::redis::dump_end::Ending;
use crate::format::redis::dump_parts::{DumpParts, Kind, LOOKAHEAD_BYTES, Next};
use crate::format::redis::frame::put_head;
use crate::format::redis::grammar::Dialect;
use crate::format::redis::record::SALT_BYTES;
use crate::format::redis::text::{Front, text_length};
use crate::id::ContentHash;
use crate::progress::Progress;
use crate::repo::lanes::Lanes;
use crate::repo::workers::Submitter;
use crate::source::error::SourceError;
use crate::source::stream::ByteStream;

/// Bits of a hash that say in which lane an atom is spooled.
pub const SPOOL_LANE_BITS: u32 = 10;
/// Lane of the hashes of all atoms, in the order of the dump.
pub const ORDER_LANE: usize = 1 << SPOOL_LANE_BITS;
/// Spooled bytes that stay in memory.
const OPEN_BYTES_MAX: usize = 144 * 1024 * 1024;
/// A lane of more, and of more than [`LANE_SHARES_MAX`] of the same share for all, takes no atoms any
/// more: no server writes a dump of which so much has one hash.
const LANE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const LANE_SHARES_MAX: u64 = 8;
/// The same for atoms, each of which takes memory of its own.
const LANE_ATOMS_MAX: u64 = 1 << 18;
/// A dump that changes its database more often is not sorted by keys.
const DATABASES_MAX: u32 = 65_536;
/// Bytes that are read at once.
const READ_BYTES: usize = 1024 * 1024;
/// They are added to less than what a part is told from.
const BUFFER_BYTES: usize = LOOKAHEAD_BYTES + READ_BYTES;
/// Parts of one batch, at most.
const BATCH_PARTS_MAX: usize = 32_768;
/// Batches of so many bytes that the workers have at once.
const BATCHES_IN_FLIGHT: usize = 6;

/// A dump that was read.
pub struct Spooled {
    /// Its atoms.
    pub lanes: Lanes,
    /// What types mean.
    pub dialect: Dialect,
    /// Number of its atoms.
    pub atoms: u64,
    /// Bytes that they take in the lanes.
    pub atom_bytes: u64,
    /// Bytes that they have in the dump.
    pub plain_atom_bytes: u64,
    /// Length of the dump.
    pub bytes: u64,
    /// BLAKE3 of the dump.
    pub hash: ContentHash,
    /// Bytes of it that are not understood.
    pub unknown_bytes: u64,
    /// Second in which it was begun.
    pub created: Option<u64>,
    /// How it ended.
    pub ending: Ending,
    /// The same records in another order could mean something else.
    pub is_bound: bool,
    /// BLAKE3 of the frame, and what comes behind it.
    pub frame: ContentHasher,
}

/// Reads a dump.
pub struct Spooler {
    stream: Option<Box<dyn ByteStream>>,
    is_end: bool,
    /// Always [`BUFFER_BYTES`] long; what of it is bytes of the dump.
    buffer: Vec<u8>,
    held: usize,
    spare: Vec<Vec<u8>>,
    parts: DumpParts,
    table: Option<Table>,
    salt: [u8; SALT_BYTES],
    sorter: Option<Arc<Sorter>>,
    workers: Submitter,
    giver: Giver<SortedBatch>,
    taker: Taker<SortedBatch>,
    in_flight: usize,
    lanes: Lanes,
    /// Atoms of each lane.
    lane_atoms: Vec<u64>,
    frame: Vec<u8>,
    frame_given: usize,
    between: Vec<u8>,
    atoms_before: u64,
    atoms: u64,
    atom_bytes: u64,
    plain_atom_bytes: u64,
    database: u64,
    databases: u32,
    unknown_bytes: u64,
    bytes: u64,
    hasher: ContentHasher,
    frame_hasher: ContentHasher,
    is_torn: bool,
    progress: Arc<Progress>,
    failure: Option<DumpError>,
}

impl Spooler {
    /// Reads from `stream`; spools into `folder` what does not fit into memory.
    #[must_use]
    pub fn new(
        stream: Box<dyn ByteStream>,
        folder: &Path,
        salt: [u8; SALT_BYTES],
        reading: &Reading,
    ) -> Self {
        let (giver, taker) = ordered(BATCHES_IN_FLIGHT);
        Self {
            stream: Some(stream),
            is_end: false,
            buffer: vec![0; BUFFER_BYTES],
            held: 0,
            spare: Vec::new(),
            parts: DumpParts::default(),
            table: None,
            salt,
            sorter: None,
            workers: reading.workers.clone(),
            giver,
            taker,
            in_flight: 0,
            lanes: Lanes::new(ORDER_LANE + 1, folder, OPEN_BYTES_MAX),
            lane_atoms: vec![0; ORDER_LANE],
            frame: Vec::new(),
            frame_given: 0,
            between: Vec::new(),
            atoms_before: 0,
            atoms: 0,
            atom_bytes: 0,
            plain_atom_bytes: 0,
            database: 0,
            databases: 0,
            unknown_bytes: 0,
            bytes: 0,
            hasher: content_hasher(),
            frame_hasher: content_hasher(),
            is_torn: false,
            progress: Arc::clone(&reading.progress),
            failure: None,
        }
    }

    /// The next bytes of what lies between the atoms; 0 at the end, or after a failure.
    ///
    /// # Errors
    /// What [`Spooler::take_failure`] has more to say of.
    pub fn read_frame(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        while self.frame_given == self.frame.len() {
            self.frame.clear();
            self.frame_given = 0;
            if self.is_end && self.held == 0 && self.in_flight == 0 {
                if self.between.is_empty() && self.atoms_before == 0 {
                    return Ok(0);
                }
                self.end_between();
                continue;
            }
            if let Err(error) = self.step() {
                self.failure = Some(self.reason(error));
                return Err(SourceError::Unfinished { name: "dump".into() });
            }
        }
        let length = buffer.len().min(self.frame.len() - self.frame_given);
        buffer[..length].copy_from_slice(&self.frame[self.frame_given..][..length]);
        self.frame_hasher.update(&buffer[..length]);
        self.frame_given += length;
        Ok(length)
    }

    /// Why a stream has broken off says its producer.
    fn reason(&mut self, error: DumpError) -> DumpError {
        if !matches!(error, DumpError::Source(SourceError::Unfinished { .. })) {
            return error;
        }
        let said = self.stream.take().and_then(|stream| stream.finish().err());
        said.map_or(error, DumpError::Source)
    }

    /// What went wrong, if something did.
    pub fn take_failure(&mut self) -> Option<DumpError> {
        self.failure.take()
    }

    /// The source says whether that was all; what was read.
    pub fn finish(mut self) -> Result<Spooled, DumpError> {
        if let Some(stream) = self.stream.take() {
            stream.finish()?;
        }
        self.lanes.settle()?;
        Ok(Spooled {
            lanes: self.lanes,
            dialect: self.parts.dialect(),
            atoms: self.atoms,
            atom_bytes: self.atom_bytes,
            plain_atom_bytes: self.plain_atom_bytes,
            bytes: self.bytes,
            hash: self.hasher.content_hash(),
            unknown_bytes: self.unknown_bytes,
            created: self.parts.created(),
            ending: self.parts.ending(),
            is_bound: self.is_torn || self.parts.is_bound() || self.databases > DATABASES_MAX,
            frame: self.frame_hasher,
        })
    }

    /// Reads more and gives it to the workers, or takes what they have done.
    fn step(&mut self) -> Result<(), DumpError> {
        let is_over = self.is_end && self.held == 0;
        if is_over || self.in_flight == BATCHES_IN_FLIGHT {
            let lost = || SourceError::Unfinished { name: "dump".into() };
            let sorted = self.taker.take().ok_or_else(lost)?;
            self.in_flight -= 1;
            self.take(&sorted)?;
            if let Some(sorter) = &self.sorter {
                self.spare.push(sorter.reuse(sorted));
            }
            return Ok(());
        }
        if self.held < LOOKAHEAD_BYTES {
            self.fill()?;
        }
        let (table, mut parts, mut end) = (self.table.clone(), Vec::new(), 0);
        while end < self.held && parts.len() < BATCH_PARTS_MAX {
            let rest = &self.buffer[end..self.held];
            let Next::Part(kind, length) = self.parts.next(rest, self.is_end) else { break };
            let bytes = &self.buffer[end..end + length];
            match kind {
                Kind::Unknown => self.unknown_bytes += length as u64,
                Kind::TableHead { prefix } => self.table = table_of(&bytes[prefix..]),
                _ => {}
            }
            if self.parts.database() != self.database {
                self.database = self.parts.database();
                self.databases = self.databases.saturating_add(1);
            }
            end += length;
            parts.push((kind, self.parts.database(), end));
        }
        if parts.is_empty() {
            return Ok(());
        }
        let mut next = self.spare.pop().unwrap_or_else(|| vec![0; BUFFER_BYTES]);
        let rest = &self.buffer[end..self.held];
        next[..rest.len()].copy_from_slice(rest);
        self.held = rest.len();
        let bytes = std::mem::replace(&mut self.buffer, next);
        let (dialect, salt) = (self.parts.dialect(), self.salt);
        let sorter = self.sorter.get_or_insert_with(|| Arc::new(Sorter::new(dialect, salt)));
        let sorter = Arc::clone(sorter);
        let Some(slot) = self.giver.slot() else { return Ok(()) };
        self.in_flight += 1;
        self.workers.submit(move |_| {
            slot.fill(sorter.sort(Batch { bytes, parts, table }));
        });
        Ok(())
    }

    fn fill(&mut self) -> Result<(), DumpError> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let held = self.held;
        debug_assert!(held < LOOKAHEAD_BYTES, "a part can be told from so many bytes");
        while self.held < held + READ_BYTES && !self.is_end {
            let length = stream.read(&mut self.buffer[self.held..held + READ_BYTES])?;
            self.is_end = length == 0;
            self.held += length;
        }
        let new = &self.buffer[held..self.held];
        self.hasher.update(new);
        self.bytes += new.len() as u64;
        Progress::add(&self.progress.bytes_done, new.len() as u64);
        Ok(())
    }

    fn take(&mut self, batch: &SortedBatch) -> Result<(), DumpError> {
        let mut start = 0;
        self.is_torn |= batch.is_torn;
        for part in &batch.parts {
            match part {
                Sorted::Between(range) => {
                    self.between.extend_from_slice(&batch.bytes[range.clone()]);
                }
                Sorted::Atom { hash, end, bytes } if self.is_full(lane_of(*hash)) => {
                    self.between.extend_from_slice(&batch.bytes[bytes.clone()]);
                    self.is_torn = true;
                    start = *end;
                }
                Sorted::Atom { hash, end, bytes } => {
                    if !self.between.is_empty() {
                        self.end_between();
                    }
                    self.lanes.push(lane_of(*hash), &batch.entries[start..*end])?;
                    self.lane_atoms[lane_of(*hash)] += 1;
                    self.lanes.push(ORDER_LANE, &hash.to_le_bytes())?;
                    self.atom_bytes += (*end - start) as u64;
                    self.plain_atom_bytes += bytes.len() as u64;
                    start = *end;
                    self.atoms_before += 1;
                    self.atoms += 1;
                }
            }
        }
        if self.between.len() >= READ_BYTES {
            self.end_between();
        }
        Ok(())
    }

    fn is_full(&self, lane: usize) -> bool {
        let fair = |all: u64| (all >> SPOOL_LANE_BITS) * LANE_SHARES_MAX;
        self.lanes.bytes(lane) > LANE_BYTES_MAX + fair(self.atom_bytes)
            || self.lane_atoms[lane] > LANE_ATOMS_MAX + fair(self.atoms)
    }

    fn end_between(&mut self) {
        put_head(&mut self.frame, self.atoms_before, self.between.len() as u64);
        self.frame.append(&mut self.between);
        self.atoms_before = 0;
    }
}

/// The table that begins with type and key.
fn table_of(bytes: &[u8]) -> Option<Table> {
    let (record_type, rest) = bytes.split_first()?;
    let Front::Is((), length) = text_length(rest) else { return None };
    let key = rest.get(..usize::try_from(length).ok()?)?;
    Some(Arc::new((*record_type, key.to_vec())))
}
