//! A store whose aligned reads are kept for all threads, where a request takes long: readers that
//! meet in one block fetch it once.
//!
//! Blocks are multiples of the store's quantum. What is kept is bounded in bytes and the block used
//! least recently goes first. An object that turns out to be damaged is asked for once more: a flaw
//! of the way is not a flaw of the object.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::store::{Entry, Put, Store, StoreError, pass_on};

/// Bytes that are kept. Readers at work are a few megabytes apart, each in a pack of its own.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Shortest block, where the store has a smaller quantum.
const BLOCK_BYTES_MIN: u64 = 64 * 1024;

/// Reads through a cache of blocks; everything else passes.
pub struct SharedBlocks<S> {
    inner: S,
    blocks: Mutex<Blocks>,
    arrived: Condvar,
    kept_bytes_max: usize,
}

/// Object, which copy of it, and number of the block.
type Key = (Arc<str>, usize, u64);

enum Block {
    /// Some thread fetches it.
    Coming,
    /// Its bytes (those from its beginning that were asked for), and when they were used last.
    Kept(Arc<[u8]>, u64),
}

#[derive(Default)]
struct Blocks {
    known: HashMap<Key, Block>,
    bytes: usize,
    uses: u64,
    /// Objects (and which copy) that were damaged as they came the first time.
    asked_again: HashSet<(String, usize)>,
}

/// A part of a read that lies in one block.
struct Piece {
    key: Key,
    /// Where its bytes belong in the reader's buffer.
    range: Range<usize>,
}

impl<S: Store> SharedBlocks<S> {
    /// Keeps what is read from `inner`.
    pub fn new(inner: S) -> Self {
        Self::keeping(inner, KEPT_BYTES_MAX)
    }

    fn keeping(inner: S, kept_bytes_max: usize) -> Self {
        Self { inner, blocks: Mutex::default(), arrived: Condvar::new(), kept_bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, Blocks> {
        // A block is entered or removed at once: a panic elsewhere leaves the map whole.
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves what is kept, and takes on the blocks that nobody fetches: gives those that others are
    /// fetching, and those that this thread has to fetch.
    fn sort(&self, pieces: Vec<Piece>, buffer: &mut [u8]) -> (Vec<Piece>, Vec<Piece>) {
        let (mut awaited, mut missing) = (Vec::new(), Vec::new());
        let mut blocks = self.lock();
        blocks.uses += 1;
        let now = blocks.uses;
        for piece in pieces {
            match blocks.known.get_mut(&piece.key) {
                Some(Block::Kept(bytes, used)) if bytes.len() >= piece.range.len() => {
                    *used = now;
                    let length = piece.range.len();
                    buffer[piece.range].copy_from_slice(&bytes[..length]);
                }
                Some(Block::Coming) => awaited.push(piece),
                Some(Block::Kept(..)) | None => {
                    blocks.remove(&piece.key);
                    blocks.known.insert(piece.key.clone(), Block::Coming);
                    missing.push(piece);
                }
            }
        }
        (awaited, missing)
    }

    /// Fetches blocks that this thread has taken on: those in a row by one request.
    fn fetch(
        &self,
        name: &str,
        offset: u64,
        missing: &[Piece],
        buffer: &mut [u8],
    ) -> Result<(), StoreError> {
        let mut taken = Taken { store: self, pieces: missing };
        for row in missing.chunk_by(|one, next| one.range.end == next.range.start) {
            let range = row[0].range.start..row[row.len() - 1].range.end;
            let start = offset + range.start as u64;
            self.inner.read_at(name, start, &mut buffer[range])?;
            let mut blocks = self.lock();
            blocks.uses += 1;
            let now = blocks.uses;
            for piece in row {
                let bytes: Arc<[u8]> = buffer[piece.range.clone()].into();
                blocks.bytes += bytes.len();
                blocks.known.insert(piece.key.clone(), Block::Kept(bytes, now));
            }
            blocks.shrink(self.kept_bytes_max);
            drop(blocks);
            taken.pieces = &taken.pieces[row.len()..];
            self.arrived.notify_all();
        }
        Ok(())
    }
}

/// Blocks that a thread has taken on and not brought yet: given up when it fails.
struct Taken<'a, S: Store> {
    store: &'a SharedBlocks<S>,
    pieces: &'a [Piece],
}

impl<S: Store> Drop for Taken<'_, S> {
    fn drop(&mut self) {
        if self.pieces.is_empty() {
            return;
        }
        let mut blocks = self.store.lock();
        for piece in self.pieces {
            blocks.remove(&piece.key);
        }
        drop(blocks);
        self.store.arrived.notify_all();
    }
}

impl Blocks {
    fn remove(&mut self, key: &Key) {
        if let Some(Block::Kept(bytes, _)) = self.known.remove(key) {
            self.bytes -= bytes.len();
        }
    }

