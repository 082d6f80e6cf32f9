//! Looking chunks up in the order of a stream, fast and in bounded memory.
//!
//! A stream that was backed up before repeats its chunks in their old order: after a hit the
//! chunks that follow it in its pack are compared first, without the database. New chunk rows
//! collect in memory and go to the database in sorted batches: random 32-byte keys, one by one,
//! would rewrite a page of the B-tree each.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::format::index_segment::IndexedPack;
use crate::format::pack::PackKind;
use crate::id::{ChunkId, ObjectId, PackHandle};
use crate::index::database::{IndexDatabase, IndexError, PackRow, prefix};

/// How far beyond the last hit the order of a pack is followed before the database is asked.
const FOLLOW_CHUNKS: usize = 64;
/// Pack tables that are kept, in chunks (36 bytes each).
const CACHED_CHUNKS_MAX: usize = 1_000_000;
/// Chunk rows that collect in memory before they are written, at least.
const PENDING_ROWS_MIN: usize = 250_000;
/// And at most (17 bytes each in the map, which may be half empty).
const PENDING_ROWS_MAX: usize = 2_000_000;

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Its pack.
    pub pack: PackHandle,
    /// Its ordinal there.
    pub ordinal: u32,
    /// Length of its plaintext.
    pub bytes: u32,
}

/// The chunks that one run may reference.
pub struct ChunkLookup {
    database: IndexDatabase,
    run: String,
    packs: HashMap<u32, PackRow>,
    numbers: HashMap<PackHandle, u32>,
    next_number: u32,
    pending: HashMap<i64, (u32, u32)>,
    /// Further places of the same prefix: a chunk that two runs have stored.
    pending_twins: HashMap<i64, Vec<(u32, u32)>>,
    pending_rows: usize,
    pending_packs: Vec<u32>,
    written_rows: u64,
    cache: TableCache,
    last_hit: Option<(Arc<IndexedPack>, usize)>,
}

#[derive(Default)]
struct TableCache {
    tables: HashMap<u32, Arc<IndexedPack>>,
    order: VecDeque<u32>,
    chunks: usize,
}

impl TableCache {
    fn insert(&mut self, number: u32, pack: Arc<IndexedPack>) {
        self.chunks += pack.ids.len();
        self.tables.insert(number, pack);
        self.order.push_back(number);
        while self.chunks > CACHED_CHUNKS_MAX && self.order.len() > 1 {
            if let Some(old) = self.order.pop_front().and_then(|old| self.tables.remove(&old)) {
                self.chunks -= old.ids.len();
            }
        }
    }

    fn remove(&mut self, number: u32) {
        if let Some(old) = self.tables.remove(&number) {
            self.chunks -= old.ids.len();
            self.order.retain(|other| *other != number);
        }
    }
}

impl ChunkLookup {
    /// Opens the index for `run`: it sees the packs of commits and its own.
    pub fn open(database: IndexDatabase, run: &str) -> Result<Self, IndexError> {
        let mut lookup = Self {
            written_rows: database.chunk_rows()?,
            database,
            run: run.into(),
            packs: HashMap::new(),
            numbers: HashMap::new(),
            next_number: 0,
            pending: HashMap::new(),
            pending_twins: HashMap::new(),
            pending_rows: 0,
            pending_packs: Vec::new(),
            cache: TableCache::default(),
            last_hit: None,
        };
        lookup.read_new_packs()?;
        for number in lookup.database.packs_without_chunks()? {
            if let Some(pack) = lookup.database.pack(number)? {
                lookup.collect_rows(number, &pack)?;
            }
        }
        Ok(lookup)
    }

    /// The database below.
    #[must_use]
    pub fn database(&self) -> &IndexDatabase {
        &self.database
    }

    fn read_new_packs(&mut self) -> Result<(), IndexError> {
        for row in self.database.packs_from(self.next_number)? {
            self.next_number = row.number + 1;
            self.numbers.insert(row.handle, row.number);
            let (number, handle) = (row.number, row.handle);
            if let Some(before) = self.packs.insert(number, row).filter(|b| b.handle != handle) {
                self.numbers.remove(&before.handle);
                self.cache.remove(number);
            }
        }
        Ok(())
    }

