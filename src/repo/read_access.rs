//! Reading chunks back: from a reference to verified plaintext, whatever has moved or is damaged.
//!
//! A chunk is given out only after its keyed hash was compared with its id. A pack that is missing
//! or damaged is not the end: the id leads to any other pack of the domain that has the chunk,
//! after a repack as after a repeated upload. Never a byte that is not the one that was stored.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::compress::CompressError;
use crate::crypto::ids::DomainKeys;
use crate::crypto::recipient::Identity;
use crate::format::index_segment::IndexedPack;
use crate::format::node::ChunkRun;
use crate::id::{DomainId, PackHandle, RepositoryId};
use crate::index::database::{IndexDatabase, IndexError, prefix};
use crate::repo::pack_map::{PackMap, object_name};
use crate::repo::pack_reader::PackReadError;
use crate::store::{Store, StoreError};

/// Pack maps that are kept, in chunks (40 bytes each).
const CACHED_CHUNKS_MAX: usize = 500_000;
/// Chunk rows that are entered into an index at a time (16 bytes each).
const ROWS_PER_BATCH: usize = 1_000_000;

/// Why content could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The local index failed.
    #[error("the local index failed")]
    Index(#[from] IndexError),
    /// No index segment names the pack of a reference.
    #[error("pack {pack} is in no index of this repository")]
    UnknownPack {
        /// Its handle.
        pack: PackHandle,
    },
    /// The local index contradicts itself; it may be deleted.
    #[error("the local index has a table of pack {pack} that contradicts itself")]
    BadTable {
        /// Its handle.
        pack: PackHandle,
    },
    /// A reference beyond the chunks of its pack, or beyond the bytes of its chunk.
    #[error("a reference to chunk {ordinal} of pack {pack} is out of range")]
    OutOfRange {
        /// Handle of the pack.
        pack: PackHandle,
        /// Ordinal that was asked for.
        ordinal: u32,
    },
    /// A chunk is not in its pack, nor in any other.
    #[error("chunk {ordinal} of pack {pack} is lost: {copies} other copies were tried")]
    Lost {
        /// Handle of the pack.
        pack: PackHandle,
        /// Its ordinal.
        ordinal: u32,
        /// Other packs in which it was looked for.
        copies: usize,
        /// What is wrong with the pack that the reference names.
        source: PackReadError,
    },
    /// zstd could not be started.
    #[error("the decoder could not be started")]
    Decoder(#[from] CompressError),
}

/// Part of one run that lies in one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameSpan {
    /// The pack that has the chunks now.
    pub pack: PackHandle,
    /// The frame.
    pub frame: u32,
    /// Ordinal of the first chunk.
    pub first: u32,
    /// Number of chunks, at least 1.
    pub count: u32,
    /// Offset and length within the chunks' bytes, where not all of them are meant.
    pub slice: Option<(u32, u32)>,
    /// Plain bytes that it amounts to.
    pub bytes: u32,
}

struct Domain {
    id: DomainId,
    keys: DomainKeys,
    database: Mutex<IndexDatabase>,
}

#[derive(Default)]
struct MapCache {
    maps: HashMap<PackHandle, (Arc<PackMap>, u64)>,
    chunks: usize,
    uses: u64,
}

impl MapCache {
    fn find(&mut self, handle: &PackHandle) -> Option<Arc<PackMap>> {
        self.uses += 1;
        let (map, last_use) = self.maps.get_mut(handle)?;
        *last_use = self.uses;
        Some(map.clone())
    }

    fn keep(&mut self, map: &Arc<PackMap>) {
        self.chunks += map.chunks() as usize;
        self.uses += 1;
        if let Some((old, _)) = self.maps.insert(map.handle(), (map.clone(), self.uses)) {
            self.chunks -= old.chunks() as usize;
        }
        while self.chunks > CACHED_CHUNKS_MAX && self.maps.len() > 1 {
            let oldest = self.maps.iter().min_by_key(|(_, (_, last_use))| *last_use);
            let Some(oldest) = oldest.map(|(handle, _)| *handle) else { return };
            if let Some((old, _)) = self.maps.remove(&oldest) {
                self.chunks -= old.chunks() as usize;
            }
        }
    }
}

/// What reading from one repository needs. Shared by all threads.
pub struct ReadAccess {
    store: Arc<dyn Store>,
    repository: RepositoryId,
    identities: Arc<[Identity]>,
    domains: Vec<Domain>,
    cache: Mutex<MapCache>,
    spool_folder: PathBuf,
}