    fn shrink(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            let kept = self.known.iter().filter_map(|(key, block)| match block {
                Block::Kept(_, used) => Some((key, *used)),
                Block::Coming => None,
            });
            let Some((oldest, _)) = kept.min_by_key(|(_, used)| *used) else { return };
            let oldest = oldest.clone();
            self.remove(&oldest);
        }
    }
}

impl<S: Store> Store for SharedBlocks<S> {
    pass_on!(self => self.inner, but copies);

    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, StoreError> {
        self.inner.put(name, bytes)
    }

    fn put_owned(&self, name: &str, bytes: Vec<u8>) -> Result<Put, StoreError> {
        self.inner.put_owned(name, bytes)
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.inner.get(name, bytes_max)
    }

    /// From the beginning of a block on through the cache; other reads pass.
    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        let quantum = self.inner.read_quantum_bytes().max(BLOCK_BYTES_MIN);
        if !offset.is_multiple_of(quantum) {
            return self.inner.read_at(name, offset, buffer);
        }
        let (object, copy): (Arc<str>, usize) = (name.into(), self.trusted_copy(name));
        let length = buffer.len();
        let starts = (0..length).step_by(quantum as usize);
        let mut pieces: Vec<Piece> = (offset / quantum..)
            .zip(starts)
            .map(|(block, start)| Piece {
                key: (object.clone(), copy, block),
                range: start..length.min(start + quantum as usize),
            })
            .collect();
        loop {
            let (awaited, missing) = self.sort(pieces, buffer);
            self.fetch(name, offset, &missing, buffer)?;
            let Some(next) = awaited.first() else { return Ok(()) };
            let mut blocks = self.lock();
            while matches!(blocks.known.get(&next.key), Some(Block::Coming)) {
                blocks = self.arrived.wait(blocks).unwrap_or_else(PoisonError::into_inner);
            }
            drop(blocks);
            pieces = awaited;
        }
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Entry)) -> Result<(), StoreError> {
        self.inner.list(prefix, visit)
    }

    fn stat(&self, name: &str) -> Result<Entry, StoreError> {
        self.inner.stat(name)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.inner.delete(name)?;
        let mut blocks = self.lock();
        let is_kept =
            |(key, block): &(&Key, &Block)| *key.0 == *name && matches!(block, Block::Kept(..));
        let old: Vec<Key> =
            blocks.known.iter().filter(is_kept).map(|(key, _)| key.clone()).collect();
        for key in &old {
            blocks.remove(key);
        }
        Ok(())
    }

    /// Each copy counts twice: as it came first, and as it came when it was asked for again.
    fn trusted_copy(&self, name: &str) -> usize {
        let copy = self.inner.trusted_copy(name);
        let again = self.lock().asked_again.contains(&(name.to_owned(), copy));
        2 * copy + usize::from(again)
    }

    fn distrust(&self, name: &str, copy: usize) -> bool {
        if copy % 2 == 1 {
            return self.inner.distrust(name, copy / 2);
        }
        // The blocks that came are those of another copy from now on: nobody asks for them.
        self.lock().asked_again.insert((name.to_owned(), copy / 2));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;
    use crate::store::faulty::{Fault, FaultyStore, Strike};
    use crate::store::memory::MemoryStore;
    use crate::store::recording::{OperationKind, RecordingStore};

    const BLOCK: usize = BLOCK_BYTES_MIN as usize;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at / 7 % 251) as u8).collect()
    }

    fn with_object(length: usize) -> (SharedBlocks<RecordingStore<MemoryStore>>, Vec<u8>) {
        let store = MemoryStore::new();
        store.put("data/a", &bytes(length)).unwrap();
        (SharedBlocks::keeping(RecordingStore::new(store), 4 * BLOCK), bytes(length))
    }

    fn read<S: Store>(store: &SharedBlocks<S>, offset: usize, length: usize) -> Vec<u8> {
        let mut buffer = vec![0; length];
        store.read_at("data/a", offset as u64, &mut buffer).unwrap();
        buffer
    }

    #[test]
    fn conforms() {
        conformance::run(|| Box::new(SharedBlocks::new(MemoryStore::new())));
    }

    #[test]
    fn a_block_is_fetched_once_and_neighbours_by_one_request() {
        let length = 3 * BLOCK + 100;
        let (store, expected) = with_object(length);
        let count = || store.inner.count(OperationKind::ReadAt);
        assert!(read(&store, BLOCK, BLOCK) == expected[BLOCK..2 * BLOCK]);
        assert_eq!(count(), 1);
        // What is missing before and behind it, and it not again.
        assert!(read(&store, 0, length) == expected);
        assert_eq!((count(), store.inner.bytes(OperationKind::ReadAt)), (3, length as u64));
        assert!(read(&store, 0, length) == expected);
        assert!(read(&store, 2 * BLOCK, BLOCK + 100) == expected[2 * BLOCK..]);
        assert_eq!(count(), 3);
        // A read that begins elsewhere passes.
        assert!(read(&store, 5, 10) == expected[5..15]);
        assert_eq!(count(), 4);
    }

    #[test]
    fn what_was_used_least_recently_goes() {
        let (store, expected) = with_object(6 * BLOCK);
        for block in [0, 1, 2, 3, 0, 4] {
            let range = block * BLOCK..(block + 1) * BLOCK;
            assert!(read(&store, range.start, BLOCK) == expected[range]);
        }
        assert_eq!(store.lock().bytes, 4 * BLOCK);
        assert_eq!(store.inner.count(OperationKind::ReadAt), 5);
        read(&store, 0, BLOCK);
        assert_eq!(store.inner.count(OperationKind::ReadAt), 5);
        read(&store, BLOCK, BLOCK);
        assert_eq!(store.inner.count(OperationKind::ReadAt), 6);
    }

    #[test]
    fn many_threads_fetch_each_block_once() {
        let (store, expected) = with_object(4 * BLOCK);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (store, expected) = (&store, &expected);
                scope.spawn(move || {
                    for round in 0..20 {
                        let first = (thread + round) % 3 * BLOCK;
                        let range = first..first + 2 * BLOCK;
                        assert!(read(store, first, 2 * BLOCK) == expected[range]);
                    }
                });
            }
        });
        assert_eq!(store.inner.bytes(OperationKind::ReadAt), 4 * BLOCK as u64);
    }

    #[test]
    fn a_read_that_fails_leaves_nothing_behind() {
        let (store, expected) = with_object(2 * BLOCK);
        let strike = Strike { kind: Some(OperationKind::ReadAt), nth: 1, fault: Fault::Broken };
        let store = SharedBlocks::new(FaultyStore::new(store.inner, [strike]));
        store.read_at("data/a", 0, &mut vec![0; BLOCK]).unwrap_err();
        assert!(store.lock().known.is_empty());
        assert!(read(&store, 0, 2 * BLOCK) == expected);
        store.read_at("data/a", 0, &mut vec![0; 3 * BLOCK]).unwrap_err();
        assert!(read(&store, 0, 2 * BLOCK) == expected);
    }

    #[test]
    fn what_came_damaged_is_asked_for_once_more() {
        let (store, expected) = with_object(BLOCK);
        let strike = Strike { kind: Some(OperationKind::ReadAt), nth: 1, fault: Fault::Torn };
        let store = SharedBlocks::new(FaultyStore::new(store.inner, [strike]));
        let copy = store.trusted_copy("data/a");
        assert!(read(&store, 0, BLOCK) != expected);
        assert!(store.distrust("data/a", copy));
        assert!(store.distrust("data/a", copy), "another reader of the same bytes");
        let again = store.trusted_copy("data/a");
        assert_ne!(again, copy);
        assert!(read(&store, 0, BLOCK) == expected);
        assert!(!store.distrust("data/a", again), "there is no other copy");
    }
}