    /// Keeps only packs that `exists` confirms; the others are as good as never stored.
    ///
    /// To be called before the first lookup, with a listing of the store, and with what is intended
    /// to be deleted. Returns how many go. What a commit names stays in the database all the same:
    /// references to its chunks are resolved by their ids, which may lie in another pack by now.
    /// What other runs store meanwhile is theirs: it may be younger than the listing.
    pub fn retain_packs(
        &mut self,
        exists: impl Fn(&ObjectId, u64) -> bool,
    ) -> Result<usize, IndexError> {
        let gone: Vec<(u32, bool)> = self
            .packs
            .values()
            .filter(|row| self.is_visible(row) && !exists(&row.name, row.size))
            .map(|row| (row.number, row.run.is_some()))
            .collect();
        for (number, _) in &gone {
            self.hide_pack(*number);
        }
        let uncommitted: Vec<u32> =
            gone.iter().filter(|(_, is_own)| *is_own).map(|(number, _)| *number).collect();
        if !uncommitted.is_empty() {
            self.database.remove_packs(&uncommitted)?;
            // The numbers behind the last one that is left are given out again.
            let left = self.database.packs_from(0)?;
            let end = left.iter().map(|row| row.number + 1).max().unwrap_or(0);
            self.next_number = self.next_number.min(end);
        }
        Ok(gone.len())
    }

    /// Makes a pack invisible for the rest of the run: it is intended to be deleted.
    pub fn hide_pack(&mut self, number: u32) {
        if let Some(row) = self.packs.remove(&number) {
            self.numbers.remove(&row.handle);
        }
        self.cache.remove(number);
        self.last_hit = None;
    }

    /// Packs that the run can see.
    pub fn packs(&self) -> impl Iterator<Item = &PackRow> {
        self.packs.values()
    }

    /// The pack of that handle, if the run can see it.
    #[must_use]
    pub fn pack_row(&self, handle: &PackHandle) -> Option<&PackRow> {
        let row = self.numbers.get(handle).and_then(|number| self.packs.get(number))?;
        self.is_visible(row).then_some(row)
    }

    /// Handles of all packs that the run can see now.
    #[must_use]
    pub fn visible_handles(&self) -> HashSet<PackHandle> {
        self.packs.values().filter(|row| self.is_visible(row)).map(|row| row.handle).collect()
    }

    /// A visible pack with its tables.
    pub fn pack(&mut self, handle: &PackHandle) -> Result<Option<Arc<IndexedPack>>, IndexError> {
        match self.pack_row(handle).map(|row| row.number) {
            Some(number) => self.table(number),
            None => Ok(None),
        }
    }

    fn is_visible(&self, row: &PackRow) -> bool {
        row.run.as_ref().is_none_or(|run| *run == self.run)
    }

    fn table(&mut self, number: u32) -> Result<Option<Arc<IndexedPack>>, IndexError> {
        if let Some(table) = self.cache.tables.get(&number) {
            return Ok(Some(table.clone()));
        }
        let Some(pack) = self.database.pack(number)? else { return Ok(None) };
        let pack = Arc::new(pack);
        self.cache.insert(number, pack.clone());
        Ok(Some(pack))
    }

    /// Where a chunk of that id is, in a pack of `kind`; `None` when it has to be stored.
    pub fn find(&mut self, id: &ChunkId, kind: PackKind) -> Result<Option<Location>, IndexError> {
        if let Some(location) = self.follow_last_hit(id) {
            return Ok(Some(location));
        }
        let prefix = prefix(id);
        let mut candidates = Vec::new();
        candidates.extend(self.pending.get(&prefix));
        candidates.extend(self.pending_twins.get(&prefix).into_iter().flatten());
        if self.written_rows > 0 {
            candidates.extend(self.database.candidates(prefix)?);
        }
        for (number, ordinal) in candidates {
            if !self.packs.contains_key(&number) && number >= self.next_number {
                self.read_new_packs()?;
            }
            let usable = |row: &PackRow| row.kind == kind && self.is_visible(row);
            if !self.packs.get(&number).is_some_and(usable) {
                continue;
            }
            let Some(pack) = self.table(number)? else { continue };
            if pack.ids.get(ordinal as usize) == Some(id) {
                let location = location(&pack, ordinal as usize);
                self.last_hit = Some((pack, ordinal as usize));
                return Ok(Some(location));
            }
        }
        Ok(None)
    }

    fn follow_last_hit(&mut self, id: &ChunkId) -> Option<Location> {
        let (pack, at) = self.last_hit.as_mut()?;
        let end = (*at + 1 + FOLLOW_CHUNKS).min(pack.ids.len());
        let found = (*at + 1..end).find(|ordinal| pack.ids[*ordinal] == *id)?;
        *at = found;
        Some(location(pack, found))
    }

    /// Enters a pack that the run has stored; no commit names it yet.
    pub fn add_stored(&mut self, pack: &IndexedPack) -> Result<(), IndexError> {
        let number = self.database.add_pack(pack, Some(&self.run))?;
        // Another run may have removed the last ones: their numbers are given out again.
        self.next_number = self.next_number.min(number);
        self.read_new_packs()?;
        self.collect_rows(number, pack)
    }