impl ReadAccess {
    /// `identities` are the read identities of all epochs; for each domain its keys and its index.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        repository: RepositoryId,
        identities: Vec<Identity>,
        domains: Vec<(DomainId, DomainKeys, IndexDatabase)>,
    ) -> Self {
        let domains = domains
            .into_iter()
            .map(|(id, keys, database)| Domain { id, keys, database: Mutex::new(database) })
            .collect();
        let identities = identities.into();
        let (cache, spool_folder) = (Mutex::default(), PathBuf::from("."));
        Self { store, repository, identities, domains, cache, spool_folder }
    }

    /// With the folder of files that hold, sealed, what does not fit into memory.
    #[must_use]
    pub fn spooling_into(self, folder: &Path) -> Self {
        Self { spool_folder: folder.to_owned(), ..self }
    }

    /// Where what does not fit into memory goes, sealed.
    #[must_use]
    pub fn spool_folder(&self) -> &Path {
        &self.spool_folder
    }

    /// The store that is read from.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Reads at once that pay off.
    #[must_use]
    pub fn read_slots(&self) -> usize {
        self.store.read_slots()
    }

    /// The repository that is read.
    #[must_use]
    pub fn repository(&self) -> &RepositoryId {
        &self.repository
    }

    /// The read identities of all epochs.
    #[must_use]
    pub fn identities(&self) -> &Arc<[Identity]> {
        &self.identities
    }

    /// Keys of a domain.
    #[must_use]
    pub fn keys_of(&self, domain: &DomainId) -> Option<DomainKeys> {
        self.domains.iter().find(|other| other.id == *domain).map(|domain| domain.keys.clone())
    }

    /// The pack of that handle, whether its object still exists or not.
    pub fn pack(&self, handle: &PackHandle) -> Result<Arc<PackMap>, ReadError> {
        if let Some(map) = lock(&self.cache).find(handle) {
            return Ok(map);
        }
        for (number, domain) in self.domains.iter().enumerate() {
            let entry = {
                let database = lock(&domain.database);
                match database.number_of(handle)? {
                    Some(row) => database.pack(row)?,
                    None => None,
                }
            };
            if let Some(entry) = entry {
                return self.keep(entry, number);
            }
        }
        Err(ReadError::UnknownPack { pack: *handle })
    }

    fn keep(&self, entry: IndexedPack, domain: usize) -> Result<Arc<PackMap>, ReadError> {
        let handle = entry.table.handle;
        let keys = self.domains[domain].keys.clone();
        let map = PackMap::new(entry, keys, domain);
        let map = Arc::new(map.ok_or(ReadError::BadTable { pack: handle })?);
        lock(&self.cache).keep(&map);
        Ok(map)
    }

    /// Whether the store has the object of a pack; asked once. An object of another length counts
    /// as there: reading it will tell.
    pub(super) fn is_present(&self, map: &PackMap) -> bool {
        *map.is_present.get_or_init(|| {
            let found = self.store.stat(&object_name(map.name()));
            !matches!(found, Err(StoreError::NotFound { .. }))
        })
    }

    /// Lengths of the chunks of a span that is no slice.
    pub fn chunk_lengths(&self, span: &FrameSpan) -> Result<Vec<u32>, ReadError> {
        let map = self.pack(&span.pack)?;
        let length = |ordinal| {
            let missing = ReadError::OutOfRange { pack: span.pack, ordinal };
            map.chunk_bytes(ordinal).ok_or(missing)
        };
        (span.first..span.first + span.count).map(length).collect()
    }

    /// Appends the parts of a run, frame by frame, in order.
    ///
    /// Chunks of a pack whose object is gone are given by the places where they are now.
    pub fn spans(&self, run: &ChunkRun, out: &mut Vec<FrameSpan>) -> Result<(), ReadError> {
        let map = self.pack(&run.pack)?;
        let out_of_range = |ordinal| ReadError::OutOfRange { pack: run.pack, ordinal };
        let end = run.first.checked_add(run.count).ok_or(out_of_range(run.first))?;
        if end > map.chunks() || run.count == 0 || (run.slice.is_some() && run.count != 1) {
            return Err(out_of_range(end.saturating_sub(1)));
        }
        let begin = out.len();
        let is_present = self.is_present(&map);
        let mut first = run.first;
        while first < end {
            let frame = map.frame_of(first).ok_or(out_of_range(first))?;
            let frame_end = map.chunks_of(frame).end.min(end);
            let stop = if is_present { frame_end } else { first + 1 };
            let mut span = span(&map, frame, first..stop, run.slice).ok_or(out_of_range(first))?;
            if !is_present && let Some((other, ordinal)) = self.copies(&map, first)?.first() {
                span.pack = other.handle();
                span.first = *ordinal;
                span.frame = other.frame_of(*ordinal).ok_or(out_of_range(*ordinal))?;
            }
            push(out, begin, span);
            first = stop;
        }
        if out[begin..].iter().all(|span| span.bytes == 0) {
            // Any number of such runs makes no content: a reader would never come to an end.
            return Err(out_of_range(run.first));
        }
        Ok(())
    }

    /// Other places of a chunk in its domain; packs whose objects exist only.
    pub(super) fn copies(
        &self,
        map: &PackMap,
        ordinal: u32,
    ) -> Result<Vec<(Arc<PackMap>, u32)>, ReadError> {
        let Some(id) = map.id(ordinal) else { return Ok(Vec::new()) };
        let mut places = Vec::new();
        let candidates = {
            let database = lock(&self.domains[map.domain].database);
            enter_chunk_rows(&database)?;
            database.candidates(prefix(id))?
        };
        for (number, other_ordinal) in candidates {
            let Some(entry) = self.pack_by_number(map.domain, number)? else { continue };
            let differs = entry.name() != map.name() || other_ordinal != ordinal;
            if differs && entry.id(other_ordinal) == Some(id) && self.is_present(&entry) {
                places.push((entry, other_ordinal));
            }
        }
        Ok(places)
    }

    fn pack_by_number(
        &self,
        domain: usize,
        number: u32,
    ) -> Result<Option<Arc<PackMap>>, ReadError> {
        let entry = lock(&self.domains[domain].database).pack(number)?;
        let Some(entry) = entry else { return Ok(None) };
        if let Some(map) = lock(&self.cache).find(&entry.table.handle) {
            return Ok(Some(map));
        }
        self.keep(entry, domain).map(Some)
    }
}

