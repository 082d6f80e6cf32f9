//! Content made of small pieces, such as records: those of the previous snapshot are referred to as
//! slices of old chunks, wherever they stood; the others are gathered.
//!
//! Kept locally for each piece: 16 bytes of fingerprint, and its length (4 bytes, little-endian).

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::backup::block::Block;
use crate::backup::error::BackupError;
use crate::backup::item::Item;
use crate::backup::ordered::Giver;
use crate::backup::stream::Reading;
use crate::crypto::ids::{ContentHasher, DomainKeys};
use crate::format::node::ChunkRun;
use crate::id::ContentHash;
use crate::index::lookup::ChunkLookup;
use crate::index::previous_tree::PreviousEntry;

/// Bytes of what is kept of a piece.
pub const PIECE_STATE_BYTES: usize = 20;
/// Plain bytes that are compared as one piece of work.
const BLOCK_BYTES: usize = 1024 * 1024;
/// A reference to fewer bytes would cost more than they do.
const KEPT_BYTES_MIN: u64 = 32;
/// Old pieces behind the last one found that are looked at before all others.
const NEAR_PIECES: usize = 8;

/// Pieces of a file beside those of the previous snapshot.
#[derive(Debug, Default)]
pub struct Pieces {
    /// What is kept of each.
    pub state: Vec<u8>,
    /// All of them, in order.
    pub spans: Vec<Span>,
    /// Those that are new, one after another.
    pub new: Block,
    /// Plain bytes of all.
    pub total_bytes: u64,
}

/// Some neighbouring pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// The same bytes stand in the old content.
    Kept {
        /// From where on.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// So many bytes are new.
    New(u64),
}

/// The pieces of the previous snapshot.
#[derive(Debug, Default)]
pub struct OldPieces {
    /// Fingerprint and offset, in order.
    pieces: Vec<([u8; 16], u64)>,
    /// Made when a piece is not where it was.
    by_fingerprint: OnceLock<HashMap<[u8; 16], u32>>,
    runs: Vec<ChunkRun>,
    end: u64,
}

impl OldPieces {
    /// The pieces of these old files, one behind another.
    #[must_use]
    pub fn of(files: &[PreviousEntry]) -> Self {
        let mut old = Self::default();
        for file in files {
            old.add(file);
        }
        old
    }

    fn add(&mut self, old: &PreviousEntry) {
        for state in old.fingerprints.chunks_exact(PIECE_STATE_BYTES) {
            let (fingerprint, length) = state.split_at(16);
            let fingerprint: [u8; 16] = fingerprint.try_into().unwrap_or_default();
            self.pieces.push((fingerprint, self.end));
            let length = length.try_into().map_or(0, u32::from_le_bytes);
            self.end += u64::from(length);
        }
        self.runs.extend_from_slice(&old.node.content.runs);
    }

    /// The first piece of each fingerprint, by that.
    fn by_fingerprint(&self) -> HashMap<[u8; 16], u32> {
        let mut found = HashMap::with_capacity(self.pieces.len());
        for (number, (fingerprint, _)) in self.pieces.iter().enumerate() {
            if *fingerprint != [0; 16] {
                found.entry(*fingerprint).or_insert(number as u32);
            }
        }
        found
    }

    /// Number and offset of an old piece with that fingerprint, if possible one just behind `last`.
    fn find(&self, fingerprint: &[u8; 16], last: Option<usize>) -> Option<(usize, u64)> {
        if let Some(last) = last {
            let near = self.pieces.iter().enumerate().skip(last + 1).take(NEAR_PIECES);
            let found = near.into_iter().find(|(_, (other, _))| other == fingerprint);
            if let Some((number, (_, offset))) = found {
                return Some((number, *offset));
            }
        }
        let all = self.by_fingerprint.get_or_init(|| self.by_fingerprint());
        let number = *all.get(fingerprint)? as usize;
        Some((number, self.pieces[number].1))
    }
}

/// Pieces that are not compared yet.
#[derive(Debug, Default)]
struct Gathered {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    hasher: ContentHasher,
    total_bytes: u64,
}