    /// The run's packs are named by a commit now, in the segments given.
    pub fn commit(&mut self, segments: &[ObjectId]) -> Result<(), IndexError> {
        self.database.commit_run(&self.run, segments)?;
        for row in self.packs.values_mut() {
            if row.run.as_ref() == Some(&self.run) {
                row.run = None;
            }
        }
        Ok(())
    }

    /// Numbers of the packs that this run has stored and no commit names yet, in order.
    #[must_use]
    pub fn uncommitted(&self) -> Vec<u32> {
        let own = |row: &&PackRow| row.run.as_ref() == Some(&self.run);
        let mut numbers: Vec<u32> = self.packs.values().filter(own).map(|row| row.number).collect();
        numbers.sort_unstable();
        numbers
    }

    fn collect_rows(&mut self, number: u32, pack: &IndexedPack) -> Result<(), IndexError> {
        for (ordinal, id) in pack.ids.iter().enumerate() {
            let (prefix, place) = (prefix(id), (number, ordinal as u32));
            match self.pending.entry(prefix) {
                Entry::Vacant(vacant) => drop(vacant.insert(place)),
                Entry::Occupied(_) => self.pending_twins.entry(prefix).or_default().push(place),
            }
        }
        self.pending_rows += pack.ids.len();
        self.pending_packs.push(number);
        let limit = (self.written_rows as usize / 16).clamp(PENDING_ROWS_MIN, PENDING_ROWS_MAX);
        if self.pending_rows > limit { self.flush() } else { Ok(()) }
    }

    /// Writes the chunk rows that have collected. A crash before it costs a rebuild of them.
    pub fn flush(&mut self) -> Result<(), IndexError> {
        if self.pending_packs.is_empty() {
            return Ok(());
        }
        // The map's memory goes before that of the sorted rows is touched in full.
        let pending = std::mem::take(&mut self.pending);
        let twins = std::mem::take(&mut self.pending_twins);
        let twins = twins.into_iter().flat_map(|(prefix, places)| {
            places.into_iter().map(move |(pack, ordinal)| (prefix, pack, ordinal))
        });
        let mut rows: Vec<(i64, u32, u32)> =
            pending.into_iter().map(|(prefix, (pack, ordinal))| (prefix, pack, ordinal)).collect();
        rows.extend(twins);
        rows.sort_unstable();
        self.written_rows += rows.len() as u64;
        self.pending_rows = 0;
        let packs = std::mem::take(&mut self.pending_packs);
        self.database.add_chunks(rows.into_iter(), &packs)
    }
}