fn span(
    map: &PackMap,
    frame: u32,
    chunks: std::ops::Range<u32>,
    slice: Option<(u32, u32)>,
) -> Option<FrameSpan> {
    let whole: u64 = chunks.clone().map(|n| u64::from(map.chunk_bytes(n).unwrap_or(0))).sum();
    let bytes = match slice {
        Some((offset, length)) if u64::from(offset) + u64::from(length) > whole => return None,
        Some((_, length)) => length,
        None => u32::try_from(whole).ok()?,
    };
    let count = chunks.end - chunks.start;
    Some(FrameSpan { pack: map.handle(), frame, first: chunks.start, count, slice, bytes })
}

/// Appends a span, or lengthens the last one of this run by it.
fn push(out: &mut Vec<FrameSpan>, begin: usize, next: FrameSpan) {
    if out.len() > begin
        && let Some(last) = out.last_mut()
        && (last.pack, last.frame) == (next.pack, next.frame)
        && last.first + last.count == next.first
        && last.slice.is_none()
        && next.slice.is_none()
    {
        last.count += next.count;
        last.bytes += next.bytes;
        return;
    }
    out.push(next);
}

/// Enters the chunk rows that a writer has left for later: copies are found by them.
fn enter_chunk_rows(database: &IndexDatabase) -> Result<(), IndexError> {
    let mut waiting = database.packs_without_chunks()?;
    while !waiting.is_empty() {
        let mut rows: Vec<(i64, u32, u32)> = Vec::new();
        let mut taken = 0;
        for number in &waiting {
            if rows.len() >= ROWS_PER_BATCH {
                break;
            }
            taken += 1;
            let Some(pack) = database.pack(*number)? else { continue };
            let ids = pack.ids.iter().zip(0_u32..);
            rows.extend(ids.map(|(id, ordinal)| (prefix(id), *number, ordinal)));
        }
        rows.sort_unstable();
        database.add_chunks(rows.into_iter(), &waiting[..taken])?;
        waiting.drain(..taken);
    }
    Ok(())
}

/// Nothing here is left half done by a panic: caches and databases stay valid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