impl Gathered {
    /// Ends a piece; whether there is enough to compare.
    fn end_piece(&mut self) -> bool {
        self.ends.push(self.bytes.len());
        self.bytes.len() >= BLOCK_BYTES
    }

    /// What is to be compared: bytes, and where each piece ends.
    fn take(&mut self) -> (Vec<u8>, Vec<usize>) {
        self.hasher.update(&self.bytes);
        self.total_bytes += self.bytes.len() as u64;
        let room = if self.bytes.len() < BLOCK_BYTES { 0 } else { BLOCK_BYTES * 5 / 4 };
        let ends = Vec::with_capacity(self.ends.len() * usize::from(room > 0));
        let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(room));
        (bytes, std::mem::replace(&mut self.ends, ends))
    }
}

/// Gives the pieces of a file that has begun.
pub struct PieceWriter<'a> {
    reading: &'a Reading,
    items: &'a mut Giver<Item>,
    old: Arc<OldPieces>,
    gathered: Gathered,
}

impl<'a> PieceWriter<'a> {
    /// Begins; `None` when nobody takes any more.
    pub fn begin(reading: &'a Reading, items: &'a mut Giver<Item>, old: OldPieces) -> Option<Self> {
        if !old.pieces.is_empty() && !items.give(Item::PreviousPieces(old.runs.clone())) {
            return None;
        }
        Some(Self { reading, items, old: Arc::new(old), gathered: Gathered::default() })
    }

    /// The bytes so far; what is appended is the next piece when [`PieceWriter::end_piece`] is called.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.gathered.bytes
    }

    /// Ends a piece; `None` when nobody takes any more.
    pub fn end_piece(&mut self) -> Option<()> {
        if self.gathered.end_piece() { self.flush() } else { Some(()) }
    }

    fn flush(&mut self) -> Option<()> {
        let (bytes, ends) = self.gathered.take();
        if bytes.is_empty() {
            return Some(());
        }
        let slot = self.items.slot()?;
        let (keys, old) = (self.reading.keys.clone(), Arc::clone(&self.old));
        self.reading.workers.submit(move |_| {
            slot.fill(Item::Pieces(compare(&keys, bytes, &ends, &old)));
        });
        Some(())
    }

    /// Length and hash of the file; `None` when nobody takes any more.
    #[must_use]
    pub fn finish(mut self) -> Option<(u64, ContentHash)> {
        self.flush()?;
        Some((self.gathered.total_bytes, self.gathered.hasher.content_hash()))
    }
}

/// The pieces of a whole file, compared in the thread that makes them.
pub struct PieceFile {
    keys: DomainKeys,
    old: OldPieces,
    gathered: Gathered,
    compared: Vec<Pieces>,
}

impl PieceFile {
    /// Begins.
    #[must_use]
    pub fn new(keys: DomainKeys, old: OldPieces) -> Self {
        Self { keys, old, gathered: Gathered::default(), compared: Vec::new() }
    }

    /// The bytes so far; what is appended is the next piece when [`PieceFile::end_piece`] is called.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.gathered.bytes
    }

    /// Ends a piece.
    pub fn end_piece(&mut self) {
        if self.gathered.end_piece() {
            self.compare();
        }
    }

    fn compare(&mut self) {
        let (bytes, ends) = self.gathered.take();
        if !bytes.is_empty() {
            self.compared.push(compare(&self.keys, bytes, &ends, &self.old));
        }
    }

    /// The file.
    #[must_use]
    pub fn finish(mut self) -> ComparedFile {
        self.compare();
        ComparedFile {
            old: (!self.old.pieces.is_empty()).then_some(self.old.runs),
            pieces: self.compared,
            bytes: self.gathered.total_bytes,
            hash: self.gathered.hasher.content_hash(),
        }
    }
}

/// A file of pieces beside those of the previous snapshot.
pub struct ComparedFile {
    /// References of the old content, where there is any.
    pub old: Option<Vec<ChunkRun>>,
    /// Its pieces, about a MiB at a time.
    pub pieces: Vec<Pieces>,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of it.
    pub hash: ContentHash,
}