fn location(pack: &IndexedPack, ordinal: usize) -> Location {
    Location {
        pack: pack.table.handle,
        ordinal: ordinal as u32,
        bytes: pack.table.chunk_bytes[ordinal],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::pack::{FrameEntry, PackTable};

    fn id(number: u32) -> ChunkId {
        ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn pack(number: u8, chunks: std::ops::Range<u32>) -> IndexedPack {
        let count = chunks.len() as u32;
        let table = PackTable {
            handle: PackHandle([number; 16]),
            kind: PackKind::Data,
            frames: vec![FrameEntry { stored_bytes: 9, raw_bytes: count, chunks: count }],
            chunk_bytes: vec![1; chunks.len()],
        };
        IndexedPack {
            name: ObjectId([number; 32]),
            size: 100,
            table,
            ids: chunks.map(id).collect(),
        }
    }

    fn open(path: &std::path::Path, run: &str) -> ChunkLookup {
        ChunkLookup::open(IndexDatabase::open(path).unwrap(), run).unwrap()
    }

    fn find(lookup: &mut ChunkLookup, number: u32) -> Option<(u8, u32)> {
        let found = lookup.find(&id(number), PackKind::Data).unwrap();
        found.map(|location| (location.pack.0[0], location.ordinal))
    }

    #[test]
    fn stored_chunks_are_found_in_every_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.sqlite");
        let mut lookup = open(&path, "one");
        lookup.add_stored(&pack(1, 0..1000)).unwrap();
        assert_eq!(find(&mut lookup, 500), Some((1, 500)));
        assert_eq!(find(&mut lookup, 501), Some((1, 501)));
        assert_eq!(find(&mut lookup, 3), Some((1, 3)));
        assert_eq!(find(&mut lookup, 1000), None);
        assert_eq!(lookup.find(&id(3), PackKind::Tree).unwrap(), None);
        lookup.flush().unwrap();
        assert_eq!(find(&mut lookup, 999), Some((1, 999)));
        assert_eq!(lookup.uncommitted(), [1]);
        assert_eq!(lookup.database().pack(1).unwrap(), Some(pack(1, 0..1000)));
    }

    #[test]
    fn another_run_sees_only_what_a_commit_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.sqlite");
        let (mut one, mut two) = (open(&path, "one"), open(&path, "two"));
        one.add_stored(&pack(1, 0..10)).unwrap();
        one.flush().unwrap();
        assert_eq!(find(&mut two, 5), None);
        one.commit(&[ObjectId([9; 32])]).unwrap();
        let mut three = open(&path, "three");
        assert_eq!(find(&mut three, 5), Some((1, 5)));
        assert!(three.uncommitted().is_empty());
        assert_eq!(three.database().segments().unwrap(), [ObjectId([9; 32])].into());
    }

    #[test]
    fn a_killed_run_leaves_its_packs_to_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.sqlite");
        open(&path, "dead").add_stored(&pack(1, 0..10)).unwrap();
        IndexDatabase::open(&path).unwrap().adopt_run("dead", "next").unwrap();
        let mut next = open(&path, "next");
        assert_eq!(find(&mut next, 5), Some((1, 5)));
        assert_eq!(next.uncommitted().len(), 1);
    }

    #[test]
    fn a_number_that_is_given_out_again_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.sqlite");
        open(&path, "one").add_stored(&pack(1, 0..10)).unwrap();
        let mut lookup = open(&path, "one");
        assert_eq!(lookup.retain_packs(|_, _| false).unwrap(), 1);
        lookup.add_stored(&pack(2, 10..20)).unwrap();
        assert_eq!(find(&mut lookup, 15), Some((2, 5)));
        assert_eq!(lookup.uncommitted().len(), 1);
        assert_eq!(find(&mut lookup, 5), None);
    }

    #[test]
    fn packs_that_are_gone_are_not_referenced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.sqlite");
        let mut lookup = open(&path, "one");
        lookup.add_stored(&pack(1, 0..10)).unwrap();
        lookup.add_stored(&pack(2, 10..20)).unwrap();
        assert_eq!(find(&mut lookup, 4), Some((1, 4)));
        assert_eq!(lookup.retain_packs(|name, _| name.0[0] != 1).unwrap(), 1);
        assert_eq!(find(&mut lookup, 5), None);
        assert_eq!(find(&mut lookup, 15), Some((2, 5)));
        let mut again = open(&path, "one");
        assert_eq!(find(&mut again, 5), None);
    }

    #[test]
    fn what_a_run_stores_is_not_removed_by_another_that_begins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.sqlite");
        let mut long = open(&path, "long");
        long.add_stored(&pack(1, 0..10)).unwrap();
        // Its listing of the store is older than the pack.
        let mut short = open(&path, "short");
        assert_eq!(short.retain_packs(|_, _| false).unwrap(), 0);
        short.add_stored(&pack(2, 10..20)).unwrap();
        short.commit(&[]).unwrap();
        long.add_stored(&pack(3, 20..30)).unwrap();
        for number in long.uncommitted() {
            assert!(long.database().pack(number).unwrap().is_some());
        }
        assert_eq!(long.uncommitted().len(), 2);
        long.commit(&[]).unwrap();
        let mut next = open(&path, "next");
        let found = [4, 14, 24].map(|number| find(&mut next, number));
        assert_eq!(found, [Some((1, 4)), Some((2, 4)), Some((3, 4))]);
    }

    #[test]
    fn the_number_of_a_pack_that_another_run_removed_is_taken_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.sqlite");
        open(&path, "dead").add_stored(&pack(1, 0..10)).unwrap();
        let mut long = open(&path, "long");
        let database = IndexDatabase::open(&path).unwrap();
        database.adopt_run("dead", "short").unwrap();
        let mut short = open(&path, "short");
        assert_eq!(short.retain_packs(|_, _| false).unwrap(), 1);
        long.add_stored(&pack(2, 10..20)).unwrap();
        assert_eq!(find(&mut long, 14), Some((2, 4)));
        assert!(long.pack_row(&PackHandle([2; 16])).is_some());
        assert!(long.pack_row(&PackHandle([1; 16])).is_none());
        assert_eq!(long.uncommitted().len(), 1);
    }

    #[test]
    fn a_chunk_in_two_packs_survives_the_loss_of_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.sqlite");
        let mut lookup = open(&path, "one");
        lookup.add_stored(&pack(1, 0..10)).unwrap();
        lookup.add_stored(&pack(2, 5..15)).unwrap();
        lookup.flush().unwrap();
        lookup.retain_packs(|name, _| name.0[0] != 1).unwrap();
        assert_eq!(find(&mut lookup, 7), Some((2, 2)));
    }

    #[test]
    fn segments_are_entered_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.sqlite");
        let database = IndexDatabase::open(&path).unwrap();
        for _ in 0..2 {
            database.add_segment(&ObjectId([3; 32]), &[pack(1, 0..10)]).unwrap();
        }
        assert_eq!(database.packs_from(0).unwrap().len(), 1);
        assert_eq!(database.pack(1).unwrap(), Some(pack(1, 0..10)));
    }
}