fn compare(keys: &DomainKeys, mut bytes: Vec<u8>, ends: &[usize], old: &OldPieces) -> Pieces {
    let mut pieces = Pieces { total_bytes: bytes.len() as u64, ..Pieces::default() };
    pieces.state.reserve_exact(ends.len() * PIECE_STATE_BYTES);
    let (mut start, mut last) = (0, None);
    for end in ends {
        let fingerprint = keys.fingerprint(&bytes[start..*end]);
        let length = end - start;
        pieces.state.extend_from_slice(&fingerprint);
        pieces.state.extend_from_slice(&(length as u32).to_le_bytes());
        let found = old.find(&fingerprint, last);
        last = found.map(|(number, _)| number).or(last.map(|last| last + 1));
        let next = match found {
            Some((_, offset)) => Span::Kept { offset, bytes: length as u64 },
            None => Span::New(length as u64),
        };
        push(&mut pieces.spans, next);
        start = *end;
    }
    let mut spans: Vec<Span> = Vec::new();
    for span in pieces.spans {
        push(
            &mut spans,
            match span {
                Span::Kept { bytes, .. } if bytes < KEPT_BYTES_MIN => Span::New(bytes),
                span => span,
            },
        );
    }
    let (mut at, mut new) = (0, 0);
    for span in &spans {
        match span {
            Span::Kept { bytes, .. } => at += *bytes as usize,
            Span::New(length) => {
                if new != at {
                    bytes.copy_within(at..at + *length as usize, new);
                }
                at += *length as usize;
                new += *length as usize;
            }
        }
    }
    bytes.truncate(new);
    pieces.spans = spans;
    pieces.new = Block::from(bytes);
    pieces
}

fn push(spans: &mut Vec<Span>, next: Span) {
    match (spans.last_mut(), next) {
        (Some(Span::New(bytes)), Span::New(more)) => *bytes += more,
        (
            Some(Span::Kept { offset, bytes }),
            Span::Kept { offset: next_offset, bytes: next_bytes },
        ) if *offset + *bytes == next_offset => *bytes += next_bytes,
        _ => spans.push(next),
    }
}

/// Old content, each of whose bytes can be referred to.
pub struct OldContent {
    /// Offset of the first byte, and the chunk or slice that begins with it.
    parts: Vec<(u64, ChunkRun, u32)>,
}

impl OldContent {
    /// Of these references; ends where a pack is not to be seen any more.
    pub fn new(runs: &[ChunkRun], lookup: &mut ChunkLookup) -> Result<Self, BackupError> {
        let (mut parts, mut at) = (Vec::new(), 0);
        for run in runs {
            let Some(pack) = lookup.pack(&run.pack)? else { break };
            for ordinal in run.first..run.first.saturating_add(run.count) {
                let Some(whole) = pack.table.chunk_bytes.get(ordinal as usize) else { break };
                let (offset, length) = run.slice.unwrap_or((0, *whole));
                let slice = Some((offset, length));
                parts.push((at, ChunkRun { first: ordinal, count: 1, slice, ..*run }, *whole));
                at += u64::from(length);
            }
        }
        Ok(Self { parts })
    }

    /// References to `bytes` from `offset` on; `None` where the old content has not so many.
    #[must_use]
    pub fn slices(&self, offset: u64, bytes: u64) -> Option<Vec<ChunkRun>> {
        let first = self.parts.partition_point(|(start, ..)| *start <= offset).checked_sub(1)?;
        let (mut at, mut left, mut slices) = (offset, bytes, Vec::new());
        for (start, run, whole) in self.parts.get(first..)? {
            let (from, length) = run.slice?;
            let skipped = (at - start) as u32;
            let taken = u64::from(length.checked_sub(skipped)?).min(left) as u32;
            let is_whole = skipped == 0 && taken == *whole;
            let slice = (!is_whole).then_some((from + skipped, taken));
            slices.push(ChunkRun { slice, ..*run });
            at += u64::from(taken);
            left -= u64::from(taken);
            if left == 0 {
                return Some(slices);
            }
        }
        None
    }
}
